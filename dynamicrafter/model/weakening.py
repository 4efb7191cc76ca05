"""Networks made worse on purpose, for guidance away from them: self-attention that sees nothing but its own place."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from .attention import SelfAttention, SpatialTransformer, TemporalTransformer
from .operations import Attention
from .unet import VideoUNet


def stg_layers(network: VideoUNet) -> list[SelfAttention]:
    """The self-attentions that spatiotemporal skip guidance weakens (arXiv 2411.18664): those of the first output block
    that has any, over space and over time. A temporal block has two, of which one alone would make up for the other."""
    for stage in network.output_blocks:
        found = [layer for part in stage.children() for layer in _self_attentions(part)]
        if found:
            return found
    return []


def pag_layers(network: VideoUNet) -> list[SelfAttention]:
    """The self-attention over space in the middle block, which perturbed-attention guidance weakens
    (arXiv 2403.17377)."""
    spatial = [part for part in network.middle_block if isinstance(part, SpatialTransformer)]
    return [layer for part in spatial for layer in _self_attentions(part)]


def _self_attentions(part: object) -> list[SelfAttention]:
    if not isinstance(part, (SpatialTransformer, TemporalTransformer)):
        return []
    (block,) = part.transformer_blocks
    return [layer for layer in (block.attn1, block.attn2) if isinstance(layer, SelfAttention)]


@contextmanager
def replaced_attention(replaced: Sequence[tuple[SelfAttention, Attention]]) -> Generator[None]:
    """Let self-attentions use other functions of query, key and value, and then their own again."""
    usual = [(layer, layer.attention) for layer, _ in replaced]
    try:
        for layer, attention in replaced:
            layer.attention = attention
        yield
    finally:
        for layer, attention in usual:
            layer.attention = attention


def weakened(layers: Sequence[SelfAttention]) -> AbstractContextManager[None]:
    """Replace the attention map of ``layers`` by the identity, so that each place gets its own value."""
    return replaced_attention([(layer, _own_value) for layer in layers])


def _own_value(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return v
