"""Clips through several images: an interpolation between each two, joined at the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..settings import Settings, key_frames, prompt_parts
from .joints import FirstFrameLock, matched_at_keys, without_still_frames


@dataclass(frozen=True)
class Gap:
    """The interpolation between two neighbouring images."""

    index: int
    frames: int
    """To be generated, both images included."""
    prompt: str
    cut: tuple[bool, bool]
    """Whether still frames are cut near its first and its last image."""


def gaps_of(settings: Settings) -> list[Gap]:
    """The interpolations of a clip; of each but the first, the first frame is dropped."""
    keys, parts = key_frames(settings), prompt_parts(settings)
    gaps: list[Gap] = []
    for index, (start, end) in enumerate(zip(keys, keys[1:], strict=False)):
        cut = (index > 0, index < len(keys) - 2)
        frames = end - start + 1 + settings.cut_still * sum(cut)
        gaps.append(Gap(index, frames, parts[min(index, len(parts) - 1)].text, cut))
    return gaps


def through_keys(
    generate: Callable[[Gap], Tensor], images: Sequence[Tensor], settings: Settings
) -> Iterator[Tensor]:
    """Frames ``[n, 3, H, W]`` of a clip through ``images``, each ``[3, H, W]`` in [-1, 1], gap by gap.

    ``generate`` returns the frames of one gap, ``[t, 3, H, W]``. Each image's frame is in the clip once, at its place
    in :func:`~dynamicrafter.settings.key_frames`.
    """
    for gap in gaps_of(settings):
        first, last = images[gap.index], images[gap.index + 1]
        frames = matched_at_keys(generate(gap), first, last, settings.colour_match)
        if settings.lock_frames:
            frames = FirstFrameLock(first, settings.lock_frames)(frames)
            frames = FirstFrameLock(last, settings.lock_frames)(frames.flip(0)).flip(0)
        if settings.cut_still:
            frames = without_still_frames(frames, settings.cut_still, ends=gap.cut)
        yield frames[1 if gap.index else 0 :]
