"""What the released checkpoints are and how they differ."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import get_args

import pytest

from dynamicrafter.diffusion.config import DiffusionConfig
from dynamicrafter.model.configs import UNetConfig
from dynamicrafter.model.variants import (
    CIL_512,
    CIL_1024,
    SMALL,
    TOON_512,
    V256,
    V512,
    V512_INTERP,
    V1024,
    VARIANTS,
    Mode,
    Variant,
)

RELEASED = [V256, V512, V1024, V512_INTERP, CIL_512, CIL_1024, TOON_512]


def differences(one: Variant, other: Variant) -> set[str]:
    return {f.name for f in fields(Variant) if getattr(one, f.name) != getattr(other, f.name)}


def test_every_variant_is_found_by_its_name() -> None:
    assert list(VARIANTS) == [variant.name for variant in VARIANTS.values()]
    assert {variant.name for variant in RELEASED} == {
        "256_v1",
        "512_v1",
        "1024_v1",
        "512_interp_v1",
        "cil_512",
        "cil_1024",
        "tooncrafter_512",
    }
    assert all(VARIANTS[variant.name] is variant for variant in [*RELEASED, SMALL])


def test_variants_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        V512.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        (V256, (256, 256)),
        (V512, (320, 512)),
        (V512_INTERP, (320, 512)),
        (V1024, (576, 1024)),
        (TOON_512, (320, 512)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_released_sizes_are_height_by_width(variant: Variant, size: tuple[int, int]) -> None:
    assert (variant.preset.height, variant.preset.width) == size


def test_256_predicts_noise_on_a_plain_schedule_and_has_a_learned_image_scale() -> None:
    assert V256.diffusion == DiffusionConfig(prediction="eps", zero_snr=False, base_scale=None)
    assert V256.unet == replace(V512.unet, learned_image_scale=True)
    assert (V256.preset.spacing, V256.preset.guidance_rescale, V256.preset.fs) == ("uniform", 0.0, 3)


@pytest.mark.parametrize("variant", [v for v in RELEASED if v is not V256], ids=lambda v: v.name)
def test_all_others_predict_velocity_with_zero_terminal_snr_and_trailing_steps(variant: Variant) -> None:
    assert (variant.diffusion.prediction, variant.diffusion.zero_snr) == ("v", True)
    assert (variant.preset.spacing, variant.preset.guidance_rescale) == ("uniform_trailing", 0.7)
    assert variant.unet == UNetConfig()


def test_dynamic_rescale_ends_at_0_3_for_1024_and_at_0_7_for_512() -> None:
    ends = {variant.name: variant.diffusion.base_scale for variant in RELEASED}
    assert ends == {
        "256_v1": None,
        "512_v1": 0.7,
        "1024_v1": 0.3,
        "512_interp_v1": 0.7,
        "cil_512": 0.7,
        "cil_1024": 0.3,
        "tooncrafter_512": 0.7,
    }


def test_1024_has_the_networks_of_512() -> None:
    assert differences(V1024, V512) == {"name", "purpose", "preset", "diffusion"}


def test_interpolation_differs_from_512_in_use_only() -> None:
    assert differences(V512_INTERP, V512) == {"name", "purpose", "preset", "modes"}


def test_cil_files_fit_the_modules_of_their_base() -> None:
    assert differences(CIL_512, V512) == {"name", "purpose"}
    assert differences(CIL_1024, V1024) == {"name", "purpose"}


def test_toon_crafter_brings_its_own_decoder_to_the_interpolation_network() -> None:
    assert differences(TOON_512, V512_INTERP) == {"name", "purpose", "preset", "vae"}
    assert TOON_512.vae == replace(V512.vae, video_decoder=True)


@pytest.mark.parametrize("variant", RELEASED, ids=lambda v: v.name)
def test_defaults_are_the_released_scripts(variant: Variant) -> None:
    preset = variant.preset
    assert (preset.steps, preset.cfg, preset.eta, preset.frames, preset.fps) == (50, 7.5, 1.0, 16, 8)


def test_the_small_variant_knows_every_mode() -> None:
    assert SMALL.modes == get_args(Mode)
