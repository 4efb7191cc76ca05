"""ControlNets: a copy of the encoder of Stable Diffusion's network that is shown a hint, and what it adds to ours.

Each frame is seen by itself (arXiv 2302.05543). Attribute names are those of the files of the original implementation.
"""

from __future__ import annotations

from typing import cast

from einops import rearrange, repeat
from torch import Tensor, nn

from .attention import SpatialTransformer, TokenAttention
from .configs import UNetConfig
from .layers import Downsample, FrameResBlock, embedding_mlp, sinusoidal_embedding
from .operations import PLAIN, Operations
from .protocols import Residuals

SKETCH_CHANNELS = 1
"""Channels of the hint of ToonCrafter's sketch encoder, lines of 1 on 0; other ControlNets take RGB from 0 to 1."""
_HINT_LAYERS = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))
"""Channels and stride of the convolutions of a hint, which reduce it to the size of latents."""


class ControlNetwork(nn.Module):
    """From noisy latents and a hint for each frame to residuals of a :class:`~.unet.VideoUNet` of the same sizes."""

    def __init__(self, config: UNetConfig, hint_channels: int = 3, operations: Operations = PLAIN) -> None:
        super().__init__()
        ops = operations.layers
        base = config.model_channels
        widths = [base * factor for factor in config.channel_mult]
        self.config = config
        self.hint_channels = hint_channels

        def conv(channels: int, out_channels: int, stride: int = 1) -> nn.Module:
            return ops.Conv2d(channels, out_channels, 3, stride=stride, padding=1, **operations.factory)

        def zero_conv(channels: int) -> nn.ModuleList:
            return nn.ModuleList([ops.Conv2d(channels, channels, 1, **operations.factory)])

        def res(channels: int, out_channels: int) -> FrameResBlock:
            return FrameResBlock(channels, out_channels, 4 * base, config.norm_groups, operations)

        def transformer(channels: int) -> SpatialTransformer:
            heads = channels // config.num_head_channels
            return SpatialTransformer(
                channels,
                heads,
                config.norm_groups,
                lambda: TokenAttention(channels, heads, config.context_dim, operations),
                operations,
            )

        self.time_embed = embedding_mlp(base, operations)
        layers: list[nn.Module] = []
        channels = hint_channels
        for width, stride in _HINT_LAYERS:
            layers += [conv(channels, width, stride), nn.SiLU(inplace=True)]
            channels = width
        self.input_hint_block = nn.Sequential(*layers, conv(channels, base))

        self.input_blocks = nn.ModuleList([nn.ModuleList([conv(config.out_channels, base)])])
        self.zero_convs = nn.ModuleList([zero_conv(base)])
        channels = base
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                attended = 2**level in config.attention_factors
                stage = [res(channels, width), *([transformer(width)] if attended else [])]
                self.input_blocks.append(nn.ModuleList(stage))
                self.zero_convs.append(zero_conv(width))
                channels = width
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels, operations)]))
                self.zero_convs.append(zero_conv(channels))
        self.middle_block = nn.ModuleList(
            [res(channels, channels), transformer(channels), res(channels, channels)]
        )
        self.middle_block_out = zero_conv(channels)

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, tokens: Tensor) -> Residuals:
        """The residuals of one evaluation.

        ``x`` are noisy latents ``[b, 4, t, h, w]`` and ``timesteps`` ``[b]``; ``hint`` ``[t, c, 8 h, 8 w]`` from 0 to 1
        serves every row of the batch, ``tokens`` ``[b, n, d]`` every frame of its row.
        """
        frames = x.shape[2]
        embedding = self.time_embed(sinusoidal_embedding(timesteps, self.config.model_channels).to(x.dtype))
        embedding = repeat(embedding, "b e -> (b t) e", t=frames)
        shown = repeat(self.input_hint_block(hint), "t c h w -> (b t) c h w", b=x.shape[0])
        (first,) = cast(nn.ModuleList, self.input_blocks[0])
        h = first(rearrange(x, "b c t h w -> (b t) c h w")) + shown
        skips = [_zero(self.zero_convs[0], h)]
        for stage, zero in zip(self.input_blocks[1:], self.zero_convs[1:], strict=True):
            h = _run(stage, h, embedding, tokens)
            skips.append(_zero(zero, h))
        middle = _run(self.middle_block, h, embedding, tokens)
        return Residuals(_zero(self.middle_block_out, middle), skips)


def _zero(stage: nn.Module, h: Tensor) -> Tensor:
    """The output of a convolution that was all zeros when training began."""
    (conv,) = stage.children()
    return conv(h)


def _run(stage: nn.Module, h: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
    for layer in stage.children():
        if isinstance(layer, FrameResBlock):
            h = layer(h, embedding)
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, tokens)
        else:
            h = layer(h)
    return h
