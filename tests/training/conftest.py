"""Clips, lists and a small model for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_clips import write_movie, write_rows

from dynamicrafter.toy.world import captions, make_clips, sample_scenes


@pytest.fixture
def clip_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of toy clips with captions.csv."""

    def make(count: int = 3, frames: int = 6, name: str = "clips") -> Path:
        folder = tmp_path / name
        scenes = sample_scenes(count, torch.Generator().manual_seed(1))
        clips = make_clips(scenes, frames)
        for index, clip in enumerate(clips):
            write_movie(folder / f"{index}.mp4", clip)
        rows = [[f"{index}.mp4", caption] for index, caption in enumerate(captions(scenes))]
        write_rows(folder / "captions.csv", ["path", "caption"], rows)
        return folder

    return make
