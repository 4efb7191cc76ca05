"""How much memory the activations of the networks take at their peak, in bytes.

The factors were counted by ``benchmarks/memory.py`` and are compared with it by a test; ``docs/memory.md`` has the
table. ``MARGIN`` comes on top for what cannot be counted without the device at hand.
"""

from __future__ import annotations

import torch

from .configs import UNetConfig, VaeConfig

MARGIN = 1.25
"""Allocators round up and leave gaps, and libraries take scratch space, of which only convolutions' is counted."""

SLICE = 256
"""Queries whose scores are there at once in attention that is not fused."""


def unet_bytes(config: UNetConfig, cells: int, dtype: torch.dtype, fused: bool = True) -> float:
    """One evaluation on ``cells`` = clips x frames x height x width of the latents.

    ``fused``: whether attention is a kernel that never holds its scores (flash, memory-efficient, xformers).
    """
    base, inner = config.model_channels, 8 * config.num_head_channels
    # The convolutions at full resolution; attention in the first transformer; its feed-forward layer, which holds
    # twelve times the input, but 2 ** 26 values of that at most.
    values = max(
        13 * base * cells,
        (base + 7 * inner) * cells,
        (base + 4 * inner) * cells + min(12 * inner * cells, 2**26),
    )
    needed = values * dtype.itemsize
    if not fused:
        # Scores and weights in float32.
        heads = base // config.num_head_channels
        needed = max(needed, 9 * base * cells * dtype.itemsize + 8 * heads * SLICE * cells)
    # Where weights are cast or streamed, a copy of one layer's is there too; the largest is 3x3 over joined channels.
    widest = base * max(config.channel_mult)
    return MARGIN * (needed + 9 * 2 * widest * widest * dtype.itemsize)


def vae_encode_bytes(config: VaeConfig, pixels: int, dtype: torch.dtype) -> float:
    """Encoding ``pixels`` = pictures x height x width; with a video decoder, the features it refers to included."""
    return MARGIN * (7.1 if config.video_decoder else 6) * config.channels * pixels * dtype.itemsize


def vae_decode_bytes(config: VaeConfig, frames: int, pixels: int, dtype: torch.dtype) -> float:
    """Decoding ``frames`` of ``pixels`` = height x width at once; with a video decoder, the references included."""
    references = 5.7 if config.video_decoder else 0
    return MARGIN * (8.6 * frames + references) * config.channels * pixels * dtype.itemsize
