"""The noise schedule: noise levels, zero-terminal SNR, dynamic rescale and the choice of timesteps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .config import DiffusionConfig, Prediction, Spacing

TRAIN_STEPS = 1000
_FIRST_BETA, _LAST_BETA = 0.00085, 0.012
_RESCALE_STEPS = 400
"""Timestep at which the dynamic rescale reaches its end value."""


@dataclass(frozen=True)
class Schedule:
    """Constants of the noise process for t = 0..999, float32 as the checkpoints store them."""

    prediction: Prediction
    betas: Tensor
    alphas_cumprod: Tensor
    """abar_t: fraction of the clean latents' power left at t; exactly 0 at the end with zero-terminal SNR."""
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    scale: Tensor | None
    """Dynamic rescale of the clean latents at each t (1400 entries, the last 400 unused), or None."""

    def level(self, timestep: int) -> tuple[float, float, float]:
        """The factors of clean latents and noise at a timestep, and the rescale that the clean latents also have."""
        scale = 1.0 if self.scale is None else self.scale[timestep].item()
        signal, noise = self.sqrt_alphas_cumprod[timestep], self.sqrt_one_minus_alphas_cumprod[timestep]
        return signal.item(), noise.item(), scale

    def noised(self, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """``clean`` latents (without the dynamic rescale) at a timestep, as in training: ``sqrt(abar) s x0 +
        sqrt(1 - abar) noise``."""
        signal, spread, scale = self.level(timestep)
        return (signal * scale) * clean + spread * noise


def make_schedule(config: DiffusionConfig) -> Schedule:
    """The schedule of a variant, bit-identical to the original's.

    It is stored as float32, and computed in float64, except for evenly spaced betas.
    """
    if config.betas == "linear":
        betas = torch.linspace(_FIRST_BETA, _LAST_BETA, TRAIN_STEPS, dtype=torch.float32)
    else:
        roots = torch.linspace(_FIRST_BETA**0.5, _LAST_BETA**0.5, TRAIN_STEPS, dtype=torch.float64)
        betas = roots**2
    if config.zero_snr:
        betas = _zero_snr(betas)
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    scale = None
    if config.base_scale is not None:
        ramp = torch.linspace(1.0, config.base_scale, _RESCALE_STEPS, dtype=torch.float64)
        scale = torch.cat([ramp, torch.full((TRAIN_STEPS,), config.base_scale, dtype=torch.float64)]).float()
    return Schedule(
        prediction=config.prediction,
        betas=betas.float(),
        alphas_cumprod=alphas_cumprod.float(),
        sqrt_alphas_cumprod=alphas_cumprod.sqrt().float(),
        sqrt_one_minus_alphas_cumprod=(1 - alphas_cumprod).sqrt().float(),
        scale=scale,
    )


def _zero_snr(betas: Tensor) -> Tensor:
    """Betas shifted and scaled so that the last step contains no signal (arXiv 2305.08891, algorithm 1)."""
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    abar = ((roots - last) * (first / (first - last))) ** 2
    alphas = torch.cat([abar[:1], abar[1:] / abar[:-1]])
    return 1 - alphas


def timesteps(spacing: Spacing, steps: int, levels: int = TRAIN_STEPS) -> list[int]:
    """Ascending timesteps below ``levels`` (1000 for all) for about ``steps`` denoising steps (1 to ``levels``).

    For 1000 levels:

    "uniform" takes every ``1000 // steps``-th step from 1, which can be a few more than requested;
    "uniform_trailing" counts down from 999 in equal, rounded strides. Indices outside 0..999, at which the original
    fails or wraps around, are omitted. "linspace" (arXiv 2305.08891, table 2), which the original does not have, spaces
    them evenly from 1 to 999: it starts at pure noise like "uniform_trailing" and ends at timestep 1 like "uniform",
    where the dynamic rescale is close to 1. The last step leaves the clean latents scaled by the dynamic rescale of the
    lowest timestep: 0.94 with 12 trailing steps and a base scale of 0.7.
    """
    if not 1 <= steps <= levels:
        raise ValueError(f"steps must be 1 to {levels}, not {steps}")
    if spacing == "uniform":
        chosen = [t + 1 for t in range(0, levels, levels // steps)]
    elif spacing == "linspace":
        gap = (levels - 2) / max(1, steps - 1)
        # 1000 steps map to only 999 timesteps; the set removes the duplicate.
        chosen = sorted({round(levels - 1 - i * gap) for i in range(steps)})
    else:
        # The original computes the stride as the difference of its first two values, whose rounding error decides how
        # a half is rounded (48 steps), and rounds half to even. Counting by index never adds an entry below zero.
        stride = levels - (levels - levels / steps)
        chosen = [round(levels - i * stride) - 1 for i in reversed(range(steps))]
    return [t for t in chosen if 0 <= t < levels] or [levels - 1]


@dataclass(frozen=True)
class Plan:
    """The timesteps a sampler visits and how much noise it adds at each step."""

    schedule: Schedule
    timesteps: list[int]
    """Ascending; samplers visit them from the last to the first."""
    eta: float
    """0 (deterministic steps) to 1 (as much added noise as DDPM)."""
    targets: list[int]
    """The timestep at which each step ends; -1 for clean latents."""

    def last(self, fraction: float) -> Plan:
        """The plan of the last ``fraction`` of the steps, rounded to whole steps, at least one."""
        count = max(1, round(fraction * len(self.timesteps)))
        return replace(self, timesteps=self.timesteps[:count], targets=self.targets[:count])

    @property
    def end(self) -> float:
        """What DDIM leaves of the clean latents: the signal at its last target, in the scale of its last timestep."""
        signal = 1.0 if self.targets[0] < 0 else self.schedule.sqrt_alphas_cumprod[self.targets[0]].item()
        scale = self.schedule.scale
        return signal * (1.0 if scale is None else scale[self.timesteps[0]].item())


def make_plan(
    schedule: Schedule, spacing: Spacing, steps: int, eta: float, levels: int = TRAIN_STEPS
) -> Plan:
    """A plan for about ``steps`` steps, see :func:`timesteps`; each ends where the next begins, the last at 0."""
    chosen = timesteps(spacing, steps, levels)
    return Plan(schedule, chosen, eta, [0, *chosen[:-1]])


def make_strided_plan(schedule: Schedule, steps: int, eta: float) -> Plan:
    """A plan of AnimateAnyone: each step ends ``1000 // steps`` before its timestep, not where the next begins.

    The last one ends at clean latents, or at timestep 0 if 1000 is not a multiple of ``steps``.
    """
    chosen = timesteps("uniform_trailing", steps)
    return Plan(schedule, chosen, eta, [max(-1, t - TRAIN_STEPS // steps) for t in chosen])
