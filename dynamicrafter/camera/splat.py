"""PointCloud drawn as discs with a depth buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import Intrinsics

_SAME_SURFACE = 0.02
"""Share of the distance within which two points are of one surface, of which the closer one on the screen is shown."""
_NEAREST = 1e-6
"""Distance of points that are drawn, so that none is divided by 0."""
_EMPTY = 2**63 - 1
"""The key of a pixel without a point."""
_AT_ONCE = 2**16
"""PointCloud and pixels that are computed at once on the CPU: the intermediate values then stay in its cache."""


@dataclass(frozen=True)
class PointCloud:
    """Coloured points of a scene, on one device."""

    places: Tensor
    """float32 ``[n, 3]`` in the axes of the first camera."""
    colours: Tensor
    """uint8 ``[n, 3]``, RGB."""


@dataclass(frozen=True)
class Splat:
    """What a camera sees of points."""

    frame: Tensor
    """uint8 ``[h, w, 3]``, RGB, black where there is no point."""
    distance: Tensor
    """float32 ``[h, w]`` along the camera's axis, infinite where there is no point."""


def unproject(distances: Tensor, intrinsics: Intrinsics) -> Tensor:
    """The points ``[h, w, 3]`` that the pixels of a camera at the origin show at ``distances`` ``[h, w]``."""
    height, width = distances.shape
    rows = torch.arange(height, dtype=torch.float32, device=distances.device)[:, None] + 0.5
    columns = torch.arange(width, dtype=torch.float32, device=distances.device) + 0.5
    x = (columns - intrinsics.cx) / intrinsics.fx * distances
    y = (rows - intrinsics.cy) / intrinsics.fy * distances
    return torch.stack([x, y, distances], dim=-1)


def splat(
    points: PointCloud, pose: Tensor, intrinsics: Intrinsics, size: tuple[int, int], radius: float
) -> Splat:
    """PointCloud seen from ``pose`` in ``size`` (width, height), each a disc of ``radius`` pixels about its pixel.

    A pixel shows the nearest of the discs over it. Of discs at the same distance within 2 %, which are of one surface,
    it shows the one whose centre is closest, so that surfaces stay sharp.
    """
    width, height = size
    reach = math.floor(radius)
    # With a margin for discs whose centre is outside.
    across, down = width + 2 * reach, height + 2 * reach
    at_once = _AT_ONCE if points.places.device.type == "cpu" else max(len(points.places), down * across)
    nearest = points.places.new_full((down * across,), _EMPTY, dtype=torch.int64)
    for start in range(0, len(points.places), at_once):
        some = points.places[start : start + at_once]
        _draw_centres(nearest, some, start, pose, intrinsics, (across, down), reach)
    nearest = nearest.view(down, across)
    colours = torch.cat([points.colours, points.colours.new_zeros(1, 3)])
    frame = points.colours.new_empty(height, width, 3)
    distance = points.places.new_empty(height, width)
    rows = max(1, at_once // across)
    for start in range(0, height, rows):
        band = slice(start, min(start + rows, height))
        shown, distance[band] = _discs(nearest[start : band.stop + 2 * reach], radius)
        frame[band] = colours[torch.where(distance[band].isinf(), len(points.colours), shown)]
    return Splat(frame, distance)


def _draw_centres(
    nearest: Tensor,
    places: Tensor,
    first: int,
    pose: Tensor,
    intrinsics: Intrinsics,
    size: tuple[int, int],
    margin: int,
) -> None:
    """Enter points into ``nearest``, the key of the nearest point of each pixel: the bits of its distance, which are
    ordered as the distances are, then its number, so that one minimum finds both."""
    rotation, position = (part.to(places.device, torch.float32) for part in (pose[:3, :3], pose[:3, 3]))
    x, y, z = ((places - position) @ rotation).unbind(-1)
    inside = z > _NEAREST
    depth = z.clamp(min=_NEAREST)
    column = (x / depth * intrinsics.fx + (intrinsics.cx + margin)).floor_()
    row = (y / depth * intrinsics.fy + (intrinsics.cy + margin)).floor_()
    inside &= (column >= 0) & (column < size[0]) & (row >= 0) & (row < size[1])
    chosen = inside.nonzero().squeeze(1)
    place = row[chosen].long() * size[0] + column[chosen].long()
    key = (depth[chosen].view(torch.int32).long() << 32) | (chosen + first)
    nearest.scatter_reduce_(0, place, key, "amin")


def _discs(nearest: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Number and distance of the point that each pixel shows, in the middle of rows of keys with their margin."""
    reach = math.floor(radius)
    height, width = nearest.shape[0] - 2 * reach, nearest.shape[1] - 2 * reach
    distances = (nearest >> 32).int().view(torch.float32)
    distances = torch.where(nearest == _EMPTY, torch.inf, distances)
    found, shown = distances.new_full((height, width), torch.inf), nearest.new_zeros(height, width)
    for down, right in _disc(radius):
        middle = (slice(reach + down, reach + down + height), slice(reach + right, reach + right + width))
        better = distances[middle] < (1 - _SAME_SURFACE) * found
        found = torch.where(better, distances[middle], found)
        shown = torch.where(better, nearest[middle], shown)
    return shown & 0xFFFFFFFF, found


def _disc(radius: float) -> list[tuple[int, int]]:
    """The pixels (down, right) within ``radius`` of the one in the middle, the closest first."""
    reach = range(-math.floor(radius), math.floor(radius) + 1)
    offsets = [(down, right) for down in reach for right in reach if down**2 + right**2 <= radius**2]
    return sorted(offsets, key=lambda offset: offset[0] ** 2 + offset[1] ** 2)
