"""Clips of several pieces, each generated after the one before, and what is done to their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import UsageError
from ..parameters import TRAINED_FRAMES
from ..settings import Settings, clip_length, key_frames
from .colour import ColourMatch
from .continuation import Segment, continued, is_continued, segment_starts
from .joints import FirstFrameLock
from .keyframes import Gap, gaps_of, through_keys


@dataclass(frozen=True, eq=False)
class Stretch:
    """A clip to be generated, of which a longer one consists."""

    index: int
    total: int
    """Number of pieces, as far as it is known before frames are seen; above ``index``."""
    settings: Settings
    """Those of this piece alone."""
    pictures: tuple[Tensor, ...]
    """``[3, H, W]`` in [-1, 1]: the image it begins with, and the one it ends with if it interpolates."""
    anchored: bool = False
    """Whether the network sees the first image of all, not this piece's, through the image encoder."""


def is_in_pieces(settings: Settings) -> bool:
    """Whether a clip is joined of several, or both of its ends are corrected, which needs all of its frames."""
    if settings.mode == "interpolate":
        return len(key_frames(settings)) > 2 or bool(settings.colour_match or settings.lock_frames)
    return is_continued(settings)


def check_one_part(settings: Settings) -> None:
    """Raise UsageError for settings of a clip that is of several parts, or that are not for a source clip."""
    if settings.length_method != "native" or is_in_pieces(settings):
        raise UsageError(
            "masks, source clips and denoise below 1 are for clips of one part; omit them, or length_method, keys, "
            "colour_match and lock_frames"
        )


def in_pieces(
    generate: Callable[[Stretch], Tensor], images: Sequence[Tensor], settings: Settings
) -> Iterator[Tensor]:
    """Frames ``[n, 3, H, W]`` of a clip of several pieces, in parts; ``images`` are ``[3, H, W]`` in [-1, 1].

    ``generate`` returns the frames ``[t, 3, H, W]`` of a piece.
    """
    plain = replace(settings, length_method="native", keys="", overlap=None, colour_match=0.0, lock_frames=0)
    interpolates = settings.mode == "interpolate"
    total = len(gaps_of(settings)) if interpolates else len(segment_starts(settings))

    def segment(one: Segment) -> Tensor:
        chosen = replace(plain, frames=TRAINED_FRAMES, prompt=one.prompt)
        return generate(Stretch(one.index, max(total, one.index + 1), chosen, (one.picture,), one.anchored))

    def gap(one: Gap) -> Tensor:
        chosen = replace(plain, frames=one.frames, prompt=one.prompt, cut_still=0)
        return generate(Stretch(one.index, total, chosen, tuple(images[one.index : one.index + 2])))

    return through_keys(gap, images, settings) if interpolates else continued(segment, images[0], settings)


def faithful(parts: Iterator[Tensor], picture: Tensor, settings: Settings) -> Iterator[Tensor]:
    """The frames of a clip of one part that begins with ``picture``, corrected as its settings ask."""
    corrections: list[Callable[[Tensor], Tensor]] = []
    if settings.colour_match:
        corrections.append(ColourMatch(picture, settings.colour_match))
    if settings.lock_frames:
        frames = clip_length(settings) if settings.mode == "loop" else None
        corrections.append(FirstFrameLock(picture, settings.lock_frames, loop_of=frames))
    for part in parts:
        for correct in corrections:
            part = correct(part)
        yield part


def evenly(count: int) -> list[int]:
    """``count`` of the 16 frames of a clip, evenly spread from the first to the last."""
    return [round(index * (TRAINED_FRAMES - 1) / max(1, count - 1)) for index in range(count)]
