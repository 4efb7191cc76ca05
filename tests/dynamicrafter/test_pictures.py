"""Pictures of every kind come in upright, in RGB, undistorted; what is none is refused in one sentence."""

from __future__ import annotations

import io
import lzma
import shutil
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bounded_runs import run_bounded
from PIL import Image
from safetensors.torch import load
from torch import Tensor

from dynamicrafter.errors import PictureError
from dynamicrafter.media import pictures
from dynamicrafter.media.pictures import (
    Picture,
    as_picture,
    centre_crop_or_pad,
    fit_picture,
    normalise,
    read_picture,
    resize_exact,
)

CIRCLE = Path(__file__).parents[2] / "pictures" / "red_circle.png"
GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "preprocess_resize_crop.safetensors.xz"

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def levels(picture: Picture) -> list[Any]:
    return picture.pixels.tolist()


def noise(width: int, height: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **choices: Any) -> Path:
    image.save(path, **choices)
    return path


@pytest.fixture
def corners() -> Image.Image:
    """16x8 with a colour in each quarter: red, green / blue, white."""
    image = Image.new("RGB", (16, 8), RED)
    image.paste(GREEN, (8, 0, 16, 4))
    image.paste(BLUE, (0, 4, 8, 8))
    image.paste(WHITE, (8, 4, 16, 8))
    return image


# Kinds of files


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "tga", "ppm"])
def test_lossless_files_come_in_exactly(tmp_path: Path, extension: str) -> None:
    pixels = noise(7, 5)
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(pixels))
    assert np.array_equal(read_picture(path).pixels.numpy(), pixels)


@pytest.mark.parametrize("extension", ["jpg", "webp", "gif"])
def test_lossy_files_come_in_nearly(tmp_path: Path, corners: Image.Image, extension: str) -> None:
    picture = read_picture(str(saved(tmp_path / f"a.{extension}", corners)))
    assert picture.size == (16, 8)
    assert torch.allclose(picture.pixels[1, 2].float(), torch.tensor([255.0, 0, 0]), atol=12)
    assert torch.allclose(picture.pixels[6, 2].float(), torch.tensor([0, 0, 255.0]), atol=12)


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "quarters"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
        (77, [RED, GREEN, BLUE, WHITE]),
    ],
)
def test_exif_orientation_is_followed(
    tmp_path: Path,
    corners: Image.Image,
    extension: str,
    orientation: int,
    quarters: list[tuple[int, int, int]],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality: dict[str, Any] = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(extension, {})
    path = saved(tmp_path / f"a.{extension}", corners.resize((64, 32), 0), exif=exif, **quality)
    picture = read_picture(path)
    assert picture.size == ((32, 64) if 5 <= orientation <= 8 else (64, 32))
    h, w = picture.height // 4, picture.width // 4
    found = torch.stack([picture.pixels[y, x] for y in (h, 3 * h) for x in (w, 3 * w)])
    assert torch.allclose(found.float(), torch.tensor(quarters).float(), atol=12)


def test_a_picture_with_unreadable_exif_is_taken_as_it_lies(tmp_path: Path, corners: Image.Image) -> None:
    path = saved(tmp_path / "a.png", corners, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert read_picture(path).size == (16, 8)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 51))
    assert levels(read_picture(saved(tmp_path / "a.png", image))) == [[[255, 0, 0], [255] * 3, [204] * 3]]


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (0, 0))
    assert levels(read_picture(saved(tmp_path / "a.png", image))) == [[[100] * 3, [255] * 3]]


@pytest.mark.parametrize("extension", ["png", "gif"])
def test_a_transparent_palette_colour_is_white(tmp_path: Path, extension: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / f"a.{extension}", image, transparency=0)
    assert levels(read_picture(path)) == [[list(WHITE), list(BLUE)]]


def test_a_transparent_colour_of_an_rgb_png_is_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), GREEN)
    image.putpixel((1, 0), RED)
    path = saved(tmp_path / "a.png", image, transparency=GREEN)
    assert levels(read_picture(path)) == [[list(WHITE), list(RED)]]


def test_grey_and_black_and_white_become_rgb(tmp_path: Path) -> None:
    assert levels(read_picture(saved(tmp_path / "l.png", Image.new("L", (1, 1), 99)))) == [[[99] * 3]]
    assert levels(read_picture(saved(tmp_path / "1.png", Image.new("1", (1, 1), 1)))) == [[[255] * 3]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    assert levels(read_picture(path))[0][0] == list(RED)
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    assert torch.allclose(read_picture(path).pixels[8, 8].float(), torch.tensor([255.0, 0, 0]), atol=12)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path, extension: str) -> None:
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(deep))
    assert levels(read_picture(path)) == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]


def test_a_sixteen_bit_pgm_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 32896, 65535))
    assert levels(read_picture(path)) == [[[128] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-3.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 32896.0, 65535.0], [0, 128, 255]),
        ([0.0, 1e6, 2e6], [0, 128, 255]),
    ],
)
def test_floating_point_files_are_scaled(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([values], dtype=np.float32)))
    assert levels(read_picture(path)) == [[[level] * 3 for level in expected]]


def test_a_floating_point_file_with_nan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[np.nan, 1]], dtype=np.float32)))
    with pytest.raises(PictureError, match=r"a\.tif contains NaN or infinity"):
        read_picture(path)


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    images = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    path = saved(tmp_path / "a.gif", images[0], save_all=True, append_images=images[1:])
    assert levels(read_picture(path))[0][0] == list(RED)


# Files that are no pictures


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"there is no image .*gone\.png; check its name"):
        read_picture(tmp_path / "gone.png")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="is a folder; choose one image in it"):
        read_picture(tmp_path)


def test_an_empty_file_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(PictureError, match=r"a\.png is empty \(0 bytes\)"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"hello", b"\0" * 5000, b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_other_files_are_no_pictures(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.png is not an image, or it is too damaged to be recognised"):
        read_picture(path)


def test_postscript_is_refused_because_reading_it_runs_a_program(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.eps", Image.new("RGB", (4, 4)))
    with pytest.raises(PictureError, match="is not an image"):
        read_picture(path)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8])
def test_truncated_pictures_are_refused(tmp_path: Path, extension: str, kept: float) -> None:
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(noise(64, 64)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(
        PictureError, match=r"a\.\w+ is (damaged \(.*\); copy or export it again|not a picture)"
    ):
        read_picture(path)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "bmp", "tif", "tga", "ppm"])
def test_corrupt_pictures_never_end_in_another_error(tmp_path: Path, extension: str) -> None:
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(noise(32, 32)))
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(60):
        damaged = whole.copy()
        damaged[random.integers(0, min(len(whole), 400), 12)] = random.integers(0, 256, 12)
        path.write_bytes(damaged.tobytes())
        try:
            read_picture(path)
        except PictureError:
            refused += 1
    assert refused > 5


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (13_000, 60_000):  # The first Pillow warns of, the second it refuses itself.
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(
            PictureError, match=r"bomb\.png .* than the 160 million (pixels )?allowed; resize it first"
        ):
            read_picture(tmp_path / "bomb.png")


def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (4, 4)))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        PictureError, match=r"a\.png cannot be read \(Permission denied\); check its permissions"
    ):
        read_picture(path)


# Pictures from Python


def test_every_kind_of_picture_from_python_is_the_same(tmp_path: Path) -> None:
    pixels = noise(6, 4)
    image = Image.fromarray(pixels)
    same: list[Any] = [
        saved(tmp_path / "a.png", image),
        str(tmp_path / "a.png"),
        image,
        pixels,
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).float() / 255,
        (pixels / 255).astype(np.float64),
        pixels.astype(np.uint16) * 257,
        np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1),
        pixels.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        Picture(torch.from_numpy(pixels)),
    ]
    for given in same:
        assert np.array_equal(as_picture(given).pixels.numpy(), pixels), type(given)


def test_grey_arrays_become_rgb() -> None:
    expected = [[[0] * 3, [255] * 3]]
    assert levels(as_picture(np.array([[0, 255]], dtype=np.uint8))) == expected
    assert levels(as_picture(torch.tensor([[[0.0], [1.0]]]))) == expected
    assert levels(as_picture(np.array([[False, True]]))) == expected
    assert levels(as_picture(torch.tensor([[0, 1]]).to(torch.bfloat16))) == expected


def test_a_pillow_image_is_not_changed(corners: Image.Image) -> None:
    before = corners.tobytes()
    corners.getexif()[0x0112] = 6
    assert as_picture(corners).size == (8, 16)
    assert corners.size == (16, 8)
    assert corners.tobytes() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "must be a path, a Pillow image, a numpy array or a tensor, not int"),
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\); move the channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"not \(2, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), r"not \(0, 8, 3\)"),
        (np.zeros((8, 8, 2), np.uint8), r"not \(8, 8, 2\)"),
        (np.zeros((8, 8, 3), np.int64), "must be uint8, uint16, bool or floating point, not int64"),
        (np.full((8, 8, 3), 200.0), r"must be within 0\.\.1, but contains 200\.\.200"),
        (torch.full((8, 8, 3), -0.5), r"must be within 0\.\.1, but contains -0\.5\.\.-0\.5"),
        (torch.full((8, 8, 3), float("nan")), r"must be within 0\.\.1, but contains nan\.\.nan"),
        (Image.new("RGB", (0, 5)), r"of shape \(5, 0, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(given: Any, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        as_picture(given)


def test_a_picture_checks_its_pixels() -> None:
    with pytest.raises(PictureError, match=r"uint8 of shape \(height, width, 3\), not torch.float32"):
        Picture(torch.zeros(4, 4, 3))
    with pytest.raises(PictureError, match=r"of shape \(4, 4\)"):
        Picture(torch.zeros(4, 4, dtype=torch.uint8))


# To size


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load(lzma.decompress(GOLDEN.read_bytes()))


@pytest.mark.parametrize(
    ("name", "width", "height"), [("200x300_to_64x64", 64, 64), ("90x160_to_72x128", 128, 72)]
)
def test_crop_is_the_original_scripts(golden: dict[str, Tensor], name: str, width: int, height: int) -> None:
    ours = fit_picture(as_picture(golden[f"u8_{name}"]), width, height, "crop")
    assert torch.equal(ours, golden[f"cli_{name}"])


def test_the_parts_give_the_original_scripts_bars(golden: dict[str, Tensor]) -> None:
    resized = resize_exact(as_picture(golden["u8_150x100_to_80x128"]), 80, 120)
    ours = normalise(centre_crop_or_pad(resized, 128, 80))
    assert torch.equal(ours, golden["cli_150x100_to_80x128"])


def test_normalise_spans_minus_one_to_one() -> None:
    ours = normalise(as_picture(np.array([[[0, 255, 51]]], dtype=np.uint8)))
    assert ours.dtype == torch.float32
    assert ours.flatten().tolist() == pytest.approx([-1, 1, -0.6])


def test_crop_and_pad_are_centred() -> None:
    row = as_picture(np.arange(1, 8, dtype=np.uint8)[None])
    assert centre_crop_or_pad(row, 3, 1).pixels[0, :, 0].tolist() == [3, 4, 5]
    assert centre_crop_or_pad(row, 10, 1).pixels[0, :, 0].tolist() == [0, *range(1, 8), 0, 0]
    assert centre_crop_or_pad(row, 4, 1).pixels[0, :, 0].tolist() == [3, 4, 5, 6]  # 1.5 goes to 2,
    assert centre_crop_or_pad(row, 6, 1).pixels[0, :, 0].tolist() == [1, 2, 3, 4, 5, 6]  # 0.5 to 0.
    assert centre_crop_or_pad(row, 5, 3).pixels[:, :, 0].tolist() == [[0] * 5, [2, 3, 4, 5, 6], [0] * 5]


def disc(width: int, height: int, radius: int) -> Picture:
    """A white disc in the middle of grey."""
    y, x = np.mgrid[:height, :width]
    inside = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 <= radius**2
    return as_picture(np.where(inside, 255, 100).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (250, 250), (900, 120), (120, 900)])
@pytest.mark.parametrize(("target_width", "target_height"), [(128, 64), (64, 128), (64, 64)])
def test_only_stretch_distorts(width: int, height: int, target_width: int, target_height: int) -> None:
    picture = disc(width, height, 50)

    def box(fitted: Tensor) -> tuple[float, float]:
        white = fitted[0] > 0.4
        return float(white.any(0).sum()), float(white.any(1).sum())

    cropped = fit_picture(picture, target_width, target_height, "crop")
    padded = fit_picture(picture, target_width, target_height, "pad")
    stretched = fit_picture(picture, target_width, target_height, "stretch")
    assert cropped.shape == padded.shape == stretched.shape == (3, target_height, target_width)
    assert cropped.min() > -0.5, "crop never leaves bars"
    scale = min(target_width / width, target_height / height)
    assert box(padded) == pytest.approx((100 * scale, 100 * scale), abs=2.5)
    scale = max(target_width / width, target_height / height)
    wide, high = min(100 * scale, target_width), min(100 * scale, target_height)
    assert box(cropped) == pytest.approx((wide, high), abs=2.5)
    expected = (100 * target_width / width, 100 * target_height / height)
    assert box(stretched) == pytest.approx(expected, abs=2.5)


def test_pad_puts_equal_black_bars_on_two_sides() -> None:
    fitted = fit_picture(as_picture(np.full((100, 100, 3), 255, np.uint8)), 128, 64, "pad")
    assert (fitted[:, :, :32] == -1).all()
    assert (fitted[:, :, 96:] == -1).all()
    assert (fitted[:, :, 32:96] == 1).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (20000, 100), (100, 20000), (100_000, 1), (1, 100_000), (2, 3)])
def test_extreme_pictures_fit(fit: Any, size: tuple[int, int]) -> None:
    fitted = fit_picture(as_picture(np.full((size[1], size[0]), 255, np.uint8)), 512, 320, fit)
    assert fitted.shape == (3, 320, 512)
    assert (fitted == 1).any()
    if fit != "pad":
        assert (fitted == 1).all()


@pytest.mark.parametrize(("width", "height"), [(2000, 10), (10, 2001), (800, 4), (3, 701)])
def test_a_strip_is_cut_before_it_is_scaled_without_a_difference(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = np.mgrid[:height, :width]
    smooth = as_picture((127 + 120 * np.sin(x / 9 + y / 7)).astype(np.uint8))
    whole = fit_picture(smooth, 128, 64)
    resized: list[int] = []
    original = resize_exact

    def watched(picture: Picture, wide: int, high: int) -> Picture:
        resized.append(wide * high)
        return original(picture, wide, high)

    monkeypatch.setattr(pictures, "MAX_RESIZED_PIXELS", 10_000)
    monkeypatch.setattr(pictures, "resize_exact", watched)
    cut = fit_picture(smooth, 128, 64)
    assert resized[0] < 128 * 64 * 32
    # One output pixel is the most that rounding can move the cut picture by.
    steps = torch.stack(
        [(whole[:, 1:] - whole[:, :-1]).abs().max(), (whole[..., 1:] - whole[..., :-1]).abs().max()]
    )
    assert (whole - cut).abs().max() <= steps.max() + 1e-6


def test_reading_is_silent_and_closes_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (4, 4)))
    read_picture(path)
    shutil.move(path, tmp_path / "b.jpg")  # Windows refuses this while the file is open.
    assert read_picture(tmp_path / "b.jpg").size == (4, 4)


def test_a_picture_in_memory_that_pillow_has_not_loaded_is_taken() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2), RED).save(buffer, "PNG")
    assert levels(as_picture(Image.open(buffer)))[0][0] == list(RED)


# Large pictures


def test_tiles_leave_no_seams(tmp_path: Path) -> None:
    pixels = np.concatenate([noise(2500, 1100), noise(2500, 1100, 1)[..., :1]], axis=-1)
    image = Image.fromarray(pixels)
    expected = np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    assert np.array_equal(as_picture(image).pixels.numpy(), expected)
    assert np.array_equal(as_picture(pixels).pixels.numpy(), expected)
    deep = np.random.default_rng(2).integers(0, 2**16, (1100, 2500), dtype=np.uint16)
    picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(deep), compress_level=1))
    assert np.array_equal(picture.pixels[..., 1].numpy(), np.rint(deep / 257).astype(np.uint8))


@pytest.mark.parametrize("extension", ["png", "jpg", "tif"])
def test_the_largest_pictures_are_halved_and_resized_to_nearly_the_same(
    tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = np.mgrid[:1500, :2004]
    smooth = (127 + 120 * np.sin(x / 31 + y / 23)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(smooth).convert("RGB"), exif=exif, quality=95)
    whole = read_picture(path)
    assert whole.size == (1500, 2004)
    monkeypatch.setattr(pictures, "MAX_KEPT_PIXELS", 1_000_000)
    small = read_picture(path)
    assert small.size == (750, 1002)
    assert as_picture(np.stack([smooth.T] * 3, axis=-1)).size == (750, 1002)
    difference = (fit_picture(whole, 192, 256) - fit_picture(small, 192, 256)).abs() * 127.5
    assert difference.max() <= 3
    assert difference.mean() < 0.5


def fitted(path: Path) -> list[int]:
    return list(fit_picture(read_picture(path), 1024, 576).shape)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it")
@pytest.mark.parametrize(
    ("name", "mode", "side", "choices"),
    [
        ("bits.tif", "1", 12_600, {"compression": "group4"}),
        ("deep.png", "I;16", 6_300, {"compress_level": 1}),
        ("grey.jpg", "L", 12_600, {"progressive": True}),
    ],
)
def test_no_picture_takes_more_than_600_mb(
    tmp_path: Path, name: str, mode: str, side: int, choices: dict[str, Any]
) -> None:
    image = Image.new(mode, (side, side))
    path = saved(tmp_path / name, image, **choices)
    ran = run_bounded(fitted, path, first=(CIRCLE,))
    assert ran.ended == "[3, 576, 1024]", ran
    assert ran.grown < 600e6, ran


@pytest.mark.parametrize(
    ("name", "size", "choices", "message"),
    [
        (
            "a.webp",
            (6000, 6000),
            {"method": 0},
            "a WEBP file of this kind takes 612 MB, more than the 560 MB allowed",
        ),
        (
            "a.tif",
            (9000, 9000),
            {"compression": "tiff_lzw", "tiffinfo": {278: 9000}},
            "takes 6.. MB, .* baseline JPEG",
        ),
    ],
)
def test_what_needs_more_is_refused_before(
    tmp_path: Path, name: str, size: tuple[int, int], choices: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path / name, Image.new("RGB", size), **choices)
    with pytest.raises(PictureError, match=message):
        read_picture(path)


def test_one_picture_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    busy: list[int] = []
    together: list[int] = []
    original = pictures._converted

    def watched(*given: Any) -> Any:
        busy.append(1)
        together.append(len(busy))
        time.sleep(0.02)
        busy.pop()
        return original(*given)

    monkeypatch.setattr(pictures, "_converted", watched)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read_picture, [path] * 8))
    assert together == [1] * 8


def test_an_array_has_the_limit_of_files() -> None:
    with pytest.raises(
        PictureError, match="the image is 20000x10000 pixels, more than the 160 million allowed"
    ):
        as_picture(np.broadcast_to(np.uint8(0), (10_000, 20_000)))
