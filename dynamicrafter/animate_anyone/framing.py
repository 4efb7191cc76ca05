"""How an image or keypoints of another aspect ratio than the clip's get its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from ..media.pictures import Picture
from ..settings import Fit
from .keypoints import Person, Point, moved

if TYPE_CHECKING:
    from PIL.Image import Image

FITS: tuple[Fit, ...] = get_args(Fit)


def framed(picture: Picture, width: int, height: int, fit: Fit) -> Image:
    """An image of the aspect ratio of ``width`` x ``height`` pixels, up to rounding, to be stretched to that size.

    crop: the far ends of the longer side are cut off. pad: black bars are added. stretch: the image as it is.
    """
    from PIL.Image import Resampling, fromarray, new

    image = fromarray(picture.pixels.numpy())
    if fit == "stretch":
        return image
    across, down = _shares(picture.width, picture.height, width, height, fit)
    if fit == "crop":
        size = (max(1, round(picture.width / across)), max(1, round(picture.height / down)))
        left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
        return image.crop((left, top, left + size[0], top + size[1]))
    # At the final size, because the bars of a long strip could be any number of times larger than it.
    size = (max(1, round(width * across)), max(1, round(height * down)))
    canvas = new("RGB", (width, height))
    canvas.paste(image.resize(size, Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return canvas


def placed(person: Person, canvas: tuple[float, float], width: int, height: int, fit: Fit) -> Person:
    """Keypoints as fractions of the clip's frame, from fractions of a ``canvas`` of that width and height."""
    if fit == "stretch":
        return person
    across, down = _shares(*canvas, width, height, fit)

    def move(point: Point) -> Point:
        return 0.5 + across * (point[0] - 0.5), 0.5 + down * (point[1] - 0.5)

    return moved(person, move)


def _shares(wide: float, high: float, width: int, height: int, fit: Fit) -> tuple[float, float]:
    """Width and height of the fitted image as shares of the frame's: one is 1, the other more (crop) or less (pad)."""
    ratio = (wide * height) / (high * width)
    fills = ratio < 1 if fit == "crop" else ratio > 1
    return (1.0, 1 / ratio) if fills else (ratio, 1.0)
