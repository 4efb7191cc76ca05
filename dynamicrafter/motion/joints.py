"""Joints of clips: where one ends and the next begins, without a doubled frame, a jump or a pause.

Frames are float32 ``[n, 3, H, W]`` RGB around [-1, 1]. Two clips meet in a frame that both contain, the key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .colour import from_linear, gain_and_shift, to_linear

_REACH = 6
"""Frames from a key over which a clip returns to its own colours."""
_HALF_LEVEL = 1 / 255
"""Half a level of 8 bits: frames are truncated to 8 bits, so that this much more becomes the nearest level."""


def fade(share: float) -> float:
    """From 1 at 0 to 0 at 1 and beyond, as half a cosine wave."""
    return 0.5 + 0.5 * math.cos(math.pi * min(max(share, 0.0), 1.0))


class FirstFrameLock:
    """Makes the first frame of a clip, whose frames come in order, the image itself.

    What the image has beyond the first frame is added to the next ones as well, ever weaker and more blurred: in full
    sharpness it would show the image's outlines on subjects that have moved on.
    """

    def __init__(self, picture: Tensor, frames: int, *, loop_of: int | None = None) -> None:
        """``picture`` is ``[3, H, W]``; from frame ``frames`` on, nothing changes.

        In a loop of ``loop_of`` frames, the last ones approach the image in the same way.
        """
        self._picture = picture
        self._frames = frames
        self._loop_of = loop_of
        self._rest: Tensor | None = None
        self._index = 0

    def __call__(self, frames: Tensor) -> Tensor:
        """The next frames ``[n, 3, H, W]`` of the clip, changed."""
        if self._rest is None:
            self._rest = self._picture + _HALF_LEVEL - frames[0]
        return torch.stack([self._locked(frame, self._rest) for frame in frames])

    def _locked(self, frame: Tensor, rest: Tensor) -> Tensor:
        index, self._index = self._index, self._index + 1
        away = index if self._loop_of is None else min(index, self._loop_of - index)
        if away == 0:
            return frame + rest
        if away >= self._frames:
            return frame
        return frame + fade(away / self._frames) * blurred(rest, 2 + 2 * away)


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """A picture ``[3, H, W]`` convolved with a Gaussian of ``sigma`` pixels; its edges are continued."""
    reach = math.ceil(3 * sigma)
    line = torch.arange(-reach, reach + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = functional.pad(picture[None], (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(padded, kernel[:, :, None, :], groups=3)
    return functional.conv2d(across, kernel[:, :, :, None], groups=3)[0]


def matched_at_keys(frames: Tensor, first: Tensor, last: Tensor, strength: float) -> Tensor:
    """Frames with the colours of the images ``first`` and ``last`` ``[3, H, W]`` at their ends.

    Each end is corrected by its own frame; within six frames of it, the clip returns to its own colours.
    """
    if strength == 0:
        return frames
    made = frames.clone()
    for key, places in ((first, range(len(frames))), (last, range(len(frames) - 1, -1, -1))):
        gain, shift = gain_and_shift(frames[places[0]], key, strength)
        for distance, place in enumerate(places):
            made[place] += fade(distance / _REACH) * ((gain - 1) * frames[place] + shift)
    return made


def cross_fade(before: Tensor, after: Tensor) -> Tensor:
    """The frames of two clips for the same times, ``[c, 3, H, W]`` each, blended from one to the other.

    They are blended in linear light, after the second one's colours were matched to those of the first.
    """
    count = len(before)
    mixed: list[Tensor] = []
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        share = (index + 1) / (count + 1)
        gain, shift = gain_and_shift(other, one, 1 - share)
        light = (1 - share) * to_linear(one) + share * to_linear(gain * other + shift)
        mixed.append(from_linear(light))
    return torch.stack(mixed) if mixed else before


def sharpest(frames: Tensor) -> int:
    """Index of the frame with the most detail, by the variance of its Laplacian; the last one of equals."""
    grey = frames.mean(1)
    edges = (
        4 * grey[:, 1:-1, 1:-1]
        - grey[:, :-2, 1:-1]
        - grey[:, 2:, 1:-1]
        - grey[:, 1:-1, :-2]
        - grey[:, 1:-1, 2:]
    )
    detail = [float(value) for value in edges.flatten(1).var(1)]
    return max(range(len(detail)), key=lambda index: (detail[index], index))


def without_still_frames(frames: Tensor, count: int, *, ends: Sequence[bool]) -> Tensor:
    """Frames without ``count`` of those near the first and near the last one, where ``ends`` is true.

    Of the ``2 * count`` frames nearest to an end, those that differ least from their neighbour towards it are removed,
    never the end itself. A clip slows down near its keys, which seems a pause when it goes on with another.
    """
    change = [float(value) for value in (frames[1:] - frames[:-1]).abs().flatten(1).mean(1)]
    total = len(frames)
    removed: set[int] = set()
    for wanted, near in (
        (ends[0], {place: change[place - 1] for place in range(1, min(2 * count, total - 2) + 1)}),
        (ends[1], {place: change[place] for place in range(max(1, total - 1 - 2 * count), total - 1)}),
    ):
        if wanted:
            free = [place for place in near if place not in removed]
            removed.update(sorted(free, key=near.__getitem__)[:count])
    return frames[[place for place in range(total) if place not in removed]]
