"""Sizes of the networks; defaults are those of the released checkpoints. Does not import PyTorch, like all configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

TEXT_TOKENS = 77
"""Length of every text condition; the networks were trained with exactly this many text tokens."""

LATENT_FACTOR = 8
"""Pixels per latent cell in each direction."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the denoising network (paper section 3.2; defaults are those of all released checkpoints)."""

    in_channels: int = 8
    """Noisy latent channels followed by the channels of the image's latent."""
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level, in units of ``model_channels``; the first must be 1."""
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (1, 2, 4)
    """Downsampling factors at which a level has spatial and temporal transformers."""
    num_head_channels: int = 64
    context_dim: int = 1024
    norm_groups: int = 32
    learned_image_scale: bool = False
    """Whether each image cross-attention has a learned weight ``alpha`` (256 only)."""


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the KL autoencoder; ``video_decoder`` adds ToonCrafter's temporal, reference-guided decoder."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scale_factor: float = 0.18215
    """Factor that posterior samples are multiplied by (Stable Diffusion's constant)."""
    video_decoder: bool = False


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of the network that turns CLIP image tokens into ``frames * queries_per_frame`` context tokens."""

    dim: int = 1024
    depth: int = 4
    head_channels: int = 64
    heads: int = 12
    queries_per_frame: int = 16
    frames: int = 16
    input_dim: int = 1280
    output_dim: int = 1024
    ff_mult: int = 4


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the CLIP text encoder; ``layers`` counts the blocks that run (the last trained block does not)."""

    width: int = 1024
    layers: int = 23
    heads: int = 16
    vocabulary: int = 49408


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the CLIP image encoder; all ``layers`` run, but not the final norm and projection."""

    width: int = 1280
    layers: int = 32
    heads: int = 16
    patch: int = 14
    image_size: int = 224


Quantised = Literal["int8", "fp8_scaled"]
"""How weights of layers are stored in 8 bits: integers, or floating point with 4 bits of exponent and 3 of mantissa."""
QUANTISED: tuple[Quantised, ...] = get_args(Quantised)

Weights = Literal["auto", "full", Quantised]
"""How the weights of the denoising network's layers are kept: as in the file, plainly, or quantised."""
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

Residence = Literal["high", "low", "min"]
"""How networks use the device's memory: all of them stay on it, each only while it works, or layer by layer."""
Memory = Literal["auto", Residence]
MEMORY: tuple[Memory, ...] = get_args(Memory)

Compile = Literal["off", "default", "reduce-overhead"]
"""Whether the denoising network's blocks are compiled, by the names of torch.compile's modes; the last one also records
CUDA graphs."""
COMPILE: tuple[Compile, ...] = get_args(Compile)
