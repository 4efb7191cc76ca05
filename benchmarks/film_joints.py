"""Joints and colours of a story in which every scene continues the one before, with `tiny`.

Run with ``python benchmarks/film_joints.py``.

A circle goes right and left, so that it stays in the picture. Colours are those of the circle, of everything else and
of patches in the corners; matching takes away what the frame, its neighbourhoods and clusters of its colours drift.
Drift is the distance of the last scene's mean from that of the first one in CIELAB (delta E 1976), and for the circle
also the angle between their hues, in degrees.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dynamicrafter import Story, StoryScene, story
from dynamicrafter.media.video import read_frames
from dynamicrafter.motion.colour import lab

PICTURE = Path(__file__).parents[1] / "pictures" / "red_circle.png"
OFF = {"colour_match": 0.0, "lock_frames": 0}
_PATCH = 16
_RED = 60
"""Levels by which red exceeds both other channels where the circle is."""


def the_story(scenes: int) -> Story:
    """So many scenes of which each continues the one before."""
    ways = [f"a red circle moves {('right', 'left')[index % 2]}" for index in range(scenes)]
    return Story((StoryScene(ways[0], str(PICTURE)), *(StoryScene(way) for way in ways[1:])), sound="none")


def drift_of(frames: Tensor, starts: list[int]) -> dict[str, float]:
    """How far mean colours of the last scene are from those of the first one; scenes begin at ``starts``."""
    mask = frames[..., 0].int() - frames[..., 1:].amax(-1).int() > _RED
    colours = lab(frames.movedim(-1, 1).float() / 127.5 - 1)
    near, far = slice(None, _PATCH), slice(-_PATCH, None)
    patches = {
        "circle": [[colour[:, inside].mean(1) for colour, inside in zip(colours, mask, strict=True)]],
        "background": [[colour[:, ~inside].mean(1) for colour, inside in zip(colours, mask, strict=True)]],
        "corners": [
            [colour[:, y, x].mean((1, 2)) for colour in colours] for y in (near, far) for x in (near, far)
        ],
    }
    ends = {name: [_first_and_last(each, starts) for each in many] for name, many in patches.items()}
    drift = {name: fmean(float((last - first).norm()) for first, last in many) for name, many in ends.items()}
    first, last = (torch.atan2(mean[2], mean[1]) for mean in ends["circle"][0])
    return {**drift, "hue": angle_between(float(first), float(last))}


def angle_between(first: float, second: float) -> float:
    """Degrees between two directions in radians, 0 to 180."""
    return abs(math.remainder(math.degrees(second - first), 360))


def _first_and_last(colours: list[Tensor], starts: list[int]) -> tuple[Tensor, Tensor]:
    """The mean colours of the first and of the last scene."""
    return torch.stack(colours[: starts[1]]).mean(0), torch.stack(colours[starts[-1] :]).mean(0)


def joints_of(frames: Tensor, starts: list[int]) -> dict[str, float]:
    """Steps of frames at joints over the median step: the smallest is 0 for a repeated frame, the largest a jump."""
    steps = (frames[1:].float() - frames[:-1].float()).abs().flatten(1).mean(1)
    at = steps[[start - 1 for start in starts]] / steps.median()
    return {"smallest": float(at.min()), "largest": float(at.max())}


def measured(scenes: int, seed: int, choices: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of one film."""
    with tempfile.TemporaryDirectory() as folder:
        film = story(the_story(scenes), Path(folder, "film"), seed=seed, device="cpu", **choices)
        frames = read_frames(film.path)
    starts = [round(scene.start * film.fps) for scene in film.scenes]
    return {**drift_of(frames, starts), "joints": joints_of(frames, starts[1:]), "frames": len(frames)}


def main() -> None:
    """Print one JSON line for each film."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    for seed in range(given.seeds):
        for name, choices in (("on", {}), ("off", OFF)):
            found = measured(given.scenes, seed, {"steps": given.steps, **choices})
            print(json.dumps({"seed": seed, "matching": name, **found}), flush=True)


if __name__ == "__main__":
    main()
