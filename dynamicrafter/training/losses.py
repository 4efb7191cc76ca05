"""The diffusion loss as in the released code, and options that it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.schedule import TRAIN_STEPS, Schedule
from ..model.conditioning import image_tokens, with_image_noise
from ..model.protocols import Context
from ..model.resampler import Resampler
from ..model.unet import VideoUNet

DROP = 0.05
"""Share of samples for each of: text dropped, image dropped, both dropped (the released ``uncond_prob``)."""


@dataclass(frozen=True)
class Noised:
    """The network's input and target, both ``[b, c, t, h, w]``."""

    x: Tensor
    target: Tensor


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Noised:
    """Add ``noise`` to ``x0`` ``[b, ...]`` for the timesteps ``t`` ``[b]``.

    With a dynamic rescale, the clean latents are scaled first, in both the noisy input and the target. The target is
    the noise (eps), or sqrt(abar) noise - sqrt(1 - abar) x0 (v, arXiv 2202.00512).
    """
    shape = (-1,) + (1,) * (x0.ndim - 1)

    def at(table: Tensor) -> Tensor:
        return table.to(t.device)[t].view(shape)

    if schedule.scale is not None:
        x0 = at(schedule.scale) * x0
    signal, rest = at(schedule.sqrt_alphas_cumprod), at(schedule.sqrt_one_minus_alphas_cumprod)
    target = noise if schedule.prediction == "eps" else signal * noise - rest * x0
    return Noised(signal * x0 + rest * noise, target)


def min_snr_weight(t: Tensor, schedule: Schedule, gamma: float) -> Tensor:
    """Weight ``[b]`` of each sample's loss (arXiv 2303.09556): min(SNR, gamma) over SNR (eps) or SNR + 1 (v)."""
    abar = schedule.alphas_cumprod.to(t.device)[t]
    snr = abar / (1 - abar)
    capped = snr.clamp(max=gamma)
    if schedule.prediction == "v":
        return capped / (snr + 1)
    # With an SNR of 0 the quotient is 0 / 0; its limit is 1.
    return torch.where(snr > 0, capped / snr.clamp(min=1e-12), 1.0)


def per_sample(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, ``[b]``, weighted by ``mask`` ``[b, 1, ...]`` with values in 0..1."""
    error = F.mse_loss(prediction.float(), target.float(), reduction="none")
    if mask is None:
        return error.flatten(1).mean(1)
    mask = mask.expand_as(error).flatten(1)
    return (error.flatten(1) * mask).sum(1) / mask.sum(1)


@dataclass(frozen=True)
class Dropped:
    """Which conditions to drop for each sample, boolean ``[b]``; the image latents are never dropped."""

    text: Tensor
    image: Tensor


def drop_conditions(draw: Tensor, share: float = DROP) -> Dropped:
    """Choose from one uniform number per sample: below ``share`` text, below twice that both, below 3 times image."""
    return Dropped(text=draw < 2 * share, image=(draw >= share) & (draw < 3 * share))


def uniform_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """``[count]`` timesteps from a stratified sample of 0..999, in random order."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (strata * TRAIN_STEPS).long()[torch.randperm(count, generator=generator)]


_TIME_NOISE_POWER = 5
"""Of the timestep, in the mean of TimeNoise's distribution (the authors' configuration)."""


def time_noise(concat: Tensor, t: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Image latents ``[b, c, f, h, w]`` with the noise of TimeNoise (arXiv 2406.15735) for timesteps ``t`` ``[b]``.

    Its deviation is ``largest`` times the sigmoid of a normal number with deviation 1 and mean 2 (t / 1000)^5 - 1.
    As in sampling with ``image_noise``, all frames with an image get the same noise, and those without one stay empty.
    """
    mean = 2 * (t / TRAIN_STEPS) ** _TIME_NOISE_POWER - 1
    deviation = largest * torch.sigmoid(mean + torch.randn(t.shape, generator=generator))
    noise = torch.randn(concat[:, :, :1].shape, generator=generator)
    return with_image_noise(concat, deviation.view(-1, 1, 1, 1, 1) * noise)


class DenoisingLoss(nn.Module):
    """UNet and resampler with the loss of a batch of latents and encoder outputs."""

    _no_split_modules: ClassVar = (
        "VideoUNet",
        "Resampler",
        "ResBlock",
        "SpatialTransformer",
        "TemporalTransformer",
    )
    """The modules that accelerate shards as units under FSDP: the blocks, and the networks that are also used alone."""

    def __init__(
        self, unet: VideoUNet, resampler: Resampler, schedule: Schedule, min_snr: float | None = None
    ) -> None:
        super().__init__()
        self.unet = unet
        self.resampler = resampler
        self._schedule = schedule
        self._min_snr = min_snr

    def predict(
        self, x: Tensor, t: Tensor, concat: Tensor, text: Tensor, vision: Tensor, fs: Tensor
    ) -> Tensor:
        """The network's output for noisy latents ``[b, 4, t, h, w]``."""
        image = image_tokens(self.resampler(vision), self.resampler.config)
        return self.unet(torch.cat([x, concat], dim=1), t, Context(text, image), fs)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        concat: Tensor,
        text: Tensor,
        vision: Tensor,
        fs: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """``latents``, ``noise`` and ``concat`` ``[b, 4, t, h, w]``; ``text`` ``[b, 77, c]``; ``vision`` tokens of the
        image encoder ``[b, n, c]``; ``t`` and ``fs`` ``[b]``; ``mask`` ``[b, 1, t, h, w]``, the weights of the error.
        Returns the mean over the batch.
        """
        noised = add_noise(latents, noise, t, self._schedule)
        losses = per_sample(self.predict(noised.x, t, concat, text, vision, fs), noised.target, mask)
        if self._min_snr is not None:
            losses = losses * min_snr_weight(t, self._schedule, self._min_snr)
        return losses.mean()
