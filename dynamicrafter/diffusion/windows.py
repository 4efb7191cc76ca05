"""Which frames a network sees together when a clip is longer than its window, and how its outputs are blended."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """One evaluation's share of a clip."""

    frames: tuple[int, ...]
    """Indices in the clip, in the order of the network's time axis."""
    weights: tuple[float, ...]
    """The weight of each frame's output; where windows overlap, outputs are averaged by their weights."""


def wrapping_windows(frames: int, size: int, overlap: int, stride: int = 1) -> list[Window]:
    """Windows of equal weights as the original's: the last one continues with the clip's first frames.

    With a stride of 2 or more, windows of every second, fourth, ... frame follow, up to ``2 ** (stride - 1)``, as far
    as the clip is long enough for them.
    """
    if frames <= size:
        return [_flat(range(frames))]
    found: list[Window] = []
    for power in range(min(stride, math.ceil(math.log2(frames / size)) + 1)):
        dilation = 2**power
        for start in range(0, frames, size * dilation - overlap):
            found.append(_flat((start + dilation * i) % frames for i in range(size)))
    return found


def plain_windows(frames: int, size: int, overlap: int) -> list[Window]:
    """As few windows as overlap by ``overlap`` frames or more, evenly spread; none wraps around.

    Weights rise and fall evenly across an overlap.
    """
    if frames <= size:
        return [_flat(range(frames))]
    count = math.ceil((frames - overlap) / (size - overlap))
    starts = [round(i * (frames - size) / (count - 1)) for i in range(count)]
    found: list[Window] = []
    for i, start in enumerate(starts):
        before = starts[i - 1] + size - start if i > 0 else 0
        after = start + size - starts[i + 1] if i + 1 < len(starts) else 0
        weights = [min(1.0, (k + 1) / (before + 1), (size - k) / (after + 1)) for k in range(size)]
        found.append(Window(tuple(range(start, start + size)), tuple(weights)))
    return found


def cyclic_windows(frames: int, size: int, overlap: int, shift: int = 0) -> list[Window]:
    """Windows over a loop of at least ``size`` frames, in which the first frame follows the last one.

    They overlap by ``overlap`` frames or more, about evenly, and begin at ``shift``. Weights rise and fall evenly
    across an overlap.
    """
    count = math.ceil(frames / (size - overlap))
    starts = [round(i * frames / count) for i in range(count + 1)]
    found: list[Window] = []
    for i in range(count):
        before = starts[i - 1] + size - starts[i] if i > 0 else starts[-2] + size - frames
        after = starts[i] + size - starts[i + 1]
        weights = [min(1.0, (k + 1) / (before + 1), (size - k) / (after + 1)) for k in range(size)]
        chosen = ((shift + starts[i] + k) % frames for k in range(size))
        found.append(Window(tuple(chosen), tuple(weights)))
    return found


class Blend:
    """The weighted mean of outputs ``[b, c, window, h, w]`` over all frames of a clip."""

    def __init__(self, like: Tensor) -> None:
        """``like`` is ``[b, c, t, h, w]``, of the whole clip."""
        self._sum = torch.zeros_like(like)
        self._weight = like.new_zeros(like.shape[2])

    def add(self, window: Window, output: Tensor) -> None:
        """Add the output for the frames of ``window``, which may be on another device."""
        chosen = torch.tensor(window.frames, device=self._sum.device)
        weights = torch.tensor(window.weights, device=self._sum.device, dtype=self._sum.dtype)
        self._weight.index_add_(0, chosen, weights)
        self._sum.index_add_(2, chosen, output.to(self._sum) * weights[:, None, None])

    def mean(self) -> Tensor:
        """``[b, c, t, h, w]``; every frame must be in a window."""
        return self._sum / self._weight[:, None, None]


def _flat(frames: Iterable[int]) -> Window:
    chosen = tuple(frames)
    return Window(chosen, (1.0,) * len(chosen))
