"""The denoising network: a UNet over frames with spatial and temporal transformers (paper section 3.2)."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .attention import CrossAttention, SpatialTransformer, TemporalTransformer
from .configs import UNetConfig
from .layers import Downsample, ResBlock, Upsample, embedding_mlp, sinusoidal_embedding
from .operations import PLAIN, Operations
from .protocols import Context, Residuals

_FIRST_ATTENTION_HEADS = 8
"""The transformer after the first convolution has 8 heads at any width."""


class VideoUNet(nn.Module):
    """Predicts noise or velocity from noisy latents, image latents, timestep, frame rate and context.

    Height and width of the latents must be multiples of ``2 ** (levels - 1)``; the number of frames is arbitrary.
    """

    def __init__(self, config: UNetConfig, operations: Operations = PLAIN) -> None:
        super().__init__()
        ops = operations.layers
        base = config.model_channels
        embedding = 4 * base
        widths = [base * factor for factor in config.channel_mult]
        last = len(widths) - 1
        self.config = config

        def res(channels: int, out_channels: int) -> ResBlock:
            return ResBlock(channels, out_channels, embedding, config.norm_groups, operations)

        def transformers(channels: int) -> list[nn.Module]:
            heads = channels // config.num_head_channels
            return [
                SpatialTransformer(
                    channels,
                    heads,
                    config.norm_groups,
                    lambda: CrossAttention(
                        channels, heads, config.context_dim, config.learned_image_scale, operations
                    ),
                    operations,
                ),
                TemporalTransformer(channels, channels, heads, config.norm_groups, "linear", operations),
            ]

        def attended(level: int, channels: int) -> list[nn.Module]:
            return transformers(channels) if 2**level in config.attention_factors else []

        self.time_embed = embedding_mlp(base, operations)
        self.fps_embedding = embedding_mlp(base, operations)

        first = ops.Conv2d(config.in_channels, base, 3, padding=1, **operations.factory)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        self.init_attn = nn.ModuleList(
            [
                TemporalTransformer(
                    base,
                    _FIRST_ATTENTION_HEADS * config.num_head_channels,
                    _FIRST_ATTENTION_HEADS,
                    config.norm_groups,
                    "conv",
                    operations,
                )
            ]
        )
        channels = base
        skips = [base]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(nn.ModuleList([res(channels, width), *attended(level, width)]))
                channels = width
                skips.append(channels)
            if level < last:
                self.input_blocks.append(nn.ModuleList([Downsample(channels, operations)]))
                skips.append(channels)

        self.middle_block = nn.ModuleList(
            [res(channels, channels), *transformers(channels), res(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(config.num_res_blocks + 1):
                stage = [res(channels + skips.pop(), width), *attended(level, width)]
                channels = width
                if level > 0 and index == config.num_res_blocks:
                    stage.append(Upsample(channels, operations))
                self.output_blocks.append(nn.ModuleList(stage))

        self.out = nn.Sequential(
            ops.GroupNorm(config.norm_groups, base, eps=1e-5, **operations.factory),
            nn.SiLU(inplace=True),
            ops.Conv2d(base, config.out_channels, 3, padding=1, **operations.factory),
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Context,
        fs: Tensor,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """One evaluation.

        ``x`` is ``[b, 8, t, h, w]`` (noisy latents, then image latents), ``timesteps`` and ``fs`` are ``[b]``,
        ``context.text`` ``[b, 77, c]`` and ``context.image`` ``[b, f, n, c]``. ``residuals`` are added to what the
        output blocks receive. Returns ``[b, 4, t, h, w]``.
        """
        dim = self.config.model_channels
        return self.from_sinusoids(
            x, sinusoidal_embedding(timesteps, dim), context, sinusoidal_embedding(fs, dim), residuals
        )

    def from_sinusoids(
        self, x: Tensor, time: Tensor, context: Context, rate: Tensor, residuals: Residuals | None = None
    ) -> Tensor:
        """As :meth:`forward`, with the sinusoids ``[b, model_channels]`` of timesteps and fs.

        Their frequencies need float32, whatever a runtime does with constants.
        """
        frames = x.shape[2]
        context = context.grouped(frames)

        # Embed time and frame rate
        embedding = self.time_embed(time.to(x.dtype))
        embedding = embedding + self.fps_embedding(rate.to(x.dtype))
        embedding = repeat(embedding, "b e -> (b t) e", t=frames)

        # Down. Skip connections are referenced only by this stack, so each tensor is freed when it is popped.
        h = rearrange(x, "b c t h w -> (b t) c h w")
        h = _run(self.input_blocks[0], h, embedding, context, frames)
        made = [self.init_attn[0](h, frames)]
        del h
        for stage in self.input_blocks[1:]:
            made.append(_run(stage, made[-1], embedding, context, frames))

        # Middle
        made.append(_run(self.middle_block, made[-1], embedding, context, frames))

        # Up. The encoder has run, so residuals reach the decoder alone.
        if residuals is not None:
            made[-1] = made[-1] + residuals.middle
        for index, stage in enumerate(self.output_blocks, start=1):
            more = None if residuals is None else residuals.skips[-index]
            if more is not None:
                made[-2] = made[-2] + more
            made.append(_run(stage, torch.cat([made.pop(), made.pop()], dim=1), embedding, context, frames))

        # Out
        return rearrange(self.out(made.pop()), "(b t) c h w -> b c t h w", t=frames)


def _run(stage: nn.Module, h: Tensor, embedding: Tensor, context: Context, frames: int) -> Tensor:
    """Pass ``h`` through the layers of one stage, each with the arguments it needs."""
    for layer in stage.children():
        if isinstance(layer, ResBlock):
            h = layer(h, embedding, frames)
        elif isinstance(layer, SpatialTransformer):
            h = layer(h, context)
        elif isinstance(layer, TemporalTransformer):
            h = layer(h, frames)
        else:
            h = layer(h)
    return h
