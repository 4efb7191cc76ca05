"""Camera paths in words, such as ``orbit:30+dolly:-0.3``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from .geometry import EXACT, Intrinsics, look_at

MOVES = {
    "orbit": (-90.0, 90.0),
    "rise": (-80.0, 80.0),
    "dolly": (-0.9, 2.0),
    "truck": (-1.0, 1.0),
    "pedestal": (-1.0, 1.0),
}
"""The moves of a path, each with the range of its values.

orbit: degrees around the centre of the scene, positive to the right. rise: degrees around it, positive upwards. dolly:
share of the distance to it, negative closer. truck and pedestal: to the right and up, as shares of the width and the
height that the camera sees at that distance.
"""
_MOST_VALUES = 25
_STEEPEST = 89.0
"""Degrees of elevation at which the camera still has an upright direction."""


def is_moves(path: str) -> bool:
    """Whether a path is moves, not the name of a file."""
    return re.match(r"\s*([a-z]+)\s*:", path) is not None


def read_moves(path: str) -> dict[str, tuple[float, ...]]:
    """The values of each move of a path: moves are separated by ``+``, the values of one by commas.

    A single value is the one at the end; several begin with 0. Raises UsageError for a path that is none.
    """
    found: dict[str, tuple[float, ...]] = {}
    for part in path.split("+"):
        name, _, text = (each.strip() for each in part.partition(":"))
        if name not in MOVES:
            raise UsageError(f"a camera path consists of {', '.join(MOVES)}, but {part.strip()!r} was given")
        if name in found:
            raise UsageError(
                f"a camera path can contain {name} once, but {path!r} was given; join its values"
            )
        low, high = MOVES[name]
        try:
            values = tuple(float(value) for value in text.split(","))
        except ValueError:
            values = ()
        if not values or not all(low <= value <= high for value in values):
            raise UsageError(
                f"{name} must be {low:g} to {high:g}, but {text!r} was given; such as {name}:{high / 3:g}"
            )
        if len(values) == 1:
            values = (0.0, *values)
        elif values[0] != 0 or len(values) > _MOST_VALUES:
            raise UsageError(
                f"the values of {name} must begin with 0, the camera of the image, and be at most {_MOST_VALUES}, but "
                f"{text!r} was given"
            )
        found[name] = values
    return found


def poses_along(
    path: str, frames: int, distance: float, intrinsics: Intrinsics, size: tuple[int, int], elevation: float
) -> Tensor:
    """The poses ``[frames, 4, 4]`` of a path of moves; the first is the identity.

    The camera moves on a sphere of radius ``distance`` around the point that lies so far ahead. ``elevation`` is by how
    many degrees the image looks down; ``size`` is (width, height) in pixels. Raises UsageError as :func:`read_moves`
    does, and for a path over the pole of the sphere.
    """
    moves = {name: _along(values, frames) for name, values in read_moves(path).items()}
    still = torch.zeros(frames, dtype=EXACT)
    orbit, rise, dolly, truck, pedestal = (moves.get(name, still) for name in MOVES)
    heights = elevation + rise
    steepest = float(heights[heights.abs().argmax()])
    if abs(steepest) > _STEEPEST:
        raise UsageError(
            f"the camera must stay within {_STEEPEST:g} degrees of the horizon, but rises to {steepest:g} from an "
            f"elevation of {elevation:g}; use a smaller rise"
        )
    tilt = math.radians(elevation)
    centre = torch.tensor([0.0, 0.0, distance], dtype=EXACT)
    right = torch.tensor([1.0, 0.0, 0.0], dtype=EXACT)
    up = torch.tensor([0.0, -math.cos(tilt), -math.sin(tilt)], dtype=EXACT)
    ahead = torch.cross(up, right, dim=0)
    # What the camera sees at the centre's distance.
    across, down = distance * size[0] / intrinsics.fx, distance * size[1] / intrinsics.fy
    poses: list[Tensor] = []
    for index in range(frames):
        turn, height = torch.deg2rad(orbit[index]), torch.deg2rad(heights[index])
        outwards = height.cos() * (turn.sin() * right - turn.cos() * ahead) + height.sin() * up
        pose = look_at(centre + distance * (1 + dolly[index]) * outwards, centre, up)
        shift = torch.stack([truck[index] * across, -pedestal[index] * down, torch.zeros_like(turn)])
        pose[:3, 3] += pose[:3, :3] @ shift
        poses.append(pose)
    return torch.stack(poses)


def _along(values: Sequence[float], frames: int) -> Tensor:
    """``frames`` numbers through evenly spaced ``values``, with the same ends: on lines for up to 3 values, otherwise
    on a Catmull-Rom spline."""
    places = torch.arange(frames, dtype=EXACT) * (len(values) - 1) / max(1, frames - 1)
    points = torch.tensor([2 * values[0] - values[1], *values, 2 * values[-1] - values[-2]], dtype=EXACT)
    index = places.long().clamp(max=len(values) - 2)
    before, start, end, after = (points[index + offset] for offset in range(4))
    part = places - index
    if len(values) <= 3:
        return torch.lerp(start, end, part)
    return (
        start
        + (end - before) * part / 2
        + (before - 2.5 * start + 2 * end - after / 2) * part**2
        + (1.5 * (start - end) + (after - before) / 2) * part**3
    )
