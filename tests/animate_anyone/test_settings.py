"""The settings of a clip of a person."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamicrafter.animate_anyone.api import PersonSettings
from dynamicrafter.errors import UsageError


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
