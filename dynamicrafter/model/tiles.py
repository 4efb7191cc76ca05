"""Decoding in overlapping tiles whose seams are blended, so that memory does not grow with the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Square tiles, in latents."""

    size: int
    overlap: int
    """Of neighbours, at least; across it, the one fades into the other."""


TILES = Tiles(size=32, overlap=8)
"""256 pixels wide.

The decoder's levels see 12.25 latents in each direction, but a longer overlap is no better (docs/memory.md): what
differs are the statistics of their norms, which are those of the tile.
"""


@dataclass(frozen=True)
class Tile:
    """The part of an image that a tile covers, in latents."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, x: Tensor, factor: int) -> Tensor:
        """The part of ``x`` ``[..., h, w]``, which has ``factor`` values for each latent in both directions."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        columns = slice(self.left * factor, (self.left + self.width) * factor)
        return x[..., rows, columns]


def in_tiles(work: Callable[[Tensor, Tile], Tensor], x: Tensor, tiles: Tiles, factor: int) -> Tensor:
    """``work`` from ``[n, c, h, w]`` to ``[n, c', factor h, factor w]``, tile by tile.

    Tiles have weights that fall to zero at their sides inside the image, where what they lack counts most.
    """
    height, width = x.shape[-2:]
    parts = product(_starts(height, tiles), _starts(width, tiles))
    windows = [Tile(*corner, min(tiles.size, height), min(tiles.size, width)) for corner in parts]
    if len(windows) == 1:
        return work(x, windows[0])
    total: Tensor | None = None
    weights = torch.zeros(height * factor, width * factor, device=x.device)
    for window in windows:
        part = work(window.cut(x, 1), window)
        if total is None:
            total = torch.zeros(*part.shape[:2], *weights.shape, device=part.device)
        rows = _ramp(window.top, window.height, height, tiles.overlap, factor)
        columns = _ramp(window.left, window.width, width, tiles.overlap, factor)
        weight = (rows[:, None] * columns).to(part.device)
        window.cut(total, factor).add_(part * weight)
        window.cut(weights, factor).add_(weight)
    assert total is not None
    return total.div_(weights).to(x.dtype)


def _starts(side: int, tiles: Tiles) -> list[int]:
    """Where tiles begin: as few as overlap enough, evenly spread."""
    if side <= tiles.size:
        return [0]
    gaps = -(-(side - tiles.size) // (tiles.size - tiles.overlap))
    return [round(index * (side - tiles.size) / gaps) for index in range(gaps + 1)]


def _ramp(start: int, length: int, side: int, overlap: int, factor: int) -> Tensor:
    """Weights along one direction: 1, but falling to both ends, unless they are the image's, as half a cosine wave."""
    steps = (torch.arange(length * factor) + 0.5) / (overlap * factor)
    rising = 0.5 - 0.5 * torch.cos(math.pi * steps.clamp(max=1))
    weights = torch.ones(length * factor)
    if start > 0:
        weights = torch.minimum(weights, rising)
    if start + length < side:
        weights = torch.minimum(weights, rising.flip(0))
    return weights
