"""The five networks of a variant: how to build each and which tensors each needs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from torch import nn

from ..model.encoders import CLIPImageEncoder, CLIPTextEncoder
from ..model.operations import Operations
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


def expected(variant: Variant, component: Component) -> dict[str, tuple[int, ...]]:
    """Names, without prefix, and shapes of all tensors of a network."""
    # Built within a fixed variant, so that variants that share a network share the cache entry.
    return dict(_expected(replace(V512, **{component: getattr(variant, component)}), component))


@cache
def _expected(variant: Variant, component: Component) -> tuple[tuple[str, tuple[int, ...]], ...]:
    network = build(variant, component, Operations(dtype=torch.float32, device="meta"))
    return tuple((name, tuple(tensor.shape)) for name, tensor in network.state_dict().items())
