"""Where sampling starts other than from pure noise, and clean latents that stay where they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .denoiser import Denoise, DenoiseWrapper, Estimate
from .schedule import Plan


@dataclass(frozen=True)
class SourceClip:
    """Clean latents that sampling starts from or keeps in part."""

    latents: Tensor
    """Scaled, float32 ``[b, 4, t, h, w]``."""
    mask: Tensor | None = None
    """What may change, ``[b, 1, 1 or t, h, w]`` from 0 (nothing) to 1 (from the first step on); None is all of it."""

    def to(self, device: torch.device) -> SourceClip:
        """The same on another device."""
        return SourceClip(self.latents.to(device), None if self.mask is None else self.mask.to(device))


@dataclass(frozen=True)
class AnalyticInit:
    """Noise to start from below the highest level, with the mean and the variance that noisy latents have there.

    Analytic-Init of arXiv 2406.15735, with the mean of each channel instead of one for each value.
    """

    means: tuple[float, float, float, float]
    """Of the scaled clean latents' channels."""
    variance: float
    """Mean squared distance of clean latents from those means."""
    published: bool = False
    """Whether the dynamic rescale is left out, as in the published code, although it is part of the noisy latents."""

    def start(self, plan: Plan, noise: Tensor) -> Tensor:
        """Latents of the plan's first step for standard normal ``noise``."""
        signal, spread, scale = plan.schedule.level(plan.timesteps[-1])
        signal *= 1.0 if self.published else scale
        mean = torch.tensor(self.means, device=noise.device)[:, None, None, None]
        return signal * mean + (spread**2 + signal**2 * self.variance) ** 0.5 * noise


def keep_unmasked(source: SourceClip, plan: Plan, noise: Tensor) -> DenoiseWrapper:
    """Keep the source's latents where its mask is 0, with ``noise`` ``[b, 4, t, h, w]`` that is the same in each step.

    A value m of the mask between 0 and 1 becomes free from the fraction 1 - m of the steps on: a blend of two noises in
    one place would have too little variance.
    """
    free = _free_by_timestep(source, plan)
    clean, schedule = source.latents, plan.schedule

    def wrap(denoise: Denoise) -> Denoise:
        def masked(x: Tensor, timestep: int) -> Estimate:
            where = free[timestep]
            made = denoise(torch.where(where, x, schedule.noised(clean, noise, timestep)), timestep)
            known = clean * schedule.level(timestep)[2]
            return Estimate(torch.where(where, made.x0, known), torch.where(where, made.noise, noise))

        return masked

    return wrap


def put_back(latents: Tensor, source: SourceClip, plan: Plan, end: float) -> Tensor:
    """Sampled ``latents`` with the source's where they could not change; ``end`` is the scale of the result."""
    return torch.where(_free_by_timestep(source, plan)[plan.timesteps[0]], latents, source.latents * end)


def _free_by_timestep(source: SourceClip, plan: Plan) -> dict[int, Tensor]:
    """Where latents may change at each timestep."""
    assert source.mask is not None
    count = len(plan.timesteps)
    descending = plan.timesteps[::-1]
    return {timestep: source.mask >= 1 - index / count for index, timestep in enumerate(descending)}


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """The mask of latents for one of pixels, ``[b, 1, H, W]`` to ``[b, 1, 1, H / factor, W / factor]``, both 0 to 1.

    Each value is the mean of its pixels, then the largest of its neighbours, because a pixel shows in the latents
    around its own.
    """
    return F.max_pool2d(F.avg_pool2d(mask, factor), 3, stride=1, padding=1).unsqueeze(2)
