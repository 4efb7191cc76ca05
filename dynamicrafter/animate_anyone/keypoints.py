"""Keypoints of a person: from detectors' arrays and from JSON to one form, places as fractions of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
"""x and y as fractions of width and height."""
Points = tuple[Point | None, ...]
"""None where a point was not found."""

CONFIDENCE = 0.3
"""Score above which a detector's point counts, as in the released models' training data."""

_BODY_OF_COCO = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""COCO's joints in OpenPose's order; 17 is the neck, which COCO lacks."""
_COCO_FACE, _COCO_LEFT_HAND, _COCO_RIGHT_HAND = slice(23, 91), slice(91, 112), slice(112, 133)


@dataclass(frozen=True)
class Person:
    """One person in one frame."""

    body: Points
    """18 joints in OpenPose's order."""
    hands: tuple[Points, ...] = ()
    """The left, then the right hand, 21 points each."""
    face: Points = ()
    """68 points."""


def moved(person: Person, change: Callable[[Point], Point]) -> Person:
    """A person with every point that was found where ``change`` puts it."""

    def each(points: Points) -> Points:
        return tuple(None if point is None else change(point) for point in points)

    return Person(each(person.body), tuple(each(hand) for hand in person.hands), each(person.face))


NOBODY = Person(body=(None,) * 18)
"""A frame without a person."""


def person_of_coco(
    people: Sequence[Sequence[Point]], scores: Sequence[Sequence[float]], width: float, height: float
) -> Person:
    """The person with the highest mean score of the body among those of COCO-WholeBody's 133 points, in pixels.

    The neck is the middle of the shoulders. Returns :data:`NOBODY` if there are no people.
    """
    found: list[tuple[float, Person]] = []
    for points, confidences in zip(people, scores, strict=True):
        shoulders = [points[5], points[6]]
        neck = (sum(x for x, _ in shoulders) / 2, sum(y for _, y in shoulders) / 2)
        sure = confidences[5] > CONFIDENCE and confidences[6] > CONFIDENCE
        joints = [*points[:17], neck]
        certainty = [*confidences[:17], float(sure)]
        body = [
            (joints[i][0] / width, joints[i][1] / height) if certainty[i] > CONFIDENCE else None
            for i in _BODY_OF_COCO
        ]

        def rest(
            part: slice, points: Sequence[Point] = points, sure: Sequence[float] = confidences
        ) -> Points:
            return tuple(
                (x / width, y / height) if score >= CONFIDENCE else None
                for (x, y), score in zip(points[part], sure[part], strict=True)
            )

        person = Person(tuple(body), (rest(_COCO_LEFT_HAND), rest(_COCO_RIGHT_HAND)), rest(_COCO_FACE))
        found.append((sum(certainty) / len(certainty), person))
    return max(found, key=lambda one: one[0])[1] if found else NOBODY
