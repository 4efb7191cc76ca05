"""Pictures of any kind to the tensors the networks take: reading, resizing, cropping, padding.

A picture stays 8 bits deep until it has its final size, because the original script resizes with Pillow,
which rounds to 8 bits; only so the numbers agree with its.

Reading one takes at most about 600 MB whatever the file says of itself: pictures are decoded one at a time, what is
known to need more is refused before, and all conversions go tile by tile.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import PictureError
from ..settings import Fit

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 160_000_000
"""Largest picture that is read: a little more than the largest cameras give (151 million)."""

MAX_RESIZED_PIXELS = 64_000_000
"""Largest picture made on the way to a crop (192 MB); of longer strips the far ends are cut away before."""

MAX_KEPT_PIXELS = 64_000_000
"""Largest picture that is kept as it is. Of larger ones, blocks of 2x2 pixels become one, their mean, which leaves 16
million or more: several for every pixel of a clip, so that what is resized from them differs by rounding (and where a
side is odd, by the shift of less than a pixel). A pixel takes 3 bytes, and 4 more while it is decoded or resized."""

_DECODING_BYTES = 560_000_000
"""Memory for what a decoder holds, or for its image and the pixels that are kept of it. Pillow decodes nothing in
parts."""
_BYTES_PER_PIXEL = {"AVIF": 14, "HEIF": 20, "JPEG2000": 25, "SGI": 6, "WEBP": 17}
"""What decoders were measured to take that hold a picture several times over; others hold it once."""
_PYTHON_PIXELS = 20_000_000
"""Largest picture for decoders that are written in Python, which take a second for some millions."""
_TILE = 1024
"""Pixels in each direction that are converted at once; a multiple of all that become one."""
_ONE_AT_A_TIME = threading.RLock()

_FORMATS = (
    "AVIF BMP DDS DIB GIF HEIF ICNS ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI TGA TIFF WEBP XBM".split()
)
# Others that Pillow knows start a program to read a file (EPS), or hold no pixels at all.

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright RGB picture without transparency.

    Raises PictureError when ``pixels`` is anything but uint8 ``[h, w, 3]`` with at least one pixel.
    """

    pixels: Tensor
    """uint8 ``[h, w, 3]`` on the CPU, RGB, 0..255."""

    def __post_init__(self) -> None:
        """Check layout and depth."""
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise PictureError(
                f"a picture must be uint8 of shape (height, width, 3), "
                f"not {self.pixels.dtype} of shape {shape}"
            )

    @property
    def width(self) -> int:
        """Pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.pixels.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height


_Pixels: TypeAlias = "np.ndarray[tuple[Any, ...], np.dtype[Any]]"

PictureLike: TypeAlias = "str | os.PathLike[str] | Picture | Image.Image | np.ndarray[Any, Any] | Tensor"
"""Whatever :func:`as_picture` takes."""


def as_picture(image: PictureLike) -> Picture:
    """``image`` as a Picture: a path, a Pillow image, or an array or tensor.

    Arrays and tensors are ``h w`` or ``h w c`` with 1, 3 or 4 channels: uint8 0..255, uint16 0..65535, bool,
    or floating point 0..1, which is rounded to 8 bits. Transparent pixels are laid over white. The given
    image is not changed. Raises PictureError, as :func:`read_picture` does.
    """
    from PIL import Image

    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read_picture(image)
    with _ONE_AT_A_TIME:
        if isinstance(image, Image.Image):
            return Picture(torch.as_tensor(_turned(*_from_pillow(image, "the picture"))))
        if isinstance(image, Tensor):
            plain = image.detach().cpu()
            return _from_array((plain.float() if plain.is_floating_point() else plain).numpy())
        return _from_array(image)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """The picture in a file, upright as its EXIF orientation says, with transparent pixels laid over white.

    Grey, 1-bit, palette and CMYK pictures become RGB. 16-bit pictures are scaled to 8 bits. Grey pictures of
    32-bit integers or floating point are scaled from 0..1, 0..255 or 0..65535, the first of them that holds
    their largest value (integers start at 0..65535), and else from 0..largest. Of an animation the first
    frame is taken.

    Pictures of more than ``MAX_KEPT_PIXELS`` come at a half, a quarter and so on of their size.

    Raises PictureError when the file is missing, empty, damaged, no picture, larger than ``MAX_PIXELS``, or when its
    format needs too much memory for its size.
    """
    place = Path(path)
    try:
        if place.is_dir():
            raise PictureError(f"{place} is a folder; give the name of one picture in it")
        if not place.exists():
            raise PictureError(f"there is no picture {place}; check its name and folder")
        if not place.is_file():
            raise PictureError(f"{place} is not a regular file; save the picture to a file and give that one")
        if not place.stat().st_size:
            raise PictureError(f"{place} is empty (0 bytes); copy or export the picture again")
        with _ONE_AT_A_TIME, place.open("rb") as file:
            return _from_file(file, str(place))
    except OSError as problem:
        reason = problem.strerror or problem
        raise PictureError(f"{place} cannot be read ({reason}); check its permissions") from problem


def resize_exact(picture: Picture, width: int, height: int) -> Picture:
    """``picture`` at exactly ``width`` x ``height`` pixels, distorted if need be.

    Antialiased bilinear with an 8-bit result: the resize of the original command line script.
    """
    from PIL import Image

    image = Image.fromarray(picture.pixels.numpy())
    return Picture(_as_tensor(image.resize((width, height), Image.Resampling.BILINEAR)))


def centre_crop_or_pad(picture: Picture, width: int, height: int) -> Picture:
    """The middle ``width`` x ``height`` pixels; where ``picture`` is smaller, black on both sides.

    Of an odd remainder the right and the bottom get the more of the black, and a cut starts at the even one
    of two equally near offsets (torchvision's centre crop, which the original script uses).
    """
    pixels = picture.pixels
    for axis, wanted in ((0, height), (1, width)):
        missing = wanted - pixels.shape[axis]
        if missing > 0:
            shape = list(pixels.shape)
            before, after = list(shape), list(shape)
            before[axis], after[axis] = missing // 2, (missing + 1) // 2
            pixels = torch.cat([pixels.new_zeros(before), pixels, pixels.new_zeros(after)], dim=axis)
        else:
            pixels = pixels.narrow(axis, round(-missing / 2), wanted)
    return Picture(pixels.contiguous())


def normalise(picture: Picture) -> Tensor:
    """``picture`` as the networks take it: float32 ``[3, h, w]`` in [-1, 1]."""
    return picture.pixels.permute(2, 0, 1).float().div(255).sub(0.5).div(0.5).contiguous()


def fit_picture(picture: Picture, width: int, height: int, fit: Fit = "crop") -> Tensor:
    """``picture`` brought to ``width`` x ``height`` pixels: float32 ``[3, h, w]`` in [-1, 1].

    crop: covers the target and loses what stands out at two sides. pad: lies within the target, with black
    bars at two sides. stretch: distorted to the target. Where the original script fills the target, crop
    gives exactly its result; where it leaves bars and cuts nothing, pad does.
    """
    if fit == "stretch":
        return normalise(resize_exact(picture, width, height))
    wider = picture.width * height >= picture.height * width
    if fit == "crop":
        picture = _without_far_ends(picture, width, height)
    # Rounded down, as in the original script. For a crop the exact side's partner is at least the target's.
    by_height = (max(1, height * picture.width // picture.height), height)
    by_width = (width, max(1, width * picture.height // picture.width))
    size = by_height if wider == (fit == "crop") else by_width
    return normalise(centre_crop_or_pad(resize_exact(picture, *size), width, height))


def _without_far_ends(picture: Picture, width: int, height: int) -> Picture:
    """``picture``, or the middle of it when covering the target with all of it would take too much memory."""
    scale = max(width / picture.width, height / picture.height)
    if scale * picture.width * scale * picture.height <= MAX_RESIZED_PIXELS:
        return picture
    # A bilinear filter reaches one source pixel, or 1 / scale of them when shrinking; twice that is ample.
    margin = 2 * math.ceil(max(1.0, 1 / scale)) + 1
    pixels = picture.pixels
    for axis, wanted in ((0, height), (1, width)):
        cut = (pixels.shape[axis] - math.ceil(wanted / scale)) // 2 - margin
        if cut > 0:  # The same at both ends, so that the centre stays where it is.
            pixels = pixels.narrow(axis, cut, pixels.shape[axis] - 2 * cut)
    return Picture(pixels.contiguous())


def _from_file(file: BinaryIO, name: str) -> Picture:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [kind for kind in _FORMATS if kind in Image.OPEN]
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of large pictures; the first is harmless, the second checked below.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=formats)
        except UnidentifiedImageError as problem:
            raise PictureError(
                f"{name} is not a picture, or one too damaged to be known; give a PNG, JPEG or WebP file"
            ) from problem
        except Image.DecompressionBombError as problem:
            raise PictureError(
                f"{name} has far more than the {MAX_PIXELS // 10**6} million pixels allowed; "
                f"make it smaller first"
            ) from problem
        except Exception as problem:  # Damaged files make the decoders fail in every way there is.
            raise PictureError(f"{name} is damaged ({problem}); copy or export it again") from problem
        pixels, orientation = _from_pillow(image, name, from_file=True)
        image.close()  # Its memory is free before the picture is turned.
    return Picture(torch.as_tensor(_turned(pixels, orientation)))


def _from_pillow(image: Image.Image, name: str, *, from_file: bool = False) -> tuple[_Pixels, int]:
    """The pixels ``[h, w, 3]`` as they lie, and their orientation; an image from elsewhere is decoded as it is."""
    from PIL import Image

    _check_size(*image.size, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if from_file:
                _prepare(image, name)
            # A picture within the file (of an icon) may be larger than the file says; Pillow then warns.
            if image.format in ("ICNS", "ICO"):
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            image.load()
            _check_size(*image.size, name)
            return _converted(image, name), _orientation(image)
        except PictureError:
            raise
        except Exception as problem:  # Damaged files make the decoders fail in every way there is.
            raise PictureError(f"{name} is damaged ({problem}); copy or export it again") from problem


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{name} is {width}x{height} pixels, more than the {MAX_PIXELS // 10**6} million allowed; "
            f"make it smaller first"
        )


def _block(width: int, height: int) -> int:
    """How many pixels in each direction become one."""
    block = 1
    while -(-width // block) * -(-height // block) > MAX_KEPT_PIXELS:
        block *= 2
    return block


def _prepare(image: Image.Image, name: str) -> None:
    """See to it that decoding takes no more memory than allowed, or raise PictureError.

    A large JPEG is then decoded at a half, a quarter or an eighth of its size, which saves time as well.
    """
    width, height = image.size
    block = _block(width, height)
    if image.format in ("JPEG", "MPO"):
        while block < 8 and _decoding_bytes(image, block) > _DECODING_BYTES:
            block *= 2
        if block > 1:
            image.draft(None, (width // block, height // block))
    needed = _decoding_bytes(image)
    if needed > _DECODING_BYTES:
        raise PictureError(
            f"{name} is {width}x{height} pixels, and to read a {image.format} file of this kind takes "
            f"{needed // 10**6} MB, more than the {_DECODING_BYTES // 10**6} MB allowed; make it smaller first, or "
            f"save it as an ordinary JPEG"
        )


def _decoding_bytes(image: Image.Image, block: int = 1) -> int:
    """About how much memory decoding takes at its peak, with the pixels that are kept."""
    from PIL import Image

    width, height = -(-image.width // block), -(-image.height // block)
    # How Pillow stores modes: a byte, two or four to a pixel, rows that end at multiples of 4, and a pointer to each.
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    image_bytes = height * (8 + (width * stored + 3) // 4 * 4)
    decoding = max(image_bytes, width * height * _BYTES_PER_PIXEL.get(image.format or "", 0))
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        # All coefficients at full size, two bytes each, of every component at its own resolution.
        samples = [across * down for _, across, down, _ in cast(Any, image).layer]
        decoding += 2 * image.width * image.height * sum(samples) // max(samples)
    decoders = [tile[0] for tile in getattr(image, "tile", ())]
    if "libtiff" in decoders:
        tags: Any = cast(Any, image).tag_v2
        # TIFF 6.0: RowsPerStrip, or TileWidth and TileLength; BitsPerSample and SamplesPerPixel.
        columns, rows = (tags[322], tags[323]) if 322 in tags else (width, min(tags.get(278, height), height))
        decoding += columns * rows * max(32, max(tags.get(258, (1,))) * tags.get(277, 1)) // 8
    if any(decoder in Image.DECODERS for decoder in decoders):
        decoding = max(decoding, _DECODING_BYTES * width * height // _PYTHON_PIXELS)
    kept = _block(width, height)
    return max(decoding, image_bytes + 3 * -(-width // kept) * -(-height // kept))


def _converted(image: Image.Image, name: str) -> _Pixels:
    """The pixels of a decoded image in RGB over white, 8 bits deep and no more than are kept."""
    block = _block(*image.size)
    pixels = _room(*image.size, block)
    top = _top(image, name) if image.mode.startswith("I") or image.mode == "F" else None
    for x, y, right, bottom in _tiles(*image.size):
        tile = image.crop((x, y, right, bottom))
        _put(pixels, x, y, tile if top is None else _eight_bits(tile, top), block)
    return pixels


def _room(width: int, height: int, block: int) -> _Pixels:
    return np.empty((-(-height // block), -(-width // block), 3), np.uint8)


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and bottom of all tiles of a picture."""
    for y in range(0, height, _TILE):
        for x in range(0, width, _TILE):
            yield x, y, min(x + _TILE, width), min(y + _TILE, height)


def _put(pixels: _Pixels, x: int, y: int, tile: Image.Image, block: int) -> None:
    """Put a tile, laid over white and with blocks of it as one pixel, to its place in ``pixels``."""
    from PIL import Image

    if tile.has_transparency_data:
        backdrop = Image.new("RGBA", tile.size, "white")
        tile = Image.alpha_composite(backdrop, tile.convert("RGBA"))
    tile = tile.convert("RGB")
    if block > 1:
        tile = tile.reduce(block)
    top, left = y // block, x // block
    pixels[top : top + tile.height, left : left + tile.width] = np.asarray(tile)


def _orientation(image: Image.Image) -> int:
    """EXIF's number from 1 (as it lies) to 8."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # Unreadable EXIF says nothing about the pixels; the picture is taken as it lies.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _turned(pixels: _Pixels, orientation: int) -> _Pixels:
    """``pixels`` upright, as EXIF's ``orientation`` says."""
    if orientation in (5, 6, 7, 8):
        pixels = np.transpose(pixels, (1, 0, 2))
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _top(image: Image.Image, name: str) -> float:
    """The value that becomes white in an image of one of Pillow's deep modes."""
    largest = -math.inf
    for box in _tiles(*image.size):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise PictureError(f"{name} holds values that are no numbers (NaN or infinity); export it again")
        largest = max(largest, float(values.max()))
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    return next((top for top in tops if largest <= top), largest)


def _eight_bits(image: Image.Image, top: float) -> Image.Image:
    """An "L" image from one of Pillow's deep modes: "I;16..." (16 bits), "I" (32 bits), "F" (float)."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(values.clip(min=0) * (255 / top)).astype(np.uint8))


def _as_tensor(image: Image.Image) -> Tensor:
    return torch.as_tensor(np.array(image))


def _from_array(given: object) -> Picture:
    from PIL import Image

    if not isinstance(given, np.ndarray):
        raise PictureError(
            f"a picture must be a path, a Pillow image, a numpy array or a tensor, not {type(given).__name__}"
        )
    array = cast("np.ndarray[Any, Any]", given)
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        hint = "; move the channels last" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise PictureError(
            f"a picture must have the shape (height, width) or (height, width, 1, 3 or 4), not {shape}{hint}"
        )
    _check_size(shape[1], shape[0], "the picture")
    if array.dtype not in (np.uint8, np.uint16, np.bool_) and not np.issubdtype(array.dtype, np.floating):
        raise PictureError(f"a picture must be uint8, uint16, bool or floating point, not {array.dtype}")
    if np.issubdtype(array.dtype, np.floating):
        least, most = float(array.min()), float(array.max())
        if not (least >= 0 and most <= 1):  # Also true for NaN.
            raise PictureError(f"a floating point picture must be within 0..1, but holds {least:g}..{most:g}")
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    block = _block(shape[1], shape[0])
    pixels = _room(shape[1], shape[0], block)
    for x, y, right, bottom in _tiles(shape[1], shape[0]):
        levels = _levels(array[y:bottom, x:right])
        _put(pixels, x, y, Image.fromarray(np.ascontiguousarray(levels)), block)
    return Picture(torch.as_tensor(pixels))


def _levels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of any kind that is taken as 8 bits."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    return np.rint(array * 255.0).astype(np.uint8)
