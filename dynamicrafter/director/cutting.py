"""How the clips of a film meet: which of their frames it shows, and how they are joined.

Frames are uint8 ``[n, h, w, 3]``, as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import torch
from torch import Tensor

from ..motion.joints import cross_fade, sharpest

Joint = Literal["cut", "cross-fade", "shared"]
"""How a clip follows the one before; with "shared", its first frame is the other's last one, and is shown once."""
JOINT_KINDS: tuple[Joint, ...] = get_args(Joint)


@dataclass(frozen=True)
class Cutting:
    """The frames of its clips that a film shows."""

    firsts: tuple[int, ...]
    """The first one of each clip."""
    lengths: tuple[int, ...]
    """How many of each, faded ones included."""
    fades: tuple[int, ...]
    """Over how many each clip is faded into the one before."""

    @property
    def total(self) -> int:
        """Frames of the film."""
        return sum(self.lengths) - sum(self.fades)

    @property
    def spans(self) -> list[float]:
        """Frames of the film that each clip takes; half of what is faded belongs to either side."""
        ends = (*self.fades[1:], 0)
        return [
            length - (begin + end) / 2
            for length, begin, end in zip(self.lengths, self.fades, ends, strict=True)
        ]

    def frames(self, read: Callable[[int, int, int], Iterable[Tensor]]) -> Iterator[Tensor]:
        """The frames of the film in parts, of which no more than those of a cross-fade are in memory.

        ``read`` returns frames ``[h, w, 3]`` of a clip: its place, the first one, and how many.
        """
        fading: Tensor | None = None
        ends = (*self.fades[1:], 0)
        for place, (first, length, fade) in enumerate(
            zip(self.firsts, self.lengths, self.fades, strict=True)
        ):
            frames = iter(read(place, first, length))
            if fading is not None:
                begin = torch.stack(list(islice(frames, fade)))
                yield _eight_bits(cross_fade(_floats(fading), _floats(begin)))
            for frame in islice(frames, length - fade - ends[place]):
                yield frame[None]
            rest = list(frames)
            fading = torch.stack(rest) if rest else None


def cut(joints: Sequence[Joint], counts: Sequence[int], fade: int) -> Cutting:
    """How clips are joined of which ``counts`` frames are there; a cross-fade takes ``fade`` of them at most."""
    firsts = [int(joint == "shared") for joint in joints]
    lengths = [count - first for count, first in zip(counts, firsts, strict=True)]
    fades = [
        min(max(1, fade), lengths[place] // 2, lengths[place - 1] // 2) if joint == "cross-fade" else 0
        for place, joint in enumerate(joints)
    ]
    return Cutting(tuple(firsts), tuple(lengths), tuple(fades))


def tail_start(count: int, among: int) -> int:
    """Index of the first of the last ``among`` of a clip's frames, without its very first one if there are others."""
    return count - min(among, max(1, count - 1))


def sharpest_of(frames: Tensor) -> int:
    """Index of the frame with the most detail."""
    return sharpest(_floats(frames))


def beginning(frame: Tensor) -> Tensor:
    """A frame ``[h, w, 3]`` as the image that the next clip begins with.

    Frames are truncated to 8 bits, half a level on average. That would add up from clip to clip, so every second pixel,
    as on a chessboard, is a level brighter, which no network can see.
    """
    height, width, _ = frame.shape
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    return (frame.int() + board[:, :, None]).clamp(max=255).to(torch.uint8)


def _floats(frames: Tensor) -> Tensor:
    """uint8 ``[n, h, w, 3]`` as ``[n, 3, h, w]`` in [-1, 1]."""
    return frames.movedim(-1, 1).float() / 127.5 - 1


def _eight_bits(frames: Tensor) -> Tensor:
    """The inverse of :func:`_floats`, to the nearest level."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)
