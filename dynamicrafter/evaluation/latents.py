"""Statistics of a model's clean latents over clips, for Analytic-Init."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..media.pictures import as_picture, fit_picture
from ..pipeline import Model

_EVERY = 4
"""Frames of a clip are so alike that one of this many says as much."""


@torch.inference_mode()
def latent_statistics(model: Model, clips: Iterable[Tensor]) -> tuple[list[float], float]:
    """Means of the four channels of scaled latents, and their mean squared distance from those means.

    A clip is uint8 ``[t, h, w, 3]``; one frame in four is encoded, cropped to the model's size. The variance includes
    that of the autoencoder's samples. Sums are float64.
    """
    preset, scale = model.variant.preset, model.variant.vae.scale_factor
    total = torch.zeros(model.variant.vae.latent_channels, dtype=torch.float64)
    squares, count = total.clone(), 0
    for clip in clips:
        for frame in clip[::_EVERY]:
            picture = fit_picture(as_picture(frame), preset.width, preset.height)
            posterior = model.vae.encode(picture[None].to(model.device, model.dtype))
            mean = posterior.mean[0].cpu().double().flatten(1) * scale
            spread = posterior.logvar[0].cpu().double().flatten(1).exp() * scale**2
            total += mean.sum(1)
            squares += (mean.square() + spread).sum(1)
            count += mean.shape[1]
    means = total / count
    return [value.item() for value in means], (squares / count - means.square()).mean().item()
