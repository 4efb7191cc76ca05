"""All figures of a GPU in one call of at most 8 minutes, with nothing that goes wrong in one of them stopping the rest.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --quick --output somewhere

Recorded numbers of the original come first, then the ceilings, the networks, and the clips from small to large. Weights
are random. ``--quick`` runs the same code with small networks.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from figures import (
    WAYS,
    alike,
    branch_rows,
    ceiling_rows,
    clip_rows,
    encoder_rows,
    golden_rows,
    growth_rows,
    name_of,
    pixels,
    plot,
    unet_rows,
    vae_rows,
)
from measure import default_device, machine
from results import Figure, Results, Row, measure_all, supervise
from speed import RESULTS

from dynamicrafter.model.configs import LATENT_FACTOR
from dynamicrafter.model.variants import SMALL, TINY, VARIANTS, Variant

MINUTES = 7.5
"""When what has not been measured yet is left out. The limits of all figures together end earlier."""
FAILURE = "DYNAMICRAFTER_BENCH_FAILURE"
"""Environment variable with ``figure=raise``, ``=exit`` or ``=hang``, to try what happens then."""


def small(variant: Variant) -> Variant:
    """The variant with its noise process and modes, but the small networks."""
    return replace(
        SMALL,
        name=variant.name,
        modes=variant.modes,
        preset=replace(variant.preset, width=64, height=64, steps=2),
        diffusion=variant.diffusion,
        unet=replace(SMALL.unet, learned_image_scale=variant.unet.learned_image_scale),
        vae=replace(SMALL.vae, video_decoder=variant.vae.video_decoder),
    )


def plan(chosen: argparse.Namespace, results: Results) -> list[Figure]:
    """All figures, in order."""
    device = torch.device(chosen.device)
    every = [
        v
        for v in VARIANTS.values()
        if v not in (SMALL, TINY) and (not chosen.variants or v.name in chosen.variants)
    ]
    variants = [small(v) for v in every] if chosen.quick else every
    # Many CPUs emulate float16, hundreds of times slower than float32.
    halves = ["fp16"] if device.type != "cpu" else []
    ways = [WAYS[name] for name in ("baseline", "float32", "bf16 baseline", "bf16", *halves)]
    half = WAYS["bf16"].dtype
    frames, runs = chosen.frames or (4 if chosen.quick else 16), chosen.runs
    smallest = min(variants, key=pixels)
    goldens = 1 if chosen.quick else None
    figures = [
        Figure(
            "goldens",
            "Sampling loops against the original, in float32",
            lambda: golden_rows(device, goldens),
            limit=15,
        ),
        Figure(
            "ceilings",
            "What the machine can do",
            lambda: ceiling_rows(list(dict.fromkeys(way.dtype for way in ways)), device),
            limit=10,
        ),
    ]
    networks = list(alike(variants, lambda v: v.unet))
    for names, variant in networks:
        latent = variant.preset.height // LATENT_FACTOR, variant.preset.width // LATENT_FACTOR
        shape = (1, frames, *latent)
        figures += [
            Figure(
                f"unet {names}",
                f"One evaluation of the network, {frames} frames",
                lambda v=variant, s=shape: unet_rows(v, s, ways, device, runs),
                limit=18,
            ),
            Figure(
                f"branches {names}",
                "Both guidance branches in one batch",
                lambda v=variant, s=shape: branch_rows(v, s, WAYS["bf16"], device, runs),
                limit=5,
            ),
        ]
    for names, variant in alike(variants, lambda v: v.vae):
        size = variant.preset.width, variant.preset.height
        figures.append(
            Figure(
                f"autoencoder {names}",
                "Autoencoder",
                lambda v=variant, s=size: vae_rows(
                    v, s, frames, [WAYS["float32"], WAYS["bf16"]], device, runs
                ),
                limit=8,
            )
        )
    figures.append(
        Figure(
            "encoders",
            "Encoders and resampler",
            lambda: encoder_rows(smallest, [WAYS["float32"], WAYS["bf16"]], device, runs),
            limit=10,
        )
    )

    def growth() -> list[Row]:
        rows = growth_rows(smallest, half, device, frames, 2 if chosen.quick else 8)
        results.json.with_suffix(".svg").write_text(plot(rows), encoding="utf-8")
        return rows

    figures.append(Figure("growth", "Growth with steps, frames and jobs", growth, limit=15))
    heading = f"Whole clips of {frames} frames with each variant's defaults, models in memory"
    clips = [variant for _, variant in alike(variants, lambda v: (v.unet, v.vae))]
    figures += [
        Figure(
            f"clip {v.name} {name_of(half)}",
            heading,
            lambda v=v: clip_rows(v, frames, half, device),
            limit=12 + 3e-5 * pixels(v),
        )
        for v in clips
    ]
    # Last, because a compiler may take longer than it is given; clips use what the evaluations before compiled.
    modes = ("bf16 compiled", "bf16 graphs") if device.type != "cpu" else ("bf16 compiled",)
    for names, variant in networks if chosen.compile else ():
        latent = variant.preset.height // LATENT_FACTOR, variant.preset.width // LATENT_FACTOR
        figures.append(
            Figure(
                f"compiled {names}",
                f"One evaluation of the network compiled, {frames} frames",
                lambda v=variant, s=(1, frames, *latent): unet_rows(
                    v, s, [WAYS[name] for name in ("bf16", *modes)], device, runs
                ),
                limit=40,
            )
        )
    figures += [
        Figure(
            f"compiled clip {v.name} {name_of(half)}",
            heading,
            lambda v=v: clip_rows(v, frames, half, device, WAYS[modes[-1]].compile),
            limit=20 + 3e-5 * pixels(v),
        )
        for v in (clips if chosen.compile else ())
        if not v.vae.video_decoder
    ]
    return [failing(figure) for figure in figures]


def failing(figure: Figure) -> Figure:
    """The figure, or one that fails as :data:`FAILURE` says."""
    name, _, how = os.environ.get(FAILURE, "").partition("=")
    if name != figure.name:
        return figure

    def work() -> Sequence[Row]:
        if how == "exit":
            os._exit(9)
        if how == "hang":
            time.sleep(3600)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory, as asked for")

    return replace(figure, work=work)


def file_name(device: torch.device, quick: bool) -> str:
    """Name of the files, from the processor's name."""
    words = re.sub(r"[^a-z0-9]+", "-", machine(device).partition(",")[0].lower()).strip("-")
    return f"{words}-quick" if quick else words


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default=default_device())
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), help="default: all but the small one"
    )
    parser.add_argument("--frames", type=int, help="default 16, 4 with --quick")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="FACTOR", help="multiplies all time limits"
    )
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="without what torch.compile compiles"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the figures and their time limits")
    parser.add_argument("--quick", action="store_true", help="small networks, to try the benchmark itself")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.device == "cpu" and not chosen.quick:
        parser.error("no GPU was found or asked for; on a CPU only --quick ends within minutes")
    return chosen


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    device = torch.device(chosen.device)
    results = Results(chosen.output, file_name(device, chosen.quick))
    figures = [replace(figure, limit=figure.limit * chosen.patience) for figure in plan(chosen, results)]
    if chosen.dry_run:
        for figure in figures:
            print(f"{figure.limit:6.0f} s  {figure.name}")
        print(
            f"{sum(figure.limit for figure in figures):6.0f} s  in all, at most {60 * MINUTES * chosen.patience:.0f}"
        )
        return 0
    if chosen.until is not None:
        results.read()
        return measure_all(results, figures, chosen.until)
    results.start(device, "Random weights.")
    start = time.time()
    end = start + 60 * MINUTES * chosen.patience
    given = sys.argv[1:] if argv is None else argv
    command = [sys.executable, __file__, *given, "--until", str(end)]
    supervise(command, results, figures, end)
    results.about["note"] += f" {(time.time() - start) / 60:.1f} minutes."
    results.write()
    print(f"{results.as_markdown()}\n\nwritten to {results.json} and {results.markdown.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
