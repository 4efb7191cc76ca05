"""Guide clips: geometry against projections computed here, depth maps, paths and their files."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dynamicrafter.camera.choices import DepthKind, GuideCamera, is_moves
from dynamicrafter.camera.depth import distances_of, read_depth
from dynamicrafter.camera.geometry import Intrinsics, focal_length, relative_to_first, spread_poses
from dynamicrafter.camera.guide import render_guide
from dynamicrafter.camera.paths import poses_along
from dynamicrafter.camera.pose_files import read_camera_poses
from dynamicrafter.camera.splat import PointCloud, splat
from dynamicrafter.errors import PictureError, UsageError
from dynamicrafter.media.pictures import Picture, fit_picture, place_of_fitted

WIDTH, HEIGHT, FOV = 128, 72, 60.0
FOCAL = WIDTH / 2 / math.tan(math.radians(30))
LENS = Intrinsics(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """A chequered wall at 6 with a yellow disc of 15 pixels at 3 before it: image, distances, and where the disc is."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    disc = (columns + 0.5 - 64) ** 2 + (rows + 0.5 - 36) ** 2 < 15**2
    image = torch.full((HEIGHT, WIDTH, 3), 60, dtype=torch.uint8)
    image[..., 2] += (rows // 8 + columns // 8).remainder(2).byte() * 120
    image[disc] = torch.tensor([230, 200, 0], dtype=torch.uint8)
    return image, torch.where(disc, 3.0, 6.0), disc


def yellow(frame: Tensor) -> Tensor:
    return (frame[..., 0] == 230) & (frame[..., 2] == 0)


def guide(path: str, frames: int = 3, **choices: float) -> Tensor:
    image, distances, _ = scene()
    return render_guide(
        image, distances, GuideCamera(path, "metric", fov=FOV, elevation=0, **choices), frames
    )


def seen_from_orbit(
    point: tuple[float, float, float], degrees: float, distance: float
) -> tuple[float, float]:
    """The pixel of a point for a camera that has gone ``degrees`` to the right around (0, 0, distance): in polar
    coordinates about that centre, where it is the scene that turns."""
    x, y, z = point
    from_centre, angle = math.hypot(x, z - distance), math.atan2(x, distance - z) - math.radians(degrees)
    depth = distance - from_centre * math.cos(angle)
    return FOCAL * from_centre * math.sin(angle) / depth + WIDTH / 2, FOCAL * y / depth + HEIGHT / 2


@pytest.mark.parametrize("degrees", [-25.0, 10.0, 40.0])
def test_points_are_where_an_independent_projection_puts_them(degrees: float) -> None:
    places = [(0.0, 0.0, 4.0), (-0.7, 0.5, 5.0), (0.9, -0.6, 3.2), (0.3, 0.8, 6.5), (-1.5, -0.2, 4.4)]
    colours = torch.tensor([[50 * (index + 1), 0, 9] for index in range(5)], dtype=torch.uint8)
    pose = poses_along(f"orbit:{degrees}", 2, 4.0, LENS, (WIDTH, HEIGHT), 0.0)[-1]
    frame = splat(PointCloud(torch.tensor(places), colours), pose, LENS, (WIDTH, HEIGHT), 0.5).frame
    for place, colour in zip(places, colours, strict=True):
        ((row, column),) = (frame == colour).all(-1).nonzero().tolist()
        x, y = seen_from_orbit(place, degrees, 4.0)
        assert math.hypot(column + 0.5 - x, row + 0.5 - y) <= 1


@pytest.mark.parametrize(
    ("path", "shift", "scale"),
    [
        # A tenth of the width at the centre's distance, 3, where the disc is: the wall behind it moves half as far.
        ("truck:0.1", (-0.1 * WIDTH, 0.0), 1.0),
        ("pedestal:0.1", (0.0, 0.1 * HEIGHT), 1.0),
        ("dolly:-0.25", (0.0, 0.0), 4 / 3),
        ("dolly:0.5", (0.0, 0.0), 2 / 3),
    ],
)
@pytest.mark.parametrize("radius", [0.5, 1.5, 3.0])
def test_silhouettes_are_right_to_the_radius_of_the_discs(
    path: str, shift: tuple[float, float], scale: float, radius: float
) -> None:
    shown = yellow(guide(path, radius=radius)[-1])
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    away = torch.hypot(columns - 64 - shift[0], rows - 36 - shift[1])
    edge = 15 * scale
    assert not shown[away > edge + radius + 1].any()
    if radius >= 1:  # Smaller discs do not fill the gaps of what has come closer.
        assert shown[away < edge - radius - 1].all()


def test_what_was_hidden_is_black_and_the_first_frame_is_the_image() -> None:
    image, _, _ = scene()
    frames = guide("truck:0.1", 4)
    assert frames.shape == (4, HEIGHT, WIDTH, 3)
    assert frames.dtype == torch.uint8
    assert torch.equal(frames[0], image)
    black = (frames[-1] == 0).all(-1)
    # To the right of the disc, by as much as it has moved more than the wall, 6 pixels.
    assert black[36, 67:71].all()
    # The wall has moved 6 pixels, so that as much is missing at the right edge.
    assert black[10, -5:].all()
    assert not black[:, :30].any()


def test_a_nearer_surface_hides_a_farther_one_whatever_the_order() -> None:
    places = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 5.0], [0.02, 0.0, 2.001]])
    colours = torch.tensor([[1, 1, 1], [2, 2, 2], [3, 3, 3]], dtype=torch.uint8)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        frame = splat(
            PointCloud(places[order], colours[order]), torch.eye(4), LENS, (WIDTH, HEIGHT), 1.5
        ).frame
        assert frame[36, 64, 0] == 1
        # Of one surface, the closest centre is shown, though the other is a little nearer.
        assert frame[36, 65, 0] == 3
        assert not (frame == 2).any()


def test_points_behind_the_camera_are_not_drawn() -> None:
    points = PointCloud(
        torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, 0.0]]), torch.full((2, 3), 9, dtype=torch.uint8)
    )
    assert not splat(points, torch.eye(4), LENS, (WIDTH, HEIGHT), 1.5).frame.any()


def test_signs_of_the_moves() -> None:
    def end(path: str) -> tuple[list[float], list[float]]:
        pose = poses_along(path, 3, 4.0, LENS, (WIDTH, HEIGHT), 0.0)[-1]
        return pose[:3, 3].round(decimals=6).tolist(), pose[:3, 2].round(decimals=6).tolist()

    position, forward = end("orbit:90")
    assert (position, forward) == ([4.0, 0.0, 4.0], [-1.0, 0.0, 0.0])
    position, forward = end("rise:30")  # Up is negative y.
    assert position == pytest.approx([0, -2, 4 - 4 * math.cos(math.radians(30))], abs=1e-5)
    assert forward == pytest.approx([0, 0.5, math.cos(math.radians(30))], abs=1e-5)
    assert end("dolly:-0.25") == ([0.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    assert end("truck:0.5")[0] == pytest.approx([0.5 * 4 * WIDTH / FOCAL, 0, 0], abs=1e-5)
    assert end("pedestal:0.5")[0] == pytest.approx([0, -0.5 * 4 * HEIGHT / FOCAL, 0], abs=1e-5)


def test_an_orbit_is_about_the_upright_of_a_camera_that_looks_down() -> None:
    poses = poses_along("orbit:40", 5, 4.0, LENS, (WIDTH, HEIGHT), 30.0)
    assert np.allclose(poses[0], np.eye(4))
    up = torch.tensor([0, -math.cos(math.radians(30)), -math.sin(math.radians(30))], dtype=torch.float64)
    heights = poses[:, :3, 3] @ up
    assert np.allclose(heights, heights[0], atol=1e-9)
    # It always sees the centre in the middle.
    ahead = (torch.tensor([0, 0, 4.0]) - poses[:, :3, 3]) / 4
    assert np.allclose(ahead, poses[:, :3, 2], atol=1e-9)


def test_sequences_go_through_their_values() -> None:
    def shares(values: str, frames: int) -> list[float]:
        poses = poses_along(f"truck:{values}", frames, 1.0, LENS, (WIDTH, HEIGHT), 0.0)
        return (poses[:, 0, 3] * FOCAL / WIDTH).tolist()

    assert shares("0.4", 5) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert shares("0,0.4,0", 5) == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    smooth = shares("0,0.1,0.4,0.1,0", 17)
    assert smooth[::4] == pytest.approx([0, 0.1, 0.4, 0.1, 0], abs=1e-9)
    # No corner, unlike on lines, where the greatest change of slope is 0.15.
    assert np.abs(np.diff(smooth, 2)).max() < 0.1
    assert torch.equal(guide("truck:0,0.1,0", 5)[-1], scene()[0])


def test_rotations_between_poses_are_the_shortest_turn() -> None:
    def turned(degrees: float, x: float) -> Tensor:
        pose = torch.eye(4, dtype=torch.float64)
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        pose[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        pose[0, 3] = x
        return pose

    made = spread_poses(torch.stack([turned(0, 0), turned(60, 1), turned(60, 3)]), 5)
    assert np.allclose(made, [turned(0, 0), turned(30, 0.5), turned(60, 1), turned(60, 2), turned(60, 3)])


@pytest.mark.parametrize(
    ("kind", "near", "far", "expected"),
    [
        ("depth", None, None, [1, 4, 10]),
        ("depth", 2.0, 5.0, [2, 3, 5]),
        ("disparity", None, None, [10, 2.5, 1]),
        ("disparity", 2.0, 4.0, [4, 3, 2]),
        ("metric", None, None, [3, 4, 6]),
        ("metric", None, 5.0, [3, 4, 5]),
    ],
)
def test_kinds_of_depth(
    kind: DepthKind, near: float | None, far: float | None, expected: list[float]
) -> None:
    found = distances_of(torch.tensor([[3.0, 4.0, 6.0]]), kind, near, far)
    assert found.tolist()[0] == pytest.approx(expected, rel=1e-5)


def test_whole_numbers_are_millimetres() -> None:
    found = distances_of(torch.tensor([[3000, 4500]]), "metric", None, None)
    assert found.tolist()[0] == pytest.approx([3, 4.5])


def png(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def exr(path: Path, values: np.ndarray, format: str = "grayf32le") -> Path:
    """Written by FFmpeg, grey or with three channels."""
    frame = av.VideoFrame.from_ndarray(values, format=format)
    codec = av.CodecContext.create("exr", "w")
    codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, format
    codec.time_base = Fraction(1)
    data = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    path.write_bytes(data)
    return path


VALUES = np.array([[1, 256, 770], [40000, 5, 65535]], np.uint16)


def test_depth_maps_are_read_exactly(tmp_path: Path) -> None:
    as_float = VALUES.astype(np.float32) / 7
    np.save(tmp_path / "a.npy", as_float)
    np.save(tmp_path / "b.npy", VALUES)
    three = np.repeat(as_float[..., None], 3, axis=2)
    found = {
        "png": read_depth(png(tmp_path / "a.png", VALUES), (3, 2)),
        "grey": read_depth(png(tmp_path / "b.png", VALUES.astype(np.uint8)), (3, 2)),
        "colour": read_depth(
            png(tmp_path / "c.png", np.repeat(VALUES.astype(np.uint8)[..., None], 3, 2)), (3, 2)
        ),
        "npy": read_depth(tmp_path / "a.npy", (3, 2)),
        "whole": read_depth(tmp_path / "b.npy", (3, 2)),
        "exr": read_depth(exr(tmp_path / "a.EXR", as_float), (3, 2)),
        "exr3": read_depth(exr(tmp_path / "b.exr", three, "gbrpf32le"), (3, 2)),
    }
    whole, real = torch.from_numpy(VALUES.astype(np.int64)), torch.from_numpy(as_float)
    assert torch.equal(found["png"], whole)
    assert torch.equal(found["grey"], whole % 256)
    assert torch.equal(found["colour"], whole % 256)
    assert torch.equal(found["npy"], real)
    assert torch.equal(found["whole"], whole)
    assert torch.equal(found["exr"], real)
    assert torch.equal(found["exr3"], real)


def test_files_that_are_no_depth_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PictureError, match=r"must be a \.png, \.exr or \.npy file, but .*a\.jpg was given; convert"
    ):
        read_depth(tmp_path / "a.jpg", (3, 2))
    with pytest.raises(PictureError, match=r"a\.png cannot be read \(.*No such file.*\); write it again"):
        read_depth(tmp_path / "a.png", (3, 2))
    (tmp_path / "b.exr").write_bytes(b"v/1\x01 broken")
    with pytest.raises(PictureError, match=r"b\.exr cannot be read"):
        read_depth(tmp_path / "b.exr", (3, 2))
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(PictureError, match=r"objects\.npy cannot be read"):
        read_depth(tmp_path / "objects.npy", (1, 1))
    np.save(tmp_path / "three.npy", np.zeros((2, 3, 3)))
    with pytest.raises(PictureError, match=r"numbers \[height, width\], but .* float64 of shape \(2, 3, 3\)"):
        read_depth(tmp_path / "three.npy", (3, 2))
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0, 0] = 1
    with pytest.raises(PictureError, match=r"must be grey, but .*has colours; write it without a colour map"):
        read_depth(png(tmp_path / "colours.png", colours), (3, 2))
    Image.new("P", (3, 2)).save(tmp_path / "palette.png")
    with pytest.raises(PictureError, match=r"must be grey, but .*palette\.png is P; write it with 16 bits"):
        read_depth(tmp_path / "palette.png", (3, 2))


@pytest.mark.parametrize("kind", ["png", "npy", "exr"])
def test_a_depth_map_of_another_size_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, VALUES)
    elif kind == "png":
        png(path, VALUES)
    else:
        exr(path, VALUES.astype(np.float32))
    with pytest.raises(
        UsageError, match="the depth map has 3x2 pixels, but the image has 6x4; use a depth map of the"
    ):
        read_depth(path, (6, 4))


@pytest.mark.parametrize(
    ("values", "kind", "limits", "message"),
    [
        ([1.0, math.nan, math.inf], "metric", (), "but 2 of 3 are NaN or infinite; fill them"),
        ([2.0, 2.0], "disparity", (), "must have different values, but all are 2; check how it was written"),
        ([0.0, 2.0], "metric", (), "distances must be above 0, but the depth map has 0; fill such pixels"),
        ([1.0, 2.0], "depth", (5.0, 2.0), "near must be above 0 and below far, but 5 and 2 were given"),
        ([1.0, 2.0], "disparity", (0.0, 2.0), "near must be above 0 and below far, but 0 and 2 were given"),
        ([1.0, 2.0], "inverse", (), "depth_kind must be one of disparity, depth, metric, not 'inverse'"),
    ],
)
def test_values_that_are_no_depth_are_refused(
    values: list[float], kind: DepthKind, limits: tuple[float, ...], message: str
) -> None:
    near, far = limits or (None, None)
    with pytest.raises(UsageError, match=message):
        distances_of(torch.tensor([values]), kind, near, far)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("zoom:2", "consists of orbit, rise, dolly, truck, pedestal, but 'zoom:2' was given"),
        ("orbit:30+orbit:10", "can contain orbit once, but"),
        ("orbit:120", r"orbit must be -90 to 90, but '120' was given; such as orbit:30"),
        ("dolly:near", "dolly must be -0.9 to 2, but 'near' was given"),
        ("orbit:nan", "orbit must be -90 to 90, but 'nan' was given"),
        (
            "rise:5,10",
            "the values of rise must begin with 0, the camera of the image, and be at most 25, but '5,10'",
        ),
        (
            "/no/such/file.txt",
            r"RealEstate10K, or the images\.txt of COLMAP or its folder, but .*cannot be read \(No",
        ),
    ],
)
def test_paths_that_are_none_are_refused(path: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        guide(path)


def test_a_path_over_the_pole_is_refused() -> None:
    with pytest.raises(
        UsageError, match="stay within 89 degrees of the horizon, but rises to 95 from an elevation of 30"
    ):
        poses_along("rise:65", 3, 4.0, LENS, (WIDTH, HEIGHT), 30.0)


def test_a_path_that_leaves_the_scene_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"the camera leaves the scene: frame 3 of 5 shows it on \d% of its pixels; use"
    ):
        guide("truck:0,0.2,0.5,1,1", 5, centre=5)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="fov must be 5 to 150, but 170 was given"):
        GuideCamera("orbit:30", fov=170)


RIGHT = "0 0.9 1.6 0.5 0.5 0 0 1 0 0 {x} 0 1 0 0 0 0 1 0\n"
"""A line of RealEstate10K whose camera is at -x: the file has world-to-camera."""


def test_real_estate_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "path.txt"
    path.write_text("https://example.com/video\n" + "".join(RIGHT.format(x=x) for x in (2.0, 1.5, 1.0)))
    poses = relative_to_first(read_camera_poses(path))
    assert np.allclose(poses[:, 0, 3], [0, 0.5, 1])
    # The camera goes half a unit to the right: the disc at 3 goes to the left by a sixth of the focal length.
    shown = yellow(guide(str(path), path_scale=0.5)[-1]).nonzero().float().mean(0)
    assert shown[1] + 0.5 == pytest.approx(64 - FOCAL * 0.5 / 3, abs=1.5)


def test_colmap_files_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    # A quarter turn about y, so that the world's x axis is the camera's -z axis.
    (tmp_path / "images.txt").write_text(
        f"# Image list\n2 {half} 0 {half} 0 0 0 3 1 b.png\n0.5 0.5 -1\n1 1 0 0 0 0 0 0 1 a.png\n\n"
    )
    poses = read_camera_poses(tmp_path)
    assert np.allclose(poses[0], np.eye(4))
    assert np.allclose(poses[1, :3, 3], [3, 0, 0])
    assert np.allclose(poses[1, :3, 2], [-1, 0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "has no two poses of either"),
        (RIGHT.format(x=1), "has no two poses of either"),
        (
            RIGHT.format(x=1) * 2 + RIGHT.format(x="nan"),
            "must contain rotations, but some do not; export them again",
        ),
        (RIGHT.format(x=1).replace("1 0 0", "2 0 0", 1) * 2, "must contain rotations, but some do not"),
        ("\udcff", "is no text; export images.bin as text"),
    ],
)
def test_files_that_are_no_path_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "path.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=message):
        read_camera_poses(path)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(90, 40), (41, 90), (64, 64)])
def test_depth_stays_with_the_image_when_it_is_fitted(fit: str, size: tuple[int, int]) -> None:
    """A square of the image keeps its colour and its distance in every fit."""
    pixels = torch.full((size[1], size[0], 3), 90, dtype=torch.uint8)
    depth = torch.full((size[1], size[0]), 8.0)
    rows, columns = slice(size[1] // 2 - 8, size[1] // 2 + 5), slice(size[0] // 2 - 5, size[0] // 2 + 9)
    pixels[rows, columns], depth[rows, columns] = 250, 2.0
    picture = Picture(pixels)
    image = ((fit_picture(picture, 64, 48, fit).movedim(0, -1) + 1) * 127.5).round().byte()  # pyright: ignore
    place = place_of_fitted(picture.size, 64, 48, fit)  # pyright: ignore
    camera = GuideCamera("truck:0.2", "metric", elevation=0)
    end = render_guide(image, depth, camera, 2, fitted=place)[-1]
    # What is at 2 moves a fifth of the width of what the uncut image shows, what is at 8 a quarter of that.
    shift = round(0.2 * 64)
    bright = image[..., 0] > 170
    moved = torch.zeros_like(bright)
    moved[:, :-shift] = bright[:, shift:]
    assert ((end[..., 0] > 170) ^ moved).float().mean() < 0.06
    assert (end[..., 0] > 170)[moved].float().mean() > 0.8


def test_gradual_surfaces_have_no_holes() -> None:
    """A slope seen from closer: its points are up to 1.4 pixels apart."""
    rows = torch.arange(HEIGHT)[:, None].expand(-1, WIDTH)
    distances = 8 - rows / HEIGHT * 4
    image = torch.full((HEIGHT, WIDTH, 3), 200, dtype=torch.uint8)
    frame = render_guide(image, distances, GuideCamera("dolly:-0.25", "metric", fov=FOV, elevation=0), 2)[-1]
    assert (frame == 200).all()


def test_the_focal_length_of_a_field_of_view() -> None:
    assert focal_length(90, 100) == pytest.approx(50)
    assert focal_length(60, 128) == pytest.approx(FOCAL)


def test_a_drive_is_no_move() -> None:
    assert is_moves(" orbit: 5")
    assert not is_moves(r"c:\poses\path.txt")
