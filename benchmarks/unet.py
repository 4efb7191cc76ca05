"""How fast is one evaluation of the denoising network? Any variant, size, dtype, device and thread count.

    python benchmarks/unet.py
    python benchmarks/unet.py --variant 1024_v1 --size 1024x576 --dtype bf16 --device cuda

Weights are random; the time does not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measure import (
    DTYPES,
    GIB,
    Table,
    counted_flops,
    default_device,
    machine,
    peak_bytes,
    start_counting_memory,
    timed,
    versions,
    with_random_weights,
)
from torch import Tensor

from dynamicrafter.model.configs import LATENT_FACTOR, TEXT_TOKENS
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import VARIANTS, Variant

HEADER = ("variant", "input", "dtype", "s min", "s median", "TFLOP", "TFLOP/s", "peak GiB")


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


@torch.inference_mode()
def measure(
    variant: Variant,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    runs: int,
    warmup: int,
) -> tuple[str, ...]:
    """The table row for one shape."""
    start_counting_memory(device)
    network = with_random_weights(lambda: VideoUNet(variant.unet), dtype, device)
    arguments = inputs(variant, shape, dtype, device)
    timing = timed(lambda: network(*arguments), device, runs, warmup)
    peak = peak_bytes(device)
    total = flops(variant, shape)
    batch, frames, height, width = shape
    return (
        variant.name,
        f"{batch}x{variant.unet.in_channels}x{frames}x{height}x{width}",
        str(dtype).removeprefix("torch."),
        f"{timing.least:.3f}",
        f"{timing.median:.3f}",
        f"{total / 1e12:.2f}",
        f"{total / 1e12 / timing.least:.2f}",
        f"{peak / GIB:.2f}",
    )


def pair(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT``."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 512x320")
    return int(width), int(height)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", choices=list(VARIANTS), default="512_v1")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", type=pair, metavar="WxH", help="in pixels, multiples of 64")
    size.add_argument(
        "--latent", type=pair, metavar="WxH", help="in latent cells, multiples of 8 (default 16x16)"
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    chosen = parser.parse_args(argv)
    if chosen.device == "auto":
        chosen.device = default_device()
    return chosen


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    width, height = chosen.latent or (16, 16)
    if chosen.size is not None:
        width, height = (side // LATENT_FACTOR for side in chosen.size)
    table = Table(HEADER)
    shape = (chosen.batch, chosen.frames, height, width)
    table.add(
        *measure(VARIANTS[chosen.variant], shape, DTYPES[chosen.dtype], device, chosen.runs, chosen.warmup)
    )
    print(f"{machine(device)}; {versions()}\n\n{table.markdown()}")


if __name__ == "__main__":
    main()
