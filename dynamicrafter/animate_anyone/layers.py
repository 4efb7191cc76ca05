"""Embedding and residual blocks of the network pair; attribute names are the released files'."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..model.operations import Operations


class TimeEmbedding(nn.Module):
    """The two-layer network from a sinusoid of width ``dim`` to the embedding of width ``4 * dim``."""

    def __init__(self, dim: int, operations: Operations) -> None:
        super().__init__()
        linear = operations.layers.Linear
        self.linear_1 = linear(dim, 4 * dim, **operations.factory)
        self.linear_2 = linear(4 * dim, 4 * dim, **operations.factory)

    def forward(self, sinusoids: Tensor) -> Tensor:
        """``[b, dim]`` to ``[b, 4 * dim]``."""
        return self.linear_2(F.silu(self.linear_1(sinusoids)))


class TimedResBlock(nn.Module):
    """Two norm-SiLU-convolution stages with the time embedding added between them, added to the input."""

    def __init__(
        self, channels: int, out_channels: int, embedding: int, norm_groups: int, operations: Operations
    ) -> None:
        super().__init__()
        ops = operations.layers
        self.norm1 = ops.GroupNorm(norm_groups, channels, eps=1e-5, **operations.factory)
        self.conv1 = ops.Conv2d(channels, out_channels, 3, padding=1, **operations.factory)
        self.time_emb_proj = ops.Linear(embedding, out_channels, **operations.factory)
        self.norm2 = ops.GroupNorm(norm_groups, out_channels, eps=1e-5, **operations.factory)
        self.conv2 = ops.Conv2d(out_channels, out_channels, 3, padding=1, **operations.factory)
        if channels != out_channels:
            self.conv_shortcut = ops.Conv2d(channels, out_channels, 1, **operations.factory)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``[n, c, h, w]`` and ``[n, e]`` or ``[1, e]`` to ``[n, c', h, w]``."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = h + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)
