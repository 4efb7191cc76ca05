"""The noise process in terms of sigma', in which samplers of the k-diffusion family carry the dynamic rescale exactly.

With abar and the rescale s of a timestep, the latents are ``x = sqrt(abar) s x0 + sqrt(1 - abar) noise``. In
``y = x / (sqrt(abar) s)`` this is ``y = x0 + sigma noise`` with ``sigma = sqrt(1 - abar) / (sqrt(abar) s)``: an
ordinary variance-exploding process whose Euler step is the DDIM step without fresh noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Prediction
from .schedule import TRAIN_STEPS, Schedule

_TOP_RATIO = 4.0
"""Least ratio of the stand-in for the infinite sigma of pure noise to the sigma below it.

A larger one costs float32 digits in the first Euler step, a smaller one lets some of the estimate into the noise. The
next power of two is taken, by which multiplying and dividing lose no digits: 2^14 for a base scale of 0.7, 2^15 for
0.3. Largest difference of Euler to our DDIM, relative to the largest latent, with 5, 10, 25 and 50 steps over twelve
seeds: 8e-5, 5e-5, 7e-5, 8e-5; of the variant that ends in less than pure noise (256): 1e-6. Fewer steps are further
off: 1e-4 with 4, 5e-4 with 2.
"""
_FIRST_TARGET = 849
"""Timestep that the first step is taken to end at, for the share of the estimate that the finite stand-in takes away.

7 steps end their first at about this one, so that nothing is left of that share; more steps keep at most all of it.
Without this correction, 5 steps are off by 1.1e-4."""


@dataclass(frozen=True)
class Sigmas:
    """Noise levels sigma' of the timesteps 0..999, all float32 ``[1000]``."""

    prediction: Prediction
    pure_noise: bool
    """Whether the last level holds no signal, so that its sigma' is a finite stand-in for infinity."""
    sigmas: Tensor
    log_sigmas: Tensor
    scale: Tensor
    """Dynamic rescale of x0; 1 where there is none."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep whose noise level is nearest."""
        distance = sigma.log().to(self.log_sigmas.device) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level of a (fractional) timestep."""
        last = len(self.sigmas) - 1
        t = timestep.float().to(self.log_sigmas.device).clamp(0, last)
        low, high, weight = t.floor().long(), t.ceil().long(), t.frac()
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[high], weight).exp().to(timestep.device)

    def network_input(self, sigma: Tensor, y: Tensor) -> Tensor:
        """The network's input x for the latents y."""
        signal, _, scale = self._coefficients(sigma, y)
        return y * (signal * scale)

    def denoised(self, sigma: Tensor, output: Tensor, y: Tensor) -> Tensor:
        """The clean latents that a network output means for the latents y."""
        signal, noise, scale = self._coefficients(sigma, y)
        x = y * (signal * scale)
        if self.prediction == "eps":
            return (x - noise * output) / (signal * scale)
        if self.pure_noise:
            # At the top there is no signal at all; what the finite stand-in adds is taken out again.
            highest = self.sigmas[-1].to(sigma)
            top = _column(sigma, y) >= highest * (1 - 1e-5)
            kept = 1 - self.sigmas[_FIRST_TARGET].to(sigma) / highest
            signal, noise = torch.where(top, 0.0, signal), torch.where(top, 1 / kept, noise)
        return (signal * x - noise * output) / scale

    def noised(self, sigma: Tensor, noise: Tensor, x0: Tensor, from_pure_noise: bool = False) -> Tensor:
        """Latents y of x0 at a noise level; at full strength the network's input is the noise itself."""
        if from_pure_noise:
            signal, _, scale = self._coefficients(sigma, noise)
            return noise / (signal * scale) + x0
        return noise * _column(sigma, noise) + x0

    def _coefficients(self, sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sqrt(abar), sqrt(1 - abar) and the rescale at a noise level; between two timesteps the rescale is blended."""
        column = _column(sigma, like)
        logs = self.log_sigmas.to(column.device)
        at = column.log().contiguous()
        high = torch.searchsorted(logs, at).clamp(1, len(logs) - 1)
        low = high - 1
        weight = ((at - logs[low]) / (logs[high] - logs[low])).clamp(0, 1)
        table = self.scale.to(column.device)
        scale = torch.lerp(table[low], table[high], weight)
        ratio = column * scale
        signal = (1 + ratio * ratio).rsqrt()
        return signal, ratio * signal, scale


def make_sigmas(schedule: Schedule) -> Sigmas:
    """The noise levels of a schedule."""
    abar = schedule.alphas_cumprod.double()
    scale = torch.ones_like(abar) if schedule.scale is None else schedule.scale[:TRAIN_STEPS].double()
    sigmas = (1 - abar).sqrt() / (abar.sqrt() * scale)
    pure_noise = bool(abar[-1] == 0)
    if pure_noise:
        sigmas[-1] = 2 ** (_TOP_RATIO * sigmas[-2]).log2().ceil()
    return Sigmas(schedule.prediction, pure_noise, sigmas.float(), sigmas.log().float(), scale.float())


def _column(sigma: Tensor, like: Tensor) -> Tensor:
    """``sigma`` in the shape that multiplies ``like`` item by item."""
    if sigma.nelement() == 1:
        return sigma.view(())
    return sigma.view(sigma.shape[:1] + (1,) * (like.ndim - 1))
