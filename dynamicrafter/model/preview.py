"""Linear approximation of an autoencoder's decoder, from which a host draws previews while a clip is sampled.

It belongs to the autoencoder: the latents of another one have other colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..forms import Form
from .configs import LATENT_FACTOR, VaeConfig
from .protocols import PictureCodec

_DIGITS = 5
"""Decimal places; the colours have 8 bits."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class PreviewColours:
    """The colour of one cell of scaled latents, RGB in [-1, 1]: ``bias`` plus each channel times its factors."""

    factors: tuple[Colour, Colour, Colour, Colour]
    bias: Colour

    def draw(self, latents: Tensor) -> Tensor:
        """Scaled latents ``[n, 4, h, w]`` to images ``[n, 3, h, w]`` in [-1, 1]."""
        drawn = torch.einsum("nchw,cd->ndhw", latents.float(), torch.tensor(self.factors))
        return (drawn + torch.tensor(self.bias)[:, None, None]).clamp(-1, 1)


def reduced(pictures: Tensor) -> Tensor:
    """Images ``[n, 3, H, W]`` in the size of a preview, ``[n, 3, H / 8, W / 8]``: each cell the mean of its pixels."""
    return avg_pool2d(pictures, LATENT_FACTOR)


@torch.no_grad()
def fit_preview(vae: PictureCodec, pictures: Tensor, scale: float = VaeConfig.scale_factor) -> PreviewColours:
    """The least-squares fit from the latents of ``pictures`` ``[n, 3, H, W]`` in [-1, 1] to their colours."""
    latents = rearrange(scale * vae.encode(pictures).mean, "n c h w -> (n h w) c").double()
    colours = rearrange(reduced(pictures), "n c h w -> (n h w) c").double()
    known = torch.cat([latents, torch.ones(len(latents), 1, dtype=torch.float64)], dim=1)
    solution = cast(Any, torch.linalg).lstsq(known, colours).solution.round(decimals=_DIGITS)
    *factors, bias = cast(list[list[float]], solution.tolist())
    return Form("the fit", ValueError).read(PreviewColours, {"factors": factors, "bias": bias})
