"""How fast is each part, and how close to what the machine can do?

    python benchmarks/speed.py
    python benchmarks/speed.py --what vae clip --variant 1024_v1 --size 1024x576 --ways float32 bf16 --device cuda

Weights are random; the time does not depend on them. All ways to run a network take turns in one process, and the
machine's ceilings are measured beside them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from figures import (
    WAYS,
    Way,
    branch_rows,
    ceiling_rows,
    clip_rows,
    encoder_rows,
    growth_rows,
    plot,
    unet_rows,
    vae_rows,
)
from load import load_rows
from measure import default_device
from results import Figure, Results, Row, measure_all

from dynamicrafter.model.configs import LATENT_FACTOR
from dynamicrafter.model.variants import VARIANTS

RESULTS = Path(__file__).parent / "results"
WHATS = ("ceilings", "unet", "branches", "vae", "encoders", "load", "clip", "growth")


def pair(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT``."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 512x320")
    return int(width), int(height)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--what", nargs="+", choices=WHATS, default=["unet"])
    parser.add_argument("--variant", choices=list(VARIANTS), default="512_v1")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", type=pair, metavar="WxH", help="in pixels, multiples of 64")
    size.add_argument(
        "--latent", type=pair, metavar="WxH", help="in latent cells, multiples of 8 (default 16x16)"
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["baseline", "float32", "bf16"])
    parser.add_argument("--device", default="cpu", help="auto: the GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--name", default="speed", help="name of the files in FOLDER")
    chosen = parser.parse_args(argv)
    if chosen.device == "auto":
        chosen.device = default_device()
    if any(WAYS[name].openvino for name in chosen.ways) and chosen.device != "cpu":
        parser.error(f"OpenVINO is measured on the CPU, not on {chosen.device}; use --device cpu")
    return chosen


def plan(chosen: argparse.Namespace, results: Results) -> list[Figure]:
    """The figures that were asked for."""
    variant, device = VARIANTS[chosen.variant], torch.device(chosen.device)
    width, height = chosen.latent or (16, 16)
    if chosen.size is not None:
        width, height = (side // LATENT_FACTOR for side in chosen.size)
    pixels = width * LATENT_FACTOR, height * LATENT_FACTOR
    shape = (chosen.batch, chosen.frames, height, width)
    ways: Sequence[Way] = [WAYS[name] for name in chosen.ways]
    runs, frames = chosen.runs, chosen.frames

    def growth() -> list[Row]:
        rows = growth_rows(variant, ways[-1].dtype, device, frames, 2)
        results.json.with_suffix(".svg").write_text(plot(rows), encoding="utf-8")
        return rows

    works: dict[str, Callable[[], Sequence[Row]]] = {
        "ceilings": lambda: ceiling_rows(list(dict.fromkeys(way.dtype for way in ways)), device),
        "unet": lambda: unet_rows(variant, shape, ways, device, runs),
        "branches": lambda: branch_rows(variant, shape, ways[-1], device, runs),
        "vae": lambda: vae_rows(variant, pixels, frames, ways, device, runs),
        "encoders": lambda: encoder_rows(variant, ways, device, runs),
        "load": lambda: load_rows(variant, ways[-1].dtype, runs),
        "clip": lambda: clip_rows(variant, frames, ways[-1].dtype, device, ways[-1].compile),
        "growth": growth,
    }
    return [Figure(f"{what} {variant.name}", what, works[what]) for what in chosen.what]


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    results = Results(chosen.output, chosen.name)
    results.start(
        torch.device(chosen.device),
        "Random weights. Seconds are the process's CPU time, on a GPU the clock's.",
    )
    measure_all(results, plan(chosen, results), math.inf)
    print(f"{results.as_markdown()}\n\nwritten to {results.json} and {results.markdown.name}")


if __name__ == "__main__":
    main()
