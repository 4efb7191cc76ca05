"""Estimates of the networks' peak activation memory, in bytes.

The factors were measured with ``benchmarks/memory.py``, and a test compares them with it; ``docs/memory.md`` has the
table. ``MARGIN`` is added for what cannot be counted without the actual device.
"""

from __future__ import annotations

import torch

from .configs import LATENT_FACTOR, UNetConfig, VaeConfig
from .tiles import Tiles

MARGIN = 1.25
"""Covers allocator rounding, fragmentation and library workspaces (only those of convolutions are counted)."""

SLICE = 256
"""Queries whose scores are held at once in attention that is not fused."""

ONE_BATCH = 2**15
"""Latent cells (clips x frames x height x width) up to which guidance's branches are evaluated as one batch.

Smaller evaluations spend their time on starting operators and on reading weights, which a batch does once; larger ones
keep a device busy, and a batch would only double their memory.
"""


def branches_at_once(cells: int, branches: int) -> int:
    """How many of a step's ``branches`` are evaluated at once on ``cells`` of latents: all of them or one."""
    return branches if cells <= ONE_BATCH else 1


def unet_bytes(config: UNetConfig, cells: int, dtype: torch.dtype, fused: bool = True) -> float:
    """Peak of one evaluation on ``cells`` = clips x frames x height x width of the latents.

    ``fused``: whether attention runs in a kernel that never stores its scores (flash, memory-efficient, xformers).
    """
    base, inner = config.model_channels, 8 * config.num_head_channels
    # The convolutions at full resolution; attention in the first transformer; its feed-forward layer, which holds
    # twelve times its input, but at most 2 ** 26 values.
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
    # If weights are cast or streamed, a copy of one layer's is held too; the largest is 3x3 over concatenated channels.
    widest = base * max(config.channel_mult)
    return MARGIN * (needed + 9 * 2 * widest * widest * dtype.itemsize)


def vae_encode_bytes(config: VaeConfig, pixels: int, dtype: torch.dtype) -> float:
    """Peak of encoding ``pixels`` = images x height x width, including the reference features of a video decoder."""
    return MARGIN * (7.1 if config.video_decoder else 6) * config.channels * pixels * dtype.itemsize


def vae_decode_bytes(
    config: VaeConfig, frames: int, pixels: int, dtype: torch.dtype, tiles: Tiles | None = None
) -> float:
    """Peak of decoding ``frames`` of ``pixels`` = height x width at once, including a video decoder's references.

    ``tiles``: those in which they are decoded, if any.
    """
    references = 5.7 if config.video_decoder else 0
    if tiles is None or tiles.size**2 * LATENT_FACTOR**2 >= pixels:
        return MARGIN * (8.6 * frames + references) * config.channels * pixels * dtype.itemsize
    tile = 8.6 * config.channels * tiles.size**2 * LATENT_FACTOR**2 * dtype.itemsize
    # What the tiles are cut from, at the size of the latents, and the blended frames in float32.
    deepest = config.channels * config.channel_mult[-1] / LATENT_FACTOR**2
    whole = deepest * dtype.itemsize + 3 * torch.float32.itemsize
    kept = references * config.channels * pixels * dtype.itemsize
    return MARGIN * (frames * (tile + whole * pixels) + kept)
