"""The five networks of a variant: how to build each and which tensors each needs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import nn

from ..model.configs import Quantised
from ..model.encoders import CLIPImageEncoder, CLIPTextEncoder
from ..model.operations import Operations
from ..model.quantised import quantised
from ..model.resampler import Resampler
from ..model.unet import VideoUNet
from ..model.variants import V512, Variant
from ..model.video_decoder import build_autoencoder

Component = Literal["unet", "vae", "resampler", "text", "vision"]
"""A network of a checkpoint; the last two are the CLIP encoders, which may come from other files."""

COMPONENTS: tuple[Component, ...] = ("unet", "vae", "resampler", "text", "vision")
CORE: tuple[Component, ...] = ("unet", "vae", "resampler")
"""The networks that every checkpoint must contain."""
TOWER_COMPONENTS: tuple[Component, ...] = ("text", "vision")

TITLES: dict[Component, str] = {
    "unet": "denoising network",
    "vae": "autoencoder",
    "resampler": "image token resampler",
    "text": "CLIP text encoder",
    "vision": "CLIP image encoder",
}
"""Name of each network in messages."""


def build(variant: Variant, component: Component, operations: Operations) -> nn.Module:
    """Build one network with the layers, dtype and device of ``operations``, and their initial weights."""
    if component == "unet":
        return VideoUNet(variant.unet, operations)
    if component == "vae":
        return build_autoencoder(variant.vae, operations)
    if component == "resampler":
        return Resampler(variant.resampler, operations)
    dtype, device = operations.dtype or torch.float32, operations.device or "cpu"
    if component == "text":
        return CLIPTextEncoder(variant.text, dtype, device)
    return CLIPImageEncoder(variant.vision, dtype, device)


def expected(
    variant: Variant, component: Component, kind: Quantised | None = None
) -> dict[str, tuple[int, ...]]:
    """Names, without prefix, and shapes of all tensors of a network; ``kind``: how the UNet's layers are quantised."""
    return {name: shape for name, shape, _ in described(variant, component, kind)}


def described(
    variant: Variant, component: Component, kind: Quantised | None = None, dtype: torch.dtype = torch.float32
) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
    """As :func:`expected`, with the dtype of each tensor in a network of ``dtype``."""
    # Built within a fixed variant, so that variants that share a network share the cache entry.
    return _described(
        replace(V512, **{component: getattr(variant, component)}),
        component,
        kind if component == "unet" else None,
        dtype,
    )


@cache
def _described(
    variant: Variant, component: Component, kind: Quantised | None, dtype: torch.dtype
) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
    operations = Operations(dtype=dtype, device="meta")
    network = build(variant, component, operations if kind is None else quantised(operations, kind))
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items())
