"""Draw the pictures of coloured shapes in ``pictures/``: first and last frames of clips of the toy world.

``red_circle.png`` is older and stays as it is. Usage, in the top folder: ``python -m tools.make_toy_pictures``
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamicrafter.model.variants import TINY
from dynamicrafter.toy.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scenes,
    draw_scenes,
    held_out,
    sample_scenes,
)

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
SIDE = 256
"""Height and width in pixels; the model sees 64, but in the editor that would be small."""


def scene(
    shape: str,
    colour: str,
    motion: str,
    background: str,
    place: tuple[float, float],
    shades: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> Scenes:
    """One scene with one subject at ``place`` (x, y in pixels of 64), of a kind that training sees."""
    drawn = sample_scenes(1, torch.Generator().manual_seed(5))
    made = replace(
        drawn,
        shape=torch.full((1, 2), SHAPES.index(shape)),
        colour=torch.full((1, 2), list(COLOURS).index(colour)),
        motion=torch.full((1, 2), list(MOTIONS).index(motion)),
        x=torch.full((1, 2), place[0]),
        y=torch.full((1, 2), place[1]),
        radius=torch.full((1, 2), 11.5),
        angle=torch.zeros(1, 2),
        present=torch.tensor([[True, False]]),
        background=torch.tensor([BACKGROUNDS.index(background)]),
        shades=torch.tensor([shades]),
        fs=torch.tensor([TINY.preset.fs]),
        loop=torch.tensor([False]),
    )
    if bool(held_out(made.shape[:, 0], made.colour[:, 0], made.background)[0]):
        raise ValueError(
            f"a {colour} {shape} on {background} is held out of training; choose another background"
        )
    return made


def picture(frame: Tensor) -> Image.Image:
    """A frame ``[3, h, w]`` in [-1, 1], larger."""
    levels = ((frame.movedim(0, 2) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(np.asarray(levels)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def pictures() -> dict[str, Image.Image]:
    """Every picture by its name."""
    way = scene("circle", "red", "right", "waves", (23, 34), ((0.52, 0.58, 0.46), (0.42, 0.46, 0.58)))
    there = draw_scenes(way, torch.tensor([[0.0, 1.0]]))[0]
    others = {
        "blue_square": scene(
            "square", "blue", "up", "stripes", (31, 37), ((0.60, 0.54, 0.44), (0.52, 0.44, 0.50))
        ),
        "green_triangle": scene(
            "triangle", "green", "left", "gradient", (38, 32), ((0.46, 0.42, 0.58), (0.58, 0.50, 0.54))
        ),
        "yellow_cross": scene(
            "cross", "yellow", "down", "stripes", (33, 27), ((0.40, 0.50, 0.56), (0.36, 0.40, 0.52))
        ),
    }
    firsts = {name: draw_scenes(made, torch.zeros(1, 1))[0, 0] for name, made in others.items()}
    frames = {"red_circle_left": there[0], "red_circle_right": there[1], **firsts}
    return {name: picture(frame) for name, frame in frames.items()}


def main() -> None:
    """Write all of them."""
    for name, made in pictures().items():
        made.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
