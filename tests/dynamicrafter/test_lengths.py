"""Clips of any length, keyframes and frames that stay true to their image, mostly with frames made up by the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamicrafter import api
from dynamicrafter.api import load
from dynamicrafter.errors import UsageError
from dynamicrafter.forecast import evaluations, work_of
from dynamicrafter.model.protocols import Context, Network
from dynamicrafter.model.variants import SMALL, V512, V512_INTERP, Mode
from dynamicrafter.motion.colour import Clipping, ColourMatch, Drift, from_linear, gain_and_shift, to_linear
from dynamicrafter.motion.continuation import Segment, continued, segment_starts
from dynamicrafter.motion.joints import (
    FirstFrameLock,
    blurred,
    cross_fade,
    matched_at_keys,
    sharpest,
    without_still_frames,
)
from dynamicrafter.motion.keyframes import Gap, gaps_of, through_keys
from dynamicrafter.motion.pieces import evenly
from dynamicrafter.motion.windowed import over_windows, reschedule, windows_of
from dynamicrafter.pipeline import (
    KeyPictures,
    Model,
    encode,
    generate,
    make_generators,
    may_share_a_batch,
    sample,
    to_frames,
)
from dynamicrafter.settings import (
    Settings,
    clip_length,
    key_frames,
    make_settings,
    prompt_parts,
    sampled_frames,
    settings_from_json,
    settings_to_json,
    spread_keys,
)


@pytest.fixture(scope="module")
def model(weights_home: Path) -> Model:
    (file,) = weights_home.glob("random-*.safetensors")
    return load(file, device="cpu")


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Every test here runs small networks."""


def settings(mode: Mode = "animate", **chosen: Any) -> Settings:
    values: dict[str, Any] = {"steps": 1, "cfg": 1.0, "frames": 40, **chosen}
    return make_settings(SMALL, mode, **values)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


PICTURE = noise(3, 64, 64)


# Settings


@pytest.mark.parametrize(
    ("mode", "chosen", "said"),
    [
        ("animate", {"overlap": 16}, "overlap must be 0 to 15, but 16 was given; a window has 16"),
        ("animate", {"length_method": "pick", "frames": 17}, "frames must be at most 16 with length_method pick"),
        ("animate", {"length_method": "continue", "overlap": 15}, "overlap must be at most 14 with length_method co"),
        ("animate", {"length_method": "continue", "cfg_frames": "0,1"}, "cfg_frames are for clips that are sampled"),
        ("interpolate", {"frames": 8, "length_method": "pick", "lock_frames": 2}, "must be native with lock_frames"),
        ("animate", {"keys": "0,39"}, "keys are for interpolation, but 0,39 was given to animate; omit them"),
        ("interpolate", {"length_method": "windows"}, "length_method must be native or pick to interpolate, but win"),
        ("interpolate", {"keys": "0,39", "length_method": "pick"}, "length_method must be native with keys"),
        ("interpolate", {"keys": "0,20"}, "ascending frames from 0 to the last one, which is 39, .* but '0,20' was"),
        ("interpolate", {"keys": "0,20,20,39"}, "keys must be ascending frames from 0"),
        ("interpolate", {"keys": "a"}, "keys must be ascending frames from 0"),
        ("interpolate", {"keys": "0,9,20,39", "prompt": "a|b"}, "4 images have 3 gaps, which need 3 prompts sep"),
        ("loop", {"length_method": "continue"}, "a multiple of 15 and 1 more to loop .* but 40 was given; use 46"),
        ("loop", {"length_method": "windows", "frames": 16}, "frames must be at least 17 to loop with length_meth"),
        ("animate", {"length_method": "continue", "prompt": "a|50:b"}, "frames, from 0 to below 40, but 0, 50 were"),
        ("animate", {"length_method": "windows", "prompt": "a|9:b|5:c"}, "but 0, 9, 5 were given; correct the frames"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(mode: Mode, chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings(mode, **chosen)


@pytest.mark.parametrize(
    ("chosen", "parts"),
    [
        ({"prompt": "a | b"}, [(0, "a | b")]),
        ({"prompt": "a | b", "length_method": "pick", "frames": 8}, [(0, "a | b")]),
        ({"prompt": "a | b", "length_method": "continue"}, [(0, "a"), (20, "b")]),
        ({"prompt": "a | 24: b: c", "length_method": "windows"}, [(0, "a"), (24, "b: c")]),
        ({"prompt": "0:30 in the morning", "length_method": "windows"}, [(0, "0:30 in the morning")]),
    ],
)
def test_a_prompt_has_parts_only_where_they_can_be_followed(
    chosen: dict[str, Any], parts: list[tuple[int, str]]
) -> None:
    assert [(part.start, part.text) for part in prompt_parts(settings(**chosen))] == parts


def test_prompts_of_keyframes_are_those_of_the_gaps() -> None:
    chosen = settings("interpolate", keys="0,9,39", prompt="a | 5: b")
    assert [(gap.frames, gap.prompt) for gap in gaps_of(chosen)] == [(10, "a"), (31, "5: b")]
    both = gaps_of(settings("interpolate", keys="0,9,39", prompt="a", cut_still=2))
    assert [(gap.frames, gap.prompt, gap.cut) for gap in both] == [
        (12, "a", (False, True)),
        (33, "a", (True, False)),
    ]


@pytest.mark.parametrize(("images", "frames", "cut"), [(3, None, 0), (4, None, 2), (4, 50, 0), (5, 5, 0)])
def test_keys_are_spread(images: int, frames: int | None, cut: int) -> None:
    keys, total = spread_keys(images, frames, cut)
    chosen = settings("interpolate", frames=total, keys=keys, cut_still=cut)
    assert len(key_frames(chosen)) == images and frames in (None, total)
    assert frames is not None or {gap.frames for gap in gaps_of(chosen)} == {16}
    with pytest.raises(
        UsageError, match=f"frames must be at least {images} for {images} images, but 2 was given"
    ):
        spread_keys(images, 2)


def test_clips_of_earlier_versions_are_native() -> None:
    stored = settings_to_json(settings())
    for name in ("length_method", "overlap", "keys", "colour_match", "lock_frames", "cut_still", "reanchor"):
        del stored[name]
    assert settings_from_json(stored) == settings()


def test_windows_over_a_loop_need_a_model_that_animates() -> None:
    assert make_settings(V512, "loop", frames=33, length_method="windows").mode == "loop"
    with pytest.raises(UsageError, match="512_interp_v1 was trained to interpolate and loop, not to animate"):
        make_settings(V512_INTERP, "loop", frames=33, length_method="windows")


def test_clips_whose_prompts_change_elsewhere_do_not_share_a_batch() -> None:
    one = settings(length_method="windows", prompt="a | 9: b")
    assert may_share_a_batch(one, replace(one, prompt="c | 9: d", seed=5))
    assert not may_share_a_batch(one, replace(one, prompt="c | 8: d"))


# Windows


def test_a_clip_that_fits_is_the_same_by_every_method(model: Model) -> None:
    clips = [
        generate(
            model, KeyPictures(PICTURE[None]), [settings(frames=4, eta=1.0, steps=2, length_method=method)]
        )
        for method in ("native", "windows", "continue")
    ]
    assert all(torch.equal(clip, clips[0]) for clip in clips)


def test_the_network_sees_16_frames_with_the_prompts_of_its_window() -> None:
    chosen = settings(length_method="windows", prompt="a | 12: b")
    seen: list[tuple[tuple[int, ...], float, Context]] = []

    def network(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        seen.append((tuple(x.shape), float(context.text.mean()), context))
        return x[:, 4:] * 2

    wrapped: Network = over_windows(chosen)(network)
    x = noise(2, 8, 40, 2, 2)
    text = torch.cat([torch.zeros(2, 77, 6), torch.ones(2, 77, 6)], dim=1)
    image = noise(2, 16, 3, 6)
    out = wrapped(x, torch.tensor([500, 500]), Context(text, image), torch.tensor([8, 8]))
    assert torch.allclose(out, x[:, 4:] * 2, atol=1e-6)
    windows = windows_of(chosen, 500)
    assert [shape for shape, _, _ in seen] == [(2, 8, 16, 2, 2)] * len(windows)
    shares = [sum(frame >= 12 for frame in window.frames) / 16 for window in windows]
    assert [share for _, share, _ in seen] == pytest.approx(shares) and shares[0] == 0.25
    assert all(torch.equal(context.image, image) for _, _, context in seen)


def test_noise_of_a_long_clip_stems_from_its_first_16_frames() -> None:
    drawn = torch.randn(2, 1, 42, 2, 2, generator=torch.Generator().manual_seed(0))
    made = reschedule(drawn, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert torch.equal(made[:, :, :16], drawn[:, :, :16])
    for clip, own in zip(made, drawn, strict=True):
        for start in range(16, 42, 4):
            before = [clip[:, frame] for frame in range(start - 16, start - 12)]
            for frame in range(start, min(start + 4, 42)):
                assert any(torch.equal(clip[:, frame], each) for each in before)
        assert not torch.equal(clip[:, 16:20], own[:, :4])
    assert not torch.equal(made[0, :, 16:20] - made[0, :, :4], made[1, :, 16:20] - made[1, :, :4])


def test_a_loop_of_windows_begins_elsewhere_in_each_step(model: Model) -> None:
    chosen = settings("loop", frames=33, length_method="windows")
    assert sampled_frames(chosen) == 32
    first = {windows_of(chosen, timestep)[0].frames[0] for timestep in range(0, 1000, 83)}
    assert len(first) > 8
    chosen = replace(chosen, frames=18)
    assert generate(model, KeyPictures(PICTURE[None]), [chosen]).shape == (1, 17, 64, 64, 3)


def test_windows_follow_the_second_prompt_at_the_end_alone(model: Model) -> None:
    def latents(prompt: str) -> Tensor:
        # Rescaling guidance would couple all frames.
        chosen = settings(
            length_method="windows", frames=28, prompt=prompt, cfg=3.0, guidance_rescale=0.0, steps=1
        )
        generators = make_generators(model, [chosen])
        conditioning = encode(model, KeyPictures(PICTURE[None]), [chosen], generators)
        return sample(model, conditioning, chosen, generators)

    # Windows begin at frames 0 and 12.
    whole, changed = latents("a boat"), latents("a boat | 20: a bird")
    difference = (whole - changed).abs().amax((0, 1, 3, 4))
    # Two prompts in a batch are encoded with other rounding than one.
    assert difference[:12].max() < 1e-4 and difference[16:].min() > 1e-3


# Continuation


def chain(chosen: Settings) -> tuple[list[Segment], Tensor]:
    """The segments of a clip whose frames tell the segment and their place in it, and its frames."""
    segments: list[Segment] = []

    def made(segment: Segment) -> Tensor:
        segments.append(segment)
        return (torch.arange(16)[:, None, None, None] + 100.0 * segment.index).expand(-1, 3, 4, 4) / 1000

    frames = torch.cat(list(continued(made, torch.zeros(3, 4, 4), chosen)))
    return segments, frames[:, 0, 0, 0] * 1000


def test_each_take_continues_from_the_last_frame_of_the_one_before() -> None:
    segments, frames = chain(settings(length_method="continue", frames=40, prompt="a boat"))
    assert (
        [segment.start for segment in segments]
        == [0, 15, 30]
        == segment_starts(settings(length_method="continue"))
    )
    assert frames.round().int().tolist() == [*range(16), *range(101, 116), *range(201, 210)]
    assert [round(float(segment.picture[0, 0, 0] * 1000)) for segment in segments] == [0, 15, 115]
    assert not any(segment.anchored for segment in segments)


def test_a_take_begins_where_the_prompt_changes() -> None:
    chosen = settings(length_method="continue", prompt="a | 20: b | 22: c", reanchor=2)
    segments, frames = chain(chosen)
    assert [(segment.start, segment.prompt, segment.anchored) for segment in segments] == [
        (0, "a", False),
        (15, "a", False),
        (20, "b", True),
        (22, "c", False),
        (37, "c", True),
    ]
    assert [segment.start for segment in segments] == segment_starts(chosen)
    assert len(frames) == 40


@pytest.mark.parametrize("frames", [17, 40, 41, 42, 43, 44, 45, 1024])
def test_the_count_of_frames_is_exact_with_an_overlap(frames: int) -> None:
    chosen = settings(length_method="continue", frames=frames, overlap=3)
    segments, made = chain(chosen)
    assert len(made) == frames
    assert [segment.start for segment in segments] == segment_starts(chosen)
    assert [segment.start for segment in segments[:2]] == [0, 12]
    # Frames 13 to 15 of the first segment fade into 1 to 3 of the second one.
    assert 12 < float(made[13]) < 101 and float(made[16]) == pytest.approx(
        104 if frames > 17 else 104, abs=0.1
    )


def test_a_take_continues_from_the_sharpest_of_the_last_frames() -> None:
    chosen = settings(length_method="continue", frames=20, continue_from=4)

    def made(segment: Segment) -> Tensor:
        frames = torch.zeros(16, 3, 8, 8) + segment.index
        frames[13, :, ::2] = 0.5
        return frames

    starts: list[int] = []
    clip = list(
        continued(lambda segment: starts.append(segment.start) or made(segment), torch.zeros(3, 8, 8), chosen)
    )
    assert starts == [0, 13] and sum(map(len, clip)) == 20
    assert sharpest(made(Segment(0, 0, PICTURE, "", False))) == 13


def test_a_loop_is_continued_by_loops_from_the_image() -> None:
    segments, frames = chain(settings("loop", length_method="continue", frames=46))
    assert [segment.start for segment in segments] == [0, 15, 30]
    assert all(not segment.picture.any() for segment in segments)
    assert frames.round().int().tolist() == [*range(16), *range(101, 116), *range(201, 215)]


def test_every_take_of_a_loop_ends_with_the_image_itself() -> None:
    def loop(segment: Segment) -> Tensor:
        frames = noise(16, 3, 8, 8, seed=segment.index)
        return torch.cat([frames[:15], frames[:1]])

    image = PICTURE[:, :8, :8]
    chosen = settings("loop", frames=31, length_method="continue", lock_frames=2)
    made = torch.cat([*continued(loop, image, chosen)])
    torch.testing.assert_close(made[15], image, atol=0.01, rtol=0)


def test_a_long_clip_repeats_no_frame(model: Model) -> None:
    chosen = settings(length_method="continue", frames=20, reanchor=1, colour_match=1.0, lock_frames=3)
    told: list[tuple[str, int, int]] = []
    clip = generate(model, KeyPictures(PICTURE[None]), [chosen], lambda *report: told.append(report))
    assert clip.shape == (1, 20, 64, 64, 3)
    assert told[-1] == ("decode", 32, 32) and ("sample", 1, 2) in told and ("sample", 2, 2) in told
    assert not any(torch.equal(a, b) for a, b in zip(clip[0], clip[0, 1:], strict=False))
    # Up to its second segment it is the clip of 16 frames.
    short = generate(model, KeyPictures(PICTURE[None]), [replace(chosen, frames=16)])
    assert torch.equal(clip[:, :16], short)


def test_the_forecast_knows_windows_and_takes() -> None:
    native, windows = settings(frames=16), settings(length_method="windows", frames=256)
    assert work_of([windows]) == work_of([native]) == work_of([replace(windows, length_method="continue")])
    assert evaluations(windows) == 21 * evaluations(native)
    assert evaluations(replace(windows, length_method="continue")) == 17 * evaluations(native)
    two = settings(frames=8, length_method="continue", prompt="a|b")
    assert work_of([two]) == work_of([native]) and evaluations(two) == 2 * evaluations(native)
    through = settings("interpolate", frames=46, keys="0,15,45")
    assert work_of([through]).frames == 31 and evaluations(through) * 16 == 47 * evaluations(native)


# Fewer frames


@pytest.mark.parametrize(
    ("mode", "chosen"),
    [
        ("animate", {"length_method": "pick", "frames": 2}),
        ("loop", {"length_method": "windows", "frames": 18}),
    ],
)
def test_guidance_over_frames_follows_those_that_are_sampled(model: Model, mode: Mode, chosen: Any) -> None:
    one = settings(mode, cfg=2.0, cfg_frames="0,1", **chosen)
    (clip,) = generate(model, KeyPictures(PICTURE[None]), [one])
    assert len(clip) == clip_length(one)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16])
def test_fewer_frames_are_picked_from_16(model: Model, count: int) -> None:
    chosen = settings(length_method="pick", frames=count, steps=2)
    assert (
        evenly(count)[0] == 0 and (count == 1 or evenly(count)[-1] == 15) and len({*evenly(count)}) == count
    )
    if count in (5, 16):
        whole = generate(model, KeyPictures(PICTURE[None]), [settings(frames=16, steps=2)])
        picked = generate(model, KeyPictures(PICTURE[None]), [chosen])
        assert torch.equal(picked, whole[:, evenly(count)])


# Keyframes


def test_each_image_is_in_the_clip_once() -> None:
    chosen = settings("interpolate", keys="0,5,39", prompt="a | b")
    gaps: list[Gap] = []

    def made(gap: Gap) -> Tensor:
        gaps.append(gap)
        return (torch.arange(gap.frames)[:, None, None, None] + 100.0 * gap.index).expand(-1, 3, 2, 2)

    clip = torch.cat(list(through_keys(made, list(torch.zeros(3, 3, 2, 2)), chosen)))
    assert clip[:, 0, 0, 0].tolist() == [*range(6), *range(101, 135)]
    assert len(clip) == 40 and [gap.prompt for gap in gaps] == ["a", "b"]


def test_a_clip_through_three_images(model: Model) -> None:
    images = [((noise(64, 64, 3, seed=seed) + 1) * 127).to(torch.uint8).numpy() for seed in range(3)]
    clip = api.keyframes(model, images, "a | b", steps=1, frames=9, keys="0,3,8", cut_still=1, lock_frames=2)
    assert clip.frames.shape == (9, 64, 64, 3)
    for frame, image in zip((0, 3, 8), images, strict=True):
        assert (clip.frames[frame].int() - torch.as_tensor(image).int()).abs().max() <= 1
    assert api.keyframes(model, images, steps=1, frames=7).settings.keys == "0,3,6"


def test_two_images_without_choices_are_a_plain_interpolation(model: Model) -> None:
    images = [((noise(64, 64, 3, seed=seed) + 1) * 127).to(torch.uint8).numpy() for seed in range(2)]
    chosen: dict[str, Any] = {"steps": 1, "frames": 4}
    plain = api.interpolate(model, images[0], images[1], **chosen)
    assert torch.equal(api.keyframes(model, images, **chosen).frames, plain.frames)
    assert plain.settings.keys == ""


@pytest.mark.parametrize(
    ("sizes", "choices", "said"),
    [
        ([(8, 8)], {}, "an interpolation needs at least 2 images, but 1 was given; add the last one"),
        ([(8, 8), (8, 8), (8, 16)], {}, "keyframes must have the same size, but 8x8 and 8x16 were given; resize"),
        ([(8, 8)] * 3, {"keys": "0,15"}, "keys must name a frame for each of the 3 images, but '0,15' was given"),
    ],
)  # fmt: skip
def test_wrong_keyframes_are_said(sizes: list[tuple[int, int]], choices: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        api.place_keys(choices, sizes)


def test_the_length_of_a_clip_follows_its_keys() -> None:
    assert api.place_keys({"keys": "0,20,30"}, [(8, 8)] * 3).get("frames") == 31


def test_as_many_images_as_keys_are_needed(model: Model) -> None:
    chosen, image = settings("interpolate", keys="0,9,39"), PICTURE
    with pytest.raises(UsageError, match="keys '0,9,39' need 1 images between the first and the last one"):
        list(api.stream_each(model, [chosen], [image], [image]))


def test_frames_that_hardly_move_are_cut_near_a_key() -> None:
    places = torch.tensor([0.0, 0.1, 0.2, 1.2, 2.2, 3.2, 4.2, 4.3, 4.4, 4.5])
    frames = places[:, None, None, None].expand(-1, 3, 4, 4)
    kept = without_still_frames(frames, 2, ends=(False, True))[:, 0, 0, 0]
    assert kept.tolist() == pytest.approx([0.0, 0.1, 0.2, 1.2, 2.2, 3.2, 4.2, 4.5])
    kept = without_still_frames(frames, 2, ends=(True, True))[:, 0, 0, 0]
    assert len(kept) == 6 and kept[0] == 0 and kept[-1] == pytest.approx(4.5)
    assert torch.equal(without_still_frames(frames, 0, ends=(True, True)), frames)


# Faithfulness


def test_colours_are_matched_to_the_image_and_kept() -> None:
    clip = noise(1, 3, 32, 32).expand(12, -1, -1, -1) * 0.5
    tint = torch.tensor([0.05, -0.02, 0.0])[:, None, None]
    drift = torch.linspace(0, 0.3, 12)[:, None, None, None] * torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    changed = clip * 0.8 + tint + drift
    parts = ColourMatch(clip[0], 1.0)
    # Frames come in parts.
    matched = torch.cat([parts(changed[:5]), parts(changed[5:])])
    assert (matched - clip).abs().max() < 1e-4
    assert torch.equal(ColourMatch(clip[0], 0.0)(changed), changed)
    halfway = ColourMatch(clip[0], 0.5)(changed)
    assert (halfway - clip).abs().max() < (changed - clip).abs().max() * 0.6


def test_the_subject_does_not_count_as_drift() -> None:
    frames = torch.zeros(4, 3, 16, 16)
    for index in range(4):
        frames[index, :, :, 4 * index : 4 * index + 4] = 0.9
        frames[index, :, :, 12:] += 0.6 * (index == 3)
    matched = ColourMatch(frames[0], 1.0)(frames)
    assert torch.allclose(matched, frames, atol=1e-5)


def test_drift_of_neighbourhoods_is_taken_away_and_what_changes_there_stays() -> None:
    image = noise(3, 64, 96) * 0.3
    # One corner drifts, and something appears in the opposite one.
    frames = image.expand(12, -1, -1, -1).clone()
    frames[:, 0, :24, :24] += torch.linspace(0, 0.02, 12)[:, None, None]
    frames[:, :, 40:, 72:] += torch.linspace(0, 0.3, 12)[:, None, None, None]
    matched = ColourMatch(image, 1.0)(frames)
    assert (matched - image)[:, 0, :20, :20].mean((1, 2)).abs().max() < 0.02 / 4
    # However slowly it appears, little of it is taken for drift, and nothing once it is there.
    assert (matched - frames)[:, :, 40:, 72:].abs().max() < 0.035
    assert (matched - frames)[6:, :, 40:, 72:].abs().max() < 0.01
    # What passes a place does not take on the drift of that place.
    frames[11, :, 8:12, 8:12] += 0.5
    passed = ColourMatch(image, 1.0)(frames)[11] - frames[11]
    assert passed[:, 8:12, 8:12].abs().max() < 0.01


@pytest.mark.parametrize(("change", "kept"), [(0.02, 0.2), (0.4, 1.0)])
def test_a_subject_that_moves_keeps_its_colour_unless_it_takes_on_another(change: float, kept: float) -> None:
    background = noise(3, 48, 96) * 0.05
    subject = torch.tensor([0.6, -0.5, -0.4])[:, None, None] + noise(3, 12, 12, seed=1) * 0.01
    frames = background.expand(12, -1, -1, -1).clone()
    drift = torch.linspace(0, change, 12)[:, None] * torch.tensor([-1.0, 1.0, 0.0])
    for index in range(12):
        frames[index, :, 20:32, 5 * index : 5 * index + 12] = subject + drift[index][:, None, None]
    # A second one, unlike anything in the image, comes in.
    frames[6:, 2, 4:12, 80:] = 0.9
    matched = ColourMatch(frames[0], 1.0)(frames)
    left = matched[11, :, 20:32, 55:67] - subject
    assert left.mean((1, 2)).abs().max() <= kept * change + 0.002
    assert left.mean((1, 2)).abs().max() >= (kept == 1) * (change - 0.005)
    assert (matched - frames)[6:, :, 4:12, 80:].abs().max() < 0.01


def test_fine_detail_has_no_contrast_that_could_be_matched() -> None:
    checked = 0.3 * (1 - 2.0 * (torch.arange(64)[:, None] + torch.arange(64) & 1)).expand(3, -1, -1)
    gain, shift = gain_and_shift(checked + torch.linspace(-0.01, 0.01, 64), checked)
    assert torch.allclose(gain, torch.ones(3, 1, 1), atol=0.01) and shift.abs().max() < 1e-3


def test_a_narrow_subject_of_a_tall_image_has_a_colour_of_its_own() -> None:
    image = noise(3, 1024, 576) * 0.02
    image[:, 400:500, 10:30] = torch.tensor([0.6, -0.5, -0.4])[:, None, None]
    moved = image.roll(60, 2)
    moved[:, 400:500, 70:90] += 0.02
    matched = ColourMatch(image, 1.0)(torch.stack([image, moved]))
    assert (matched[1] - image.roll(60, 2))[:, 410:490, 75:85].abs().max() < 0.004


def test_gain_and_shift_are_those_of_mean_and_deviation() -> None:
    frame, reference = noise(3, 16, 16), noise(3, 16, 16, seed=1) * 0.9 + 0.1
    gain, shift = gain_and_shift(frame, reference)
    made = gain * frame + shift
    assert torch.allclose(made.flatten(1).mean(1), reference.flatten(1).mean(1), atol=1e-6)
    assert torch.allclose(made.flatten(1).std(1), reference.flatten(1).std(1), atol=1e-6)
    assert gain_and_shift(frame, frame * 9)[0].max() == pytest.approx(1.4)


@pytest.mark.parametrize("loop", [False, True])
def test_the_first_frame_is_the_image(loop: bool) -> None:
    image = (noise(3, 32, 32) * 127.5 + 127.5).round() / 127.5 - 1
    frames = image + noise(10, 3, 32, 32, seed=1) * 0.1
    locked = FirstFrameLock(image, 4, loop_of=10 if loop else None)(frames)
    levels = ((image + 1) * 127.5).round().byte().movedim(0, -1)
    assert torch.equal(to_frames(locked[None, :1].movedim(2, 1))[0, 0], levels)
    changed = [not torch.equal(a, b) for a, b in zip(locked, frames, strict=True)]
    assert changed == [True] * 4 + [False] * 3 + [loop] * 3
    assert (locked[1] - frames[1]).abs().mean() > (locked[3] - frames[3]).abs().mean()


def test_a_blur_keeps_what_is_even() -> None:
    assert torch.allclose(blurred(torch.full((3, 8, 8), 0.3), 9.0), torch.full((3, 8, 8), 0.3))
    spot = torch.zeros(3, 65, 65)
    spot[:, 32, 32] = 1
    near = blurred(spot, 3.0)
    line = torch.arange(65) - 32.0
    assert float((near[0].sum(0) * line**2).sum().sqrt()) == pytest.approx(3, rel=0.02)


def test_a_cross_fade_goes_from_one_to_the_other_in_linear_light() -> None:
    one, other = noise(3, 3, 8, 8), noise(3, 3, 8, 8, seed=1)
    mixed = cross_fade(one, other)
    weights = [0.25, 0.5, 0.75]
    for index, share in enumerate(weights):
        gain, shift = gain_and_shift(other[index], one[index], 1 - share)
        light = (1 - share) * to_linear(one[index]) + share * to_linear(gain * other[index] + shift)
        assert torch.allclose(to_linear(mixed[index]), light, atol=1e-5)
    assert torch.allclose(from_linear(to_linear(one)), one, atol=1e-5)
    assert len(cross_fade(one[:0], other[:0])) == 0


def test_colours_at_both_keys_are_those_of_the_images() -> None:
    clip = noise(1, 3, 16, 16).expand(20, -1, -1, -1) * 0.5
    first, last = clip[0] + 0.2, clip[0] * 0.9 - 0.1
    made = matched_at_keys(clip, first, last, 1.0)
    assert torch.allclose(made[0], first, atol=1e-5) and torch.allclose(made[-1], last, atol=1e-5)
    assert torch.equal(made[6:14], clip[6:14])
    assert torch.equal(matched_at_keys(clip, first, last, 0.0), clip)


def test_clipping_is_what_the_image_has_not() -> None:
    picture = torch.full((32, 32, 3), 128, dtype=torch.uint8)
    picture[:8] = 255
    burnt = picture.clone()
    burnt[8:24, :, 0] = 0
    clipping = Clipping()
    assert clipping.share == 0
    clipping.add(torch.stack([picture, picture]))
    assert (clipping.share, clipping.beyond(picture)) == (0.25, 0)
    clipping.add(torch.stack([burnt, burnt]))
    assert clipping.beyond(picture) == pytest.approx(1 / 12)
    assert clipping.beyond(burnt) < 0


def test_drift_is_told_in_units_of_lab() -> None:
    grey = torch.full((1, 16, 16, 3), 128, dtype=torch.uint8)
    bright, drift = grey + 20, Drift()
    drift.add(grey)
    drift.add(torch.cat([bright, grey]))
    # L* of sRGB 128 and 148 is 53.59 and 61.32.
    assert drift.largest == pytest.approx(61.32 - 53.59, abs=0.02) and drift.last == pytest.approx(
        0, abs=1e-4
    )
