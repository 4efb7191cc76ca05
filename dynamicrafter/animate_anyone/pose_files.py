"""Reads keypoints from JSON: OpenPose's form, which ComfyUI's POSE_KEYPOINT has too, and mmpose's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..errors import PictureError
from .keypoints import CONFIDENCE, NOBODY, Person, Point, Points, person_of_coco

_OF_BODY_25 = (*range(8), *range(9, 15), *range(15, 19))
"""OpenPose's 18 joints among its 25, which have the middle of the hips at 8."""
_COCO_POINTS = 133
_MOST_FRAMES = 20_000
"""Of bodies alone; a JSON text of whole bodies has too many parts from about 3,700 (mmpose) or 4,800 frames on."""
_MOST_PEOPLE = 100

_HAND_POINTS, _FACE_POINTS = 21, 68


def poses_of_json(values: object, name: str) -> list[Person]:
    """One person for each frame of a parsed file; :data:`~.keypoints.NOBODY` where a frame has none.

    A frame is an object with ``people`` (OpenPose: flat arrays of x, y and confidence) or ``instances`` (mmpose: 133
    points and their scores); a file is one frame, a list of them, or an object with ``instance_info``. Coordinates are
    pixels of the frame's canvas or fractions of it, which each array shows by itself. Of several people, the one with
    the highest mean score of the body counts. Raises PictureError, naming ``name`` and the frame, for anything else,
    and if no frame has a person.
    """
    if isinstance(values, Mapping):
        held = cast(Mapping[str, Any], values)
        frames: Any = held.get("instance_info", [held])
    else:
        frames = values
    if not isinstance(frames, list) or not frames:
        raise PictureError(f"{name} has no frames with keypoints; {_WANTED}")
    listed = cast(list[Any], frames)
    if len(listed) > _MOST_FRAMES:
        raise PictureError(f"{name} has {len(listed)} frames; {_MOST_FRAMES} at most can be read, split it")
    people = [_person(frame, f"frame {index} of {name}") for index, frame in enumerate(listed, start=1)]
    if not any(any(person.body) for person in people):
        raise PictureError(f"{name} has no person in any of its {len(people)} frames; use another clip")
    return people


def canvas_of(values: object) -> tuple[float, float] | None:
    """Width and height of the first frame of a parsed file that says them; None if none does."""
    for frame in _frames(values):
        for keys in (("canvas_width", "canvas_height"), ("width", "height")):
            canvas = _canvas(frame, keys)
            if canvas is not None:
                return canvas
    return None


def openpose_frame(person: Person, canvas: tuple[float, float]) -> dict[str, Any]:
    """A frame as OpenPose writes it, for :func:`poses_of_json`; ``canvas`` is width and height in pixels.

    A person that was not found is none.
    """
    width, height = canvas

    def flat(points: Points) -> list[float]:
        return [
            value
            for point in points
            for value in ((0.0, 0.0, 0.0) if point is None else (point[0] * width, point[1] * height, 1.0))
        ]

    hands = [*person.hands, (), ()]
    one = {
        "pose_keypoints_2d": flat(person.body),
        "face_keypoints_2d": flat(person.face),
        "hand_left_keypoints_2d": flat(hands[0]),
        "hand_right_keypoints_2d": flat(hands[1]),
    }
    found = any(point is not None for point in person.body)
    return {"people": [one] if found else [], "canvas_width": width, "canvas_height": height}


def crowded(values: object) -> int:
    """Number of frames of a parsed file with several people."""
    found = [frame.get("people", frame.get("instances")) for frame in _frames(values)]
    return sum(isinstance(people, list) and len(cast(list[Any], people)) > 1 for people in found)


def _frames(values: object) -> list[Mapping[str, Any]]:
    """The frames of a file that :func:`poses_of_json` has read."""
    if isinstance(values, Mapping):
        held = cast(Mapping[str, Any], values)
        return held.get("instance_info", [held])
    return cast(list[Mapping[str, Any]], values)


_WANTED = "it must be keypoints as OpenPose or mmpose write them"


def _person(frame: object, where: str) -> Person:
    if not isinstance(frame, Mapping):
        raise PictureError(f"{where} is not an object; {_WANTED}")
    held = cast(Mapping[str, Any], frame)
    if isinstance(held.get("people"), list):
        return _of_openpose(held, held["people"], where)
    if isinstance(held.get("instances"), list):
        return _of_mmpose(held, held["instances"], where)
    raise PictureError(f"{where} has neither people nor instances; {_WANTED}")


def _of_openpose(frame: Mapping[str, Any], people: list[Any], where: str) -> Person:
    canvas = _canvas(frame, ("canvas_width", "canvas_height"))
    found: list[tuple[float, Person]] = []
    for one in people[:_MOST_PEOPLE]:
        if not isinstance(one, Mapping):
            raise PictureError(f"{where} has a person that is not an object; {_WANTED}")
        arrays = cast(Mapping[str, Any], one)
        body = _triplets(arrays.get("pose_keypoints_2d"), "pose_keypoints_2d", where)
        if len(body) == 25:
            body = [body[i] for i in _OF_BODY_25]
        if len(body) not in (0, 18):
            raise PictureError(f"{where} has a body of {len(body)} points; 18 or 25 can be read")
        if not body:
            continue
        hands: list[Points] = []
        for key in ("hand_left_keypoints_2d", "hand_right_keypoints_2d"):
            hands.append(_points(_first(arrays, key, _HAND_POINTS, where), canvas, where))
        # Points 68 and 69 are the pupils, which the models have not seen.
        face = _first(arrays, "face_keypoints_2d", _FACE_POINTS, where)
        person = Person(_points(body, canvas, where), tuple(hands), _points(face, canvas, where))
        found.append((sum(score for _, _, score in body), person))
    return max(found, key=lambda scored: scored[0])[1] if found else NOBODY


def _of_mmpose(frame: Mapping[str, Any], instances: list[Any], where: str) -> Person:
    people: list[list[Point]] = []
    scores: list[list[float]] = []
    for one in instances[:_MOST_PEOPLE]:
        held: Mapping[str, Any] = cast(Mapping[str, Any], one) if isinstance(one, Mapping) else {}
        points, sure = held.get("keypoints"), held.get("keypoint_scores")
        if not isinstance(points, list) or not isinstance(sure, list):
            raise PictureError(f"{where} has an instance without keypoints and keypoint_scores; {_WANTED}")
        places, certain = cast(list[Any], points), cast(list[Any], sure)
        if len(places) != _COCO_POINTS or len(certain) != _COCO_POINTS:
            raise PictureError(
                f"{where} has {len(places)} keypoints; {_COCO_POINTS} (COCO-WholeBody) can be read"
            )
        people.append([_pair(place, where) for place in places])
        scores.append([_number(score, where) for score in certain])
    if not people:
        return NOBODY
    canvas = _canvas(frame, ("width", "height"))
    if canvas is None and not _are_fractions(
        [value for person in people for point in person for value in point]
    ):
        raise PictureError(f"{where} has pixels but neither width nor height of 1 or more; add them")
    width, height = (1.0, 1.0) if canvas is None else canvas
    return person_of_coco(people, scores, width, height)


def _triplets(values: object, key: str, where: str) -> list[tuple[float, float, float]]:
    """x, y and confidence of each point of an array, which may be absent."""
    if values is None:
        return []
    if not isinstance(values, list) or len(cast(list[Any], values)) % 3:
        raise PictureError(f"{key} in {where} must be a list of x, y and confidence for each point")
    numbers = [_number(value, where) for value in cast(list[Any], values)]
    return [(numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3)]


def _first(arrays: Mapping[str, Any], key: str, count: int, where: str) -> list[tuple[float, float, float]]:
    """The first ``count`` points of an array; none if it is empty."""
    found = _triplets(arrays.get(key), key, where)
    if 0 < len(found) < count:
        raise PictureError(
            f"{key} in {where} must have {count} points or none, but {len(found)} came; "
            "give points that were not found a confidence of 0"
        )
    return found[:count]


def _points(
    triplets: Sequence[tuple[float, float, float]], canvas: tuple[float, float] | None, where: str
) -> Points:
    """Points as fractions of the canvas. Confidences of 0 and 1 alone say no more than whether a point is there."""
    present = [(x, y) for x, y, score in triplets if score > 0 and (x, y) != (0, 0)]
    if not present:
        return (None,) * len(triplets)
    width, height = 1.0, 1.0
    if not _are_fractions([value for point in present for value in point]):
        if canvas is None:
            raise PictureError(
                f"{where} has pixels but neither canvas_width nor canvas_height of 1 or more; add them"
            )
        width, height = canvas
    least = CONFIDENCE if {score for _, _, score in triplets} - {0.0, 1.0} else 0.0
    return tuple(
        (x / width, y / height) if score > least and (x, y) != (0, 0) else None for x, y, score in triplets
    )


def _are_fractions(values: Sequence[float]) -> bool:
    """Whether coordinates are fractions of the canvas; a few may be outside of it."""
    return statistics.median(abs(value) for value in values) <= 1


def _canvas(frame: Mapping[str, Any], keys: tuple[str, str]) -> tuple[float, float] | None:
    width, height = (frame.get(key) for key in keys)
    numbers = all(isinstance(side, (int, float)) and 1 <= side < 1e6 for side in (width, height))
    return (float(cast(float, width)), float(cast(float, height))) if numbers else None


def _pair(value: object, where: str) -> Point:
    held = cast(list[Any], value) if isinstance(value, list) else []
    if len(held) != 2:
        raise PictureError(f"{where} has a keypoint that is not x and y; {_WANTED}")
    return _number(held[0], where), _number(held[1], where)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e6:
        raise PictureError(f"{where} has {str(value)[:40]!r} where a coordinate or a score must be")
    return float(value)
