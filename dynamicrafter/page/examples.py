"""Images, stories and poses to try the page with, drawn when it starts: of the toy world and of that of persons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..cartoon.samples import SAMPLE_CLIPS, sample_portrait, sample_poses
from ..model.variants import TINY
from ..toy.world import captions, draw_scenes, sample_scenes

_SCENES = (("right", 0), ("up", 1), ("grow", 3), ("left", 12))
"""Motions and seeds."""
_ENLARGED = 4
"""64 pixels are small on a page; the model sees those again."""


@dataclass(frozen=True)
class PageExample:
    """An image, one of the same scene at its end, and the prompt between them."""

    first: Path
    last: Path
    prompt: str


@dataclass(frozen=True)
class PageExamples:
    """All that is drawn."""

    clips: tuple[PageExample, ...]
    character: Path
    """For the built-in model of persons."""
    poses: Mapping[str, Path]
    """Keypoints by the name of the motion."""

    @property
    def story_pictures(self) -> tuple[Path, Path]:
        """The images of the stories."""
        return self.clips[0].first, self.clips[1].first

    @property
    def story_text(self) -> str:
        """A story as plain text."""
        one, other = self.clips[:2]
        back = one.prompt.replace("right", "left")
        return f"[{one.first.name}] {one.prompt}\n\n{back}\n\n[{other.first.name}] {other.prompt}"

    @property
    def story_yaml(self) -> str:
        """The same with transitions and sounds."""
        one, other = self.clips[:2]
        return (
            f"sound: sea\nscenes:\n"
            f"  - picture: {one.first.name}\n    prompt: {one.prompt}\n"
            f"  - picture: {other.first.name}\n    prompt: {other.prompt}\n"
            f"    transition: cross-fade\n    sound: rain\n"
        )


def draw_examples(folder: Path) -> PageExamples:
    """Draw the examples into ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    fs = TINY.preset.fs
    clips: list[PageExample] = []
    for motion, seed in _SCENES:
        scene = sample_scenes(1, torch.Generator().manual_seed(seed), motions=(motion,), fs=(fs, fs))
        frames = draw_scenes(scene, torch.tensor([[0.0, 1.0]]))[0]
        first, last = (folder / f"{motion}_{name}.png" for name in ("first", "last"))
        _write(first, frames[0], _ENLARGED)
        _write(last, frames[1], _ENLARGED)
        clips.append(PageExample(first, last, captions(scene)[0]))
    character = folder / "character.png"
    _write(character, sample_portrait())
    poses = {name: folder / f"{name}.json" for name in SAMPLE_CLIPS}
    for name, path in poses.items():
        path.write_text(json.dumps(sample_poses(name)), encoding="utf-8")
    return PageExamples(tuple(clips), character, poses)


def _write(path: Path, frame: Tensor, enlarged: int = 1) -> None:
    """A frame ``[3, h, w]`` in [-1, 1] as a PNG."""
    from PIL import Image

    levels = ((frame.movedim(0, 2) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    height, width, _ = levels.shape
    large = (width * enlarged, height * enlarged)
    Image.fromarray(levels).resize(large, Image.Resampling.BICUBIC).save(path)
