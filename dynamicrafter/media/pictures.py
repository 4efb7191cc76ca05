"""Pictures of any kind to the tensors the networks take: reading, resizing, cropping, padding.

A picture stays 8 bits deep until it has its final size, because the original script resizes with Pillow,
which rounds to 8 bits; only so the numbers agree with its.
"""

from __future__ import annotations

import math
import os
import warnings
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
    if isinstance(image, Image.Image):
        return _from_pillow(image, "the picture")
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

    Raises PictureError when the file is missing, empty, damaged, no picture, or larger than ``MAX_PIXELS``.
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
        with place.open("rb") as file:
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
        return _from_pillow(image, name)


def _from_pillow(image: Image.Image, name: str) -> Picture:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"{name} is {width}x{height} pixels, more than the {MAX_PIXELS // 10**6} million allowed; "
            f"make it smaller first"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
            upright = _upright(image)
            if upright.mode.startswith("I") or upright.mode == "F":
                upright = _eight_bits(upright, name)
            return Picture(_over_white(upright))
        except PictureError:
            raise
        except Exception as problem:  # Damaged files make the decoders fail in every way there is.
            raise PictureError(f"{name} is damaged ({problem}); copy or export it again") from problem


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # Unreadable EXIF says nothing about the pixels; the picture is taken as it lies.
        return image
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    return image.transpose(turn)


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """An "L" image from one of Pillow's deep modes: "I;16..." (16 bits), "I" (32 bits), "F" (float)."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError(f"{name} holds values that are no numbers (NaN or infinity); export it again")
    largest = float(values.max())
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    top = next((top for top in tops if largest <= top), largest)
    return Image.fromarray(np.rint(values.clip(min=0) * (255 / top)).astype(np.uint8))


def _over_white(image: Image.Image) -> Tensor:
    from PIL import Image

    if image.has_transparency_data:
        backdrop = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(backdrop, image.convert("RGBA"))
    return _as_tensor(image.convert("RGB"))


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
    kind = array.dtype
    if kind == np.uint8:
        levels = array
    elif kind == np.bool_:
        levels = array.astype(np.uint8) * 255
    elif kind == np.uint16:
        levels = np.rint(array / 257.0).astype(np.uint8)
    elif np.issubdtype(kind, np.floating):
        least, most = float(array.min()), float(array.max())
        if not (least >= 0 and most <= 1):  # Also true for NaN.
            raise PictureError(f"a floating point picture must be within 0..1, but holds {least:g}..{most:g}")
        levels = np.rint(array * 255.0).astype(np.uint8)
    else:
        raise PictureError(f"a picture must be uint8, uint16, bool or floating point, not {kind}")
    if levels.ndim == 3 and shape[2] == 1:
        levels = levels[:, :, 0]
    return Picture(_over_white(Image.fromarray(np.ascontiguousarray(levels))))
