"""Bytes on the device for weights and activations, by the way in which a model uses memory, and which way fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..errors import UsageError
from ..model.configs import LATENT_FACTOR, MEMORY, Memory, Quantised, Residence
from ..model.memory import branches_at_once, unet_bytes, vae_decode_bytes
from ..model.operations import Operations
from ..model.placement import streamed_layers, weights_on_device
from ..model.quantised import quantised
from ..model.tiles import TILES, Tiles
from ..model.variants import Variant
from .networks import COMPONENTS, Component, build

_ROOM = 2**29
"""Bytes of the free memory that are not counted on: kernels, libraries and gaps between tensors."""


@dataclass(frozen=True)
class ClipSize:
    """Number and size of the clips of a batch, on which its memory depends."""

    clips: int
    frames: int
    width: int
    """In pixels, as ``height``."""
    height: int
    branches: int = 2
    """Evaluations that guidance takes for a step; those of small clips are one batch."""

    @property
    def cells(self) -> int:
        """Values of each channel of the latents."""
        return self.clips * self.frames * (self.width // LATENT_FACTOR) * (self.height // LATENT_FACTOR)


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device at the peak."""

    weights: int
    activations: float
    """Estimated by :mod:`dynamicrafter.model.memory`."""

    @property
    def total(self) -> float:
        """Both together."""
        return self.weights + self.activations


def footprint(
    variant: Variant, work: ClipSize, dtype: torch.dtype, kind: Quantised | None, residence: Residence
) -> Footprint:
    """The peak of encoding, sampling and decoding, with fused attention; ``kind``: how the weights are quantised.

    The activations of the CLIP encoders and the resampler, a few megabytes, are not counted.
    """
    at_once = work.frames if variant.vae.video_decoder else 1
    activations: dict[Component, float] = {
        "unet": unet_bytes(variant.unet, branches_at_once(work.cells, work.branches) * work.cells, dtype),
        # Images are encoded one at a time, which takes less than decoding a frame.
        "vae": vae_decode_bytes(
            variant.vae, at_once, work.width * work.height, dtype, tiles_for(variant, residence)
        ),
    }
    weights = {
        component: _weights(variant, component, dtype, kind, residence == "min") for component in COMPONENTS
    }
    if residence == "high":
        return Footprint(sum(weights.values()), max(activations.values()))
    each = [Footprint(weights[component], activations.get(component, 0)) for component in COMPONENTS]
    return max(each, key=lambda one: one.total)


def network_bytes(variant: Variant, component: Component, dtype: torch.dtype) -> int:
    """Bytes of the weights of one network."""
    return _weights(variant, component, dtype, None, False)


def tiles_for(variant: Variant, residence: Residence) -> Tiles | None:
    """The tiles in which a variant's frames are decoded, or None.

    Only a video decoder, which decodes all frames at once, needs more memory than the denoising network.
    """
    return TILES if residence == "min" and variant.vae.video_decoder else None


@cache
def _weights(
    variant: Variant, component: Component, dtype: torch.dtype, kind: Quantised | None, streamed: bool
) -> int:
    operations = Operations(dtype=dtype, device="meta")
    if kind is not None and component == "unet":
        operations = quantised(operations, kind)
    network = build(variant, component, operations)
    return weights_on_device(network, streamed_layers(network) if streamed else ())


def pick_residence(
    memory: Memory,
    variant: Variant,
    works: Iterable[ClipSize],
    device: torch.device,
    dtype: torch.dtype,
    kind: Quantised | None,
) -> Residence:
    """The way in which networks use the device's memory; "auto" is the fastest that fits into what is free.

    Raises UsageError for an unknown name.
    """
    each = list(works)

    def needed(residence: Residence) -> float:
        return max(footprint(variant, work, dtype, kind, residence).total for work in each)

    return fitting_residence(memory, needed, device)


def fitting_residence(
    memory: Memory, needed: Callable[[Residence], float], device: torch.device
) -> Residence:
    """:func:`pick_residence` of a model that needs that many bytes in each way."""
    if memory not in MEMORY:
        raise UsageError(f"memory must be {', '.join(MEMORY)}, not {memory!r}")
    if memory != "auto":
        return memory
    free = free_bytes(device)
    if free == math.inf:
        return "high"
    ways: tuple[Residence, ...] = ("high", "low")
    for residence in ways:
        if needed(residence) <= free - _ROOM:
            return residence
    return "min"


def free_bytes(device: torch.device) -> float:
    """Bytes of the device that are free; infinite where its memory is the system's, as the CPU's is, or unknown."""
    backend: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(backend, "mem_get_info"):
        return backend.mem_get_info(device)[0]
    if device.type != "cpu" and hasattr(backend, "recommended_max_memory"):
        return backend.recommended_max_memory() - backend.driver_allocated_memory()
    return math.inf
