"""The model's noise process in the host's terms, so that stock samplers carry the dynamic rescale exactly.

With abar and the rescale s of a timestep, the latents are ``x = sqrt(abar) s x0 + sqrt(1 - abar) noise``. In
``y = x / (sqrt(abar) s)`` this is ``y = x0 + sigma noise`` with ``sigma = sqrt(1 - abar) / (sqrt(abar) s)``: an
ordinary variance-exploding process whose Euler step is the DDIM step without fresh noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...dynamicrafter.diffusion.schedule import TRAIN_STEPS, Schedule

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


class RescaledSampling(torch.nn.Module):
    """What the host asks of a model's sampling class: noise levels, their timesteps, scaling in and out."""

    sigmas: Tensor
    log_sigmas: Tensor
    scale: Tensor

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        abar = schedule.alphas_cumprod.double()
        scale = torch.ones_like(abar) if schedule.scale is None else schedule.scale[:TRAIN_STEPS].double()
        sigmas = (1 - abar).sqrt() / (abar.sqrt() * scale)
        self.prediction = schedule.prediction
        self.pure_noise = bool(abar[-1] == 0)
        if self.pure_noise:
            sigmas[-1] = 2 ** (_TOP_RATIO * sigmas[-2]).log2().ceil()
        self.sigma_data = 1.0
        self.register_buffer("sigmas", sigmas.float(), persistent=False)
        self.register_buffer("log_sigmas", sigmas.log().float(), persistent=False)
        self.register_buffer("scale", scale.float(), persistent=False)

    @property
    def sigma_min(self) -> Tensor:
        """Lowest noise level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """Highest noise level."""
        return self.sigmas[-1]

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

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after ``percent`` (0 to 1) of the timesteps."""
        if percent <= 0:
            return 999999999.9
        if percent >= 1:
            return 0.0
        return self.sigma(torch.tensor((1 - percent) * (TRAIN_STEPS - 1.0))).item()

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The network's input x for the host's latents y."""
        signal, _, scale = self._coefficients(sigma, noise)
        return noise * (signal * scale)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean latents that a network output means for the host's latents y."""
        signal, noise, scale = self._coefficients(sigma, model_input)
        x = model_input * (signal * scale)
        if self.prediction == "eps":
            return (x - noise * model_output) / (signal * scale)
        if self.pure_noise:
            # At the top there is no signal at all; what the finite stand-in adds is taken out again.
            highest = self.sigma_max.to(sigma)
            top = self._column(sigma, model_input) >= highest * (1 - 1e-5)
            kept = 1 - self.sigmas[_FIRST_TARGET].to(sigma) / highest
            signal, noise = torch.where(top, 0.0, signal), torch.where(top, 1 / kept, noise)
        return (signal * x - noise * model_output) / scale

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """Noisy latents y to begin with; at full strength the network's input is the noise itself."""
        if max_denoise:
            signal, _, scale = self._coefficients(sigma, noise)
            return noise / (signal * scale) + latent_image
        return noise * self._column(sigma, noise) + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Finished latents are what they are."""
        return latent

    def _column(self, sigma: Tensor, like: Tensor) -> Tensor:
        """``sigma`` in the shape that multiplies ``like`` item by item."""
        if sigma.nelement() == 1:
            return sigma.view(())
        return sigma.view(sigma.shape[:1] + (1,) * (like.ndim - 1))

    def _coefficients(self, sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sqrt(abar), sqrt(1 - abar) and the rescale at a noise level; between two timesteps the rescale is blended."""
        column = self._column(sigma, like)
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


class PlainSampling(torch.nn.Module):
    """Nothing translated: the network's own input, timestep and output, for our exact sampler."""

    def __init__(self, timed_by: RescaledSampling) -> None:
        super().__init__()
        self.sigma_data = 1.0
        self.register_buffer("sigmas", timed_by.sigmas, persistent=False)

    def timestep(self, sigma: Tensor) -> Tensor:
        """Timesteps are given as they are."""
        return sigma

    def percent_to_sigma(self, percent: float) -> float:
        """The timestep after ``percent`` (0 to 1) of them, for conditioning that holds for a part of the steps."""
        return (1 - percent) * (TRAIN_STEPS - 1.0)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """Latents are given as the network takes them."""
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The network's output as it is."""
        return model_output
