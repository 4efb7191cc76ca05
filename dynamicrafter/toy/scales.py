"""What the text's and the picture's guidance scales do, each by itself, in the toy world.

The same pictures and noise are animated with both scales at 1, then with the one raised while the other stays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..evaluation.figures import psnr
from ..pipeline import Model
from ..settings import make_settings
from .behaviour import directions, generate_clips, track, travelled
from .world import DIRECTIONS, captions, draw_scenes, join, sample_scenes, with_motion

SCALES = (1.0, 2.0, 4.0)
"""Values of the scale that is raised; the other stays at the first."""
_FS = 10
"""Speed of all clips, as for the directions in the figures of behaviour."""


def scale_pairs() -> list[tuple[float, float]]:
    """The pairs of text and image scale that are tried: the neutral one, then the text's, then the picture's."""
    first, *raised = SCALES
    return [(first, first), *((scale, first) for scale in raised), *((first, scale) for scale in raised)]


def measure_scales(
    model: Model,
    *,
    items: int = 16,
    seed: int = 0,
    steps: int | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """Figures of a toy-world model for each pair of :func:`scale_pairs`, on about ``items`` unseen clips each.

    A quarter as many pictures move in each of the four directions. For every pair: the share that moves as prompted
    (0 to 1), the distance the subject travels (pixels), and the first frame to the picture (dB). ``report`` hears
    every figure as soon as it is known.
    """
    pictures = max(1, items // len(DIRECTIONS))
    generator = torch.Generator().manual_seed(seed * 1009 + 7)
    first = sample_scenes(pictures, generator, "held_out")
    scenes = join([with_motion(first, direction, _FS) for direction in DIRECTIONS])
    wanted = [direction for direction in DIRECTIONS for _ in range(pictures)]
    shown = draw_scenes(scenes, torch.zeros(len(scenes), 1))[:, 0]
    prompts = captions(scenes)
    figures: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        figures[name] = value
        if report is not None:
            report(name, value)

    for text, image in scale_pairs():
        settings = make_settings(model.variant, "animate", steps=steps, cfg=text, image_cfg=image)
        clips = generate_clips(model, scenes, prompts, settings, seed)
        found = track(clips, scenes)
        right = sum(a == b for a, b in zip(directions(found), wanted, strict=True)) / len(wanted)
        scales = f"text scale {text:g}, image scale {image:g}"
        note(f"{scales}: prompted direction, share", right)
        note(f"{scales}: distance, pixels", float(travelled(found).mean()))
        note(f"{scales}: first frame to the picture, dB", float(psnr(clips[:, 0], shown).mean()))
    return figures
