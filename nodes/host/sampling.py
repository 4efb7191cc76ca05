"""The model's noise process as the host's sampling classes; the mathematics is dynamicrafter.diffusion.sigmas'."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...dynamicrafter.diffusion.schedule import TRAIN_STEPS, Schedule
from ...dynamicrafter.diffusion.sigmas import Sigmas, make_sigmas


class RescaledSampling(torch.nn.Module):
    """What the host asks of a model's sampling class: noise levels, their timesteps, scaling in and out."""

    sigmas: Tensor
    log_sigmas: Tensor
    scale: Tensor

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        levels = make_sigmas(schedule)
        self.sigma_data = 1.0
        self._levels = levels
        # Buffers, so that the host moves them with the model.
        self.register_buffer("sigmas", levels.sigmas, persistent=False)
        self.register_buffer("log_sigmas", levels.log_sigmas, persistent=False)
        self.register_buffer("scale", levels.scale, persistent=False)

    @property
    def levels(self) -> Sigmas:
        """The noise levels where the host put them."""
        return replace(self._levels, sigmas=self.sigmas, log_sigmas=self.log_sigmas, scale=self.scale)

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
        return self.levels.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The noise level of a (fractional) timestep."""
        return self.levels.sigma(timestep)

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after ``percent`` (0 to 1) of the timesteps."""
        if percent <= 0:
            return 999999999.9
        if percent >= 1:
            return 0.0
        return self.sigma(torch.tensor((1 - percent) * (TRAIN_STEPS - 1.0))).item()

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The network's input x for the host's latents y."""
        return self.levels.network_input(sigma, noise)

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean latents that correspond to a network output for the host's latents y."""
        return self.levels.denoised(sigma, model_output, model_input)

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        """The initial noisy latents y."""
        return self.levels.noised(sigma, noise, latent_image, max_denoise)

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Denoised latents are returned unchanged."""
        return latent


class PlainSampling(torch.nn.Module):
    """No conversion: the network's own input, timestep and output, for our exact sampler."""

    def __init__(self, timed_by: RescaledSampling) -> None:
        super().__init__()
        self.sigma_data = 1.0
        self.register_buffer("sigmas", timed_by.sigmas, persistent=False)

    def timestep(self, sigma: Tensor) -> Tensor:
        """Timesteps are passed unchanged."""
        return sigma

    def percent_to_sigma(self, percent: float) -> float:
        """The timestep after ``percent`` (0 to 1) of them, for conditioning that applies to part of the steps."""
        return (1 - percent) * (TRAIN_STEPS - 1.0)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """Latents are passed in the network's scale."""
        return noise

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The network's output, unchanged."""
        return model_output
