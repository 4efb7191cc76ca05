"""ToonCrafter's first stage: a temporal decoder that also uses the encoder features of both key images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoder import Autoencoder, Decoder, ResnetBlock
from .configs import VaeConfig
from .operations import PLAIN, Operations
from .tiles import Tile, Tiles, in_tiles

_FUSION_HEADS, _FUSION_HEAD_CHANNELS = 8, 64
"""Heads of the reference attention and their width, the same at every level."""


class TimeStack(nn.Module):
    """Two norm-SiLU-convolution stages along time, added to the input; norm statistics include time."""

    def __init__(self, channels: int, config: VaeConfig, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers

        def norm() -> nn.Module:
            return ops.GroupNorm(config.norm_groups, channels, eps=1e-5, **operations.factory)

        # Index 2 of the second stage was dropout; the checkpoint's names count it.
        self.in_layers = nn.Sequential(norm(), nn.SiLU(inplace=True), operations.conv_over_time(channels))
        self.out_layers = nn.Sequential(
            norm(), nn.SiLU(inplace=True), nn.Identity(), operations.conv_over_time(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[b, c, t, h, w]`` in and out."""
        return x + self.out_layers(self.in_layers(x))


class VideoResnetBlock(ResnetBlock):
    """The spatial block, blended with a temporal block by a learned factor."""

    def __init__(self, channels: int, out_channels: int, config: VaeConfig, operations: Operations) -> None:
        super().__init__(channels, out_channels, config, operations)
        self.time_stack = TimeStack(out_channels, config, operations)
        self.mix_factor = nn.Parameter(torch.zeros(1, **operations.factory))

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        """``[(b t), c, h, w]`` to ``[(b t), c', h, w]``."""
        clip = rearrange(super().forward(x), "(b t) c h w -> b c t h w", t=frames)
        weight = torch.sigmoid(self.mix_factor.to(clip.device, clip.dtype))
        clip = weight * self.time_stack(clip) + (1 - weight) * clip
        return rearrange(clip, "b c t h w -> (b t) c h w")


class Combiner(nn.Module):
    """Adds a projection of the key images' features to the first and the last frame."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.layers.Conv2d(channels, channels, 1, **operations.factory)

    def forward(self, x: Tensor, reference: Tensor, frames: int) -> Tensor:
        """``x`` ``[(b t), c, h, w]``, ``reference`` ``[b, c, 2, h, w]``; returns the shape of ``x``."""
        added = self.conv(rearrange(reference, "b c k h w -> (b k) c h w"))
        added = rearrange(added, "(b k) c h w -> b k c h w", k=2)
        clip = rearrange(x, "(b t) c h w -> b t c h w", t=frames).clone()
        clip[:, 0] += added[:, 0]
        clip[:, -1] += added[:, 1]
        return rearrange(clip, "b t c h w -> (b t) c h w")


class Fusion(nn.Module):
    """Every frame attends to the features of both key images."""

    def __init__(self, channels: int, config: VaeConfig, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.attention = operations.attention
        self.norm = ops.GroupNorm(config.norm_groups, channels, eps=1e-6, **operations.factory)
        inner = _FUSION_HEADS * _FUSION_HEAD_CHANNELS
        self.to_q = ops.Linear(channels, inner, bias=False, **operations.factory)
        self.to_k = ops.Linear(channels, inner, bias=False, **operations.factory)
        self.to_v = ops.Linear(channels, inner, bias=False, **operations.factory)
        self.to_out = nn.ModuleList([ops.Linear(inner, channels, **operations.factory)])

    def forward(self, x: Tensor, reference: Tensor, frames: int) -> Tensor:
        """``x`` ``[(b t), c, h, w]``, ``reference`` ``[b, c, 2, h, w]`` (not normalised); returns ``x``'s shape."""
        q = self.to_q(rearrange(self.norm(x), "n c h w -> n (h w) c"))
        tokens = rearrange(reference, "b c k h w -> b (k h w) c")
        # All frames attend to the same tokens, so their queries form one sequence and no token is repeated.
        q = rearrange(q, "(b t) n c -> b (t n) c", t=frames)
        h = self.to_out[0](self.attention(q, self.to_k(tokens), self.to_v(tokens), _FUSION_HEADS))
        return x + rearrange(h, "b (t h w) c -> (b t) c h w", t=frames, h=x.shape[-2])


class VideoDecoder(Decoder):
    """Decodes the latents of a clip to its frames, all at once."""

    def __init__(self, config: VaeConfig, operations: Operations) -> None:
        super().__init__(config, operations, VideoResnetBlock)
        widths = [config.channels * factor for factor in config.channel_mult]
        # One refinement for each level (the two finest add to the key frames, the others attend) and one for the end.
        self.attn_refinement = nn.ModuleList(
            [
                *(
                    Combiner(width, operations) if index < 2 else Fusion(width, config, operations)
                    for index, width in enumerate(widths)
                ),
                Combiner(widths[0], operations),
            ]
        )
        # The checkpoint keeps the temporal convolution inside the spatial one it follows.
        self.conv_out.add_module("time_mix_conv", operations.conv_over_time(3))

    def forward(
        self,
        z: Tensor,
        frames: int = 1,
        references: list[Tensor] | None = None,
        *,
        tiles: Tiles | None = None,
    ) -> Tensor:
        """``z`` ``[(b t), 4, h, w]`` to ``[(b t), 3, 8 h, 8 w]``.

        ``references`` are the encoder's features of the two key images, ``[b, c, 2, h, w]`` for each level and
        last for the first convolution; without them the frames are decoded from the latents alone. The levels may work
        in ``tiles``, each of which has all frames.
        """
        if tiles is None:
            return self._clip_levels(self._clip_middle(z, frames), frames, references)
        height = z.shape[-2]

        def work(part: Tensor, window: Tile) -> Tensor:
            return self._clip_levels(part, frames, references and self._seen_by(window, references, height))

        return in_tiles(work, self._clip_middle(z, frames), tiles, self.factor)

    def _clip_middle(self, z: Tensor, frames: int) -> Tensor:
        h = self.mid.block_1(self.conv_in(z), frames)
        return self.mid.block_2(self.mid.attn_1(h), frames)

    def _seen_by(self, window: Tile, references: list[Tensor], height: int) -> list[Tensor]:
        """The references of a tile of latents ``height`` high: all where it attends to them, else its own part."""
        return [
            reference
            if isinstance(refinement, Fusion)
            else window.cut(reference, reference.shape[-2] // height)
            for refinement, reference in zip(self.attn_refinement, references, strict=True)
        ]

    def _clip_levels(self, h: Tensor, frames: int, references: list[Tensor] | None) -> Tensor:
        """Everything after the middle, which needs the most memory."""
        for index in reversed(range(len(self.up))):
            level = self.up[index]
            for block in level.get_submodule("block").children():
                h = block(h, frames)
            if references is not None:
                h = self.attn_refinement[index](h, references[index], frames)
            if hasattr(level, "upsample"):
                h = level.get_submodule("upsample")(h)
        h = F.silu(self.norm_out(h), inplace=True)
        if references is not None:
            h = self.attn_refinement[-1](h, references[-1], frames)
        h = rearrange(self.conv_out(h), "(b t) c h w -> b c t h w", t=frames)
        h = self.conv_out.get_submodule("time_mix_conv")(h)
        return rearrange(h, "b c t h w -> (b t) c h w")


class VideoAutoencoder(Autoencoder):
    """The ordinary encoder with ToonCrafter's decoder; latents are decoded as a clip, without ``post_quant_conv``."""

    def __init__(self, config: VaeConfig, operations: Operations = PLAIN) -> None:
        super().__init__(config, operations, VideoDecoder)

    def references(self, first: Tensor, last: Tensor) -> list[Tensor]:
        """Encoder features of the key images ``[b, 3, H, W]`` as ``[b, c, 2, h, w]`` for each level."""
        features: list[Tensor] = []
        self.encode(torch.stack([first, last], dim=1).flatten(0, 1), features)
        return [rearrange(f, "(b k) c h w -> b c k h w", k=2) for f in features]

    def decode_clip(self, latents: Tensor, frames: int, references: list[Tensor] | None) -> Tensor:
        """Scaled latents ``[(b t), 4, h, w]`` to frames ``[(b t), 3, 8 h, 8 w]`` around [-1, 1], unclamped."""
        return self.decoder(latents / self.config.scale_factor, frames, references, tiles=self.tiles)

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        """Decode all frames of a clip at once, as :class:`~.protocols.FrameDecoder`."""
        references = None if pictures is None else self.references(pictures[:1], pictures[1:])
        yield self.decode_clip(latents, latents.shape[0], references)


def build_autoencoder(config: VaeConfig, operations: Operations = PLAIN) -> Autoencoder:
    """The autoencoder a variant uses."""
    return VideoAutoencoder(config, operations) if config.video_decoder else Autoencoder(config, operations)
