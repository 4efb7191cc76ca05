"""Guide clips: what a camera sees of an image with a depth map, frame by frame."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from .choices import GuideCamera, is_moves
from .depth import distances_of
from .geometry import EXACT, Intrinsics, focal_length, relative_to_first, spread_poses
from .paths import poses_along
from .pose_files import read_camera_poses
from .splat import PointCloud, splat, unproject

LEAST_SEEN = 0.05
"""Share of a frame that must show the scene."""


def render_guide(
    image: Tensor,
    depth: Tensor,
    camera: GuideCamera,
    frames: int,
    *,
    fitted: tuple[int, int, int, int] | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The guide clip of an image: uint8 ``[frames, h, w, 3]`` on the CPU, black where the image shows nothing.

    ``image`` is uint8 ``[h, w, 3]``, ``depth`` ``[H, W]`` the values of a depth map. If the image was fitted to its
    size, ``fitted`` is (left, top, width, height) of the whole of it, which the depth map shows, in pixels of
    ``image``. Where the camera is that of the image, the frame is the image itself. Raises UsageError for values that
    are no depth and for a path that leaves the scene.
    """
    height, width = image.shape[:2]
    left, top, across, down = fitted if fitted is not None else (0, 0, width, height)
    focal = focal_length(camera.fov, across)
    intrinsics = Intrinsics(
        focal, focal * down * depth.shape[1] / depth.shape[0] / across, across / 2 + left, down / 2 + top
    )
    distances, inside = _fitted(
        distances_of(depth, camera.depth_kind, camera.near, camera.far),
        (left, top, across, down),
        (width, height),
    )
    middle = camera.centre * float(distances[height // 2, width // 2])
    poses = _poses(camera, frames, middle, intrinsics, (width, height))
    points = PointCloud(unproject(distances, intrinsics)[inside].to(device), image.cpu()[inside].to(device))
    made: list[Tensor] = []
    for index, pose in enumerate(poses):
        if torch.allclose(pose, torch.eye(4, dtype=EXACT), atol=1e-9):
            made.append(image.cpu())
            continue
        seen = splat(points, pose, intrinsics, (width, height), camera.radius)
        share = float(seen.distance.isfinite().float().mean())
        if share < LEAST_SEEN:
            raise UsageError(
                f"the camera leaves the scene: frame {index + 1} of {len(poses)} shows it on {share:.0%} of its "
                f"pixels; use a shorter path, or a smaller path_scale for one in a file"
            )
        made.append(seen.frame.cpu())
    return torch.stack(made)


def _poses(
    camera: GuideCamera, frames: int, distance: float, intrinsics: Intrinsics, size: tuple[int, int]
) -> Tensor:
    if is_moves(camera.path):
        return poses_along(camera.path, frames, distance, intrinsics, size, camera.elevation)
    poses = relative_to_first(read_camera_poses(Path(camera.path)))
    poses[:, :3, 3] *= camera.path_scale
    return spread_poses(poses, frames)


def _fitted(
    distances: Tensor, uncut: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Distances ``[h, w]`` of the pixels of the fitted image, and which of them are in the uncut one.

    Each takes that of the nearest pixel: between two surfaces there is none.
    """
    left, top, across, down = uncut
    columns = (torch.arange(size[0]) - left + 0.5) * distances.shape[1] / across
    rows = (torch.arange(size[1]) - top + 0.5) * distances.shape[0] / down
    inside = ((rows >= 0) & (rows < distances.shape[0]))[:, None] & (
        (columns >= 0) & (columns < distances.shape[1])
    )
    rows, columns = (
        each.long().clamp(0, last - 1) for each, last in zip((rows, columns), distances.shape, strict=True)
    )
    return distances[rows[:, None], columns], inside
