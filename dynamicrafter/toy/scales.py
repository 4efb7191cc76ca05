"""Measures the separate effects of the text and image guidance scales in the toy world.

The same images and noise are used with both scales at 1, and then with one of them raised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..evaluation.figures import psnr
from ..pipeline import Model
from ..settings import make_settings
from .behaviour import Figures, generate_clips
from .gauges import directions, track, travelled
from .world import DIRECTIONS, captions, draw_scenes, join, sample_scenes, with_motion

SCALES = (1.0, 2.0, 4.0)
"""Values of the scale that is raised; the other one stays at the first value."""
_FS = 10
"""Frame rate of all clips, the same as for the directions in :mod:`.behaviour`."""


def scale_pairs() -> list[tuple[float, float]]:
    """The measured pairs of text and image scale: the neutral one, then raised text, then raised image scales."""
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
    """Metrics of a toy-world model for each pair of :func:`scale_pairs`, on about ``items`` unseen clips each.

    The clips are a quarter as many images, each with the four directions. For every pair: the share that moves as
    prompted (0 to 1), the distance the subject travels (pixels), and the PSNR of the first frame to the image (dB).
    ``report`` is called with every metric as soon as it is known.
    """
    pictures = max(1, items // len(DIRECTIONS))
    generator = torch.Generator().manual_seed(seed * 1009 + 7)
    first = sample_scenes(pictures, generator, "held_out")
    scenes = join([with_motion(first, direction, _FS) for direction in DIRECTIONS])
    wanted = [direction for direction in DIRECTIONS for _ in range(pictures)]
    shown = draw_scenes(scenes, torch.zeros(len(scenes), 1))[:, 0]
    prompts = captions(scenes)
    figures = Figures(report)
    note = figures.note

    for text, image in scale_pairs():
        settings = make_settings(model.variant, "animate", steps=steps, cfg=text, image_cfg=image)
        clips = generate_clips(model, scenes, prompts, settings, seed)
        found = track(clips, scenes)
        right = sum(a == b for a, b in zip(directions(found), wanted, strict=True)) / len(wanted)
        scales = f"text scale {text:g}, image scale {image:g}"
        note(f"{scales}: prompted direction, share", right)
        note(f"{scales}: distance, pixels", travelled(found).mean())
        note(f"{scales}: first frame to the picture, dB", psnr(clips[:, 0], shown).mean())
    return figures
