"""The layer classes and the attention function that every network's constructor receives.

A host that streams or casts weights passes its own layer namespace (same names and signatures as ``torch.nn``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""``(q, k, v, heads) -> out``, all ``[b, n, heads * d]`` with the heads outermost in the last axis."""


class LayerClasses(Protocol):
    """The six layer classes the networks are built from; ``torch.nn`` satisfies it."""

    Linear: Callable[..., nn.Module]
    Conv1d: Callable[..., nn.Module]
    Conv2d: Callable[..., nn.Module]
    Conv3d: Callable[..., nn.Module]
    GroupNorm: Callable[..., nn.Module]
    LayerNorm: Callable[..., nn.Module]


_LARGEST_BATCH = 65535
"""CUDA's fused kernels map the batch to a grid axis of at most this length."""


def fused_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention without mask, logits scaled by ``d ** -0.5``; ``[b, n, heads * d]`` in and out."""
    if q.shape[0] > _LARGEST_BATCH:
        starts = range(0, q.shape[0], _LARGEST_BATCH)
        pieces = [slice(start, start + _LARGEST_BATCH) for start in starts]
        return torch.cat([fused_attention(q[piece], k[piece], v[piece], heads) for piece in pieces])
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


@dataclass(frozen=True)
class Operations:
    """Layer classes, attention, dtype and device that a network is built with; the default is plain PyTorch."""

    layers: LayerClasses = cast(LayerClasses, nn)
    attention: Attention = fused_attention
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None

    @property
    def factory(self) -> dict[str, Any]:
        """Keyword arguments for layer constructors."""
        return {"dtype": self.dtype, "device": self.device}


PLAIN = Operations()
"""Plain PyTorch with its default dtype and device."""
