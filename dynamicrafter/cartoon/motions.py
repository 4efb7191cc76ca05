"""Poses of a person in three dimensions, and how they change over time: walking, waving, dancing and the like.

Lengths are fractions of the person's height; x points to the image's right, y down and z to the viewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

UPPER_ARM, FOREARM, THIGH, SHIN = range(4)
"""Rows of :attr:`Pose.limbs`."""
RIGHT, LEFT = range(2)
"""Columns of it; a person who faces the viewer has the right side at the image's left."""


@dataclass(frozen=True)
class Pose:
    """Directions of the limbs and of the trunk, in radians."""

    limbs: Numbers
    """``[4, 2, 2]``: angle outwards and angle forwards of each limb, from hanging down."""
    lean: float = 0.0
    """Of the trunk, to the person's left."""
    bow: float = 0.0
    """Of the trunk, forwards."""
    yaw: float = 0.0
    """0 faces the viewer, a right angle the image's right."""
    shift: float = 0.0
    """Of the whole person, to the image's right."""
    jump: float = 0.0
    """Of the feet above the ground."""


_MIRRORED = 0.3
"""Share of the arbitrary movements in which the left side moves as the right one."""

_Motion = Callable[[float, np.random.Generator], Pose]
"""Maps the phase, in turns, and the person's manner to a pose; the manner is drawn anew from equal generators."""


def _standing() -> Numbers:
    limbs = np.zeros((4, 2, 2))
    limbs[UPPER_ARM, :, 0], limbs[FOREARM, :, 0] = 0.22, 0.12
    limbs[THIGH, :, 0] = limbs[SHIN, :, 0] = 0.06
    return limbs


def _wave(phase: float, after: float = 0.0) -> float:
    return math.sin(math.tau * (phase + after))


def _idle(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    limbs[:2, :, 0] += manner.uniform(0, 0.25) + 0.06 * _wave(phase)
    return Pose(limbs, lean=manner.uniform(-0.06, 0.06) + 0.03 * _wave(phase))


def _walk(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    stride, swing, lift = manner.uniform(0.4, 0.6), manner.uniform(0.3, 0.6), manner.uniform(0.5, 0.9)
    for side, after in ((RIGHT, 0.0), (LEFT, 0.5)):
        thigh = stride * _wave(phase, after)
        limbs[THIGH, side, 1] = thigh
        limbs[SHIN, side, 1] = thigh - 0.1 - lift * max(0.0, _wave(phase, after + 0.3))
        limbs[UPPER_ARM, side, 1] = -swing * _wave(phase, after)
        limbs[FOREARM, side, 1] = -swing * _wave(phase, after) + 0.4
    return Pose(limbs, bow=0.08)


def _waving(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    side = int(manner.integers(2))
    limbs[UPPER_ARM, side, 0] = manner.uniform(1.6, 2.5)
    limbs[FOREARM, side, 0] = manner.uniform(2.5, 2.9) + 0.45 * _wave(phase)
    return Pose(limbs, lean=0.05 * _wave(phase))


def _dance(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    reach, step, spread = manner.uniform(0.9, 1.5), manner.uniform(0.1, 0.3), manner.uniform(0.1, 0.25)
    for side, after in ((RIGHT, 0.0), (LEFT, 0.5)):
        limbs[UPPER_ARM, side, 0] = 1.2 + 0.6 * reach * _wave(phase, after)
        limbs[FOREARM, side, 0] = 1.5 + reach * _wave(phase, after)
        lifted = max(0.0, _wave(phase, after))
        limbs[THIGH, side, 0] = spread + step * lifted
        limbs[THIGH, side, 1] = 0.7 * lifted
        limbs[SHIN, side, :] = (spread, -0.8 * lifted)
    return Pose(limbs, lean=0.15 * _wave(phase), shift=0.05 * _wave(phase))


def _squat(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    depth = manner.uniform(0.7, 1.0) * (0.5 - 0.5 * math.cos(math.tau * phase))
    limbs[UPPER_ARM, :, 1] = limbs[FOREARM, :, 1] = 1.45 * depth
    limbs[THIGH, :, 0], limbs[SHIN, :, 0] = 0.1 + 0.35 * depth, 0.08
    limbs[THIGH, :, 1], limbs[SHIN, :, 1] = 1.3 * depth, -0.6 * depth
    return Pose(limbs, bow=0.5 * depth)


def _free(phase: float, manner: np.random.Generator) -> Pose:
    """Between two arbitrary poses and back."""
    share = 0.5 - 0.5 * math.cos(math.tau * phase)
    mirrored = manner.random() < _MIRRORED
    first, second = (_any_pose(manner, mirrored) for _ in range(2))
    return replace(
        first,
        limbs=first.limbs + share * (second.limbs - first.limbs),
        lean=first.lean + share * (second.lean - first.lean),
        bow=first.bow + share * (second.bow - first.bow),
    )


def _any_pose(manner: np.random.Generator, mirrored: bool) -> Pose:
    limbs = _standing()
    for side in (RIGHT, LEFT):
        limbs[UPPER_ARM, side, 0] = manner.uniform(0.05, 2.9)
        limbs[FOREARM, side, 0] = limbs[UPPER_ARM, side, 0] + manner.uniform(-0.9, 1.3)
        limbs[:2, side, 1] = manner.uniform(-0.4, 0.9)
        limbs[THIGH, side, 0] = manner.uniform(0.0, 0.6)
        limbs[THIGH, side, 1] = manner.uniform(-0.4, 0.9)
        limbs[SHIN, side, 0] = limbs[THIGH, side, 0] * manner.uniform(0.2, 1.0)
        limbs[SHIN, side, 1] = limbs[THIGH, side, 1] - manner.uniform(0.0, 1.0)
    if mirrored:
        limbs[:, LEFT] = limbs[:, RIGHT]
    return Pose(limbs, lean=manner.uniform(-0.4, 0.4), bow=manner.uniform(0.0, 0.3))


def _jacks(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    open_ = manner.uniform(0.8, 1.0) * (0.5 - 0.5 * math.cos(math.tau * phase))
    limbs[UPPER_ARM, :, 0], limbs[FOREARM, :, 0] = 0.2 + 2.2 * open_, 0.15 + 2.6 * open_
    limbs[THIGH, :, 0] = limbs[SHIN, :, 0] = 0.05 + 0.4 * open_
    return Pose(limbs, jump=0.04 * abs(_wave(phase)))


def _bend(phase: float, manner: np.random.Generator) -> Pose:
    limbs = _standing()
    lean = manner.uniform(0.25, 0.35) * _wave(phase)
    for side, sign in ((RIGHT, -1.0), (LEFT, 1.0)):
        # Both arms are raised and stay in line with the trunk.
        limbs[:2, side, 0] = 2.75 - sign * lean
    limbs[THIGH, :, 0] = limbs[SHIN, :, 0] = 0.2
    return Pose(limbs, lean=lean)


PERFORMED: dict[str, _Motion] = {
    "idle": _idle,
    "walk": _walk,
    "wave": _waving,
    "dance": _dance,
    "squat": _squat,
    "free": _free,
}
"""The motions of training."""
HELD_OUT_MOTIONS: dict[str, _Motion] = {"jacks": _jacks, "bend": _bend}
"""Motions that training never shows."""

_VIEWS = (0.0, 0.0, math.pi / 2, -math.pi / 2, math.pi / 4, -math.pi / 4)
"""Front twice, both sides, and between."""


@dataclass(frozen=True)
class Performance:
    """How a person moves over a clip."""

    motion: str
    yaw: float
    start: float
    """Phase of the first frame, in turns."""
    pace: float
    """Turns per frame."""
    manner: int
    """Seed of the amplitudes."""

    def pose(self, frame: float) -> Pose:
        """The pose in a frame, counted from 0."""
        motion = (PERFORMED | HELD_OUT_MOTIONS)[self.motion]
        pose = motion(self.start + self.pace * frame, np.random.default_rng(self.manner))
        return replace(pose, yaw=self.yaw)


def sample_performance(
    random: np.random.Generator, motions: tuple[str, ...] = tuple(PERFORMED), *, front: bool = False
) -> Performance:
    """A random performance of one of ``motions``, seen from the ``front`` or any side; a turn takes 14 to 26 frames."""
    yaw = 0.0 if front else _VIEWS[int(random.integers(len(_VIEWS)))]
    return Performance(
        motion=motions[int(random.integers(len(motions)))],
        yaw=yaw + random.uniform(-0.15, 0.15),
        start=random.uniform(0, 1),
        pace=1 / random.uniform(14, 26),
        manner=int(random.integers(2**32)),
    )


@dataclass(frozen=True)
class Build:
    """A person's proportions."""

    head: float
    """Radius of the head."""
    neck: float
    trunk: float
    shoulders: float
    """Half their width, like that of the hips."""
    hips: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    foot: float
    """Height of the ankle."""

    @property
    def height(self) -> float:
        """Of the standing person."""
        return self.foot + self.shin + self.thigh + self.trunk + self.neck + 2 * self.head


def joints_of(build: Build, pose: Pose) -> Numbers:
    """The 18 joints in OpenPose's order, ``[18, 3]``; the lowest ankle is at height 0 unless the person jumps."""
    up = np.array(
        [
            math.sin(pose.lean),
            -math.cos(pose.lean) * math.cos(pose.bow),
            math.cos(pose.lean) * math.sin(pose.bow),
        ]
    )
    across = np.array([math.cos(pose.lean), math.sin(pose.lean), 0.0])
    joints = np.zeros((18, 3))
    neck = build.trunk * up
    joints[1] = neck
    # First joint of arm and leg, of each side
    for side, sign, arm, leg in ((RIGHT, -1.0, 2, 8), (LEFT, 1.0, 5, 11)):
        joints[arm] = neck + sign * build.shoulders * across - 0.02 * up
        joints[leg] = sign * build.hips * across
        for first, rows, lengths in (
            (arm, (UPPER_ARM, FOREARM), (build.upper_arm, build.forearm)),
            (leg, (THIGH, SHIN), (build.thigh, build.shin)),
        ):
            for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                joints[first + i + 1] = joints[first + i] + length * _direction(pose.limbs[row, side], sign)
    centre = neck + (build.neck + build.head) * up
    ahead = np.cross(across, up)
    ahead = -ahead if ahead[2] < 0 else ahead
    joints[0] = centre + build.head * (0.75 * ahead - 0.15 * up)
    for eye, ear, sign in ((14, 16, -1.0), (15, 17, 1.0)):
        joints[eye] = centre + build.head * (0.7 * ahead + 0.1 * up + 0.35 * sign * across)
        joints[ear] = centre + build.head * 0.85 * sign * across
    joints[:, 1] -= max(joints[10, 1], joints[13, 1]) + pose.jump
    x, z = np.array(joints[:, 0]), np.array(joints[:, 2])
    joints[:, 0] = x * math.cos(pose.yaw) + z * math.sin(pose.yaw) + pose.shift
    joints[:, 2] = z * math.cos(pose.yaw) - x * math.sin(pose.yaw)
    return joints


def _direction(angles: Numbers, sign: float) -> Numbers:
    outwards, forwards = float(angles[0]), float(angles[1])
    return np.array(
        [
            sign * math.sin(outwards),
            math.cos(outwards) * math.cos(forwards),
            math.cos(outwards) * math.sin(forwards),
        ]
    )
