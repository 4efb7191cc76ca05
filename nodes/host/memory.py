"""How much memory the activations take; constants measured by benchmarks/memory.py, see docs/memory.md."""

from __future__ import annotations

import torch

from ...dynamicrafter.variants import UNetConfig, VaeConfig

_UNET_VALUES_PER_CELL = 35_000
_ENCODE_VALUES_PER_PIXEL = 1_100
_DECODE_VALUES_PER_PIXEL = 1_200


def unet_activation_bytes(config: UNetConfig, cells: int, dtype: torch.dtype) -> float:
    """Peak bytes of one evaluation on ``cells`` = clips x frames x height x width of latents."""
    return _UNET_VALUES_PER_CELL * config.model_channels / 320 * cells * dtype.itemsize


def vae_encode_bytes(config: VaeConfig, pixels: int, dtype: torch.dtype) -> float:
    """Peak bytes of encoding ``pixels`` = pictures x height x width."""
    return _ENCODE_VALUES_PER_PIXEL * config.channels / 128 * pixels * dtype.itemsize


def vae_decode_bytes(config: VaeConfig, pixels: int, dtype: torch.dtype) -> float:
    """Peak bytes of decoding ``pixels`` = frames x height x width."""
    return _DECODE_VALUES_PER_PIXEL * config.channels / 128 * pixels * dtype.itemsize
