"""Options of the noise process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Prediction = Literal["eps", "v"]
Spacing = Literal["uniform", "uniform_trailing", "linspace"]
Betas = Literal["roots", "linear"]

SAMPLER_MEANINGS: dict[str, str] = {
    "ddim": "DDIM, as released",
    "euler": "first order, no added noise",
    "heun": "second order, no added noise, two evaluations a step",
    "dpmpp_2m": "DPM-Solver++, second order, no added noise",
    "dpmpp_2m_sde": "DPM-Solver++, second order, with added noise",
    "unipc": "predictor and corrector, no added noise",
}
"""Name and short description of every sampler; :mod:`.samplers` has the functions."""

WITHOUT_ETA = frozenset({"euler", "heun", "dpmpp_2m", "unipc"})
"""Samplers that add no noise, so that eta must be 0."""

SECOND_EVALUATION = frozenset({"heun"})
"""Samplers that evaluate the denoiser a second time in each step but the last, at the timestep of the next one."""


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
