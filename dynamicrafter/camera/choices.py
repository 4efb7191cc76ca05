"""What can be chosen for a guide clip, without PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError

DepthKind = Literal["disparity", "depth", "metric"]
"""What the values of a depth map mean.

disparity: the nearest point has the largest value, and the inverse of the distance is linear in it (MiDaS, Depth
Anything). depth: the farthest point has the largest value, and the distance is linear in it. metric: the values are
distances, in metres if they are floating point and in millimetres if they are whole numbers.
"""
KINDS: tuple[DepthKind, ...] = get_args(DepthKind)
NEAR, FAR = 1.0, 10.0
"""Distances that relative depth maps lie between, unless others are given."""
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


def is_moves(path: str) -> bool:
    """Whether a path is moves, not the name of a file."""
    # A single letter is a drive.
    return re.match(r"\s*[a-z]{2,}\s*:", path) is not None


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


@dataclass(frozen=True)
class GuideCamera:
    """How the scene of an image is seen; lengths have the unit of the depth."""

    path: str
    """Moves, :data:`MOVES`, or the name of a file."""
    depth_kind: DepthKind = "disparity"
    near: float | None = None
    """Limits of the distances, :func:`~dynamicrafter.camera.depth.distances_of`."""
    far: float | None = None
    fov: float = 55.0
    """Degrees that the image shows across its width."""
    elevation: float = 5.0
    """Degrees by which the image looks down."""
    centre: float = 1.0
    """The centre of the scene lies as many times as far as what the middle of the image shows."""
    path_scale: float = 1.0
    """Factor of the positions in a file."""
    radius: float = 1.5
    """Of the discs, in pixels."""

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range."""
        for name, low, high in (
            ("fov", 5, 150),
            ("elevation", -80, 80),
            ("centre", 0.1, 10),
            ("path_scale", 1e-6, 1e6),
            ("radius", 0.5, 16),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} must be {low:g} to {high:g}, but {value:g} was given")
        if is_moves(self.path):
            read_moves(self.path)
