"""How many frames the network evaluates for a clip, at once and in all."""

from __future__ import annotations

from ..parameters import TRAINED_FRAMES
from ..settings import Settings, key_frames, sampled_frames
from .continuation import is_continued, segment_starts
from .keyframes import gaps_of
from .windowed import needs_windows, windows_of


def frames_at_once(settings: Settings) -> int:
    """The most frames that the network sees together, on which its memory depends."""
    if len(key_frames(settings)) > 2:
        return max(gap.frames for gap in gaps_of(settings))
    if needs_windows(settings) or is_continued(settings):
        return TRAINED_FRAMES
    return sampled_frames(settings)


def frames_evaluated(settings: Settings) -> int:
    """The frames of all clips or windows of one, on which its time depends."""
    if len(key_frames(settings)) > 2:
        return sum(gap.frames for gap in gaps_of(settings))
    if needs_windows(settings):
        return TRAINED_FRAMES * len(windows_of(settings, 0))
    if is_continued(settings):
        return TRAINED_FRAMES * len(segment_starts(settings))
    return sampled_frames(settings)
