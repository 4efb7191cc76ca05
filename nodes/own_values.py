"""Numbers of a node that may be left to the model: what stands for "the model's own", and what is no number at all."""

from __future__ import annotations

import math
from typing import Any

from ..dynamicrafter.errors import UsageError
from ..dynamicrafter.model.variants import Variant
from ..dynamicrafter.settings import Settings, make_settings

OWN = -1.0
"""Leaves a scale or share to the model."""
OWN_COUNT = 0
"""Leaves a whole number to the model."""

LARGEST_CFG = 30.0
_LARGEST = {
    "cfg": LARGEST_CFG,
    "image_cfg": LARGEST_CFG,
    "eta": 1.0,
    "guidance_rescale": 1.0,
    "motion": 1.0,
}
"""Upper end of each such number; 0 is the lower end of all."""
_OTHERWISE = {"image_cfg": "the value of cfg"}
"""What -1 stands for where it is not the model's own value."""


def problem_of(**values: float | None) -> str | None:
    """What is wrong with numbers that may be left to the model, in one sentence, or None.

    None stands for a number that is linked and not known yet.
    """
    for name, value in values.items():
        if value is None or value == OWN:
            continue
        # A comparison with "not a number" is false, so that is refused too.
        if not 0 <= value <= _LARGEST[name]:
            otherwise = _OTHERWISE.get(name, "the model's own value")
            return (
                f"{name} must be 0 to {_LARGEST[name]:g}, or -1 for {otherwise}, but {value:g} was given"
                if math.isfinite(value)
                else f"{name} must be a number, or -1 for {otherwise}, but {value} was given"
            )
    return None


def settings_of(
    variant: Variant,
    *,
    steps: int,
    cfg: float,
    image_cfg: float,
    eta: float,
    guidance_rescale: float,
    spacing: str | None,
    seed: int,
) -> Settings:
    """The settings of a run, with the variant's presets for all that is left to it, as the command resolves them.

    Raises ValueError with one sentence for a number out of its range.
    """
    scales = {"cfg": cfg, "image_cfg": image_cfg, "eta": eta, "guidance_rescale": guidance_rescale}
    wrong = problem_of(**scales)
    if wrong:
        raise ValueError(wrong)
    if steps < OWN_COUNT:
        raise ValueError(f"steps must be 1 to 1000, or 0 for the model's own number, but {steps} was given")
    chosen: dict[str, Any] = {name: None if value == OWN else value for name, value in scales.items()}
    try:
        return make_settings(
            variant, variant.modes[0], steps=steps or None, spacing=spacing, seed=seed, **chosen
        )
    except UsageError as problem:
        raise ValueError(str(problem)) from problem
