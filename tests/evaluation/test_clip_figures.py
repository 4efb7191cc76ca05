"""Weight-free figures tell clips apart whose faults are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynamicrafter.evaluation.figures import (
    CLIPPED,
    CLOSURE,
    CONTRAST,
    DIFFERENCE,
    DRIFT,
    EXPLAINED,
    FIRST_PSNR,
    FIRST_SSIM,
    FLICKER,
    FLOW,
    LAST_PSNR,
    MOVING,
    SATURATION,
    SPREAD,
    WARPING,
    WEIGHT_FREE,
    measure_clip,
    ssim,
)
from dynamicrafter.evaluation.motion import block_size, find_motion


def texture(height: int = 96, width: int = 96, seed: int = 0) -> Tensor:
    """A soft random picture ``[3, h, w]`` in [-1, 1] with detail of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        F.interpolate(torch.randn(1, 3, height // size, width // size, generator=generator), (height, width))
        for size in (4, 8, 16)
    ]
    smooth = F.avg_pool2d(sum(layers, torch.zeros(1, 3, height, width)), 3, 1, 1)
    return (smooth / 3).clamp(-1, 1)[0]


def panned(right: float, down: float = 0.0, frames: int = 4) -> Tensor:
    """A window of 96x96 pixels over a larger picture, such that what is seen moves right and down."""
    large = texture(192, 192)
    clip: list[Tensor] = []
    for index in range(frames):
        x, y = 48 - index * right, 48 - index * down
        rows, columns = (torch.arange(96) + 0.5 + y) / 96 - 1, (torch.arange(96) + 0.5 + x) / 96 - 1
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)[None]
        clip.append(F.grid_sample(large[None], grid, align_corners=False)[0])
    return torch.stack(clip)


def subject(frames: int = 6, speed: int = 2) -> Tensor:
    """A textured square that moves right before a still background."""
    clip = texture().repeat(frames, 1, 1, 1)
    for index in range(frames):
        clip[index, :, 30:62, 8 + index * speed : 40 + index * speed] = texture(32, 32, seed=5)
    return clip


def cross_faded(clip: Tensor) -> Tensor:
    """From the clip's first frame to its last without any motion."""
    weight = torch.linspace(0, 1, len(clip))[:, None, None, None]
    return clip[:1] * (1 - weight) + clip[-1:] * weight


def test_a_frozen_clip_has_no_change_of_any_kind() -> None:
    figures = measure_clip(texture().repeat(5, 1, 1, 1))
    for figure in (DIFFERENCE, SPREAD, FLICKER, FLOW, MOVING, WARPING, DRIFT, CONTRAST, CLOSURE):
        assert figures[figure.name] == pytest.approx(0, abs=1e-4), figure
    assert EXPLAINED.name not in figures


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 3), (-5, 2), (12, 0), (-20, -16)])
def test_a_known_shift_is_the_flow(right: int, down: int) -> None:
    motion = find_motion(panned(right, down, frames=3))
    margin = 22
    inside = motion.flow[:, :, margin:-margin, margin:-margin]
    assert inside[:, 0].mean() == pytest.approx(right, abs=0.15)
    assert inside[:, 1].mean() == pytest.approx(down, abs=0.15)
    assert inside.std((-2, -1)).max() < 0.5


def drifting(right: float, down: float, height: int, width: int) -> Tensor:
    """Two frames, 8 bits deep, of a window over a larger texture that has moved by exactly that much."""
    fft: Any = torch.fft
    y, x = fft.fftfreq(2 * height)[:, None], fft.fftfreq(2 * width)[None]
    noise = torch.randn(3, 2 * height, 2 * width, generator=torch.Generator().manual_seed(2))
    spectrum = fft.fft2(noise) / (x.square() + y.square()).clamp(min=1 / height**2).sqrt()
    spectrum[:, 0, 0] = 0
    frames = [
        fft.ifft2(spectrum * torch.exp(-2j * torch.pi * step * (right * x + down * y))).real
        for step in (0, 1)
    ]
    clip = torch.stack(frames)[:, :, height // 2 : -height // 2, width // 2 : -width // 2]
    return ((clip / clip.std() * 45).clamp(-127.5, 127.5) + 127.5).round() / 127.5 - 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (320, 512)])
@pytest.mark.parametrize(("right", "down"), [(0.25, 0), (0.7, -0.3), (2.25, -2.75), (9.4, 9.4)])
def test_a_shift_by_part_of_a_pixel_is_found(right: float, down: float, height: int, width: int) -> None:
    motion = find_motion(drifting(right, down, height, width))
    inside = motion.flow[0, :, 14:-14, 14:-14]
    assert inside.mean((-2, -1)).tolist() == pytest.approx([right, down], abs=0.06)
    assert inside.std((-2, -1)).max() < 0.1


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_a_flat_background_rests_while_a_subject_moves(noise: float) -> None:
    """Any shift explains a flat area, but standing still does too; noise, in levels, is no motion either."""
    clip = torch.full((4, 3, 96, 96), 0.2)
    for index in range(4):
        clip[index, :, 40:60, 10 + 3 * index : 30 + 3 * index] = texture(32, 32, seed=5)[:, :20, :20]
    clip = clip + noise / 127.5 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))
    figures = measure_clip(clip)
    # What surrounds the subject by less than the side of a patch goes with it.
    assert 20 * 20 / 96**2 < figures[MOVING.name] < 36 * 36 / 96**2
    flow = find_motion(clip).flow
    assert (torch.cat([flow[:, :, :28], flow[:, :, 72:]], 2) != 0).float().mean() < 0.01


def test_a_faster_clip_has_more_flow_and_only_the_subject_moves() -> None:
    slow, fast = (measure_clip(subject(speed=speed)) for speed in (1, 3))
    assert fast[FLOW.name] > 2 * slow[FLOW.name] > 0
    share = 32 * 32 / 96**2
    for figures in (slow, fast):
        assert 0.6 * share < figures[MOVING.name] < 2 * share


def test_motion_explains_a_move_and_not_a_cross_fade() -> None:
    moving, faded = measure_clip(panned(4)), measure_clip(cross_faded(panned(4)))
    assert moving[EXPLAINED.name] > 0.7
    assert faded[EXPLAINED.name] < 0.2
    assert moving[WARPING.name] < faded[WARPING.name]
    assert faded[FLOW.name] < moving[FLOW.name] / 3


def test_flicker_raises_flicker_and_spread_and_is_no_motion() -> None:
    still = texture().repeat(8, 1, 1, 1) * 0.8
    steady = subject(8)
    blinking = still + 0.1 * torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1])[:, None, None, None]
    uneven = steady + 0.1 * torch.tensor([0.0, 1, 1, 1, 0, 0, 1, 0])[:, None, None, None]
    assert measure_clip(blinking)[FLICKER.name] == pytest.approx(12.75, abs=0.01)
    assert measure_clip(blinking)[FLOW.name] < 0.05
    assert measure_clip(uneven)[SPREAD.name] > 3 * measure_clip(steady)[SPREAD.name]


def test_a_steady_change_of_brightness_is_drift_and_no_flicker() -> None:
    picture = texture() * 0.5
    clip = picture + torch.linspace(0, 0.4, 5)[:, None, None, None]
    figures = measure_clip(clip, picture)
    assert figures[FLICKER.name] == pytest.approx(0, abs=1e-3)
    assert figures[DRIFT.name] == pytest.approx(127.5 * 0.2, abs=0.01)
    assert figures[CONTRAST.name] == pytest.approx(0, abs=1e-3)
    greyer = torch.stack([picture, picture * 0.5])
    assert measure_clip(greyer, picture)[CONTRAST.name] > 5


def test_a_loop_closes_and_a_one_way_move_does_not() -> None:
    there_and_back = torch.cat([panned(3, frames=5), panned(3, frames=5)[1:4].flip(0)])
    loop, away = measure_clip(there_and_back)[CLOSURE.name], measure_clip(panned(3, frames=8))[CLOSURE.name]
    assert loop == pytest.approx(1, abs=0.1)
    assert away > 1.3 * loop


def test_a_clip_whose_frames_mostly_repeat_has_no_closure() -> None:
    """A median step of nothing made numbers of hundreds of thousands of it, which spoilt every mean."""
    shown = panned(3, frames=3)[[0, 0, 0, 1, 1, 1, 2]]
    figures = measure_clip(shown)
    assert CLOSURE.name not in figures and figures[DIFFERENCE.name] > 0
    assert measure_clip(shown[[0, 0, 0, 3, 0]])[CLOSURE.name] == 0


def test_the_ends_are_compared_with_their_pictures() -> None:
    clip = panned(3)
    exact = measure_clip(clip, clip[0], clip[-1])
    assert exact[FIRST_SSIM.name] == pytest.approx(1)
    off = measure_clip(clip, clip[0] + 0.02, clip[-1] + 0.2)
    assert off[FIRST_PSNR.name] == pytest.approx(40, abs=0.01)
    assert off[LAST_PSNR.name] == pytest.approx(20, abs=0.01)
    assert exact[FIRST_PSNR.name] > 100 > off[FIRST_PSNR.name]
    unknown = measure_clip(clip)
    assert not {FIRST_PSNR.name, FIRST_SSIM.name, LAST_PSNR.name} & unknown.keys()


def test_a_single_frame_has_the_figures_that_a_frame_can_have() -> None:
    picture = texture()
    names = measure_clip(picture[None], picture).keys()
    assert names == {
        FIRST_PSNR.name,
        FIRST_SSIM.name,
        DRIFT.name,
        CONTRAST.name,
        SATURATION.name,
        CLIPPED.name,
    }


def test_all_figures_come_in_the_order_of_the_table() -> None:
    clip = panned(2)
    assert list(measure_clip(clip, clip[0], clip[-1])) == [figure.name for figure in WEIGHT_FREE]


def test_ssim_is_what_its_formula_says() -> None:
    """Worked out in numpy float64, window by window."""
    a, b = (texture(seed=seed)[:, 20:34, 30:43] for seed in (1, 2))
    x, y = (((p + 1) / 2).double().numpy() for p in (a, b))
    distance = np.arange(11) - 5
    bell = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * 1.5**2))
    bell /= bell.sum()
    values: list[float] = []
    for channel in range(3):
        for row in range(4):
            for column in range(3):
                p = x[channel, row : row + 11, column : column + 11]
                q = y[channel, row : row + 11, column : column + 11]
                mp, mq = (bell * p).sum(), (bell * q).sum()
                vp, vq = (bell * (p - mp) ** 2).sum(), (bell * (q - mq) ** 2).sum()
                cov = (bell * (p - mp) * (q - mq)).sum()
                values.append(
                    (2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                )
    assert float(ssim(a[None], b[None])[0]) == pytest.approx(float(np.mean(values)), abs=1e-6)


def test_ssim_of_images_smaller_than_its_window() -> None:
    """Such as latents; black ones too, where a term for stability would show."""
    small = texture()[:, :8, :9][None]
    assert float(ssim(small, small)) == pytest.approx(1, abs=1e-12)
    assert 0 < float(ssim(small, small.flip(-1))) < 0.9
    black = torch.full((1, 4, 12, 12), -1.0)
    assert float(ssim(black, black)) == 1


def test_ssim_falls_with_noise() -> None:
    picture = texture()[None]
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))
    values = [float(ssim(picture, picture + amount * noise)[0]) for amount in (0, 0.05, 0.2)]
    assert values[0] == pytest.approx(1) and values[0] > values[1] > values[2] > 0


@pytest.mark.parametrize(
    ("height", "width", "side"), [(64, 64, 32), (256, 256, 64), (320, 512, 64), (576, 1024, 128)]
)
def test_blocks_grow_with_the_picture(height: int, width: int, side: int) -> None:
    assert block_size(height, width) == side


def test_pictures_of_odd_sizes_and_flat_ones_are_measured() -> None:
    assert math.isfinite(measure_clip(texture(100, 76)[None].repeat(2, 1, 1, 1))[FLOW.name])
    flat = torch.full((3, 3, 64, 48), 0.3)
    assert measure_clip(flat)[FLOW.name] == 0
