"""Network, schedule, guidance and conditions as one function from noisy latents to an estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.conditioning import Conditioning, Context
from .guidance import Guidance
from .schedule import Schedule


@dataclass(frozen=True)
class Estimate:
    """What a denoiser makes of noisy latents at one timestep; both float32 ``[b, 4, t, h, w]``."""

    x0: Tensor
    """Clean latents, before the dynamic rescale of the sampler."""
    noise: Tensor
    """The noise in the input."""


Network = Callable[[Tensor, Tensor, Context, Tensor], Tensor]
"""``(x [b, 8, t, h, w], timesteps [b], context, fs [b]) -> [b, 4, t, h, w]``: the UNet, or a host's stand-in."""

Denoise = Callable[[Tensor, int], Estimate]
"""``(x [b, 4, t, h, w] float32, timestep) -> Estimate``: all that a sampler knows of the model."""


def make_denoiser(
    network: Network,
    schedule: Schedule,
    conditioning: Conditioning,
    guidance: Guidance,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    """A function that evaluates the network once for each branch of the guidance and translates the result.

    The network computes in ``dtype``; combining and translating happen in float32.
    """
    contexts = {
        "full": conditioning.full,
        "unconditional": conditioning.unconditional,
        "image_only": conditioning.image_only,
    }
    concat = conditioning.concat.to(dtype)

    def denoise(x: Tensor, timestep: int) -> Estimate:
        joined = torch.cat([x.to(dtype), concat], dim=1)
        t = torch.full((x.shape[0],), timestep, dtype=torch.int64, device=x.device)
        outputs = [
            network(joined, t, contexts[branch], conditioning.fs).float() for branch in guidance.branches
        ]
        return translate(guidance.combine(outputs), x, schedule, timestep)

    return denoise


def translate(output: Tensor, x: Tensor, schedule: Schedule, timestep: int) -> Estimate:
    """What a network output means for ``x`` at ``timestep``, by the schedule's parameterisation.

    v: noise = sqrt(abar) v + sqrt(1 - abar) x and x0 = sqrt(abar) x - sqrt(1 - abar) v (arXiv 2202.00512).
    eps: the output is the noise.
    """
    if schedule.prediction == "v":
        signal = schedule.sqrt_alphas_cumprod[timestep].to(x.device)
        noise = schedule.sqrt_one_minus_alphas_cumprod[timestep].to(x.device)
        return Estimate(x0=signal * x - noise * output, noise=signal * output + noise * x)
    abar = schedule.alphas_cumprod[timestep].to(x.device)
    return Estimate(x0=(x - (1 - abar).sqrt() * output) / abar.sqrt(), noise=output)
