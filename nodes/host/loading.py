"""A checkpoint's networks as the host's MODEL, CLIP, CLIP_VISION and VAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...dynamicrafter.checkpoint.tensors import components_in, load_tensors
from .model import STORAGE_DTYPES, build_model
from .resampler import attach_resampler
from .towers import build_clip, build_clip_vision
from .vae import build_vae

WEIGHT_DTYPES = ["auto", *STORAGE_DTYPES]
"""Choices of how the network's weights are kept."""


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint gives; towers and VAE are None where it was pruned of them."""

    model: Any
    clip: Any
    clip_vision: Any
    vae: Any


def load_checkpoint(path: Path, variant: str | None, weight_dtype: str) -> Loaded:
    """Read a checkpoint, one network after the other, so that no two copies of all of it are ever in memory."""
    chosen, present = components_in(path, variant)
    _, core = load_tensors(path, ("unet", "resampler"), chosen.name)
    unet, resampler = core["unet"], core["resampler"]
    model = build_model(chosen, unet.tensors, unet.dtype, weight_dtype)
    attach_resampler(model, chosen, resampler.tensors, resampler.dtype)
    del core, unet, resampler

    vae = clip = clip_vision = None
    if "vae" in present:
        _, rest = load_tensors(path, ("vae",), chosen.name)
        vae = build_vae(chosen.vae, rest["vae"].tensors)
    if "text" in present:
        _, rest = load_tensors(path, ("text",), chosen.name)
        clip = build_clip(chosen.text, rest["text"].tensors)
    if "vision" in present:
        _, rest = load_tensors(path, ("vision",), chosen.name)
        clip_vision = build_clip_vision(chosen.vision, rest["vision"].tensors)
    return Loaded(model, clip, clip_vision, vae)
