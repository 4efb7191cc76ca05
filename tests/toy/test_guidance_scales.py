"""The effect of each guidance scale by itself, on a stand-in whose effect is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamicrafter.api import load
from dynamicrafter.pipeline import Model
from dynamicrafter.settings import Settings
from dynamicrafter.toy.scales import measure_scales, scale_pairs
from dynamicrafter.toy.world import Scenes, captions, make_clips, with_motion


def test_one_scale_is_raised_while_the_other_stays() -> None:
    assert scale_pairs() == [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)]


def test_what_each_scale_does_is_found(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in goes the right way only when the text's scale is raised, and is sharp only when the picture's is."""
    asked: list[tuple[float, float | None]] = []

    def acted(
        _: Model, scenes: Scenes, prompts: Sequence[str], settings: Settings, seed: int, **__: object
    ) -> Tensor:
        assert list(prompts) == captions(scenes) and seed == 3
        asked.append((settings.cfg, settings.image_cfg))
        shown = scenes if settings.cfg > 1 else with_motion(scenes, "right", 10)
        clips = make_clips(shown, settings.frames)
        noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
        return clips + (0.01 if (settings.image_cfg or 0) > 1 else 0.05) * noise

    monkeypatch.setattr("dynamicrafter.toy.scales.generate_clips", acted)
    heard: dict[str, float] = {}
    model = load(small_weights, device="cpu")
    figures = measure_scales(model, items=8, seed=3, report=heard.__setitem__)
    assert heard == figures and len(figures) == 15
    assert asked == scale_pairs()
    right = {
        pair: figures[f"text scale {pair[0]:g}, image scale {pair[1]:g}: prompted direction, share"]
        for pair in scale_pairs()
    }
    assert right == {(1, 1): 0.25, (2, 1): 1, (4, 1): 1, (1, 2): 0.25, (1, 4): 0.25}
    first = "first frame to the picture, dB"
    assert (
        figures[f"text scale 1, image scale 2: {first}"]
        > figures[f"text scale 2, image scale 1: {first}"] + 10
    )
    assert figures["text scale 2, image scale 1: distance, pixels"] > 10


def test_a_random_model_is_measured_at_every_pair(
    small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicrafter.toy.scales.SCALES", (1.0, 2.0))
    figures = measure_scales(load(small_weights, device="cpu"), items=4, steps=1)
    shares = [value for name, value in figures.items() if name.endswith("share")]
    assert len(shares) == 3 and all(0 <= share <= 1 for share in shares)
    sharpness = [value for name, value in figures.items() if name.endswith("dB")]
    assert len(set(sharpness)) == 3
