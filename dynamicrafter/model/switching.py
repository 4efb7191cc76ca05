"""Two models as one: the noisy steps are one's, the rest the other's, each with image tokens of its own resampler.

The pair looks like the networks of one model, so that nothing around it knows of two: its image tokens are those of
both, side by side in each frame, of which the network at work is given its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from .protocols import Context, Network, TokenResampler


@dataclass(frozen=True, eq=False)
class ResamplerPair:
    """The image tokens of two resamplers, ``[b, f * 2 n, c]``: in each of the ``frames`` the first one's come first."""

    early: TokenResampler
    late: TokenResampler
    frames: int
    """The number of frames f that tokens are made for."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[b, n, width]`` to context tokens, as :class:`~.protocols.TokenResampler` says."""
        made = [
            rearrange(each(tokens), "b (f n) c -> b f n c", f=self.frames) for each in (self.early, self.late)
        ]
        return rearrange(torch.cat(made, dim=2), "b f n c -> b (f n) c")


@dataclass(frozen=True, eq=False)
class NetworkPair:
    """Two denoising networks: ``early`` above ``timestep`` and ``late`` from there on."""

    early: Network
    late: Network
    timestep: int

    def __call__(self, x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        """One evaluation at one timestep, with image tokens of a :class:`ResamplerPair`."""
        early, late = context.image.chunk(2, dim=2)
        if int(timesteps[0]) > self.timestep:
            return self.early(x, timesteps, replace(context, image=early), fs)
        return self.late(x, timesteps, replace(context, image=late), fs)
