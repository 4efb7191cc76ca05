"""Embeddings, residual blocks and resampling layers of the network; attribute names are the checkpoints'."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .operations import Operations


def sinusoidal_embedding(values: Tensor, dim: int) -> Tensor:
    """``[b]`` numbers as float32 ``[b, dim]``: cosines, then sines, of ``v * 10000 ** (-i / (dim // 2))``.

    For an odd ``dim`` one zero is appended. Cosines come first, unlike the usual order, as the networks were trained.
    """
    half = dim // 2
    exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(exponents)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


def embedding_mlp(dim: int, operations: Operations) -> nn.Sequential:
    """The two-layer network from a sinusoid of width ``dim`` to the embedding of width ``4 * dim``."""
    linear = operations.layers.Linear
    return nn.Sequential(
        linear(dim, 4 * dim, **operations.factory), nn.SiLU(), linear(4 * dim, 4 * dim, **operations.factory)
    )


class TemporalConvBlock(nn.Module):
    """Four norm-SiLU-convolution stages along time, added to the input; norm statistics include time."""

    def __init__(self, channels: int, norm_groups: int, operations: Operations) -> None:
        super().__init__()
        # The trained network had dropout before the last three convolutions; the checkpoint's names count it.
        self.conv1 = _temporal_stage(channels, norm_groups, operations, dropout_slot=False)
        self.conv2 = _temporal_stage(channels, norm_groups, operations, dropout_slot=True)
        self.conv3 = _temporal_stage(channels, norm_groups, operations, dropout_slot=True)
        self.conv4 = _temporal_stage(channels, norm_groups, operations, dropout_slot=True)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[(b t), c, h, w]`` in and out."""
        clip = rearrange(x, "(b t) c h w -> b c t h w", t=frames)
        clip = clip + self.conv4(self.conv3(self.conv2(self.conv1(clip))))
        return rearrange(clip, "b c t h w -> (b t) c h w")


def _temporal_stage(
    channels: int, norm_groups: int, operations: Operations, dropout_slot: bool
) -> nn.Sequential:
    ops = operations.layers
    norm = ops.GroupNorm(norm_groups, channels, eps=1e-5, **operations.factory)
    slot = [nn.Identity()] if dropout_slot else []
    return nn.Sequential(norm, nn.SiLU(inplace=True), *slot, operations.conv_over_time(channels))


class FrameResBlock(nn.Module):
    """Residual block with an embedding added in the middle; each frame by itself."""

    def __init__(
        self, channels: int, out_channels: int, embedding: int, norm_groups: int, operations: Operations
    ) -> None:
        super().__init__()
        ops = operations.layers
        self.in_layers = nn.Sequential(
            ops.GroupNorm(norm_groups, channels, eps=1e-5, **operations.factory),
            nn.SiLU(inplace=True),
            ops.Conv2d(channels, out_channels, 3, padding=1, **operations.factory),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(embedding, out_channels, **operations.factory))
        # Index 2 was dropout in the trained network; the checkpoint's names count it.
        self.out_layers = nn.Sequential(
            ops.GroupNorm(norm_groups, out_channels, eps=1e-5, **operations.factory),
            nn.SiLU(inplace=True),
            nn.Identity(),
            ops.Conv2d(out_channels, out_channels, 3, padding=1, **operations.factory),
        )
        self.skip_connection = (
            nn.Identity()
            if channels == out_channels
            else ops.Conv2d(channels, out_channels, 1, **operations.factory)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``[n, c, h, w]`` and ``[n, e]`` to ``[n, c', h, w]``."""
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        h = self.out_layers(h)
        return self.skip_connection(x) + h


class ResBlock(FrameResBlock):
    """Residual block with the time and frame-rate embedding added in the middle, then a temporal block."""

    def __init__(
        self, channels: int, out_channels: int, embedding: int, norm_groups: int, operations: Operations
    ) -> None:
        super().__init__(channels, out_channels, embedding, norm_groups, operations)
        # Misspelt in the released checkpoints.
        self.temopral_conv = TemporalConvBlock(out_channels, norm_groups, operations)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, embedding: Tensor, frames: int
    ) -> Tensor:
        """``[(b t), c, h, w]`` and ``[(b t), e]`` to ``[(b t), c', h, w]``."""
        return self.temopral_conv(super().forward(x, embedding), frames)


class Downsample(nn.Module):
    """Convolution with stride 2; halves height and width."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.op = operations.layers.Conv2d(channels, channels, 3, stride=2, padding=1, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to ``[n, c, h / 2, w / 2]``."""
        return self.op(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, or enlargement to a given size, followed by a convolution."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.layers.Conv2d(channels, channels, 3, padding=1, **operations.factory)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """``[n, c, h, w]`` to ``[n, c, 2 h, 2 w]``, or to the height and width in ``size``."""
        if size is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
