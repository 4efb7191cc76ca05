"""The transformers of the network: text + image cross-attention over space, self-attention over time.

Attribute names are the released checkpoints' names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from .operations import Operations
from .protocols import Context


class SelfAttention(nn.Module):
    """Multi-head self-attention over ``[b, n, c]`` without a mask or position embedding, so n is arbitrary."""

    def __init__(self, channels: int, heads: int, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.heads = heads
        self.attention = operations.attention
        self.to_q = ops.Linear(channels, channels, bias=False, **operations.factory)
        self.to_k = ops.Linear(channels, channels, bias=False, **operations.factory)
        self.to_v = ops.Linear(channels, channels, bias=False, **operations.factory)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels, **operations.factory)])

    def forward(self, x: Tensor, also: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """``[b, n, c]`` in and out; ``also`` are keys and values ``[b, m, c]`` to attend to besides its own."""
        # No names here, so that an attention function can free what it has split into heads.
        return self.to_out[0](
            self.attention(
                self.to_q(x),
                _with(self.to_k(x), None if also is None else also[0]),
                _with(self.to_v(x), None if also is None else also[1]),
                self.heads,
            )
        )


def _with(tokens: Tensor, more: Tensor | None) -> Tensor:
    return tokens if more is None else torch.cat([tokens, more], dim=1)


class CrossAttention(nn.Module):
    """Attends to text tokens and image tokens separately with the same query and adds the results (paper, equation 2).

    The image part is weighted by ``tanh(alpha) + 1`` where the variant learned a scale, else by 1.
    """

    def __init__(
        self, channels: int, heads: int, context_dim: int, learned_image_scale: bool, operations: Operations
    ) -> None:
        super().__init__()
        ops = operations.layers
        self.heads = heads
        self.attention = operations.attention
        self.to_q = ops.Linear(channels, channels, bias=False, **operations.factory)
        self.to_k = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_v = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_k_ip = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_v_ip = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels, **operations.factory)])
        if learned_image_scale:
            self.alpha = nn.Parameter(torch.zeros((), **operations.factory))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """``x`` is ``[(b t), n, c]``, ``context`` grouped for t frames; keys and values are computed once per clip."""
        frames = x.shape[0] // context.text.shape[0]
        q = self.to_q(x)
        text = self.attention(
            q,
            repeat(self.to_k(context.text), "b n c -> (b t) n c", t=frames),
            repeat(self.to_v(context.text), "b n c -> (b t) n c", t=frames),
            self.heads,
        )
        image = self.attention(
            q,
            _per_frame(self.to_k_ip(context.image), frames),
            _per_frame(self.to_v_ip(context.image), frames),
            self.heads,
        )
        if hasattr(self, "alpha"):
            # A host that streams layers may leave this bare parameter on a different device.
            image = image * (self.alpha.to(image.device, image.dtype).tanh() + 1)
        joined = text + image
        del q, text, image
        return self.to_out[0](joined)


class TokenAttention(nn.Module):
    """Attends to one sequence of tokens, the same for all frames of a clip, as Stable Diffusion does."""

    def __init__(self, channels: int, heads: int, context_dim: int, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.heads = heads
        self.attention = operations.attention
        self.to_q = ops.Linear(channels, channels, bias=False, **operations.factory)
        self.to_k = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_v = ops.Linear(context_dim, channels, bias=False, **operations.factory)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels, **operations.factory)])

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """``x`` is ``[(b t), n, c]``, ``tokens`` ``[b, m, d]``; keys and values are computed once per clip."""
        frames = x.shape[0] // tokens.shape[0]
        return self.to_out[0](
            self.attention(
                self.to_q(x),
                repeat(self.to_k(tokens), "b n c -> (b t) n c", t=frames),
                repeat(self.to_v(tokens), "b n c -> (b t) n c", t=frames),
                self.heads,
            )
        )


def _per_frame(tokens: Tensor, frames: int) -> Tensor:
    """Image tokens ``[b, t or 1, n, c]`` as ``[(b t), n, c]``: a frame's own, or the same for every frame."""
    return tokens.expand(-1, frames, -1, -1).flatten(0, 1)


class GatedLinear(nn.Module):
    """GEGLU: a linear layer whose first half is multiplied by the exact GELU of its second."""

    def __init__(self, channels: int, inner: int, operations: Operations) -> None:
        super().__init__()
        self.proj = operations.layers.Linear(channels, 2 * inner, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels]`` to ``[..., inner]``."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        # In place, because these are the network's largest tensors.
        return F.gelu(gate).mul_(value)


_FEED_FORWARD_VALUES = 2**26
"""Approximate limit on the values held between the two layers at once; large enough to keep any device busy."""


class FeedForward(nn.Module):
    """GEGLU to four times the width, then a linear layer back."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        # Index 1 was dropout in the trained network; the checkpoint's names count it.
        self.net = nn.Sequential(
            GatedLinear(channels, 4 * channels, operations),
            nn.Identity(),
            operations.layers.Linear(4 * channels, channels, **operations.factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels]`` in and out."""
        tokens = x.flatten(0, -2)
        # Intermediate values take 12 times the size of the input; unsplit, they would set the network's peak memory.
        size = max(1, _FEED_FORWARD_VALUES // (12 * tokens.shape[1]))
        if tokens.shape[0] <= size:
            return self.net(x)
        starts = range(0, tokens.shape[0], size)
        return torch.cat([self.net(tokens[start : start + size]) for start in starts]).view_as(x)


class _Block(nn.Module):
    """Three pre-norm residual steps; ``attn2`` is cross-attention in space and self-attention in time."""

    def __init__(self, channels: int, attn1: nn.Module, attn2: nn.Module, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.norm1 = ops.LayerNorm(channels, **operations.factory)
        self.attn1 = attn1
        self.norm2 = ops.LayerNorm(channels, **operations.factory)
        self.attn2 = attn2
        self.norm3 = ops.LayerNorm(channels, **operations.factory)
        self.ff = FeedForward(channels, operations)

    def forward(self, x: Tensor, context: Context | Tensor | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        given = () if context is None else (context,)
        x = x + self.attn2(self.norm2(x), *given)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Attention over the positions of each frame, and from them to what ``cross`` attends to."""

    def __init__(
        self,
        channels: int,
        heads: int,
        norm_groups: int,
        cross: Callable[[], nn.Module],
        operations: Operations,
    ) -> None:
        """``cross`` makes the cross-attention, such as :class:`CrossAttention`."""
        super().__init__()
        ops = operations.layers
        self.norm = ops.GroupNorm(norm_groups, channels, eps=1e-6, **operations.factory)
        self.proj_in = ops.Linear(channels, channels, **operations.factory)
        block = _Block(channels, SelfAttention(channels, heads, operations), cross(), operations)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = ops.Linear(channels, channels, **operations.factory)

    def forward(self, x: Tensor, context: Context | Tensor) -> Tensor:
        """``[(b t), c, h, w]`` in and out; ``context`` is the second argument of the cross-attention."""
        height = x.shape[-2]
        # Without contiguous() the linear layer becomes a batch of small matrix products.
        h = self.proj_in(rearrange(self.norm(x), "n c h w -> n (h w) c").contiguous())
        h = self.proj_out(self.transformer_blocks[0](h, context))
        return x + rearrange(h, "n (h w) c -> n c h w", h=height)


class TemporalTransformer(nn.Module):
    """Self-attention over the frames at each position; both attention layers of its block attend to frames only.

    ``projection`` is "conv" for the transformer after the first convolution, whose inner width differs from its
    channels, and "linear" for all others.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        heads: int,
        norm_groups: int,
        projection: Literal["linear", "conv"],
        operations: Operations,
    ) -> None:
        super().__init__()
        ops = operations.layers
        self.projection = projection
        self.norm = ops.GroupNorm(norm_groups, channels, eps=1e-6, **operations.factory)
        block = _Block(
            inner,
            SelfAttention(inner, heads, operations),
            SelfAttention(inner, heads, operations),
            operations,
        )
        self.transformer_blocks = nn.ModuleList([block])
        if projection == "conv":
            self.proj_in = ops.Conv1d(channels, inner, 1, **operations.factory)
            self.proj_out = ops.Conv1d(inner, channels, 1, **operations.factory)
        else:
            self.proj_in = ops.Linear(channels, inner, **operations.factory)
            self.proj_out = ops.Linear(inner, channels, **operations.factory)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``[(b t), c, h, w]`` in and out; the norm's statistics include time."""
        height, width = x.shape[-2:]
        clip = rearrange(x, "(b t) c h w -> b c t h w", t=frames)
        if self.projection == "conv":
            h = self.proj_in(rearrange(self.norm(clip), "b c t h w -> (b h w) c t"))
            h = h.transpose(1, 2).contiguous()
        else:
            h = self.proj_in(rearrange(self.norm(clip), "b c t h w -> (b h w) t c").contiguous())
        h = self.transformer_blocks[0](h)
        if self.projection == "conv":
            h = self.proj_out(h.transpose(1, 2)).transpose(1, 2)
        else:
            h = self.proj_out(h)
        return x + rearrange(h, "(b h w) t c -> (b t) c h w", h=height, w=width)
