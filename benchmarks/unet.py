"""The denoising network of the benchmarks: its inputs and its floating-point operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import counted_flops
from torch import Tensor

from dynamicrafter.model.configs import TEXT_TOKENS
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import Variant


def inputs(
    variant: Variant, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Context, Tensor]:
    """Arguments of one evaluation with shape ``(batch, frames, height, width)``, in latent cells."""
    batch, frames, height, width = shape
    config, queries = variant.unet, variant.resampler
    per_frame = frames == queries.frames
    image = (
        (frames, queries.queries_per_frame) if per_frame else (1, queries.frames * queries.queries_per_frame)
    )
    make = {"dtype": dtype, "device": device}
    return (
        torch.randn(batch, config.in_channels, frames, height, width, **make),
        torch.full((batch,), 500, device=device),
        Context(
            torch.randn(batch, TEXT_TOKENS, config.context_dim, **make),
            torch.randn(batch, *image, config.context_dim, **make),
        ),
        torch.full((batch,), variant.preset.fs, device=device),
    )


def flops(variant: Variant, shape: tuple[int, int, int, int]) -> int:
    """Floating-point operations of one evaluation."""

    def build(attention: Callable[..., Tensor]) -> Callable[[], object]:
        network = VideoUNet(variant.unet, Operations(attention=attention))
        arguments = inputs(variant, shape, torch.float32, torch.device("meta"))
        return lambda: network(*arguments)

    return counted_flops(build)
