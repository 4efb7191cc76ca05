"""What the built-in model can animate in a picture of its own world: the shape and its colour are seen without CLIP."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..toy.world import COLOURS, SHAPES, SIZE, draw_shape, sample_scenes
from .plan import ClipPlan
from .suggestions import Suggestion

_NEAR = 0.2
"""Distance of a colour in RGB of [0, 1] within which a pixel has it; backgrounds are farther from all of them."""
_FEWEST = 12
"""Pixels of the smallest subject, of 64x64."""
_AREAS = {"circle": math.pi, "square": 1.72**2, "triangle": 3 * math.sqrt(3) * 0.6**2, "cross": 2.56}
"""Area of each shape of radius 1, from the distances in :func:`~..toy.world.draw_shape`."""
_ANGLES = (-0.2, -0.1, 0.0, 0.1, 0.2)
"""Radians by which subjects of the toy world are turned."""
_MOTIONS = (
    ("moves right", 0.7),
    ("moves up", 0.7),
    ("moves left", 0.7),
    ("moves down", 0.7),
    ("grows", 0.5),
    ("turns", 0.5),
)


def see_subject(picture: Tensor) -> tuple[str, str] | None:
    """Colour and shape of the subject in an image ``[3, h, w]`` in [-1, 1]; None if there is none of the toy world.

    The subject is the colour of the palette with the most pixels; its shape is told from its outline.
    """
    small = F.interpolate(picture[None].float(), (SIZE, SIZE), mode="area")[0] / 2 + 0.5
    palette = torch.tensor(list(COLOURS.values()))
    distance = torch.cdist(small.flatten(1).T, palette)
    nearest, colour = (value.view(SIZE, SIZE) for value in distance.min(1))
    near = nearest < _NEAR
    counts = torch.stack([((colour == index) & near).sum() for index in range(len(palette))])
    if int(counts.max()) < _FEWEST:
        return None
    subject = int(counts.argmax())
    mask = (colour == subject) & near
    return tuple(COLOURS)[subject], _shape_of(mask)


def _shape_of(mask: Tensor) -> str:
    """The shape whose outline overlaps most with ``mask`` ``[h, w]`` if it has the same place and area."""
    rows, columns = mask.nonzero().float().unbind(1)
    kinds = [(shape, angle) for shape in range(len(SHAPES)) for angle in _ANGLES]
    scenes = sample_scenes(len(kinds), torch.Generator().manual_seed(0), motions=("still",))
    shapes = torch.tensor([shape for shape, _ in kinds])
    areas = torch.tensor(list(_AREAS.values()))[shapes]

    def both(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value).reshape(-1, 1).expand(len(kinds), 2)

    placed = replace(
        scenes,
        shape=both(shapes),
        x=both(columns.mean() + 0.5),
        y=both(rows.mean() + 0.5),
        radius=both((mask.sum() / areas).sqrt()),
        angle=both(torch.tensor([angle for _, angle in kinds])),
    )
    drawn = draw_shape(placed, 0, torch.zeros(len(kinds), 1))[1][:, 0]
    own = mask.float()
    overlap = torch.minimum(drawn, own).sum((1, 2)) / torch.maximum(drawn, own).sum((1, 2))
    return SHAPES[kinds[int(overlap.argmax())][0]]


def suggest_toy(picture: Tensor, count: int = 5) -> list[Suggestion]:
    """Plans for an image ``[3, h, w]`` in [-1, 1] of the toy world, equally likely; none if it shows nothing of it."""
    found = see_subject(picture)
    if found is None:
        return []
    subject = " ".join(found)
    motions = [(words, motion) for words, motion in _MOTIONS if (words, found[1]) != ("turns", "circle")]
    return [
        Suggestion(
            ClipPlan(
                subject=f"the {subject}",
                motion_prompt=f"a {subject} {words}",
                camera="static",
                motion=motion,
                mode="animate",
                negative_prompt="",
                seconds=2.0,
                # As of objects in the bank of phrases: shapes make no sound of their own.
                sound="room",
                why=f"it shows a {subject}, which the built-in model knows",
            ),
            1 / len(motions),
        )
        for words, motion in motions[:count]
    ]
