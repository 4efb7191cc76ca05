"""Camera paths in files: RealEstate10K's text and COLMAP's ``images.txt``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from .geometry import EXACT, quaternion_to_rotation

_MOST_BYTES = 64 * 2**20
_POSE_NUMBERS = 19
"""Numbers of a line of RealEstate10K: time, four intrinsics, two zeros, and world-to-camera as 3 x 4, row by row."""
_EXPECTED = "a camera path must be a text file of RealEstate10K, or the images.txt of COLMAP or its folder"


def read_camera_poses(path: Path) -> Tensor:
    """Camera-to-world matrices ``[n, 4, 4]`` of a file, in its own world and unit; at least 2.

    Those of COLMAP are in the order of the images' names. Intrinsics are not read. Raises UsageError for a file that
    is none of these, and for numbers that are no rotation.
    """
    file = path / "images.txt" if path.is_dir() else path
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{_EXPECTED}, but {file} is larger than {_MOST_BYTES >> 20} MB")
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise UsageError(
            f"{_EXPECTED}, but {file} cannot be read ({problem.strerror or problem})"
        ) from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{_EXPECTED}, but {file} is no text; export images.bin as text") from problem
    lines = [line for line in lines if not line.startswith("#")]
    try:
        matrices = _real_estate(lines) or _colmap(lines)
    except ValueError:
        matrices = []
    if len(matrices) < 2:
        raise UsageError(f"{_EXPECTED}, but {file} has no two poses of either")
    last_row = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=EXACT)
    world_to_camera = torch.stack([torch.cat([matrix, last_row]) for matrix in matrices])
    rotations = world_to_camera[:, :3, :3]
    # Also false for NaN.
    proper = torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=EXACT), atol=1e-3)
    if not proper or not world_to_camera.isfinite().all() or (torch.det(rotations) < 0).any():
        raise UsageError(f"the poses of {file} must contain rotations, but some do not; export them again")
    return torch.inverse(world_to_camera)


def _real_estate(lines: list[str]) -> list[Tensor]:
    """World-to-camera matrices ``[3, 4]``; none if the file is another. The first line may be a video's address."""
    rows = [line.split() for line in lines if line.strip()]
    if rows and len(rows[0]) == 1:
        rows = rows[1:]
    if any(len(row) != _POSE_NUMBERS for row in rows):
        return []
    return [torch.tensor([float(number) for number in row[7:]], dtype=EXACT).view(3, 4) for row in rows]


def _colmap(lines: list[str]) -> list[Tensor]:
    """World-to-camera matrices ``[3, 4]``. Each image has two lines, the second with its points, which may be empty."""
    found: dict[str, Tensor] = {}
    for line in lines[::2]:
        if not line.strip():
            continue
        _, *numbers, _, name = line.split(maxsplit=9)
        values = [float(number) for number in numbers]
        if len(values) != 7 or not any(values[:4]):
            raise ValueError(line)
        shift = torch.tensor(values[4:], dtype=EXACT)
        found[name] = torch.cat([quaternion_to_rotation(values[:4]), shift[:, None]], dim=1)
    return [found[name] for name in sorted(found)]
