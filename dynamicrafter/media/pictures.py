"""Images of any kind to the tensors that the networks take: reading, resizing, cropping, padding.

An image stays 8 bits deep until it has its final size, because the original script resizes with Pillow, which rounds
to 8 bits.

Reading an image takes at most about 600 MB of memory, whatever its header claims: images are decoded one at a time,
those known to need more are rejected before decoding, and all conversions work tile by tile.
"""

from __future__ import annotations

import math
import os
import re
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
"""Largest image that is read, a little more than the largest cameras produce (151 million)."""

MAX_RESIZED_PIXELS = 64_000_000
"""Largest image that is resized to for a crop (192 MB); the far ends of longer strips are cut off before resizing."""

MAX_KEPT_PIXELS = 64_000_000
"""Largest image that is kept at full resolution. Larger ones are reduced by averaging blocks of 2x2 pixels, which
leaves 16 million or more, several for every pixel of a clip; a clip then differs by rounding (and, where a side is odd,
by a shift of less than a pixel). A pixel takes 3 bytes, and 4 more while it is decoded or resized."""

_DECODING_BYTES = 560_000_000
"""Memory for a decoder, or for its image and the pixels kept from it. Pillow cannot decode an image in parts."""
_BYTES_PER_PIXEL = {"AVIF": 14, "HEIF": 20, "JPEG2000": 25, "SGI": 6, "WEBP": 17}
"""Measured for decoders that keep several copies of an image; others keep one."""
_PYTHON_PIXELS = 20_000_000
"""Largest image for decoders written in Python, which take about a second for a few million pixels."""
_TILE = 1024
"""Side of a tile in pixels; a multiple of every block size."""
_ONE_AT_A_TIME = threading.RLock()

_FORMATS = (
    "AVIF BMP DDS DIB GIF HEIF ICNS ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI TGA TIFF WEBP XBM".split()
)
# Pillow's other formats start a program to read a file (EPS) or contain no pixels.

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # RFC 3986; two letters, because Windows has drives of one.
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright RGB image without transparency.

    Raises PictureError unless ``pixels`` is uint8 ``[h, w, 3]`` with at least one pixel.
    """

    pixels: Tensor
    """uint8 ``[h, w, 3]`` on the CPU, RGB, 0..255."""

    def __post_init__(self) -> None:
        """Check layout and depth."""
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise PictureError(
                f"an image must be uint8 of shape (height, width, 3), "
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
"""The types that :func:`as_picture` accepts."""


def as_picture(image: PictureLike) -> Picture:
    """``image`` as a Picture: a path, a Pillow image, or an array or tensor.

    Arrays and tensors are ``h w`` or ``h w c`` with 1, 3 or 4 channels: uint8 0..255, uint16 0..65535, bool,
    or floating point 0..1, which is rounded to 8 bits. Transparent images are composited over white. ``image`` is
    not modified. Raises PictureError as :func:`read_picture` does.
    """
    from PIL import Image

    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read_picture(image)
    with _ONE_AT_A_TIME:
        if isinstance(image, Image.Image):
            return Picture(torch.as_tensor(_turned(*_from_pillow(image, "the image"))))
        if isinstance(image, Tensor):
            plain = image.detach().cpu()
            return _from_array((plain.float() if plain.is_floating_point() else plain).numpy())
        return _from_array(image)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """The image in a file, rotated according to its EXIF orientation and composited over white.

    Greyscale, 1-bit, palette and CMYK images are converted to RGB, and 16-bit images to 8 bits. Greyscale images of
    32-bit integers or floating point are scaled from 0..1, 0..255 or 0..65535, the first range that contains their
    largest value (integers start at 0..65535), otherwise from 0..largest. The first frame of an animation is used.

    Images of more than ``MAX_KEPT_PIXELS`` are reduced to a half, a quarter and so on of their size.

    Raises PictureError if the file is missing, empty, damaged, not an image, or larger than ``MAX_PIXELS``, or if
    decoding it would need too much memory.
    """
    name = os.fspath(path)
    if not name:
        raise PictureError("the path of the image is empty; pass the name of a file")
    if _URL.match(name):
        raise PictureError(f"{name} is a URL, but images are read from files; download it and pass the file")
    place = Path(path)
    try:
        if place.is_dir():
            raise PictureError(f"{place} is a folder; choose one image in it")
        if not place.exists():
            raise PictureError(f"there is no image {place}; check its name and folder")
        if not place.is_file():
            raise PictureError(f"{place} is not a regular file; save the image to a file and use that")
        if not place.stat().st_size:
            raise PictureError(f"{place} is empty (0 bytes); copy or export the image again")
        with _ONE_AT_A_TIME, place.open("rb") as file:
            return _from_file(file, str(place))
    except OSError as problem:
        reason = problem.strerror or problem
        raise PictureError(f"{place} cannot be read ({reason}); check its permissions") from problem


def resize_exact(picture: Picture, width: int, height: int) -> Picture:
    """``picture`` resized to ``width`` x ``height`` pixels, whatever its aspect ratio.

    Antialiased bilinear with an 8-bit result: the resize of the original command line script.
    """
    from PIL import Image

    image = Image.fromarray(picture.pixels.numpy())
    return Picture(_as_tensor(image.resize((width, height), Image.Resampling.BILINEAR)))


def centre_crop_or_pad(picture: Picture, width: int, height: int) -> Picture:
    """The centre ``width`` x ``height`` pixels; where ``picture`` is smaller, it is padded with black on both sides.

    An odd number of black pixels has the larger half at the right or bottom, and an offset halfway between two
    integers is rounded to the even one (as in torchvision's centre crop, which the original script uses).
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
    """``picture`` as input of the networks: float32 ``[3, h, w]`` in [-1, 1]."""
    return picture.pixels.permute(2, 0, 1).float().div(255).sub(0.5).div(0.5).contiguous()


def fit_picture(picture: Picture, width: int, height: int, fit: Fit = "crop") -> Tensor:
    """``picture`` fitted to ``width`` x ``height`` pixels: float32 ``[3, h, w]`` in [-1, 1].

    crop: fills the target and is cut off on two sides. pad: fits inside the target, with black bars on two sides.
    stretch: is resized to the target, whatever its aspect ratio. Where the original script fills the target, crop
    gives exactly its result; where it adds bars and cuts nothing off, pad does.
    """
    if fit == "stretch":
        return normalise(resize_exact(picture, width, height))
    if fit == "crop":
        picture = _without_far_ends(picture, width, height)
    size = _size_before_crop(picture.size, width, height, fit)
    return normalise(centre_crop_or_pad(resize_exact(picture, *size), width, height))


def place_of_fitted(size: tuple[int, int], width: int, height: int, fit: Fit) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels of the whole of a picture of ``size`` after :func:`fit_picture`.

    left and top are negative where it is cut off, and positive where it has a bar.
    """
    if fit == "stretch":
        return 0, 0, width, height
    resized = _size_before_crop(size, width, height, fit)
    missing = width - resized[0], height - resized[1]
    left, top = (each // 2 if each > 0 else -round(-each / 2) for each in missing)
    return left, top, *resized


def _size_before_crop(size: tuple[int, int], width: int, height: int, fit: Fit) -> tuple[int, int]:
    wider = size[0] * height >= size[1] * width
    # Rounded down, as in the original script. For a crop the rounded side is at least the target's.
    by_height = (max(1, height * size[0] // size[1]), height)
    by_width = (width, max(1, width * size[1] // size[0]))
    return by_height if wider == (fit == "crop") else by_width


def _without_far_ends(picture: Picture, width: int, height: int) -> Picture:
    """``picture``, or its centre if resizing all of it to fill the target would take too much memory."""
    scale = max(width / picture.width, height / picture.height)
    if scale * picture.width * scale * picture.height <= MAX_RESIZED_PIXELS:
        return picture
    # A bilinear filter reaches one source pixel, or 1 / scale of them when shrinking; twice that is ample.
    margin = 2 * math.ceil(max(1.0, 1 / scale)) + 1
    pixels = picture.pixels
    for axis, wanted in ((0, height), (1, width)):
        cut = (pixels.shape[axis] - math.ceil(wanted / scale)) // 2 - margin
        if cut > 0:  # The same at both ends, so that the centre does not move.
            pixels = pixels.narrow(axis, cut, pixels.shape[axis] - 2 * cut)
    return Picture(pixels.contiguous())


def _from_file(file: BinaryIO, name: str) -> Picture:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [kind for kind in _FORMATS if kind in Image.OPEN]
    with warnings.catch_warnings():
        # Pillow warns about odd metadata, which is harmless, and about large images, which are checked below.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=formats)
        except UnidentifiedImageError as problem:
            raise PictureError(
                f"{name} is not an image, or it is too damaged to be recognised; use a PNG, JPEG or WebP file"
            ) from problem
        except Image.DecompressionBombError as problem:
            raise PictureError(
                f"{name} has far more than the {MAX_PIXELS // 10**6} million pixels allowed; resize it first"
            ) from problem
        except Exception as problem:  # Damaged files make the decoders fail in every way there is.
            raise PictureError(f"{name} is damaged ({problem}); copy or export it again") from problem
        pixels, orientation = _from_pillow(image, name, from_file=True)
        image.close()  # Frees its memory before the image is rotated.
    return Picture(torch.as_tensor(_turned(pixels, orientation)))


def _from_pillow(image: Image.Image, name: str, *, from_file: bool = False) -> tuple[_Pixels, int]:
    """The pixels ``[h, w, 3]`` as stored, and their orientation; only images from files are checked for memory."""
    from PIL import Image

    _check_size(*image.size, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if from_file:
                _prepare(image, name)
            # An image inside an icon file may be larger than its header says; Pillow then warns.
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
            f"resize it first"
        )


def _block(width: int, height: int) -> int:
    """Side of the blocks of pixels that are averaged to one."""
    block = 1
    while -(-width // block) * -(-height // block) > MAX_KEPT_PIXELS:
        block *= 2
    return block


def _prepare(image: Image.Image, name: str) -> None:
    """Make decoding stay within the memory limit, or raise PictureError.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, which is faster as well.
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
            f"{name} is {width}x{height} pixels; decoding a {image.format} file of this kind takes "
            f"{needed // 10**6} MB, more than the {_DECODING_BYTES // 10**6} MB allowed; resize it first, or save it "
            f"as a baseline JPEG"
        )


def _decoding_bytes(image: Image.Image, block: int = 1) -> int:
    """Estimated peak memory of decoding, including the pixels that are kept."""
    from PIL import Image

    width, height = -(-image.width // block), -(-image.height // block)
    # Pillow stores one, two or four bytes per pixel, rows padded to a multiple of 4, and a pointer to each row.
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    image_bytes = height * (8 + (width * stored + 3) // 4 * 4)
    decoding = max(image_bytes, width * height * _BYTES_PER_PIXEL.get(image.format or "", 0))
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        # All coefficients at full size, two bytes each, every component at its own resolution.
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
    """The pixels of a decoded image in 8-bit RGB over white, reduced to at most ``MAX_KEPT_PIXELS``."""
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
    """Left, top, right and bottom of all tiles of an image."""
    for y in range(0, height, _TILE):
        for x in range(0, width, _TILE):
            yield x, y, min(x + _TILE, width), min(y + _TILE, height)


def _put(pixels: _Pixels, x: int, y: int, tile: Image.Image, block: int) -> None:
    """Composite a tile over white, average its blocks, and copy it to its place in ``pixels``."""
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
    """EXIF's number from 1 (as stored) to 8."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # The pixels can be good even if the EXIF data are not.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _turned(pixels: _Pixels, orientation: int) -> _Pixels:
    """``pixels`` rotated and mirrored according to EXIF's ``orientation``."""
    if orientation in (5, 6, 7, 8):
        pixels = np.transpose(pixels, (1, 0, 2))
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _top(image: Image.Image, name: str) -> float:
    """The value that is scaled to white in an image of one of Pillow's deep modes."""
    largest = -math.inf
    for box in _tiles(*image.size):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise PictureError(f"{name} contains NaN or infinity; export it again")
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
            f"an image must be a path, a Pillow image, a numpy array or a tensor, not {type(given).__name__}"
        )
    array = cast("np.ndarray[Any, Any]", given)
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        hint = "; move the channels last" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise PictureError(
            f"an image must have the shape (height, width) or (height, width, 1, 3 or 4), not {shape}{hint}"
        )
    _check_size(shape[1], shape[0], "the image")
    if array.dtype not in (np.uint8, np.uint16, np.bool_) and not np.issubdtype(array.dtype, np.floating):
        raise PictureError(f"an image must be uint8, uint16, bool or floating point, not {array.dtype}")
    if np.issubdtype(array.dtype, np.floating):
        least, most = float(array.min()), float(array.max())
        if not (least >= 0 and most <= 1):  # Also true for NaN.
            raise PictureError(
                f"a floating point image must be within 0..1, but contains {least:g}..{most:g}"
            )
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    block = _block(shape[1], shape[0])
    pixels = _room(shape[1], shape[0], block)
    for x, y, right, bottom in _tiles(shape[1], shape[0]):
        levels = _levels(array[y:bottom, x:right])
        _put(pixels, x, y, Image.fromarray(np.ascontiguousarray(levels)), block)
    return Picture(torch.as_tensor(pixels))


def _levels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of any accepted dtype as 8 bits."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    return np.rint(array * 255.0).astype(np.uint8)
