"""Bytes on the device for AnimateAnyone's weights and activations, whatever the length of the clip.

The factors were counted with ``benchmarks/memory.py --network person``, and a test compares them with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from ..model.autoencoder import Autoencoder
from ..model.configs import LATENT_FACTOR, Quantised, Residence
from ..model.memory import MARGIN, vae_decode_bytes, vae_encode_bytes
from ..model.operations import Operations
from ..model.placement import streamed_layers, weights_on_device
from ..model.quantised import quantised
from ..weights.footprint import Footprint
from .config import PairConfig, PersonConfig
from .embedder import ImageEmbedder
from .pose_guider import PoseGuider
from .unet import DenoisingUNet, ReferenceUNet


@dataclass(frozen=True)
class WindowSize:
    """What a clip's memory depends on: the frames of a window, and their size."""

    frames: int
    width: int
    """In pixels, as ``height``."""
    height: int

    @property
    def plane(self) -> int:
        """Positions of a frame's latents."""
        return (self.width // LATENT_FACTOR) * (self.height // LATENT_FACTOR)


USUAL_WINDOW = WindowSize(24, 512, 768)
"""Of the original's demo."""


def denoising_bytes(config: PersonConfig, size: WindowSize, dtype: torch.dtype) -> float:
    """Peak of evaluating a window, with its pose features and the reference's keys and values, and fused attention."""
    plane, widest = config.pair.widths[0] * size.plane, max(config.pair.widths)
    window = plane * size.frames
    # The convolutions at full resolution; the first motion module's feed-forward layer, which holds twelve times its
    # input, but at most 2 ** 26 values. Both have the pose features beside them. The pose guider at the image's size.
    guider = 4.2 * config.pose_guider.widths[0] * size.width * size.height
    values = max(16 * window, 9 * window + min(12 * window, 2**26), guider + window)
    reference = 18 * plane
    # If weights are cast or streamed, a copy of one layer's is held too; the largest is 3x3 over concatenated channels.
    return MARGIN * (values + reference + 9 * 2 * widest * widest) * dtype.itemsize


def reference_bytes(config: PairConfig, size: WindowSize, dtype: torch.dtype) -> float:
    """Peak of the reference network, which keeps what every transformer sees."""
    return MARGIN * 30 * config.widths[0] * size.plane * dtype.itemsize


def person_footprint(
    config: PersonConfig, size: WindowSize, dtype: torch.dtype, kind: Quantised | None, residence: Residence
) -> Footprint:
    """The peak over encoding, sampling and decoding; ``kind``: how the denoising network's layers are quantised.

    The activations of the image encoder, a few megabytes, are not counted.
    """
    pixels = size.width * size.height
    parts = {
        "embedder": 0.0,
        "vae": max(
            vae_encode_bytes(config.vae, pixels, dtype), vae_decode_bytes(config.vae, 1, pixels, dtype)
        ),
        "reference": reference_bytes(config.pair, size, dtype),
        "denoising": denoising_bytes(config, size, dtype),
    }
    each = [
        Footprint(_weights(config, part, dtype, kind, residence == "min"), activations)
        for part, activations in parts.items()
    ]
    if residence == "high":
        return Footprint(sum(one.weights for one in each), max(one.activations for one in each))
    return max(each, key=lambda one: one.total)


@cache
def _weights(
    config: PersonConfig, part: str, dtype: torch.dtype, kind: Quantised | None, streamed: bool
) -> int:
    """Bytes of a network's weights on the device; the denoising one's with those of the pose guider."""
    plain = Operations(dtype=dtype, device="meta")
    if part == "denoising":
        network: nn.Module = nn.ModuleList(
            [
                PoseGuider(config.pose_guider, plain),
                DenoisingUNet(config.pair, plain if kind is None else quantised(plain, kind)),
            ]
        )
    elif part == "reference":
        network = ReferenceUNet(config.pair, plain)
    elif part == "embedder":
        network = ImageEmbedder(config.embedder, plain)
    else:
        network = Autoencoder(config.vae, plain)
    return weights_on_device(network, streamed_layers(network) if streamed else ())
