"""Draw the example character in ``pictures/``, whom ``tiny_person`` never saw, and write clips of others' poses.

Usage, in the top folder: ``python -m tools.make_characters``
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dynamicrafter.animate_anyone.pose_files import openpose_frame
from dynamicrafter.cartoon.characters import (
    HEIGHT,
    WIDTH,
    Character,
    character_keypoints,
    picture_of,
    sample_character,
)
from dynamicrafter.cartoon.motions import Performance

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
SEED = 5
STANDING = Performance("idle", yaw=0.0, start=0.0, pace=0.0, manner=0)
CLIPS = {
    "walking": Performance("walk", yaw=0.7, start=0.0, pace=1 / 20, manner=3),
    "jumping_jacks": Performance("jacks", yaw=0.0, start=0.0, pace=1 / 20, manner=3),
}
FRAMES = 40


def other_build(number: int) -> Character:
    """Another character, whose poses the clips are."""
    return sample_character(np.random.default_rng(number), "held_out")


def main() -> None:
    """Write all of them."""
    character = sample_character(np.random.default_rng(SEED), "held_out")
    pixels = ((picture_of(character, STANDING.pose(0))[0] + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.movedim(0, -1).numpy()).save(FOLDER / "character.png", optimize=True)
    for number, (name, clip) in enumerate(CLIPS.items(), 1):
        mover = other_build(SEED + number)
        people = [character_keypoints(mover, clip.pose(frame)) for frame in range(FRAMES)]
        frames = [openpose_frame(person, (WIDTH, HEIGHT)) for person in people]
        text = json.dumps(rounded(frames), separators=(",", ":")).replace('{"people"', '\n{"people"')
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def rounded(value: object) -> object:
    """Numbers to a hundredth of a pixel."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
