"""Where things move, colours and sharpness of clips whose answers are known, and the sentence about them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynamicrafter.evaluation.figures import (
    CLIPPED,
    DELTA_E,
    ENLARGED,
    FLOW_DOWN,
    FLOW_LEFT,
    FLOW_RIGHT,
    FLOW_UP,
    SATURATION,
    SHARPNESS,
    WAY,
    measure_clip,
)
from dynamicrafter.evaluation.sentence import describe
from dynamicrafter.motion.colour import Drift

FLOWS = (FLOW_LEFT, FLOW_RIGHT, FLOW_UP, FLOW_DOWN)


def texture(side: int, seed: int = 0) -> Tensor:
    """A soft random picture ``[3, side, side]`` in [-1, 1]."""
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 5, 1, 2).clamp(-1, 1)[0]


def square(across: float, down: float, frames: int = 16, side: int = 20) -> Tensor:
    """A textured square that moves by so many pixels in all, before a grey background of 64x64."""
    clip = torch.full((frames, 3, 64, 64), 0.1)
    for index in range(frames):
        x, y = (round(22 + (way * (index / (frames - 1) - 0.5))) for way in (across, down))
        clip[index, :, y : y + side, x : x + side] = texture(side, 5)
    return clip


def zoomed(factor: float, frames: int = 5) -> Tensor:
    """A texture of 64x64 that is enlarged by ``factor`` over the clip."""
    large = texture(96, 3)
    clip: list[Tensor] = []
    for index in range(frames):
        line = ((torch.arange(64) + 0.5) / 32 - 1) / factor ** (index / (frames - 1)) * 2 / 3
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij")[::-1], -1)[None]
        clip.append(F.grid_sample(large[None], grid, align_corners=False)[0])
    return torch.stack(clip)


@pytest.mark.parametrize(
    ("across", "down", "main"),
    [(16, 0, FLOW_RIGHT), (-16, 0, FLOW_LEFT), (0, 16, FLOW_DOWN), (0, -16, FLOW_UP), (6, 0, FLOW_RIGHT)],
)
def test_a_square_that_moves_goes_its_way(across: int, down: int, main: object) -> None:
    figures = measure_clip(square(across, down))
    assert figures[WAY.name] == pytest.approx(math.hypot(across, down) / 64, rel=0.25)
    for flow in FLOWS:
        assert (figures[flow.name] > 0.8) == (flow is main)
    assert figures[ENLARGED.name] == pytest.approx(1, abs=0.1)


def test_two_squares_that_part_go_two_ways() -> None:
    clip = square(-12, 0)
    clip[:, :, 40:] = square(12, 0)[:, :, 20:44]
    clip[:, :, :20] = 0.1
    figures = measure_clip(clip)
    assert figures[FLOW_LEFT.name] > 0.3 and figures[FLOW_RIGHT.name] > 0.3
    assert figures[FLOW_UP.name] + figures[FLOW_DOWN.name] < 0.2


def test_a_zoom_is_an_enlargement_without_a_direction() -> None:
    for factor in (1.2, 1 / 1.2):
        figures = measure_clip(zoomed(factor))
        assert figures[ENLARGED.name] == pytest.approx(factor, abs=0.05)
        assert max(figures[flow.name] for flow in FLOWS) < 0.4


def test_what_stands_still_goes_nowhere_even_with_noise() -> None:
    still = texture(64).repeat(5, 1, 1, 1)
    noisy = still + 0.01 * torch.randn(still.shape, generator=torch.Generator().manual_seed(1))
    for clip in (still, noisy):
        figures = measure_clip(clip)
        assert figures[WAY.name] == 0 and figures[ENLARGED.name] == 1
        assert not any(figures[flow.name] for flow in FLOWS)
    assert WAY.name not in measure_clip(still[:1])


def test_colours_are_compared_with_the_picture() -> None:
    picture = 0.4 * texture(64)
    grey = picture.mean(0, keepdim=True)
    richer = grey + 1.5 * (picture - grey)
    figures = measure_clip(richer.repeat(3, 1, 1, 1), picture)
    assert figures[SATURATION.name] == pytest.approx(1.5, abs=0.01)
    assert measure_clip(picture.repeat(2, 1, 1, 1), picture)[SATURATION.name] == pytest.approx(1)
    assert SATURATION.name not in measure_clip(grey.expand(3, -1, -1).repeat(2, 1, 1, 1))


def test_values_are_clipped_beyond_what_the_picture_has() -> None:
    picture = 0.5 * texture(64)
    picture[:, :16] = 1
    burnt = picture.clone()
    burnt[:, 32:48] = 1
    assert measure_clip(picture.repeat(2, 1, 1, 1), picture)[CLIPPED.name] == 0
    assert measure_clip(burnt.repeat(2, 1, 1, 1), picture)[CLIPPED.name] == pytest.approx(0.25, abs=0.01)


def test_a_last_frame_that_is_blurred_is_less_sharp() -> None:
    picture = texture(64)
    blurred = F.avg_pool2d(picture[None], 5, 1, 2)[0]
    assert measure_clip(torch.stack([picture, picture]))[SHARPNESS.name] == pytest.approx(1)
    assert measure_clip(torch.stack([picture, blurred]))[SHARPNESS.name] < 0.3
    assert SHARPNESS.name not in measure_clip(torch.zeros(2, 3, 64, 64))


def test_drift_is_what_every_clip_reports() -> None:
    clip = 0.5 * texture(64) + torch.linspace(0, 0.3, 6)[:, None, None, None]
    drift = Drift()
    drift.add(((clip + 1) * 127.5).round().byte().movedim(1, -1))
    assert measure_clip(clip)[DELTA_E.name] == drift.largest > 5


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (square(16, 0), "The clip moves to the right by 2"),
        (zoomed(1.2), "The clip grows to 1"),
        (texture(64).repeat(3, 1, 1, 1), "The clip stands still."),
        (texture(64)[None], "The clip is a single frame."),
    ],
)
def test_the_sentence_says_what_is_seen(clip: Tensor, said: str) -> None:
    assert describe(measure_clip(clip)).startswith(said)


def test_the_sentence_says_what_is_wrong() -> None:
    picture = 0.4 * texture(64)
    away = measure_clip(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1, picture)
    assert "begins with something else than its image" in describe(away)
    pale = measure_clip((0.2 * picture).repeat(3, 1, 1, 1), picture)
    assert "is paler than its image" in describe(pale)
    blurred = torch.stack([picture, F.avg_pool2d(picture[None], 5, 1, 2)[0]])
    assert describe(measure_clip(blurred, picture)).endswith("begins with its image and becomes soft.")
