"""Key frames, image tokens and the branches of a conditioning."""

from __future__ import annotations

import pytest
import torch
from networks import TINY_RESAMPLER, normal
from torch import Tensor

from dynamicrafter.model.conditioning import (
    KeyLatents,
    Perceived,
    condition,
    encode_keys,
    image_tokens,
    place_keyframes,
    repeat_picture,
    see,
)
from dynamicrafter.model.protocols import Posterior
from dynamicrafter.model.variants import Mode


def test_tokens_stay_frame_by_frame_of_the_trained_length() -> None:
    frames, each = TINY_RESAMPLER.frames, TINY_RESAMPLER.queries_per_frame
    tokens = normal(2, frames * each, 5)
    split = image_tokens(tokens, TINY_RESAMPLER)
    assert split.shape == (2, frames, each, 5)
    for frame in range(frames):
        assert torch.equal(split[:, frame], tokens[:, frame * each : (frame + 1) * each])


def test_the_grey_picture_is_seen_last() -> None:
    pictures = normal(2, 3, 4, 4)
    seen = see(lambda given: given.flatten(1)[:, None], pictures)
    assert torch.equal(seen[:2], pictures.flatten(1)[:, None])
    assert not seen[2].any()


class Encoder:
    """A posterior that tells the picture it is of, and how many came at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, pictures: Tensor) -> Posterior:
        self.sizes.append(len(pictures))
        mean = pictures.mean((1, 2, 3), keepdim=True).expand(-1, 4, 2, 2)
        return Posterior(mean, torch.full_like(mean, -torch.inf))


@pytest.mark.parametrize(("mode", "ends"), [("animate", 0), ("loop", 1), ("interpolate", 2)])
def test_each_mode_has_its_key_frames(mode: Mode, ends: int) -> None:
    encoder = Encoder()
    first, last = torch.full((2, 3, 8, 8), 1.0), torch.full((2, 3, 8, 8), 3.0)
    keys = encode_keys(encoder, mode, first, last if mode == "interpolate" else None, 5, 0.5)
    concat = keys.draw(normal(2, 5, 4, 2, 2))
    assert concat.shape == (2, 4, 5, 2, 2)
    by_frame = concat[0, 0, :, 0, 0].tolist()
    assert by_frame == {0: [0.5] * 5, 1: [0.5, 0, 0, 0, 0.5], 2: [0.5, 0, 0, 0, 1.5]}[ends]
    assert encoder.sizes == [1] * (4 if mode == "interpolate" else 2), "one picture at a time"


def test_key_frames_are_drawn_with_the_noise_of_their_own_frames() -> None:
    mean, logvar = normal(1, 4, 2, 2, seed=1), normal(1, 4, 2, 2, seed=2)
    posterior, noise = Posterior(mean, logvar), normal(1, 3, 4, 2, 2, seed=3)
    keys = KeyLatents({0: posterior, -1: posterior}, 3, 0.18215, everywhere=False)
    drawn = keys.draw(noise)
    for frame in (0, 2):
        assert torch.equal(drawn[:, :, frame], 0.18215 * posterior.sample(noise[:, frame]))
    assert not drawn[:, :, 1].any()


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
    vision = normal(3, TINY_RESAMPLER.frames * TINY_RESAMPLER.queries_per_frame, 5, seed=3)
    posterior = Posterior(normal(2, 4, 3, 2), torch.full((2, 4, 3, 2), -torch.inf))
    keys = KeyLatents({0: posterior}, 3, 1.0, everywhere=True)
    perceived = Perceived(text, negative, vision, keys, torch.tensor([24, 8]))
    made = condition(perceived, lambda tokens: 2 * tokens, TINY_RESAMPLER, normal(2, 3, 4, 3, 2))
    tokens = image_tokens(2 * vision, TINY_RESAMPLER)
    for context, words, picture in (
        (made.full, text, tokens[:2]),
        (made.unconditional, negative, tokens[2:].expand(2, -1, -1, -1)),
        (made.image_only, negative, tokens[:2]),
    ):
        assert torch.equal(context.text, words)
        assert torch.equal(context.image, picture)
    assert torch.equal(made.concat, repeat_picture(posterior.mean, 3))
    assert made.fs.tolist() == [24, 8]
