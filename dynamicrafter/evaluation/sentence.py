"""The metrics of a clip in one sentence for people."""

from __future__ import annotations

from collections.abc import Mapping

from .figures import (
    CLIPPED,
    CLOSURE,
    DELTA_E,
    ENLARGED,
    FIRST_SSIM,
    FLICKER,
    FLOW_DOWN,
    FLOW_LEFT,
    FLOW_RIGHT,
    FLOW_UP,
    MOVING,
    SATURATION,
    SHARPNESS,
    WAY,
)
from .learned import PROMPT_CLIP

_MAINLY = 0.6
"""Share of the flow from which it has one direction."""
_GREW, _SHRANK = 1.1, 1 / 1.1
_FAITHFUL, _ALIKE = 0.9, 0.7
"""SSIM of the first frame from which it shows the image, and below which it shows something else."""
_NOTICED = 5.0
"""Drift of the mean colour in delta E that is seen without looking for it; 2 is a just noticeable difference."""
_FLICKERS = 2.0
_SOFT, _HARSH = 0.4, 2.5
_COLOURFUL, _PALE = 1.25, 0.8
_BURNT = 0.01
_CLOSES = 1.5
_DIRECTIONS = {FLOW_LEFT: "to the left", FLOW_RIGHT: "to the right", FLOW_UP: "up", FLOW_DOWN: "down"}


def describe(figures: Mapping[str, float]) -> str:
    """What the metrics of a clip say, in one sentence; of metrics that are missing nothing is said."""
    parts = [_motion(figures), *_looks(figures)]
    if figures.get(WAY.name, 0.0) > 0 and 0 < figures.get(CLOSURE.name, 0.0) <= _CLOSES:
        parts.append("ends as it begins")
    if PROMPT_CLIP.name in figures:
        parts.append(f"agrees with its prompt by a CLIP score of {figures[PROMPT_CLIP.name]:.0f}")
    told = [part for part in parts if part]
    return f"The clip {', '.join(told[:-1])}{' and ' if told[1:] else ''}{told[-1]}."


def _motion(figures: Mapping[str, float]) -> str:
    if WAY.name not in figures:
        return "is a single frame"
    way = figures[WAY.name]
    if way == 0:
        return "stands still"
    grown = figures[ENLARGED.name]
    main = max(_DIRECTIONS, key=lambda one: figures[one.name])
    if figures[main.name] >= _MAINLY:
        part = f"{figures[MOVING.name]:.0%} of the picture at a time"
        return f"moves {_DIRECTIONS[main]} by {way:.0%} of its width, {part}"
    if grown >= _GREW or grown <= _SHRANK:
        return f"{'grows' if grown > 1 else 'shrinks'} to {grown:.0%} of its size"
    return f"moves in several directions, by {way:.0%} of its width"


def _looks(figures: Mapping[str, float]) -> list[str]:
    """What is to be said of fidelity, steadiness, colours and sharpness."""
    parts: list[str] = []
    if FIRST_SSIM.name in figures:
        like = figures[FIRST_SSIM.name]
        how = "with its image" if like >= _FAITHFUL else "roughly with its image" if like >= _ALIKE else ""
        parts.append(f"begins {how or 'with something else than its image'}")
    if figures.get(FLICKER.name, 0.0) > _FLICKERS:
        parts.append("flickers")
    if figures.get(DELTA_E.name, 0.0) > _NOTICED:
        parts.append(f"changes its mean colour by {figures[DELTA_E.name]:.0f} delta E")
    colourful = figures.get(SATURATION.name, 1.0)
    if figures[CLIPPED.name] > _BURNT or colourful > _COLOURFUL:
        parts.append("is too colourful")
    elif colourful < _PALE:
        parts.append("is paler than its image")
    sharp = figures.get(SHARPNESS.name, 1.0)
    if sharp < _SOFT:
        parts.append("becomes soft")
    elif sharp > _HARSH:
        parts.append("becomes harsh")
    return parts
