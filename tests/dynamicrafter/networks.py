"""Networks small enough for tests, with weights that let every input show in the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from dynamicrafter.model.conditioning import Conditioning
from dynamicrafter.model.configs import TEXT_TOKENS, UNetConfig
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import SMALL

Network = TypeVar("Network", bound=nn.Module)

TINY_UNET = UNetConfig(
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_factors=(1, 2),
    num_head_channels=8,
    context_dim=12,
    norm_groups=4,
)
TINY_VAE = replace(SMALL.vae, channels=8, channel_mult=(1, 2), norm_groups=4)
TINY_RESAMPLER = replace(
    SMALL.resampler,
    dim=16,
    head_channels=4,
    heads=2,
    queries_per_frame=3,
    frames=4,
    input_dim=10,
    output_dim=12,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(network: Network, seed: int = 0) -> Network:
    """The network with every parameter random and away from zero, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            middle = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(middle + scale * torch.randn(parameter.shape, generator=generator))
    return network.requires_grad_(False).train(False)


def tiny_unet(
    config: UNetConfig = TINY_UNET, operations: Operations = Operations(), seed: int = 0
) -> VideoUNet:
    return filled(VideoUNet(config, operations), seed)


def context(batch: int, image_frames: int, image_tokens: int = 3, dim: int = 12, seed: int = 1) -> Context:
    return Context(
        normal(batch, TEXT_TOKENS, dim, seed=seed),
        normal(batch, image_frames, image_tokens, dim, seed=seed + 1),
    )


def conditioning(batch: int = 1, frames: int = 2, size: int = 4, fs: int = 7) -> Conditioning:
    """All branches different, so that a mixed-up branch shows."""
    return Conditioning(
        full=context(batch, frames, seed=10),
        unconditional=context(batch, frames, seed=20),
        image_only=context(batch, frames, seed=30),
        concat=normal(batch, 4, frames, size, size, seed=40),
        fs=torch.full((batch,), fs),
    )


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest magnitude of the expected value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def calls_of(network: Callable[..., Tensor], seen: list[tuple[object, ...]]) -> Callable[..., Tensor]:
    """The network as it is, with the arguments of every call written down."""

    def call(*arguments: object) -> Tensor:
        seen.append(arguments)
        return network(*arguments)

    return call
