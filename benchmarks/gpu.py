"""How fast are the network, the autoencoder and whole clips of every variant on a GPU? One run, at most 8 minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --quick --output somewhere

Weights are random. The short measurements come first and the clips last, from small to large; a clip that would exceed
``--minutes`` is skipped and the table says so. ``--quick`` runs the same code with small networks.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from measure import (
    DTYPES,
    GIB,
    Table,
    default_device,
    machine,
    peak_bytes,
    start_counting_memory,
    timed,
    versions,
    with_random_weights,
)
from unet import HEADER as UNET_HEADER
from unet import measure as measure_unet

from dynamicrafter.model.configs import LATENT_FACTOR
from dynamicrafter.model.encoders import CLIPImageEncoder, CLIPTextEncoder
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import SMALL, VARIANTS, Variant
from dynamicrafter.model.video_decoder import VideoAutoencoder, build_autoencoder
from dynamicrafter.pipeline import KeyPictures, Model, generate
from dynamicrafter.settings import make_settings

RESULTS = Path(__file__).parent / "results"
VAE_HEADER = ("variant", "what", "size", "dtype", "s min", "s median", "peak GiB")
CLIP_HEADER = (
    "variant", "mode", "size", "steps", "dtype", "encode s", "sample s", "decode s", "total s", "peak GiB",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Settings of one run."""

    variants: tuple[Variant, ...]
    dtypes: tuple[torch.dtype, ...]
    device: torch.device
    frames: int
    runs: int
    deadline: float
    """Deadline, in seconds of ``time.monotonic``."""


@dataclass(frozen=True)
class Tables:
    """The results."""

    unet: Table
    vae: Table
    clips: Table


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


def alike(variants: Sequence[Variant], key: Callable[[Variant], Any]) -> Iterator[tuple[str, Variant]]:
    """Names and one representative for each group of variants with equal ``key``, from small to large."""
    groups: dict[Any, list[Variant]] = {}
    for variant in sorted(variants, key=pixels):
        groups.setdefault((key(variant), pixels(variant)), []).append(variant)
    for group in groups.values():
        yield ", ".join(variant.name for variant in group), group[0]


def pixels(variant: Variant) -> int:
    return variant.preset.width * variant.preset.height


def size_of(variant: Variant) -> str:
    return f"{variant.preset.width}x{variant.preset.height}"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run(plan: Plan) -> Tables:
    tables = Tables(Table(UNET_HEADER), Table(VAE_HEADER), Table(CLIP_HEADER))
    for dtype in plan.dtypes:
        for names, variant in alike(plan.variants, lambda v: v.unet):
            latent = variant.preset.height // LATENT_FACTOR, variant.preset.width // LATENT_FACTOR
            shape = (1, plan.frames, *latent)
            row = or_out_of_memory(
                lambda v=variant, s=shape, d=dtype: measure_unet(v, s, d, plan.device, plan.runs, 1)[1:],
                (size_of(variant), name_of(dtype)),
                len(UNET_HEADER) - 1,
            )
            tables.unet.add(names, *row)
        for names, variant in alike(plan.variants, lambda v: v.vae):
            for what, row in measure_vae(variant, plan, dtype):
                tables.vae.add(names, what, size_of(variant), name_of(dtype), *row)
    seconds = 0.0
    for dtype in plan.dtypes:
        for variant in sorted(plan.variants, key=pixels):
            about = (
                variant.name,
                variant.modes[0],
                size_of(variant),
                str(variant.preset.steps),
                name_of(dtype),
            )
            # Attention makes larger clips slower per pixel, by about a factor of two from one size to the next at most.
            if time.monotonic() + 2 * seconds * pixels(variant) > plan.deadline:
                tables.clips.add(*about, *filled("skipped (time limit)", 5))
                continue
            start = time.monotonic()
            row = or_out_of_memory(lambda v=variant, d=dtype: measure_clip(v, plan, d), (), 5)
            seconds = max(seconds, (time.monotonic() - start) / pixels(variant))
            tables.clips.add(*about, *row)
    return tables


def or_out_of_memory(
    work: Callable[[], tuple[str, ...]], known: tuple[str, ...], cells: int
) -> tuple[str, ...]:
    """The row that ``work`` returns, or one that says that memory ran out."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        return (*known, *filled("out of memory", cells - len(known)))


def filled(text: str, cells: int) -> tuple[str, ...]:
    """``text`` followed by empty cells."""
    return (text, *[""] * (cells - 1))


@torch.inference_mode()
def measure_vae(variant: Variant, plan: Plan, dtype: torch.dtype) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Rows for encoding one image and for decoding all frames of a clip as the pipeline does."""
    make = {"dtype": dtype, "device": plan.device}
    height, width = variant.preset.height, variant.preset.width
    vae = with_random_weights(lambda: build_autoencoder(variant.vae), dtype, plan.device)
    picture = torch.rand(1, 3, height, width, **make) * 2 - 1
    z = torch.randn(
        plan.frames, variant.vae.latent_channels, height // LATENT_FACTOR, width // LATENT_FACTOR, **make
    )

    def decode() -> None:
        if isinstance(vae, VideoAutoencoder):
            vae.decode_clip(z, plan.frames, vae.references(picture, picture))
        else:
            for frame in z.split(1):
                vae.decode(frame)

    for what, work in (
        ("encode an image", lambda: vae.latents(picture, z[:1])),
        (f"decode {plan.frames} frames", decode),
    ):
        yield what, or_out_of_memory(lambda w=work: timed_row(w, plan), (), 3)


def timed_row(work: Callable[[], object], plan: Plan) -> tuple[str, ...]:
    start_counting_memory(plan.device)
    timing = timed(work, plan.device, plan.runs)
    return f"{timing.least:.3f}", f"{timing.median:.3f}", f"{peak_bytes(plan.device) / GIB:.2f}"


def random_model(variant: Variant, dtype: torch.dtype, device: torch.device) -> Model:
    return Model(
        variant=variant,
        unet=with_random_weights(lambda: VideoUNet(variant.unet), dtype, device),
        vae=with_random_weights(lambda: build_autoencoder(variant.vae), dtype, device),
        resampler=with_random_weights(lambda: Resampler(variant.resampler), dtype, device),
        text=CLIPTextEncoder(variant.text, dtype, device),
        vision=CLIPImageEncoder(variant.vision, dtype, device),
        device=device,
        dtype=dtype,
    )


def measure_clip(variant: Variant, plan: Plan, dtype: torch.dtype) -> tuple[str, ...]:
    """Seconds per stage of one clip with the variant's defaults, from images in memory to frames."""
    model = random_model(variant, dtype, plan.device)
    settings = make_settings(
        variant, variant.modes[0], frames=plan.frames, prompt="a boat rocks on the waves"
    )
    first, last = torch.rand(2, 1, 3, variant.preset.height, variant.preset.width) * 2 - 1
    pictures = KeyPictures(first, last if settings.mode == "interpolate" else None)
    ended: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        # Every step ends with a check of its values, which synchronises the device.
        ended[stage] = time.perf_counter()

    start_counting_memory(plan.device)
    start = time.perf_counter()
    generate(model, pictures, [replace(settings, seed=123)], progress)
    total = time.perf_counter() - start
    return (
        f"{ended['encode'] - start:.2f}",
        f"{ended['sample'] - ended['encode']:.2f}",
        f"{ended['decode'] - ended['sample']:.2f}",
        f"{total:.2f}",
        f"{peak_bytes(plan.device) / GIB:.2f}",
    )


def report(tables: Tables, plan: Plan, minutes: float) -> str:
    """The complete result as Markdown."""
    return "\n".join(
        (
            f"# {machine(plan.device)}",
            "",
            f"{versions()}; {datetime.now(timezone.utc):%Y-%m-%d}; {minutes:.1f} minutes; random weights.",
            "",
            f"## One evaluation of the network, {plan.frames} frames",
            "",
            tables.unet.markdown(),
            "",
            "## Autoencoder",
            "",
            tables.vae.markdown(),
            "",
            f"## Whole clips of {plan.frames} frames with each variant's defaults, models in memory",
            "",
            tables.clips.markdown(),
            "",
        )
    )


def file_name(device: torch.device, quick: bool) -> str:
    """File name made from the processor's name."""
    words = re.sub(r"[^a-z0-9]+", "-", machine(device).partition(",")[0].lower()).strip("-")
    return f"{words}-quick.md" if quick else f"{words}.md"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bf16", "fp16"])
    parser.add_argument("--frames", type=int, help="default 16, 4 with --quick")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=7.5, help="when to stop starting new clips")
    parser.add_argument("--quick", action="store_true", help="small networks, to try the benchmark itself")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    chosen = parser.parse_args(argv)
    if chosen.device == "cpu" and not chosen.quick:
        parser.error("no GPU was found or asked for; on a CPU only --quick ends within minutes")
    return chosen


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    start = time.monotonic()
    variants = tuple(variant for variant in VARIANTS.values() if variant is not SMALL)
    plan = Plan(
        variants=tuple(map(small, variants)) if chosen.quick else variants,
        dtypes=tuple(DTYPES[name] for name in chosen.dtypes),
        device=torch.device(chosen.device),
        frames=chosen.frames or (4 if chosen.quick else 16),
        runs=chosen.runs,
        deadline=start + 60 * chosen.minutes,
    )
    text = report(run(plan), plan, (time.monotonic() - start) / 60)
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / file_name(plan.device, chosen.quick)
    path.write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {path}")


if __name__ == "__main__":
    main()
