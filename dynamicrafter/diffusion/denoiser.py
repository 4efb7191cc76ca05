"""Combines network outputs, schedule and guidance into one function from noisy latents to an estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .guidance import Branch, Guidance
from .schedule import Schedule


@dataclass(frozen=True)
class Estimate:
    """A denoiser's output for noisy latents at one timestep; both float32 ``[b, 4, t, h, w]``."""

    x0: Tensor
    """Clean latents, before the dynamic rescale of the sampler."""
    noise: Tensor
    """The noise in the input."""


Evaluate = Callable[[Tensor, int, Sequence[Branch]], Sequence[Tensor]]
"""``(x [b, 4, t, h, w] float32, timestep, branches) -> network outputs``, one float32 tensor for each branch."""

EvaluateWrapper = Callable[[Evaluate], Evaluate]
"""Wraps the evaluations, to change what the guidance combines."""

Denoise = Callable[[Tensor, int], Estimate]
"""``(x [b, 4, t, h, w] float32, timestep) -> Estimate``: the only view of the model that a sampler has."""

DenoiseWrapper = Callable[[Denoise], Denoise]
"""Wraps a denoiser, for example with masks, locked frames or a guidance schedule."""


def make_denoiser(
    evaluate: Evaluate, schedule: Schedule, guidance: Guidance | Mapping[int, Guidance]
) -> Denoise:
    """A function that evaluates the guidance's branches, combines them and converts the result to an estimate.

    ``guidance`` may be one for each timestep, see :func:`~dynamicrafter.sampling.guidance_of`.
    """

    def denoise(x: Tensor, timestep: int) -> Estimate:
        now = guidance[timestep] if isinstance(guidance, Mapping) else guidance
        return translate(now.combine(evaluate(x, timestep, now.branches)), x, schedule, timestep)

    return denoise


def translate(output: Tensor, x: Tensor, schedule: Schedule, timestep: int) -> Estimate:
    """Convert a network output for ``x`` at ``timestep`` to an estimate, by the schedule's parameterisation.

    v: noise = sqrt(abar) v + sqrt(1 - abar) x and x0 = sqrt(abar) x - sqrt(1 - abar) v (arXiv 2202.00512).
    eps: the output is the noise.
    """
    # The schedule's numbers stay on the CPU: sending one to a GPU would wait for all its work.
    if schedule.prediction == "v":
        signal = schedule.sqrt_alphas_cumprod[timestep]
        noise = schedule.sqrt_one_minus_alphas_cumprod[timestep]
        return Estimate(x0=signal * x - noise * output, noise=signal * output + noise * x)
    abar = schedule.alphas_cumprod[timestep]
    return Estimate(x0=(x - (1 - abar).sqrt() * output) / abar.sqrt(), noise=output)
