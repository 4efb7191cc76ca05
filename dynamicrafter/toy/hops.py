"""A motion to teach to the built-in model, which does not know it: the subject hops, up and down within the clip.

It uses the toy world's scenes, so that only the motion and its word are new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..pipeline import Model
from ..settings import Settings, make_settings
from .behaviour import Figures, generate_clips
from .gauges import Track, directions, track
from .world import (
    ARTICLES,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Scenes,
    captions,
    draw_scenes,
    join,
    sample_scenes,
    with_motion,
)

WORD = "hops"
_HEIGHT = 0.6
"""Height of a hop as a share of the distance that a subject travels up in a whole clip: 13 pixels at fs 8."""
_RISEN, _BACK, _ASIDE = 5.0, 3.0, 4.0
"""Limits in pixels: a hop rises by at least the first, ends within the second of its start and stays within the third
of a vertical line. A subject that moves in one direction or stands still does not count."""
FS = (8, 10)
"""Range of frame rates of hops, those with the fastest motion in training."""


def hop_clips(scenes: Scenes, frames: int) -> Tensor:
    """Clips ``[n, frames, 3, 64, 64]`` in [-1, 1] in which the first subject hops once on a parabola."""
    line = torch.linspace(0, 1, frames).expand(len(scenes), -1)
    return draw_scenes(with_motion(scenes, "up"), _HEIGHT * 4 * line * (1 - line))


def hop_captions(scenes: Scenes, generator: torch.Generator | None = None) -> list[str]:
    """One caption for each scene, with a random article or none; without a generator always with "a"."""
    names = list(COLOURS)

    def article() -> str:
        pick = 0 if generator is None else int(torch.randint(len(ARTICLES), (1,), generator=generator))
        return ARTICLES[pick]

    return [
        f"{article()}{names[int(colour)]} {SHAPES[int(shape)]} {WORD}"
        for colour, shape in zip(scenes.colour[:, 0], scenes.shape[:, 0], strict=True)
    ]


def hopped(found: Track) -> list[bool]:
    """Whether the subject of each clip rose and returned to its start without moving sideways."""
    risen = found.y[:, 0] - found.y.min(1).values
    off = (found.y[:, -1] - found.y[:, 0]).abs()
    aside = (found.x - found.x[:, :1]).abs().max(1).values
    return [bool(done) for done in (risen >= _RISEN) & (off <= _BACK) & (aside <= _ASIDE)]


def measure_hops(
    model: Model,
    *,
    items: int = 16,
    seed: int = 0,
    steps: int | None = None,
    cfg: float | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """Shares of about ``items`` unseen scenes that hop, and that move in the four directions, when prompted.

    ``report`` is called with every metric as soon as it is known.
    """
    settings = make_settings(model.variant, "animate", steps=steps, cfg=cfg)
    generator = torch.Generator().manual_seed(seed * 1009 + 7)
    scenes = sample_scenes(items, generator, "held_out", fs=FS)
    pictures = max(1, items // len(DIRECTIONS))
    some = sample_scenes(pictures, generator, "held_out", fs=FS)
    told = join([with_motion(some, direction) for direction in DIRECTIONS])
    wanted = [direction for direction in DIRECTIONS for _ in range(pictures)]
    figures = Figures(report)

    def note(name: str, right: Sequence[bool]) -> None:
        figures.note(name, sum(right) / len(right))

    note("hops when told, share", hopped(_tracked(model, scenes, hop_captions(scenes), settings, seed)))
    found = _tracked(model, told, captions(told), settings, seed)
    note("prompted direction, share", [a == b for a, b in zip(directions(found), wanted, strict=True)])
    note("hops when told to go a direction, share", hopped(found))
    return figures


def _tracked(model: Model, scenes: Scenes, prompts: Sequence[str], settings: Settings, seed: int) -> Track:
    return track(generate_clips(model, scenes, prompts, settings, seed), scenes)
