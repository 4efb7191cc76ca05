"""What the released checkpoints are and how they differ; a variant survives being stored as JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

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
    Variant,
    variant_from_json,
    variant_to_json,
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
    assert SMALL.modes == ("animate", "interpolate", "loop")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_json_gives_the_same_variant_back(variant: Variant) -> None:
    assert variant_from_json(json.loads(json.dumps(variant_to_json(variant)))) == variant


def test_changed_sizes_survive_json() -> None:
    changed = replace(V512, unet=replace(V512.unet, channel_mult=(1, 3), context_dim=96))
    assert variant_from_json(json.loads(json.dumps(variant_to_json(changed)))).unet == changed.unet


def broken(**changes: Any) -> dict[str, Any]:
    values = {**variant_to_json(V512), **changes}
    return {key: value for key, value in values.items() if value is not None}


def section(name: str, **changes: Any) -> dict[str, Any]:
    values = {**variant_to_json(V512)[name], **changes}
    return {name: {key: value for key, value in values.items() if value is not ...}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (broken(purpose=None), r"Variant does not fit: purpose missing or unknown"),
        (broken(colour="red"), r"Variant does not fit: colour missing or unknown"),
        (broken(**section("unet", depth=2)), r"UNetConfig does not fit: depth missing or unknown"),
        (broken(**section("vae", channels=...)), r"VaeConfig does not fit: channels missing or unknown"),
        (broken(unet=[1, 2]), r"unet must be an object, not tuple"),
        (broken(modes=["animate", "dance"]), r"Variant\.modes cannot be .*'dance'"),
        (broken(modes=3), r"Variant\.modes cannot be 3"),
        (broken(name=512), r"Variant\.name cannot be 512"),
        (broken(**section("unet", model_channels="320")), r"UNetConfig\.model_channels cannot be '320'"),
        (broken(**section("unet", channel_mult=[1, "2"])), r"UNetConfig\.channel_mult cannot be \(1, '2'\)"),
        (broken(**section("unet", learned_image_scale=1)), r"UNetConfig\.learned_image_scale cannot be 1"),
        (broken(**section("diffusion", prediction="x0")), r"DiffusionConfig\.prediction cannot be 'x0'"),
        (broken(**section("diffusion", base_scale="0.7")), r"DiffusionConfig\.base_scale cannot be '0\.7'"),
        (broken(**section("preset", fs=True)), r"Preset\.fs cannot be True"),
    ],
)
def test_json_that_is_no_variant_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant_from_json(values)


def test_whole_numbers_are_good_where_fractions_are_wanted() -> None:
    assert variant_from_json(broken(**section("preset", cfg=7))).preset.cfg == 7
