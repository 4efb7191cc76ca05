"""Options of the noise process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Prediction = Literal["eps", "v"]
Spacing = Literal["uniform", "uniform_trailing", "linspace"]
Betas = Literal["roots", "linear"]

SAMPLER_MEANINGS: dict[str, str] = {"ddim": "DDIM, as released"}
"""Name and short description of every sampler; :mod:`.samplers` has the functions."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process: 1000 steps, betas from 0.00085 to 0.012."""

    prediction: Prediction = "v"
    zero_snr: bool = True
    """Whether betas are rescaled so that the last step is pure noise (arXiv 2305.08891)."""
    base_scale: float | None = 0.7
    """End value of the dynamic rescale of x0, reached at step 400; None for variants without it."""
    betas: Betas = "roots"
    """Whether the square roots of the betas are evenly spaced, or the betas themselves (AnimateAnyone)."""
