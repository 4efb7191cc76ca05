"""A character whom ``tiny_person`` never saw, and clips of others' poses: what it can be tried with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor

from ..animate_anyone.pose_files import openpose_frame
from .characters import HEIGHT, WIDTH, Character, character_keypoints, picture_of, sample_character
from .motions import Performance

_SEED = 5
_FRAMES = 40
_STANDING = Performance("idle", yaw=0.0, start=0.0, pace=0.0, manner=0)
SAMPLE_CLIPS: Mapping[str, Performance] = {
    "walking": Performance("walk", yaw=0.7, start=0.0, pace=1 / 20, manner=3),
    "jumping_jacks": Performance("jacks", yaw=0.0, start=0.0, pace=1 / 20, manner=3),
}


def _other_build(number: int) -> Character:
    """Another character, whose poses the clips are."""
    return sample_character(np.random.default_rng(number), "held_out")


def sample_portrait() -> Tensor:
    """The character, ``[3, h, w]`` in [-1, 1]."""
    return picture_of(sample_character(np.random.default_rng(_SEED), "held_out"), _STANDING.pose(0))[0]


def sample_poses(name: str) -> list[dict[str, Any]]:
    """Keypoints of one of :data:`SAMPLE_CLIPS` as in a file of OpenPose's, a frame each."""
    number = list(SAMPLE_CLIPS).index(name) + 1
    mover, clip = _other_build(_SEED + number), SAMPLE_CLIPS[name]
    people = [character_keypoints(mover, clip.pose(frame)) for frame in range(_FRAMES)]
    return [_rounded(openpose_frame(person, (WIDTH, HEIGHT))) for person in people]


def _rounded(value: Any) -> Any:
    """Numbers to a hundredth of a pixel."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in cast(dict[str, Any], value).items()}
    return [_rounded(each) for each in cast(list[Any], value)] if isinstance(value, list) else value
