"""Good defaults for every variant, ranges that are checked, and settings that survive being stored."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicrafter.diffusion.config import SAMPLER_MEANINGS, WITHOUT_ETA
from dynamicrafter.errors import UsageError
from dynamicrafter.model.variants import (
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
from dynamicrafter.parameters import PARAMETERS
from dynamicrafter.settings import (
    Choices,
    PromptAndChoices,
    Settings,
    default_size,
    make_settings,
    motion_to_fs,
    settings_from_json,
    settings_to_json,
    unusual_fs,
)

GOOD = make_settings(V512, "animate")


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_defaults_are_the_variants_preset(variant: Variant) -> None:
    preset = variant.preset
    for mode in variant.modes:
        assert make_settings(variant, mode) == Settings(
            mode=mode,
            width=preset.width,
            height=preset.height,
            frames=preset.frames,
            fs=preset.fs,
            steps=preset.steps,
            cfg=preset.cfg,
            image_cfg=None,
            eta=preset.eta,
            guidance_rescale=preset.guidance_rescale,
            spacing=preset.spacing,
            seed=123,
            fps=preset.fps,
            fit="crop",
            prompt="",
            negative="",
            noise_device="cpu",
            sampler="ddim",
        )


def test_what_is_chosen_replaces_the_preset_and_none_keeps_it() -> None:
    made = make_settings(V512, "animate", steps=7, cfg=None, prompt="a boat", image_cfg=1.5)
    assert made == replace(GOOD, steps=7, prompt="a boat", image_cfg=1.5)


@pytest.mark.parametrize(
    ("picture", "size"),
    [(None, (512, 320)), ((4000, 3000), (512, 320)), ((500, 500), (512, 320)), ((500, 501), (320, 512))],
)
def test_the_size_keeps_the_pictures_orientation(
    picture: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    assert default_size(V512, picture) == size
    made = make_settings(V512, "animate", picture_size=picture)
    assert (made.width, made.height) == size


def test_a_chosen_size_is_not_turned() -> None:
    made = make_settings(V512, "animate", picture_size=(300, 900), size=(640, 384))
    assert (made.width, made.height) == (640, 384)


@pytest.mark.parametrize(
    ("variant", "still", "lively"),
    [(V256, 1, 6), (V512, 30, 15), (V1024, 15, 5), (V512_INTERP, 30, 5), (TOON_512, 30, 5), (SMALL, 30, 8)],
    ids=lambda value: getattr(value, "name", None),
)
def test_motion_runs_from_the_still_to_the_lively_end(variant: Variant, still: int, lively: int) -> None:
    assert (motion_to_fs(variant, 0), motion_to_fs(variant, 1)) == (still, lively)


# The same examples each time, whatever the machine does beside.
@settings(deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(VARIANTS.values())), st.floats(0, 1), st.floats(0, 1))
def test_more_motion_is_a_larger_stride_or_a_lower_rate(variant: Variant, one: float, other: float) -> None:
    less, more = sorted((one, other))
    direction = 1 if variant is V256 else -1
    assert direction * (motion_to_fs(variant, more) - motion_to_fs(variant, less)) >= 0


def test_motion_sets_fs() -> None:
    assert make_settings(V512, "animate", motion=1).fs == 15
    assert make_settings(V512, "animate", fs=3).fs == 3


@pytest.mark.parametrize("motion", [-0.01, 1.01, float("nan")])
def test_motion_outside_its_range_is_refused(motion: float) -> None:
    with pytest.raises(UsageError, match=r"motion must be 0 to 1, but .* was given"):
        motion_to_fs(V512, motion)


def test_fs_and_motion_together_are_refused() -> None:
    with pytest.raises(UsageError, match="fs and motion set the same value; use only one of them"):
        make_settings(V512, "animate", fs=10, motion=0.5)


@pytest.mark.parametrize(
    ("variant", "mode", "message"),
    [
        (
            V512,
            "loop",
            r"512_v1 was trained to animate, not to loop; dynamicrafter\.weights\.catalogue\.RELEASES lists",
        ),
        (V512_INTERP, "animate", r"512_interp_v1 was trained to interpolate and loop, not to animate"),
    ],
)
def test_a_mode_the_variant_was_not_trained_for_is_refused(
    variant: Variant, mode: Mode, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_settings(variant, mode)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "dance"}, r"mode must be one of animate, interpolate, loop, views, not 'dance'"),
        (
            {"width": 500},
            r"width must be a multiple of 64 from 64 to 4096, but 500 .*; the nearest valid value is 512",
        ),
        ({"width": 0}, r"width must be a multiple of 64 .*, but 0 was given; the nearest valid value is 64"),
        ({"width": 8192}, r"width must be .* to 4096, but 8192 was given; the nearest valid value is 4096"),
        (
            {"height": -64},
            r"height must be a multiple of 64 .*, but -64 was given; the nearest valid value is 64",
        ),
        (
            {"height": 350},
            r"height must be a multiple of 64 .*, but 350 was given; the nearest valid value is 320",
        ),
        ({"frames": 0}, r"frames must be 1 to 1024, but 0 was given; the models were trained on 16"),
        ({"frames": 1025}, r"frames must be 1 to 1024, but 1025 was given"),
        ({"mode": "interpolate", "frames": 1}, r"frames must be at least 2 to interpolate, but 1 was given"),
        ({"mode": "loop", "frames": 2}, r"frames must be at least 3 to loop, but 2 was"),
        ({"steps": 0}, r"steps must be 1 to 1000, but 0 was given; 25 to 50 are typical"),
        ({"steps": 1001}, r"steps must be 1 to 1000, but 1001 was given"),
        (
            {"steps": 2.0},
            r"steps must be an integer from 1 to 1000, but 2\.0 was given; 25 to 50 are typical",
        ),
        ({"steps": "4"}, r"steps must be an integer from 1 to 1000, but '4' was given"),
        ({"steps": True}, r"steps must be an integer from 1 to 1000, but True was given"),
        ({"steps": None}, r"steps must be an integer from 1 to 1000, but None was given"),
        ({"cfg": float("nan")}, r"cfg must be 0 to 100, but nan was given; 1 disables guidance"),
        ({"cfg": None}, r"cfg must be a number from 0 to 100, but None was given"),
        ({"cfg": -0.5}, r"cfg must be 0 to 100, but -0\.5 was given"),
        ({"image_cfg": float("inf")}, r"image_cfg must be 0 to 100, but inf was given"),
        ({"eta": -0.1}, r"eta must be 0 to 1, but -0\.1 was given"),
        ({"eta": 1.1}, r"eta must be 0 to 1, but 1\.1 was given"),
        ({"eta": "1"}, r"eta must be a number from 0 to 1, but '1' was given"),
        ({"guidance_rescale": -0.1}, r"guidance_rescale must be 0 to 1, but -0\.1 was given"),
        ({"guidance_rescale": 1.1}, r"guidance_rescale must be 0 to 1, but 1\.1 was given"),
        ({"guidance_start": 1.1}, r"guidance_start must be 0 to 1, but 1\.1 was given"),
        ({"guidance_end": -0.1}, r"guidance_end must be 0 to 1, but -0\.1 was given"),
        (
            {"guidance_start": 0.5, "guidance_end": 0.5},
            r"guidance_start must be less than guidance_end, but 0\.5 and 0\.5 were given; use cfg 1 for no guidance",
        ),
        ({"spacing": "quad"}, r"must be one of uniform, uniform_trailing, linspace, but 'quad' was given"),
        ({"sampler": "lms"}, r"sampler must be one of ddim, euler, heun, .*, but 'lms' was given"),
        (
            {"sampler": "unipc", "eta": 0.5},
            r"eta must be 0 with sampler unipc, which adds no noise, but 0\.5 was given; use 0, or sampler ddim or",
        ),
        ({"fit": "tile"}, r"fit must be one of crop, pad, stretch, but 'tile' was given"),
        ({"noise_device": "cuda"}, r"noise_device must be one of cpu, device, but 'cuda' was given"),
        ({"prompt": 7}, r"prompt must be a string, but 7 was given"),
        ({"fs": -1}, r"fs must be 0 to 1000, but -1 was given; motion is simpler to use"),
        ({"fs": 1001}, r"fs must be 0 to 1000, but 1001 was given"),
        ({"fps": 0}, r"fps must be 1 to 240, but 0 was given"),
        ({"fps": 241}, r"fps must be 1 to 240, but 241 was given"),
        ({"fps": 0.99}, r"fps must be 1 to 240, but 0\.99 was given"),
        ({"fps": float("nan")}, r"fps must be 1 to 240, but nan was given"),
        ({"frames": np.float64(4)}, r"frames must be an integer from 1 to 1024, but 4\.0 was given"),
        ({"steps": np.bool_(True)}, r"steps must be an integer from 1 to 1000, but .*True.* was given"),
        ({"width": np.int32(500)}, r"but 500 was given; the nearest valid value is 512"),
        ({"seed": [4]}, r"seed must be an integer from 0 to 2\^63 - 1, but \[4\] was given"),
        ({"seed": -1}, r"seed must be 0 to 2\^63 - 1, but -1 was given"),
        ({"seed": 2**63}, r"seed must be 0 to 2\^63 - 1, but 9223372036854775808 was given"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(GOOD, **changes)


@pytest.mark.parametrize("sampler", SAMPLER_MEANINGS)
def test_eta_is_the_models_default_where_it_means_something_and_else_zero(sampler: str) -> None:
    none = sampler in WITHOUT_ETA
    assert make_settings(V512, "animate", sampler=sampler).eta == (0 if none else V512.preset.eta)
    assert make_settings(V512, "animate", sampler=sampler, eta=0).eta == 0
    if none:
        with pytest.raises(UsageError, match=f"eta must be 0 with sampler {sampler}, .* but 1 was given"):
            make_settings(V512, "animate", sampler=sampler, eta=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 64, "height": 64},
        {"frames": 1},
        {"mode": "interpolate", "frames": 2},
        {"mode": "loop", "frames": 3},
        {"steps": 1},
        {"steps": 1000},
        {"eta": 0, "guidance_rescale": 0, "fs": 0, "fps": 1, "seed": 0},
        {"eta": 1, "guidance_rescale": 1, "fs": 1000, "fps": 240, "seed": 2**63 - 1},
        {"cfg": 0, "image_cfg": 0},
        {"cfg": 100, "image_cfg": 100.0},
        {"width": 4096, "height": 4096, "frames": 1024},
    ],
)
def test_the_ends_of_the_ranges_are_good(changes: dict[str, Any]) -> None:
    assert settings_to_json(replace(GOOD, **changes)).items() >= changes.items()


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("seed", np.int64(4), 4),
        ("frames", np.uint8(4), 4),
        ("width", np.int32(64), 64),
        ("cfg", np.float32(2.5), 2.5),
        ("cfg", np.float64(2.5), 2.5),
        ("cfg", np.int16(2), 2),
        ("fps", Fraction(15, 2), 7.5),
        ("fps", 7.5, 7.5),
        ("fps", 8, 8),
    ],
)
def test_numbers_of_other_libraries_become_plain_ones(name: str, value: Any, plain: float) -> None:
    made = replace(GOOD, **{name: value})
    assert made == replace(GOOD, **{name: plain})
    assert type(getattr(made, name)) is type(plain)
    assert settings_from_json(json.loads(json.dumps(settings_to_json(made)))) == made


def test_motion_of_another_library_is_the_same() -> None:
    assert motion_to_fs(V512, np.float32(0.5)) == motion_to_fs(V512, 0.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("stepz", r"did you mean 'steps'\?"),
        ("xyz", r"the settings are prompt, negative, frames, .*, fps, size$"),
        ("width", r"use size=\(width, height\)$"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused_with_the_nearest(name: str, advice: str) -> None:
    with pytest.raises(UsageError, match=rf"^there is no setting '{name}'; {advice}"):
        make_settings(V512, "animate", **cast(Any, {name: 1}))


@pytest.mark.parametrize("size", [64, "64x64", (64,), (64, 64, 64), ()])
def test_a_size_is_two_numbers(size: Any) -> None:
    with pytest.raises(
        UsageError, match=r"^size must be \(width, height\) in pixels, but .* was given; use a tuple such"
    ):
        make_settings(V512, "animate", size=size)


def test_a_size_may_be_any_pair() -> None:
    for size in ([64, 128], np.array([64, 128])):
        made = make_settings(V512, "animate", size=cast(Any, size))
        assert (made.width, made.height) == (64, 128)


def test_what_can_be_chosen_is_what_the_table_and_the_settings_have() -> None:
    hints, stored = get_type_hints(PromptAndChoices), get_type_hints(Settings)
    assert set(hints) == (PARAMETERS.keys() - {"width", "height"}) | {"size"}
    assert set(get_type_hints(Choices)) == hints.keys() - {"prompt"}
    own = {"size": tuple[int, int], "motion": float}
    for name, hint in hints.items():
        wanted = own.get(name, stored.get(name))
        assert set(get_args(hint)) == {
            *(get_args(wanted) if type(None) in get_args(wanted) else (wanted,)),
            type(None),
        }


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_an_fs_outside_the_recommended_range_is_noted(variant: Variant) -> None:
    low, high = sorted((variant.preset.fs_still, variant.preset.fs_lively))
    for fs in (low, high, variant.preset.fs):
        assert unusual_fs(variant, fs) == []
    for fs in (low - 1, high + 1):
        assert unusual_fs(variant, fs) == [
            f"fs is {fs}, but {low} to {high} is recommended for {variant.name}"
        ]


def test_json_gives_the_same_settings_back() -> None:
    made = make_settings(V1024, "animate", prompt="ein Boot \N{SAILBOAT}", image_cfg=1.2, eta=0.5, seed=2**60)
    assert settings_from_json(json.loads(json.dumps(settings_to_json(made)))) == made


def test_stored_settings_that_do_not_fit_are_refused_by_name() -> None:
    values = settings_to_json(GOOD)
    with pytest.raises(
        UsageError,
        match=r"contains.* colour, which this version .* it was written by version 0\.9\.0, use that version",
    ):
        settings_from_json({**values, "colour": "red"}, "0.9.0")
    del values["eta"]
    with pytest.raises(UsageError, match="must contain eta; it is damaged, write it again"):
        settings_from_json(values)


def test_a_playback_rate_of_an_older_version_is_read() -> None:
    """They stored integers only; what is read is stored as it was."""
    values = settings_to_json(GOOD)
    assert json.dumps(values["fps"]) == "8"
    assert json.dumps(settings_to_json(settings_from_json(values))["fps"]) == "8"
    assert settings_from_json({**values, "fps": 7.5}).fps == 7.5


def test_stored_settings_are_checked_like_given_ones() -> None:
    with pytest.raises(UsageError, match="steps must be 1 to 1000, but 0 was given"):
        settings_from_json({**settings_to_json(GOOD), "steps": 0})
