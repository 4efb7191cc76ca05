"""Pinhole cameras and poses.

Axes are those of OpenCV and COLMAP: x to the right, y down, z forward. A pose is the camera-to-world matrix, float64
``[4, 4]``: its columns are the camera's axes and its position. The world's axes are those of the first camera, whose
pose is the identity. Lengths have the unit of the depth map. The centre of pixel (column, row) is at (column + 0.5,
row + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT = torch.float64
"""The dtype of poses."""


@dataclass(frozen=True)
class Intrinsics:
    """Where a camera projects a point (x, y, z): to (fx x / z + cx, fy y / z + cy), in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def focal_length(fov: float, width: float) -> float:
    """The focal length in pixels of a camera that sees ``fov`` degrees across ``width`` pixels."""
    return width / 2 / math.tan(math.radians(fov) / 2)


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """The pose at ``position`` that looks at ``target``, with ``up`` upwards in the image; ``[3]`` each."""
    forward = _unit(target - position)
    right = _unit(torch.cross(forward, up, dim=0))
    axes = torch.stack([right, torch.cross(forward, right, dim=0), forward], dim=1)
    return pose_of(axes, position)


def pose_of(rotation: Tensor, position: Tensor) -> Tensor:
    """The matrix ``[4, 4]`` of axes ``[3, 3]``, one in each column, and a position ``[3]``."""
    pose = torch.eye(4, dtype=EXACT)
    pose[:3, :3] = rotation
    pose[:3, 3] = position
    return pose


def relative_to_first(poses: Tensor) -> Tensor:
    """Poses ``[n, 4, 4]`` of any world in the axes of the first camera."""
    return torch.inverse(poses[0]) @ poses


def spread_poses(poses: Tensor, frames: int) -> Tensor:
    """``frames`` poses evenly along ``poses`` ``[n, 4, 4]``, n at least 2, with the same ends.

    Positions between two poses are on the line between them, rotations on the shortest turn.
    """
    made: list[Tensor] = []
    for frame in range(frames):
        place = frame * (len(poses) - 1) / max(1, frames - 1)
        index = min(int(place), len(poses) - 2)
        first, second, part = poses[index], poses[index + 1], place - index
        turn = _part_of_turn(first[:3, :3].T @ second[:3, :3], part)
        made.append(pose_of(first[:3, :3] @ turn, torch.lerp(first[:3, 3], second[:3, 3], part)))
    return torch.stack(made)


def quaternion_to_rotation(quaternion: Sequence[float]) -> Tensor:
    """The rotation ``[3, 3]`` of a quaternion (w, x, y, z) of any length above 0."""
    w, x, y, z = (value / math.hypot(*quaternion) for value in quaternion)
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=EXACT,
    )


def _part_of_turn(turn: Tensor, part: float) -> Tensor:
    """The rotation about the axis of ``turn`` by ``part`` of its angle (Rodrigues)."""
    angle = math.acos(min(1.0, max(-1.0, (float(turn.trace()) - 1) / 2)))
    # Without an angle there is nothing to turn by, and at half a turn the axis is not unique.
    if math.sin(angle) < 1e-9:
        return torch.eye(3, dtype=EXACT) if part < 1 else turn
    cross = (turn - turn.T) / (2 * math.sin(angle))
    return (
        torch.eye(3, dtype=EXACT)
        + math.sin(part * angle) * cross
        + (1 - math.cos(part * angle)) * (cross @ cross)
    )


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()
