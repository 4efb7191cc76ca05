"""Estimates motion between two frames by block-wise phase correlation, and the difference left after compensating it.

Phase correlation (Kuglin and Hines 1975) finds a shift as the peak of the inverse transform of the normalised cross
spectrum. It is computed for the whole image and for overlapping blocks; of the shifts found near a pixel, the one that
brings its neighbourhood closest to the next frame is used, provided that it is clearly better than no shift. Flat
areas, flicker and fades therefore have no motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALLEST_BLOCK, _LARGEST_BLOCK = 32, 128
"""Side of a block in pixels, which limits shifts to about a third of it."""
_BLOCKS_ACROSS = 4
"""Blocks along the shorter side, if the block size is then within its limits."""
_NOISE = 1.0 / 255
"""Standard deviation of a pixel's rounding and coding noise, in [0, 1]; weaker frequencies carry no information."""
_REACH, _FINE = 0.6, 25
"""Radius of the refinement around a peak, in pixels, and its number of positions per axis: one every 0.05 pixels."""
_PATCH = 7
"""Side of the neighbourhood, in pixels, by which the shift of a pixel is chosen."""
_CLEARLY = 0.7
"""A shift is accepted if it leaves less than this share of the difference without a shift."""
_NOTICED = 0.35 / 255
"""A shift must also reduce the difference by this much, in [0, 1], the size of coding noise in flat areas."""
_SOFTENED = 3
"""Side of the square, in pixels, over which frames are averaged before shifts are compared."""
_MOVES = 0.5
"""Pixels per frame from which a pixel counts as moving."""
_LEGS = 4
"""Pairs of frames between which the course of a clip is estimated."""
_FEWEST = 0.002
"""Share of the pixels below which those that move are taken for noise."""


@dataclass(frozen=True)
class Motion:
    """The motion from each frame of a clip to the next; all in pixels per frame and levels of 0 to 255."""

    flow: Tensor
    """Flow to the right and down at each pixel, ``[t - 1, 2, h, w]``."""
    residue: Tensor
    """``[t - 1]``: mean absolute difference between a frame and the motion-compensated next one, in levels."""

    @property
    def magnitude(self) -> Tensor:
        """``[t - 1]``: mean length of the flow, in pixels per frame."""
        return torch.hypot(self.flow[:, 0], self.flow[:, 1]).mean((-2, -1))

    @property
    def moving(self) -> Tensor:
        """``[t - 1]``: share of the image that moves by half a pixel per frame or more, 0 to 1."""
        return (torch.hypot(self.flow[:, 0], self.flow[:, 1]) >= _MOVES).float().mean((-2, -1))


@dataclass(frozen=True)
class Course:
    """Where what moves in a clip gets to from the first to the last frame."""

    way: float
    """Mean length of the way of the pixels that move, as a share of the width; 0 if nothing moves."""
    shares: tuple[float, float, float, float]
    """Shares of their flow that go left, right, up and down, each within 45 degrees; all 0 if nothing moves."""
    enlargement: float
    """How many times as large it becomes; 1 for a way without growth, below 1 if it shrinks."""


def find_course(frames: Tensor) -> Course:
    """The course of a clip ``[t, 3, h, w]`` in [-1, 1] with at least two frames.

    Flow is estimated between five frames spread over the clip, so that motion too slow to be seen from one frame to
    the next counts. Pixels count that move by half a pixel or more. Enlargement is the slope of their flow over their
    position, by least squares: half of its mean divergence.
    """
    few = sorted({round(index * (len(frames) - 1) / _LEGS) for index in range(_LEGS + 1)})
    way, growth, ways = 0.0, 0.0, torch.zeros(4)
    for leg in find_motion(frames[few]).flow.cpu():
        moves = torch.hypot(leg[0], leg[1]) >= _MOVES
        if moves.float().mean() < _FEWEST:
            continue
        vectors, places = leg[:, moves], moves.nonzero().T.flip(0).float()
        lengths = torch.hypot(vectors[0], vectors[1])
        way += float(lengths.mean()) / frames.shape[-1]
        across = vectors[0].abs() >= vectors[1].abs()
        quarters = (across & (vectors[0] < 0), across & (vectors[0] > 0))
        quarters += (~across & (vectors[1] < 0), ~across & (vectors[1] > 0))
        ways += torch.stack([lengths[quarter].sum() for quarter in quarters])
        off = places - places.mean(1, keepdim=True)
        growth += float((off * vectors).sum() / off.square().sum().clamp(min=1.0))
    left, right, up, down = ways / ways.sum().clamp(min=1e-9)
    return Course(way, (float(left), float(right), float(up), float(down)), math.exp(growth))


def block_size(height: int, width: int) -> int:
    """Side of the blocks for images of this size: a power of two, about a quarter of the shorter side."""
    wanted = min(height, width) // _BLOCKS_ACROSS
    size = _SMALLEST_BLOCK
    while size * 2 <= min(wanted, _LARGEST_BLOCK):
        size *= 2
    return size


def find_motion(frames: Tensor) -> Motion:
    """Estimate the motion in a clip ``[t, 3, h, w]`` in [-1, 1] with at least two frames."""
    flows: list[Tensor] = []
    residues: list[Tensor] = []
    levels = (frames.float() + 1) / 2
    grey = levels.mean(1, keepdim=True)
    for index in range(len(frames) - 1):  # One pair at a time, which bounds the memory.
        flow = _flow(grey[index : index + 1], grey[index + 1 : index + 2])
        undone = _undo(levels[index + 1 : index + 2], flow)
        flows.append(flow)
        residues.append(255 * (levels[index : index + 1] - undone).abs().mean()[None])
    return Motion(torch.cat(flows), torch.cat(residues))


def shifts_between(a: Tensor, b: Tensor) -> Tensor:
    """Shift of each image ``[n, h, w]`` between ``a`` and ``b``: ``[n, 2]`` pixels right and down.

    Accurate to a fraction of a pixel; wrong for shifts of half the side or more and for flat images.
    """
    height, width = a.shape[-2:]
    window = torch.outer(_hann(height), _hann(width)).to(a.device)
    fft = cast(Any, torch.fft)  # Its functions have no type hints.
    one, two = (cast(Tensor, fft.fft2((x - x.mean((-2, -1), keepdim=True)) * window)) for x in (a, b))
    cross = two * one.conj()
    # The phase of a frequency that contains only noise is random; the floor suppresses it.
    floor = _NOISE**2 * window.square().sum()
    spectrum = cross / (cross.abs() + floor)
    peak = cast(Tensor, fft.ifft2(spectrum).real).flatten(1).argmax(1)
    row, column = peak // width, peak % width
    # Evaluate the correlation between pixels from its frequencies, as finely as needed around the peak (a parabola
    # through three pixels would return half of a shift by a quarter of a pixel).
    near = torch.linspace(-_REACH, _REACH, _FINE, device=a.device)
    along = _waves(row[:, None] + near, height)
    across = _waves(column[:, None] + near, width).transpose(1, 2)
    top = (along @ spectrum @ across).real.flatten(1).argmax(1)
    x = torch.where(column > width // 2, column - width, column) + near[top % _FINE]
    y = torch.where(row > height // 2, row - height, row) + near[top // _FINE]
    return torch.stack([x, y], 1)


def _waves(places: Tensor, length: int) -> Tensor:
    """``[n, m, length]``: the complex waves of all frequencies of an axis with ``length`` pixels, at ``[n, m]``."""
    frequencies = cast(Tensor, cast(Any, torch.fft).fftfreq(length, device=places.device))
    turns = 2 * torch.pi * places[..., None] * frequencies
    return torch.polar(torch.ones_like(turns), turns)


def _hann(length: int) -> Tensor:
    return torch.hann_window(length + 2, periodic=False)[1:-1]


def _flow(a: Tensor, b: Tensor) -> Tensor:
    """Flow ``[1, 2, h, w]`` between two greyscale images ``[1, 1, h, w]`` in [0, 1]."""
    height, width = a.shape[-2:]
    still = torch.zeros(1, 2, height, width, device=a.device)
    whole = shifts_between(a[:, 0], b[:, 0])[:, :, None, None].expand_as(still)
    # Blur slightly; otherwise noise would favour a shift by half a pixel, which blurs it.
    one, two = _mean_around(a, _SOFTENED), _mean_around(b, _SOFTENED)
    resting = _mean_around((one - two).abs(), _PATCH)
    best, least = still, torch.minimum(_CLEARLY * resting, resting - _NOTICED)
    for candidate in (whole, *_block_flows(a, b)):
        left = _mean_around((one - _undo(two, candidate)).abs(), _PATCH)
        better = left < least
        best, least = torch.where(better, candidate, best), torch.where(better, left, least)
    return best


def _block_flows(a: Tensor, b: Tensor) -> list[Tensor]:
    """Four flows with the shifts of the four overlapping blocks that contain each pixel."""
    height, width = a.shape[-2:]
    side = block_size(height, width)
    half = side // 2
    rows, columns = -(-height // half), -(-width // half)
    edges = (half, columns * half - width + half, half, rows * half - height + half)
    both = F.pad(torch.cat([a, b]), edges, mode="replicate")
    blocks = F.unfold(both, side, stride=half).transpose(1, 2).reshape(2, -1, side, side)
    found = shifts_between(blocks[0], blocks[1]).T.reshape(1, 2, rows + 1, columns + 1)
    flows: list[Tensor] = []
    for down in (0, 1):
        for right in (0, 1):
            part = found[:, :, down : down + rows, right : right + columns]
            dense = part.repeat_interleave(half, 2).repeat_interleave(half, 3)
            flows.append(dense[:, :, :height, :width])
    return flows


def _undo(frame: Tensor, flow: Tensor) -> Tensor:
    """Sample ``frame`` ``[1, c, h, w]`` where each pixel has moved, with edge pixels repeated outside."""
    height, width = frame.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=frame.device), torch.arange(width, device=frame.device), indexing="ij"
    )
    across = (2 * (x + flow[:, 0]) + 1) / width - 1
    along = (2 * (y + flow[:, 1]) + 1) / height - 1
    grid = torch.stack([across, along], -1)
    return F.grid_sample(frame, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _mean_around(values: Tensor, side: int) -> Tensor:
    """``[1, 1, h, w]``: the mean over the square of ``side`` pixels around each pixel, clipped at the borders."""
    return F.avg_pool2d(values, side, stride=1, padding=side // 2, count_include_pad=False)
