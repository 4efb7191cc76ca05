"""Key frames, image tokens and the branches of a conditioning."""

from __future__ import annotations

import pytest
import torch
from networks import TINY_RESAMPLER, normal

from dynamicrafter.model.conditioning import Context, assemble, image_tokens, place_keyframes, repeat_picture


def test_a_clip_of_the_trained_length_gives_each_frame_its_own_tokens() -> None:
    frames, each = TINY_RESAMPLER.frames, TINY_RESAMPLER.queries_per_frame
    tokens = normal(2, frames * each, 5)
    split = image_tokens(tokens, TINY_RESAMPLER, frames)
    assert split.shape == (2, frames, each, 5)
    for frame in range(frames):
        assert torch.equal(split[:, frame], tokens[:, frame * each : (frame + 1) * each])


@pytest.mark.parametrize("frames", [1, 3, 5, 16])
def test_any_other_length_shows_all_tokens_to_every_frame(frames: int) -> None:
    tokens = normal(2, TINY_RESAMPLER.frames * TINY_RESAMPLER.queries_per_frame, 5)
    assert torch.equal(image_tokens(tokens, TINY_RESAMPLER, frames), tokens[:, None])


def test_interpolation_has_its_pictures_at_the_ends_and_zeros_between() -> None:
    first, last = normal(2, 4, 3, 5, seed=1), normal(2, 4, 3, 5, seed=2)
    clip = place_keyframes({0: first, -1: last}, 6)
    assert clip.shape == (2, 4, 6, 3, 5)
    assert torch.equal(clip[:, :, 0], first)
    assert torch.equal(clip[:, :, 5], last)
    assert not clip[:, :, 1:5].any()


def test_a_key_frame_can_stand_anywhere() -> None:
    one = normal(1, 4, 2, 2)
    clip = place_keyframes({2: one}, 5)
    assert torch.equal(clip[:, :, 2], one)
    assert clip.abs().sum() == one.abs().sum()


def test_key_frames_keep_precision_and_device() -> None:
    assert place_keyframes({0: torch.ones(1, 4, 2, 2, dtype=torch.float16)}, 2).dtype == torch.float16
    assert place_keyframes({0: torch.ones(1, 4, 2, 2, device="meta")}, 2).device.type == "meta"


@pytest.mark.parametrize("position", [3, -4])
def test_a_key_frame_outside_the_clip_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match=f"key frame {position} is outside a clip of 3 frames"):
        place_keyframes({position: normal(1, 4, 2, 2)}, 3)


def test_image_to_video_shows_the_picture_at_every_frame() -> None:
    latents = normal(2, 4, 3, 5)
    clip = repeat_picture(latents, 4)
    assert clip.shape == (2, 4, 4, 3, 5)
    assert all(torch.equal(clip[:, :, frame], latents) for frame in range(4))


def test_only_tokens_differ_between_the_branches() -> None:
    text, negative = normal(2, 77, 5, seed=1), normal(2, 77, 5, seed=2)
    image, grey = normal(2, 1, 6, 5, seed=3), normal(2, 1, 6, 5, seed=4)
    concat = normal(2, 4, 3, 2, 2)
    made = assemble(text, negative, image, grey, concat, 24)
    assert made.full == Context(text, image)
    assert made.unconditional == Context(negative, grey)
    assert made.image_only == Context(negative, image)
    assert made.concat is concat
    assert made.fs.dtype == torch.int64
    assert made.fs.tolist() == [24, 24]
