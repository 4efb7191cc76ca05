"""Samplers as pure functions of a denoiser: from noise to latents, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import Denoise
from .schedule import Plan


@dataclass(frozen=True)
class Step:
    """The argument of a callback after each step."""

    index: int
    """0 for the first executed step."""
    total: int
    timestep: int
    x: Tensor
    """Latents after the step, float32 ``[b, 4, t, h, w]``."""
    x0: Tensor
    """The step's estimate of the clean latents with the dynamic rescale applied; same shape as ``x``."""


Callback = Callable[[Step], None]
"""Called after every step; an exception it raises stops the run."""


class Sampler(Protocol):
    """Turns noise into latents."""

    def __call__(
        self,
        denoise: Denoise,
        plan: Plan,
        x: Tensor,
        draw: Callable[[], Tensor],
        callback: Callback | None = None,
    ) -> Tensor:
        """Run all steps of ``plan`` on the noise ``x`` (float32 ``[b, 4, t, h, w]``); returns latents of that shape.

        ``draw`` returns new standard normal noise of the shape of ``x``. It is called once per step even if eta is 0,
        so that the random numbers of a seed do not depend on eta.
        """
        ...


@dataclass(frozen=True)
class DdimConstants:
    """Constants of a DDIM run, one for each timestep of its plan; float32 ``[n]``."""

    alphas: Tensor
    """abar at each step."""
    alphas_prev: Tensor
    """abar at the step's target; DynamiCrafter's last executed step ends at abar[0], not at 1."""
    sigmas: Tensor
    """Standard deviation of the noise added at the step."""
    rescale: Tensor
    """Factor applied to x0: the dynamic rescale at the target over that at the step (1 without dynamic rescale)."""


def ddim_constants(plan: Plan) -> DdimConstants:
    """Constants for DDIM (arXiv 2010.02502, equation 16) from the float32 abar, as in the original."""
    schedule, chosen = plan.schedule, plan.timesteps
    alphas = schedule.alphas_cumprod[chosen]
    # Index -1, the clean latents, has nothing but signal.
    alphas_prev = torch.cat([schedule.alphas_cumprod, torch.ones(1)])[plan.targets].double()
    sigmas = plan.eta * ((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev)).sqrt()
    rescale = torch.ones(len(chosen))
    if schedule.scale is not None:
        scale = schedule.scale[chosen]
        rescale = torch.cat([scale[:1], scale[:-1]]) / scale
    return DdimConstants(alphas, alphas_prev.float(), sigmas.float(), rescale)


def ddim_step(x0: Tensor, noise: Tensor, fresh: Tensor, constants: DdimConstants, i: int) -> Tensor:
    """Latents at the target of step ``i`` from (rescaled) x0, the estimated noise and new standard normal noise.

    ``sqrt(aprev) x0 + sqrt(1 - aprev - sigma^2) noise + sigma fresh`` (arXiv 2010.02502, equation 12). The middle
    root's argument is evaluated in float32 and clamped at 0: at some step counts it rounds to a negative number, where
    the original returns NaN.
    """
    previous, sigma = (value[i].to(x0.device) for value in (constants.alphas_prev, constants.sigmas))
    direction = (1 - previous - sigma * sigma).clamp(min=0).sqrt() * noise
    return previous.sqrt() * x0 + direction + sigma * fresh


def sample_ddim(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502) with the released models' dynamic rescale, as :class:`Sampler`."""
    constants = ddim_constants(plan)
    total = len(plan.timesteps)
    for index, i in enumerate(reversed(range(total))):
        timestep = plan.timesteps[i]
        estimate = denoise(x, timestep)
        x0 = estimate.x0 * constants.rescale[i].to(x.device)
        x = ddim_step(x0, estimate.noise, draw(), constants, i)
        if callback is not None:
            callback(Step(index, total, timestep, x, x0))
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": sample_ddim}
"""Every sampler by name; :data:`~dynamicrafter.diffusion.config.SAMPLER_MEANINGS` describes them."""


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal float32 ``[b, *shape]`` on ``device``, one generator for each clip of the batch.

    Noise is generated on each generator's own device, so that a clip does not depend on the rest of the batch nor, with
    CPU generators, on the device the model runs on.
    """
    drawn = [
        torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float32)
        for generator in generators
    ]
    return torch.stack([noise.to(device) for noise in drawn])
