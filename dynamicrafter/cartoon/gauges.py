"""Metrics of generated frames against the true ones: places of joints, colours of parts, and the background.

The detector has no network: it looks for what the true frame shows around a joint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .characters import BACKGROUND, GARMENTS

JOINTS = tuple(range(14))
"""Joints that are looked for, in OpenPose's order: nose, neck and limbs."""
ENDS = (0, 4, 7, 10, 13)
"""Of these nose, wrists and ankles, which do not look the same along a limb."""
TOLERANCE = 0.1
"""Distance within which a joint is in its place, as a share of the trunk's length."""
_RADIUS = 7
"""Of the patch around a joint, in pixels, to each side."""
_REACH = 12
"""Farthest place at which a joint is looked for, in pixels."""
_UNLIKE = 0.12
"""Mean absolute difference of a patch, of values in [0, 1], above which a joint is not found."""
_NEARER = 5e-4
"""Difference that a pixel of distance counts as: along a limb of one colour, the nearest place is taken."""
_SAME_COLOUR = 0.15
"""Distance of RGB values in [0, 1] within which a colour is kept."""
_FEWEST = 12
"""Pixels of a part whose colour is measured."""
_MARGIN = 3
"""Pixels around the character that do not count as background."""


@dataclass(frozen=True)
class Found:
    """Where joints were found, relative to where they should be."""

    offset: Tensor
    """``[n, 2]``, x and y in pixels."""
    alike: Tensor
    """``[n]``: whether anything like the joint was found."""

    def in_place(self, trunk: float) -> Tensor:
        """``[n]``: whether each joint is within :data:`TOLERANCE` of the trunk's length, in pixels, of its place."""
        return self.alike & (self.offset.square().sum(1) <= (TOLERANCE * trunk) ** 2)


def find_joints(made: Tensor, true: Tensor, places: Tensor) -> Found:
    """Look in a frame for what the true frame shows at ``places`` ``[n, 2]``; frames are ``[3, h, w]`` in [-1, 1].

    Places are x and y in pixels, inside of the image.
    """
    margin = _RADIUS + _REACH
    wide = F.pad(made[None] / 2 + 0.5, (margin,) * 4, mode="replicate")[0]
    narrow = F.pad(true[None] / 2 + 0.5, (_RADIUS,) * 4, mode="replicate")[0]
    side, searched = 2 * _RADIUS + 1, 2 * _REACH + 1
    line = torch.arange(-_REACH, _REACH + 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    cost = _NEARER * torch.sqrt((x * x + y * y).float())
    offsets: list[Tensor] = []
    alike: list[bool] = []
    for column, row in ((int(x), int(y)) for x, y in places):
        patch = narrow[:, row : row + side, column : column + side]
        around = wide[:, row : row + side + 2 * _REACH, column : column + side + 2 * _REACH]
        candidates = around.unfold(1, side, 1).unfold(2, side, 1)
        difference = (candidates - patch[:, None, None]).abs().mean((0, 3, 4))
        best = int((difference + cost).argmin())
        offsets.append(torch.tensor([best % searched - _REACH, best // searched - _REACH]))
        alike.append(float(difference.flatten()[best]) <= _UNLIKE)
    return Found(torch.stack(offsets), torch.tensor(alike))


def part_colours(frame: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The median colour, RGB in [0, 1], of every garment with enough pixels by the true ``labels`` ``[h, w]``."""
    found: dict[str, Tensor] = {}
    for name, label in GARMENTS.items():
        mask = labels == label
        if int(mask.sum()) >= _FEWEST:
            found[name] = (frame[:, mask] / 2 + 0.5).median(dim=1).values
    return found


def apart(first: Tensor, second: Tensor) -> float:
    """Distance of two colours."""
    return float((first - second).square().sum().sqrt())


def colours_kept(made: Tensor, true: Tensor, labels: Tensor) -> dict[str, bool]:
    """Whether every garment has its colour."""
    expected = part_colours(true, labels)
    return {
        name: apart(colour, expected[name]) <= _SAME_COLOUR
        for name, colour in part_colours(made, labels).items()
    }


def background_psnr(made: Tensor, other: Tensor, *labels: Tensor) -> float:
    """PSNR in decibels of two frames where, by all ``labels`` ``[h, w]``, no character is near."""
    character = torch.stack([each != BACKGROUND for each in labels]).any(0).float()
    near = F.max_pool2d(character[None, None], 2 * _MARGIN + 1, stride=1, padding=_MARGIN)[0, 0] > 0
    error = ((made - other)[:, ~near] / 2).square().mean()
    return -10 * math.log10(max(float(error), 1e-10))


def border_jump(clip: Tensor, borders: list[int]) -> float:
    """The largest change of a clip ``[t, 3, h, w]`` into a frame of ``borders``, over the median change."""
    changes = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))
    return float(max(changes[border - 1] for border in borders) / changes.median().clamp(min=1e-6))
