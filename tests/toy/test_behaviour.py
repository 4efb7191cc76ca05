"""The table of what a model does tells true clips from clips whose subject is gone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamicrafter.api import load
from dynamicrafter.pipeline import Model
from dynamicrafter.toy.behaviour import measure_behaviour
from dynamicrafter.toy.world import Scenes, draw_scenes, make_clips

FRAMES = 16


def vanished(scenes: Scenes, frames: int) -> Tensor:
    clips = make_clips(scenes, frames)
    empty = replace(scenes, present=torch.zeros_like(scenes.present))
    clips[:, 1:] = draw_scenes(empty, torch.zeros(len(scenes), 1))
    return clips


@pytest.mark.parametrize(("act", "share"), [(make_clips, 1.0), (vanished, 0.0)])
def test_the_table_tells_true_clips_from_vanished_subjects(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Scenes, int], Tensor], share: float
) -> None:
    """A stand-in for the network shows what was told, or a subject that is gone after the first frame."""

    def acted(model: Model, scenes: Scenes, *_: object) -> Tensor:
        return act(scenes, FRAMES)

    monkeypatch.setattr("dynamicrafter.toy.behaviour.generate_clips", acted)
    figures = measure_behaviour(load(small_weights, device="cpu"), items=8)
    assert not any(math.isnan(value) for value in figures.values())
    assert {name: value for name, value in figures.items() if "share" in name} == {
        "prompted direction, share": share,
        "same share without a prompt": share / 4,
        "colour kept to the last frame, share": share,
        "shape kept to the last frame, share": share,
        "stands still when told, share": share,
        "grows when told, share": share,
        "shrinks when told, share": share,
        "turns when told, share": share,
        "changes colour when told, share": share,
        "two at once, each as told, share": share,
        "slower with every higher fs, share": share,
    }
    ways = [value for name, value in figures.items() if name.endswith("pixels")]
    assert all(way > 5 for way in ways) if share else ways == [0, 0, 0]
