"""Trains an autoencoder from scratch on single frames of the toy world."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..evaluation.figures import psnr
from ..model.autoencoder import Autoencoder
from ..model.configs import VaeConfig
from ..model.protocols import PictureCodec
from ..training.trainer import Batch, Draw
from .world import Split, draw_scenes, make_clips, sample_scenes

_KL_WEIGHT = 3e-3
"""Weight of the mean KL divergence per latent element from the standard normal distribution."""
_SQUARED_WEIGHT = 8.0
"""Weight of the squared error relative to the absolute error; PSNR depends on the squared one."""
_WORST = 0.3
"""Standard deviation of the strongest noise the decoder is trained on, relative to that of the latents."""


class AutoencoderLoss(nn.Module):
    """Reconstruction error plus a small KL divergence of the latents from the standard normal distribution."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """``pictures`` ``[n, 3, H, W]`` in [-1, 1] and ``noise`` ``[n, 4, h, w]`` to a scalar loss."""
        scale = self.vae.config.scale_factor
        posterior = self.vae.encode(pictures)
        error = self.vae.decode(scale * posterior.sample(noise)).float() - pictures
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error.abs().mean() + _SQUARED_WEIGHT * error.square().mean() + _KL_WEIGHT * divergence


class DecoderLoss(nn.Module):
    """Reconstruction error for slightly noisy latents, like those of a network; only the decoder is trained."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)

    def forward(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """``pictures`` ``[n, 3, H, W]`` in [-1, 1] and ``noise`` ``[n, 4, h, w]`` to a scalar loss.

        Image i of n gets noise of i / n times :data:`_WORST`, so that every batch contains clean latents.
        """
        with torch.no_grad():
            latents = self.vae.config.scale_factor * self.vae.encode(pictures).mean.float()
        amount = torch.arange(len(pictures), device=pictures.device) / len(pictures) * _WORST
        error = self.vae.decode(latents + amount[:, None, None, None] * noise).float() - pictures
        return error.abs().mean() + _SQUARED_WEIGHT * error.square().mean()


def frame_draw(batch: int, channels: int = 4) -> Draw:
    """Batches of single frames of training scenes, half of them with shapes of unusual sizes and positions."""

    def draw(generator: torch.Generator) -> Batch:
        usual = sample_scenes(batch // 2, generator, pairs=0.2)
        unusual = sample_scenes(batch - batch // 2, generator, pairs=0.4, scattered=True)
        frames = [draw_scenes(s, torch.rand(len(s), 1, generator=generator))[:, 0] for s in (usual, unusual)]
        pictures = torch.cat(frames)
        size = pictures.shape[-1] // 8
        return {
            "pictures": pictures,
            "noise": torch.randn(batch, channels, size, size, generator=generator),
        }

    return draw


def still_frames(count: int, seed: int, split: Split = "held_out") -> Tensor:
    """The middle frames ``[count, 3, H, W]`` of ``count`` clips."""
    scenes = sample_scenes(count, torch.Generator().manual_seed(seed), split)
    return make_clips(scenes, 3)[:, 1]


@torch.no_grad()
def round_trip(vae: PictureCodec, pictures: Tensor, scale: float = VaeConfig.scale_factor) -> Tensor:
    """Encode images to the posterior's mode and decode them, clamped to [-1, 1]."""
    return torch.cat(list(vae.frames(scale * vae.encode(pictures).mean))).clamp(-1, 1)


@torch.no_grad()
def normalise_latents(vae: Autoencoder, pictures: Tensor) -> None:
    """Normalise the latents to mean 0 and, after the scale factor, standard deviation 1 in each channel.

    The change is folded into the two 1x1 convolutions around the latents, so that reconstructions are unchanged.
    """
    mean = vae.encode(pictures).mean
    centre, spread = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    factor = 1 / (vae.config.scale_factor * spread)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    channels = len(centre)
    weight, bias = inner.get_parameter("weight"), inner.get_parameter("bias")
    weight[:channels] *= factor[:, None, None, None]
    bias[:channels] = (bias[:channels] - centre) * factor
    bias[channels:] += 2 * torch.log(factor)
    back, offset = outer.get_parameter("weight"), outer.get_parameter("bias")
    offset += (back[:, :, 0, 0] * centre).sum(1)
    back /= factor[None, :, None, None]


def decibels(pictures: Tensor, made: Tensor) -> float:
    """Mean PSNR; NaN if an image is not finite."""
    value = float(psnr(pictures, made).mean())
    return value if math.isfinite(value) else math.nan
