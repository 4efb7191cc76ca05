"""A clip of a person from Python: its settings and its poses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynamicrafter.animate_anyone.api import PersonSettings
from dynamicrafter.animate_anyone.pipeline import condition_person
from dynamicrafter.errors import UsageError
from tests.animate_anyone.small_person import small_person


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("width", 512.0), ("height", 768.0), ("steps", 2.5), ("steps", True), ("seed", 1.5)),
        *(("seed", "7"), ("window", 24.0), ("overlap", 0.5), ("overlap", False)),
    ],
)
def test_counts_must_be_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a whole number, but {value!r} was given"):
        PersonSettings(**{name: value})


def test_whole_numbers_of_numpy_and_fractional_scales_are_taken() -> None:
    steps: Any = np.int64(3)
    settings = PersonSettings(steps=steps, cfg=2.5, eta=0.5)
    assert (settings.steps, settings.cfg, settings.eta) == (3, 2.5, 0.5)


def test_poses_may_be_drawn_as_they_are_read() -> None:
    shades = (10, 20, 30)

    class Drawn:
        def __len__(self) -> int:
            return len(shades)

        def __iter__(self) -> Iterator[Image.Image]:
            return (Image.new("RGB", (32, 32), (shade,) * 3) for shade in shades)

    with torch.inference_mode():
        poses = condition_person(small_person(), Image.new("RGB", (50, 80)), Drawn(), 68, 72).poses
    assert poses.shape == (3, 3, 72, 64)
    assert poses[:, 0, 0, 0].tolist() == list(shades)
