"""Long clips by continuation: each clip begins with a late frame of the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..parameters import TRAINED_FRAMES
from ..settings import Settings, overlap_of, prompt_parts
from .colour import ColourMatch
from .joints import FirstFrameLock, cross_fade, sharpest


@dataclass(frozen=True, eq=False)
class Segment:
    """One clip of a chain, to be generated."""

    index: int
    start: int
    """The frame of the whole clip at which it begins."""
    picture: Tensor
    """The image it begins with, ``[3, H, W]`` in [-1, 1]."""
    prompt: str
    anchored: bool
    """Whether the network sees the first image of the chain, not ``picture``, through the image encoder."""


def continued(generate: Callable[[Segment], Tensor], first: Tensor, settings: Settings) -> Iterator[Tensor]:
    """Frames ``[n, 3, H, W]`` of a long clip that begins with the image ``first`` ``[3, H, W]`` in [-1, 1], in parts.

    ``generate`` returns the 16 frames ``[16, 3, H, W]`` of a segment. A new one begins at each change of the prompt. Of
    one segment no more than its frames are in memory.
    """
    # The last frame of a loop, which repeats the first, is not asked for.
    total = settings.frames - (settings.mode == "loop")
    overlap = overlap_of(settings)
    parts = prompt_parts(settings)
    picture, start, index, part = first, 0, 0, 0
    fading: Tensor | None = None
    while True:
        while part + 1 < len(parts) and parts[part + 1].start <= start:
            part += 1
        anchored = bool(index and settings.reanchor and index % settings.reanchor == 0)
        frames = generate(Segment(index, start, picture, parts[part].text, anchored))
        if settings.colour_match:
            frames = ColourMatch(picture, settings.colour_match)(frames)
        if settings.lock_frames:
            # The last frame of a loop's segment is the image, too.
            loop_of = TRAINED_FRAMES - 1 if settings.mode == "loop" else None
            frames = FirstFrameLock(picture, settings.lock_frames, loop_of=loop_of)(frames)
        left = total - 1 - start
        until = parts[part + 1].start - start if part + 1 < len(parts) else left
        last = left if left <= until < TRAINED_FRAMES else min(_end(frames, settings, until), left)
        new = frames[1 if index else 0 : last + 1]
        if fading is not None:
            count = min(len(fading), len(new))
            yield cross_fade(fading[:count], new[:count])
            new = new[count:]
        if len(new):
            yield new
        start, index = start + last, index + 1
        if start >= total - 1:
            return
        fading = frames[last + 1 : last + 1 + overlap]
        picture = first if settings.mode == "loop" else frames[last].clamp(-1, 1)


def _end(frames: Tensor, settings: Settings, until: int) -> int:
    """The frame of a segment with which the next one begins."""
    if settings.mode == "loop":
        return TRAINED_FRAMES - 1
    latest = min(until, TRAINED_FRAMES - 1 - overlap_of(settings))
    if latest == until:  # A new prompt begins there.
        return latest
    earliest = max(1, latest - settings.continue_from + 1)
    return earliest + sharpest(frames[earliest : latest + 1])


def is_continued(settings: Settings) -> bool:
    """Whether a clip has several segments."""
    return settings.length_method == "continue" and (
        settings.frames > TRAINED_FRAMES or len(prompt_parts(settings)) > 1
    )


def segment_starts(settings: Settings) -> list[int]:
    """The frames at which the segments of a clip begin, if each continues from the last frame that it may."""
    span = TRAINED_FRAMES - 1 - (0 if settings.mode == "loop" else overlap_of(settings))
    last = settings.frames - 1
    changes = [] if settings.mode == "loop" else [part.start for part in prompt_parts(settings)][1:]
    starts = [0]
    while starts[-1] + TRAINED_FRAMES - 1 < last or any(starts[-1] < change < last for change in changes):
        starts.append(min([starts[-1] + span, *(change for change in changes if change > starts[-1])]))
    return starts
