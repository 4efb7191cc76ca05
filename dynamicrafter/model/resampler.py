"""The query transformer that turns CLIP image tokens into context tokens for each frame (paper section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .configs import ResamplerConfig
from .operations import PLAIN, Operations


class PerceiverAttention(nn.Module):
    """Queries attend to the image tokens and to themselves."""

    def __init__(self, config: ResamplerConfig, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        inner = config.heads * config.head_channels
        self.heads = config.heads
        self.attention = operations.attention
        self.norm1 = ops.LayerNorm(config.dim, **operations.factory)
        self.norm2 = ops.LayerNorm(config.dim, **operations.factory)
        self.to_q = ops.Linear(config.dim, inner, bias=False, **operations.factory)
        self.to_kv = ops.Linear(config.dim, 2 * inner, bias=False, **operations.factory)
        self.to_out = ops.Linear(inner, config.dim, bias=False, **operations.factory)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """``x`` is ``[b, n, d]``, ``latents`` ``[b, q, d]``; returns ``[b, q, d]``."""
        latents = self.norm2(latents)
        k, v = self.to_kv(torch.cat([self.norm1(x), latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(self.attention(self.to_q(latents), k, v, self.heads))


class Resampler(nn.Module):
    """A perceiver with learned queries, ``queries_per_frame`` for each trained frame.

    The number of queries is fixed by the weights and does not depend on the length of the clip.
    """

    def __init__(self, config: ResamplerConfig, operations: Operations = PLAIN) -> None:
        super().__init__()
        ops = operations.layers
        self.config = config
        self.latents = nn.Parameter(
            torch.zeros(1, config.frames * config.queries_per_frame, config.dim, **operations.factory)
        )
        self.proj_in = ops.Linear(config.input_dim, config.dim, **operations.factory)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(config, operations), _feed_forward(config, operations)])
            for _ in range(config.depth)
        )
        self.proj_out = ops.Linear(config.dim, config.output_dim, **operations.factory)
        self.norm_out = ops.LayerNorm(config.output_dim, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """CLIP tokens ``[b, n, input_dim]`` to ``[b, frames * queries_per_frame, output_dim]``, ordered by frame."""
        # A host that streams layers may leave this bare parameter on a different device.
        latents = self.latents.to(x.device, x.dtype).expand(x.shape[0], -1, -1)
        x = self.proj_in(x)
        for attention, feed_forward in (layer.children() for layer in self.layers):
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


def _feed_forward(config: ResamplerConfig, operations: Operations) -> nn.Sequential:
    ops = operations.layers
    inner = config.ff_mult * config.dim
    return nn.Sequential(
        ops.LayerNorm(config.dim, **operations.factory),
        ops.Linear(config.dim, inner, bias=False, **operations.factory),
        nn.GELU(),
        ops.Linear(inner, config.dim, bias=False, **operations.factory),
    )
