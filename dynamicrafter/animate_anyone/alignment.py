"""Fits a clip of poses to the person in the reference image, and mends what a detector missed.

The original has none of this and names it as its limit: a skeleton of other proportions than the reference's changes
the person's build. All functions take and return fractions of the image.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .keypoints import NOBODY, Person, Point, Points, moved

_TRUNK = ((1, 2), (1, 5), (1, 8), (1, 11), (2, 8), (5, 11))
"""Shoulders, and from neck and shoulders to the hips: what bends least."""
_LIMBS = (*_TRUNK, (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (0, 1))
_ANCHORS = (1, 8, 11)
"""Neck and hips, whose middle is a person's place."""
_SHORTEST = 1e-3
"""Length of a limb that counts, as a fraction of the image's height; the ratio of shorter ones is chance."""
_SCALES = (0.01, 100.0)


@dataclass(frozen=True)
class Alignment:
    """A change of size about a point, and of place."""

    scale: float = 1.0
    about: Point = (0.5, 0.5)
    shift: Point = (0.0, 0.0)

    def __call__(self, point: Point) -> Point:
        """Where a point goes."""
        x = self.about[0] + self.scale * (point[0] - self.about[0]) + self.shift[0]
        y = self.about[1] + self.scale * (point[1] - self.about[1]) + self.shift[1]
        return x, y


def fit_to(reference: Person, clip: Sequence[Person], aspect: float = 1.0) -> Alignment:
    """The change that gives the first person of ``clip`` the size and place of the one in the reference.

    The scale is the median ratio of the limbs that both have, each at its longest in the clip, since limbs are
    foreshortened. Those of the reference may be too, so the trunk alone decides where both have it. ``aspect`` is width
    over height. Raises ValueError if the two have no limb in common or the clip nobody, or if the scale is not 0.01 to
    100.
    """
    first = next((person for person in clip if any(person.body)), None)
    if first is None:
        raise ValueError("there is no person in the clip of poses to be fitted to the reference")
    for limbs in (_TRUNK, _LIMBS):
        ratios = [
            _length(reference, limb, aspect) / longest
            for limb in limbs
            if (longest := max(_length(person, limb, aspect) for person in clip)) > _SHORTEST
            and _length(reference, limb, aspect) > _SHORTEST
        ]
        if ratios:
            break
    else:
        raise ValueError("the reference and the clip of poses have no limb in common; set the scale by hand")
    scale = statistics.median(ratios)
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise ValueError(
            f"the reference must be {_SCALES[0]:g} to {_SCALES[1]:g} times as large as the person in the clip of "
            f"poses, but is {scale:g} times; set the scale by hand"
        )
    about, place = place_of(first), place_of(reference)
    return Alignment(scale, about, (place[0] - about[0], place[1] - about[1]))


def by_hand(clip: Sequence[Person], scale: float, shift: Point) -> Alignment:
    """A change of size about the place of the first person of ``clip``, and of place by fractions of the image."""
    first = next((person for person in clip if any(person.body)), NOBODY)
    return Alignment(scale, place_of(first), shift)


def fitted(clip: Sequence[Person], fit: Alignment) -> list[Person]:
    """Every point of every person moved by ``fit``; frames without a person stay :data:`~.keypoints.NOBODY`."""
    return [person if person is NOBODY else moved(person, fit) for person in clip]


def filled(clip: Sequence[Person], longest: int = 5) -> list[Person]:
    """Points that are missing for ``longest`` frames or fewer, on a line between two frames with them."""
    return _over_time(clip, lambda track: _filled_track(track, longest))


def smoothed(clip: Sequence[Person], frames: int = 3) -> list[Person]:
    """Points averaged over ``frames`` frames around each, an odd number; those that lack a point do not count."""
    half = frames // 2
    return _over_time(clip, lambda track: [_mean(track, i, half) for i in range(len(track))])


def _filled_track(track: Sequence[Point | None], longest: int) -> list[Point | None]:
    made = list(track)
    known = [i for i, point in enumerate(track) if point is not None]
    for before, after in zip(known, known[1:], strict=False):
        gap = after - before - 1
        a, b = track[before], track[after]
        if a is None or b is None or not 0 < gap <= longest:
            continue
        for i in range(1, gap + 1):
            share = i / (gap + 1)
            made[before + i] = (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]))
    return made


def _mean(track: Sequence[Point | None], index: int, half: int) -> Point | None:
    if track[index] is None:
        return None
    # As many frames before as after, so that a moving point does not lag at the ends of the clip.
    reach = min(half, index, len(track) - 1 - index)
    near = [point for point in track[index - reach : index + reach + 1] if point is not None]
    return sum(x for x, _ in near) / len(near), sum(y for _, y in near) / len(near)


def _over_time(
    clip: Sequence[Person], change: Callable[[Sequence[Point | None]], list[Point | None]]
) -> list[Person]:
    """Each point's places over the clip, changed; a part that a person lacks counts as missing points."""
    made = list(clip)
    made = [
        replace(person, body=points)
        for person, points in zip(made, _tracks([p.body for p in clip], change), strict=True)
    ]
    faces = _tracks([person.face for person in clip], change)
    made = [replace(person, face=points) for person, points in zip(made, faces, strict=True)]
    sides = [
        _tracks([person.hands[side] if len(person.hands) > side else () for person in clip], change)
        for side in range(2)
    ]
    return [
        replace(person, hands=hands if any(hands) else ())
        for person, hands in zip(made, zip(*sides, strict=True), strict=True)
    ]


def _tracks(
    frames: Sequence[Points], change: Callable[[Sequence[Point | None]], list[Point | None]]
) -> list[Points]:
    count = max(map(len, frames), default=0)
    tracks = [change([points[i] if i < len(points) else None for points in frames]) for i in range(count)]
    return [tuple(track[frame] for track in tracks) for frame in range(len(frames))]


def _length(person: Person, limb: tuple[int, int], aspect: float) -> float:
    a, b = person.body[limb[0]], person.body[limb[1]]
    return 0.0 if a is None or b is None else math.hypot((a[0] - b[0]) * aspect, a[1] - b[1])


def place_of(person: Person) -> Point:
    """The middle of neck and hips, or of every joint if none of them is there."""
    joints = [point for i in _ANCHORS if (point := person.body[i]) is not None]
    joints = joints or [point for point in person.body if point is not None] or [(0.5, 0.5)]
    return sum(x for x, _ in joints) / len(joints), sum(y for _, y in joints) / len(joints)
