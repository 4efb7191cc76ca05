"""Images of the toy world to try the page with, drawn when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..model.variants import TINY
from ..toy.world import captions, draw_scenes, sample_scenes

_SCENES = (("right", 0), ("up", 1), ("grow", 3), ("left", 12))
"""Motions and seeds."""
_ENLARGED = 4
"""64 pixels are small on a page; the model sees those again."""


@dataclass(frozen=True)
class PageExample:
    """An image, one of the same scene at its end, and the prompt between them."""

    first: Path
    last: Path
    prompt: str


def draw_examples(folder: Path) -> list[PageExample]:
    """Draw the examples into ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    fs = TINY.preset.fs
    found: list[PageExample] = []
    for motion, seed in _SCENES:
        scene = sample_scenes(1, torch.Generator().manual_seed(seed), motions=(motion,), fs=(fs, fs))
        frames = draw_scenes(scene, torch.tensor([[0.0, 1.0]]))[0]
        first, last = (folder / f"{motion}_{name}.png" for name in ("first", "last"))
        _write(first, frames[0])
        _write(last, frames[1])
        found.append(PageExample(first, last, captions(scene)[0]))
    return found


def _write(path: Path, frame: Tensor) -> None:
    """A frame ``[3, h, w]`` in [-1, 1] as a PNG."""
    from PIL import Image

    levels = ((frame.movedim(0, 2) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    height, width, _ = levels.shape
    large = (width * _ENLARGED, height * _ENLARGED)
    Image.fromarray(levels).resize(large, Image.Resampling.BICUBIC).save(path)
