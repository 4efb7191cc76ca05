"""The poses of a camera path in words, such as ``orbit:30+dolly:-0.3``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from .choices import MOVES, read_moves
from .geometry import EXACT, Intrinsics, look_at

_STEEPEST = 89.0
"""Degrees of elevation at which the camera still has an upright direction."""


def poses_along(
    path: str, frames: int, distance: float, intrinsics: Intrinsics, size: tuple[int, int], elevation: float
) -> Tensor:
    """The poses ``[frames, 4, 4]`` of a path of moves; the first is the identity.

    The camera moves on a sphere of radius ``distance`` around the point that lies so far ahead. ``elevation`` is by how
    many degrees the image looks down; ``size`` is (width, height) in pixels. Raises UsageError as
    :func:`~dynamicrafter.camera.choices.read_moves`
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
