"""The transformers of the network pair: over the positions of a frame and its reference, and over the frames.

Attribute names are the released files'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.jit import is_tracing  # pyright: ignore[reportPrivateImportUsage]

from ..model.attention import FeedForward, SelfAttention
from ..model.operations import Operations
from .config import MAX_WINDOW

KeysValues = tuple[Tensor, Tensor]
"""Keys and values ``[b, n, c]`` of the reference's tokens, by the denoising block that attends to them."""
Features = Mapping[str, Tensor]
"""What the reference network hands over: tokens ``[b, n, c]`` by the path of the transformer, as in both networks."""
Reference = Mapping[str, KeysValues]
"""The same, projected for the denoising network once per clip."""

_MOTION_HEADS = 8
_MOTION_GROUPS = 32
"""Motion modules have these at any width, whatever the rest of the network has."""


class ContextAttention(nn.Module):
    """Cross-attention to a context of one token: its softmax is 1, so the query has no effect and is not computed.

    The files' ``to_q``, ``to_k`` and the norm before them are therefore not read.
    """

    def __init__(self, channels: int, context_dim: int, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.to_v = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels, **operations.factory)])

    def forward(self, context: Tensor) -> Tensor:
        """``[b, 1, d]`` to ``[b, 1, c]``, to be added to every token."""
        return self.to_out[0](self.to_v(context))


class SpatialBlock(nn.Module):
    """Self-attention, which may attend to a reference as well, context and feed-forward; pre-norm."""

    def __init__(self, channels: int, heads: int, context_dim: int, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.norm1 = ops.LayerNorm(channels, **operations.factory)
        self.attn1 = SelfAttention(channels, heads, operations)
        self.attn2 = ContextAttention(channels, context_dim, operations)
        self.norm3 = ops.LayerNorm(channels, **operations.factory)
        self.ff = FeedForward(channels, operations)

    def project(self, features: Tensor) -> KeysValues:
        """Keys and values of a reference's features ``[b, n, c]``."""
        return self.attn1.to_k(features), self.attn1.to_v(features)

    def forward(
        self, x: Tensor, context: Tensor, reference: KeysValues | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``[(b f), n, c]`` after the block, and the normed input of its attention, a reference's features.

        ``context`` is ``[b, 1, d]``; ``reference`` ``[b, m, c]`` serves all f frames of its row.
        """
        frames = x.shape[0] // context.shape[0]
        features = self.norm1(x)
        also = None
        if reference is not None:
            keys, values = reference
            also = (_for_frames(keys, frames), _for_frames(values, frames))
        x = x + self.attn1(features, also)
        x = x + _for_frames(self.attn2(context), frames)
        return x + self.ff(self.norm3(x)), features


def _for_frames(tokens: Tensor, frames: int) -> Tensor:
    return repeat(tokens, "b n c -> (b f) n c", f=frames)


class ReferenceTransformer(nn.Module):
    """Attention over the positions of each frame."""

    def __init__(
        self, channels: int, heads: int, context_dim: int, norm_groups: int, operations: Operations
    ) -> None:
        super().__init__()
        ops = operations.layers
        self.norm = ops.GroupNorm(norm_groups, channels, eps=1e-6, **operations.factory)
        self.proj_in = ops.Conv2d(channels, channels, 1, **operations.factory)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(channels, heads, context_dim, operations)])
        self.proj_out = ops.Conv2d(channels, channels, 1, **operations.factory)

    def _block(self) -> SpatialBlock:
        return cast(SpatialBlock, self.transformer_blocks[0])

    def project(self, features: Tensor) -> KeysValues:
        """As :meth:`SpatialBlock.project`."""
        return self._block().project(features)

    def forward(
        self, x: Tensor, context: Tensor, reference: KeysValues | None = None
    ) -> tuple[Tensor, Tensor]:
        """``[(b f), c, h, w]`` in and out, and the features ``[(b f), h w, c]``."""
        h = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        h, features = self._block()(h, context, reference)
        return x + self.proj_out(rearrange(h, "n (h w) c -> n c h w", h=x.shape[-2])), features


def temporal_positions(frames: int, channels: int) -> Tensor:
    """Position embedding ``[frames, channels]``, float32: sine and cosine in turn, of 1 to 32 frames."""
    if frames > MAX_WINDOW:
        raise ValueError(f"a window must have 1 to {MAX_WINDOW} frames, not {frames}")
    places = torch.arange(frames)[:, None]
    steps = torch.arange(0, channels, 2)
    if is_tracing():
        # The logarithm is not exact in half precision, in which graphs are stored, but 10000 is.
        frequencies = torch.pow(10000.0, -(steps / channels))
    else:
        frequencies = torch.exp(steps * (-math.log(10000.0) / channels))
    angles = places * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class MotionBlock(nn.Module):
    """Two self-attentions over the frames at each position, each with positions added, and a feed-forward; pre-norm."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.attention_blocks = nn.ModuleList(
            SelfAttention(channels, _MOTION_HEADS, operations) for _ in range(2)
        )
        self.norms = nn.ModuleList(ops.LayerNorm(channels, **operations.factory) for _ in range(2))
        self.ff = FeedForward(channels, operations)
        self.ff_norm = ops.LayerNorm(channels, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """``[(b p), f, c]`` in and out."""
        positions = temporal_positions(x.shape[1], x.shape[2]).to(x)
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            x = x + attention(norm(x) + positions)
        return x + self.ff(self.ff_norm(x))


class MotionTransformer(nn.Module):
    """Attention over the frames; unlike DynamiCrafter's, the norm's statistics are each frame's own."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.norm = ops.GroupNorm(_MOTION_GROUPS, channels, eps=1e-6, **operations.factory)
        self.proj_in = ops.Linear(channels, channels, **operations.factory)
        self.transformer_blocks = nn.ModuleList([MotionBlock(channels, operations)])
        self.proj_out = ops.Linear(channels, channels, **operations.factory)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[(b f), c, h, w]`` in and out."""
        height = x.shape[-2]
        # Each tensor is freed when the next one is there.
        h = self.proj_in(rearrange(self.norm(x), "(b f) c h w -> (b h w) f c", f=frames).contiguous())
        h = self.proj_out(self.transformer_blocks[0](h))
        return x + rearrange(h, "(b h w) f c -> (b f) c h w", h=height, w=x.shape[-1])


class MotionModule(nn.Module):
    """A temporal transformer under the name that the files give it."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.temporal_transformer = MotionTransformer(channels, operations)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[(b f), c, h, w]`` in and out."""
        return self.temporal_transformer(x, frames)
