"""Draws the keypoints of a person as the models were trained to see them: on black, without antialiasing.

Sizes, colours and order are those of the released models' training data. Limbs are filled ellipses whose polygons agree
with OpenCV's to 0.2 % of the pixels; joints are exact.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import PictureError
from .keypoints import Person, Point

Canvas = npt.NDArray[np.uint8]
Pixel = tuple[int, int]
_Colour = tuple[int, int, int]

_COLOURS: tuple[_Colour, ...] = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
"""Of the limbs, and of the joints."""

_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
_LIMB_RADIUS = 4
_LIMB_BRIGHTNESS = 0.6
"""Limbs are darker than what is drawn over them."""

_FINGERS = tuple((0 if i % 4 == 0 else i, i + 1) for i in range(20))
_FINGER_RADIUS = 1
_HAND_POINT: _Colour = (0, 0, 255)
_FACE_POINT: _Colour = (255, 255, 255)
_HAND_POINTS = 21

_FARTHEST = 4
"""Canvas sizes outside of the canvas where a point still counts; the time to draw a limb grows with its length."""

_DISCS = {1: (1, 3, 1), 3: (1, 5, 5, 7, 5, 5, 1), 4: (1, 5, 7, 7, 9, 7, 7, 5, 1)}
"""Lengths of the rows of OpenCV's filled circles, by radius."""


def draw(person: Person, height: int, width: int, hands: bool = True, face: bool = True) -> Canvas:
    """``[height, width, 3]`` RGB with the body and, unless switched off, the hands and the face that were found.

    Points that are not finite, or more than 4 canvas sizes outside, count as not found. Raises PictureError for a hand
    with other than 0 or at least 21 points.
    """
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    ends = np.array([width, height], dtype=np.float64)
    joints = [_place(point, ends) for point in person.body]
    for (first, second), colour in zip(_LIMBS, _COLOURS, strict=False):
        a, b = joints[first], joints[second]
        if a is not None and b is not None:
            _limb(canvas, a, b, colour)
    canvas = (canvas * _LIMB_BRIGHTNESS).astype(np.uint8)
    for joint, colour in zip(joints, _COLOURS, strict=True):
        if joint is not None:
            _disc(canvas, _pixel(joint), 4, colour)
    for hand in person.hands if hands else ():
        places = [_place(point, ends) for point in hand]
        _hand(canvas, [None if place is None else _pixel(place) for place in places])
    for point in person.face if face else ():
        place = _place(point, ends)
        if place is not None and min(pixel := _pixel(place)) >= 1:
            _disc(canvas, pixel, 3, _FACE_POINT)
    return canvas


def _place(point: Point | None, ends: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """A point in pixels, or None if it was not found or is too far outside; comparisons with NaN are false."""
    if point is None or not all(-_FARTHEST <= value <= 1 + _FARTHEST for value in point):
        return None
    return np.array(point) * ends


def _hand(canvas: Canvas, points: Sequence[Pixel | None]) -> None:
    """Fingers and points of one hand, or nothing if its 21 points are not known."""
    if not points:
        return
    if len(points) < _HAND_POINTS:
        raise PictureError(
            f"a hand must have {_HAND_POINTS} points or none, but {len(points)} came; "
            "put None where a point was not found"
        )
    for i, (first, second) in enumerate(_FINGERS):
        a, b = points[first], points[second]
        if a is not None and b is not None and min(*a, *b) >= 1:
            red, green, blue = colorsys.hsv_to_rgb(i / len(_FINGERS), 1.0, 1.0)
            _line(canvas, a, b, (int(red * 255), int(green * 255), int(blue * 255)))
    for point in points:
        if point is not None and min(point) >= 1:
            _disc(canvas, point, 4, _HAND_POINT)


def _pixel(place: npt.NDArray[np.float64]) -> Pixel:
    return int(place[0]), int(place[1])


def _limb(canvas: Canvas, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], colour: _Colour) -> None:
    """A filled ellipse from joint to joint, whose centre, length and angle are truncated to whole numbers."""
    centre = (a + b) / 2
    along, across = int(math.dist(a, b) / 2), _LIMB_RADIUS
    angle = math.radians(int(math.degrees(math.atan2(a[1] - b[1], a[0] - b[0]))))
    turn = np.radians(np.arange(361))
    u, v = along * np.cos(turn), across * np.sin(turn)
    x = np.rint(int(centre[0]) + u * math.cos(angle) - v * math.sin(angle)).astype(int)
    y = np.rint(int(centre[1]) + u * math.sin(angle) + v * math.cos(angle)).astype(int)
    _fill(canvas, list(zip(x.tolist(), y.tolist(), strict=True)), colour)


def _line(canvas: Canvas, a: Pixel, b: Pixel, colour: _Colour) -> None:
    """A line of two pixels with round ends, which covers three where it is straight."""
    length = math.dist(a, b)
    if length > 0:
        dx, dy = (b[1] - a[1]) / length, (a[0] - b[0]) / length
        corners = [
            (a[0] + dx, a[1] + dy),
            (a[0] - dx, a[1] - dy),
            (b[0] - dx, b[1] - dy),
            (b[0] + dx, b[1] + dy),
        ]
        whole = [(round(x), round(y)) for x, y in corners]
        _fill(canvas, [*whole, whole[0]], colour)
    for end in (a, b):
        _disc(canvas, end, _FINGER_RADIUS, colour)


def _fill(canvas: Canvas, vertices: Sequence[Pixel], colour: _Colour) -> None:
    """A closed convex polygon with its outline: every row from its leftmost to its rightmost pixel."""
    rows: dict[int, tuple[int, int]] = {}
    height = canvas.shape[0]
    for start, end in zip(vertices, vertices[1:], strict=False):
        if max(start[1], end[1]) < 0 or min(start[1], end[1]) >= height:
            continue
        for x, y in _outline(start, end):
            if not 0 <= y < height:
                continue
            left, right = rows.get(y, (x, x))
            rows[y] = (min(left, x), max(right, x))
    for y, (left, right) in rows.items():
        _row(canvas, y, left, right, colour)


def _outline(a: Pixel, b: Pixel) -> Iterable[Pixel]:
    """Pixels from ``a`` to ``b``, one for each step along the longer side."""
    steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
    for i in range(steps + 1):
        yield (
            a[0] + math.floor((b[0] - a[0]) * i / steps + 0.5),
            a[1] + math.floor((b[1] - a[1]) * i / steps + 0.5),
        )


def _disc(canvas: Canvas, centre: Pixel, radius: int, colour: _Colour) -> None:
    for offset, length in enumerate(_DISCS[radius]):
        half = length // 2
        _row(canvas, centre[1] - radius + offset, centre[0] - half, centre[0] + half, colour)


def _row(canvas: Canvas, y: int, left: int, right: int, colour: _Colour) -> None:
    if 0 <= y < canvas.shape[0] and right >= 0:
        canvas[y, max(left, 0) : right + 1] = colour
