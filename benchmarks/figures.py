"""What can be measured of a variant: ceilings of the machine, goldens, networks, encoders, clips, growth."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from measure import (
    GIB,
    counted_flops,
    peak_bytes,
    start_counting_memory,
    wait_for,
    with_random_weights,
)
from results import Row
from torch import Tensor, nn
from torch.nn import functional as F
from unet import flops as unet_flops
from unet import inputs

from dynamicrafter.backends.openvino.compiled import CompiledGraph
from dynamicrafter.backends.openvino.export import trace
from dynamicrafter.backends.openvino.graphs import signature
from dynamicrafter.backends.openvino.library import openvino
from dynamicrafter.backends.openvino.running import ExportedNetwork
from dynamicrafter.model.compilation import compile_blocks
from dynamicrafter.model.configs import LATENT_FACTOR, TEXT_TOKENS, Compile
from dynamicrafter.model.encoders import CLIPImageEncoder, CLIPTextEncoder
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import VARIANTS, Variant
from dynamicrafter.model.video_decoder import build_autoencoder
from dynamicrafter.pipeline import KeyPictures, Model, TorchModel, generate
from dynamicrafter.settings import make_settings

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "parity"


class Baseline(Operations):
    """The layers as they were: PyTorch's own, and three-dimensional convolutions over time."""

    def conv_over_time(self, channels: int) -> nn.Module:
        return nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), **self.factory)


BASELINE = Baseline(layers=nn)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Way:
    """A way to run a network."""

    name: str
    dtype: torch.dtype
    operations: Operations = Operations()
    compile: Compile = "off"
    openvino: bool = False
    """Whether OpenVINO runs the network, on the CPU."""

    @property
    def plain(self) -> bool:
        """Whether only the dtype is different, as for networks that have no other way."""
        return self.operations is not BASELINE and self.compile == "off" and not self.openvino


WAYS = {
    "baseline": Way("baseline", torch.float32, BASELINE),
    "float32": Way("float32", torch.float32),
    "bf16": Way("bf16", torch.bfloat16),
    "fp16": Way("fp16", torch.float16),
    "bf16 baseline": Way("bf16 baseline", torch.bfloat16, BASELINE),
    "compiled": Way("compiled", torch.float32, compile="default"),
    "bf16 compiled": Way("bf16 compiled", torch.bfloat16, compile="default"),
    "bf16 graphs": Way("bf16 graphs", torch.bfloat16, compile="reduce-overhead"),
    "openvino": Way("openvino", torch.float32, openvino=True),
    "openvino bf16": Way("openvino bf16", torch.bfloat16, openvino=True),
}
"""By name; ``baseline`` is the form of the layers before convolutions over time became two-dimensional, ``graphs`` are
compiled blocks with CUDA graphs."""


def alternating(
    works: Sequence[Callable[[], object]], device: torch.device, runs: int, warm: bool = False
) -> list[list[float]]:
    """Seconds of ``runs`` calls of each, in turns, so that a change of the machine's speed meets all of them.

    Each is called once before, unless it is ``warm``.

    Seconds are those of the process on a CPU, which other programs disturb less than the clock, and include a
    synchronisation on a GPU.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for work in () if warm else works:
        work()
    found: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, seconds in zip(works, found, strict=True):
            wait_for(device)
            start = clock()
            work()
            wait_for(device)
            seconds.append(clock() - start)
    return found


@torch.inference_mode()
def ceilings(dtype: torch.dtype, device: torch.device, runs: int = 5) -> tuple[float, float]:
    """FLOP/s of the machine in a square matrix product and in a 3x3 convolution."""
    gpu = device.type != "cpu"
    n, batch, side = (8192, 16, 64) if gpu else (1024, 1, 32)
    make: Any = {"dtype": dtype, "device": device}
    a, b = torch.randn(n, n, **make), torch.randn(n, n, **make)
    x, weight = torch.randn(batch, 320, side, side, **make), torch.randn(320, 320, 3, 3, **make) / 54
    product, convolution = alternating([lambda: a @ b, lambda: F.conv2d(x, weight, padding=1)], device, runs)
    return 2 * n**3 / min(product), 2 * 320 * 320 * 9 * batch * side * side / min(convolution)


def ceiling_rows(dtypes: Sequence[torch.dtype], device: torch.device) -> list[Row]:
    rows: list[Row] = []
    for dtype in dtypes:
        product, convolution = ceilings(dtype, device)
        rows.append(
            {
                "dtype": name_of(dtype),
                "matrix product TFLOP/s": product / 1e12,
                "convolution TFLOP/s": convolution / 1e12,
            }
        )
    return rows


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.inference_mode()
def compared(
    about: Row,
    ways: Sequence[Way],
    build: Callable[[Operations], nn.Module],
    call: Callable[[Any, torch.dtype], Tensor],
    flops: int,
    device: torch.device,
    runs: int,
) -> list[Row]:
    """One row for each way to run a network, with ratio and error to the first one, on equal weights.

    ``call`` evaluates the network on inputs of a dtype.
    """
    weights = {
        torch.float32: with_random_weights(lambda: build(Operations()), torch.float32, device).state_dict()
    }
    networks: list[Callable[..., Any]] = []
    for way in ways:
        if way.dtype not in weights:
            weights[way.dtype] = {key: value.to(way.dtype) for key, value in weights[torch.float32].items()}
        with torch.device("meta"):
            network = build(way.operations)
        if way.openvino:
            networks.append(in_openvino(network, weights[torch.float32], way.dtype))
            continue
        network.load_state_dict(weights[way.dtype], assign=True)
        compile_blocks(network, way.compile)
        networks.append(network.requires_grad_(False).train(False))
    if torch.float32 not in {way.dtype for way in ways}:
        weights.clear()
    works = [lambda n=network, w=way: call(n, w.dtype) for network, way in zip(networks, ways, strict=True)]
    outputs, peaks, firsts = list[Tensor](), list[int](), list[float]()
    for work in works:
        start_counting_memory(device)
        start = time.perf_counter()
        outputs.append(work().float().cpu())
        firsts.append(time.perf_counter() - start)
        peaks.append(peak_bytes(device))
    # CUDA graphs are recorded by the calls after the first one.
    for work, way in zip(works, ways, strict=True):
        for _ in range(2 if way.compile == "reduce-overhead" else 0):
            work()
    timings = alternating(works, device, runs, warm=True)
    limits = {way.dtype: ceilings(way.dtype, device) for way in ways}
    rows: list[Row] = []
    for way, out, seconds, peak, first in zip(ways, outputs, timings, peaks, firsts, strict=True):
        rate = flops / min(seconds)
        wrong = (out - outputs[0]).double()
        rows.append(
            {
                **about,
                "way": way.name,
                "first s": first,
                "s min": min(seconds),
                "s median": statistics.median(seconds),
                "ratio": min(seconds) / min(timings[0]),
                "TFLOP": flops / 1e12,
                "TFLOP/s": rate / 1e12,
                "of matrix product": rate / limits[way.dtype][0],
                "of convolution": rate / limits[way.dtype][1],
                "peak GiB": peak / GIB,
                "largest error": (wrong.abs().max() / outputs[0].abs().max()).item(),
                "SNR dB": signal_to_noise(outputs[0].double(), wrong),
            }
        )
    return rows


def in_openvino(network: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype) -> ExportedNetwork:
    """The denoising network with float32 ``weights`` as OpenVINO runs it, from a graph with weights in half precision
    as exports have them."""
    assert isinstance(network, VideoUNet)
    network.load_state_dict(weights, assign=True)
    variant = replace(VARIANTS["small"], unet=network.config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.xml"
        graph = trace(cast(TorchModel, SimpleNamespace(variant=variant, unet=network)), "unet")
        openvino().save_model(graph, path, compress_to_fp16=True)
        compiled = CompiledGraph(path, signature(variant, "unet"), "CPU", dtype, None)
    return ExportedNetwork(compiled, network.config.model_channels)


def signal_to_noise(signal: Tensor, wrong: Tensor) -> float | str:
    """In decibels; empty where nothing is wrong."""
    power = wrong.square().mean()
    return "" if power == 0 else (10 * (signal.square().mean() / power).log10()).item()


def unet_rows(
    variant: Variant, shape: tuple[int, int, int, int], ways: Sequence[Way], device: torch.device, runs: int
) -> list[Row]:
    """One evaluation of the network with ``(batch, frames, height, width)`` in latent cells."""
    torch.manual_seed(0)
    x, t, context, fs = inputs(variant, shape, torch.float32, device)

    def call(network: nn.Module, dtype: torch.dtype) -> Tensor:
        return network(x.to(dtype), t, Context(context.text.to(dtype), context.image.to(dtype)), fs)

    batch, frames, height, width = shape
    about = {
        "variant": variant.name,
        "input": f"{batch}x{variant.unet.in_channels}x{frames}x{height}x{width}",
    }
    return compared(
        about, ways, lambda o: VideoUNet(variant.unet, o), call, unet_flops(variant, shape), device, runs
    )


def branch_rows(
    variant: Variant, shape: tuple[int, int, int, int], way: Way, device: torch.device, runs: int
) -> list[Row]:
    """Both branches of guidance as one batch, against one after the other."""
    torch.manual_seed(0)
    _, *size = shape
    frames, height, width = size
    one = inputs(variant, (1, frames, height, width), way.dtype, device)
    two = inputs(variant, (2, frames, height, width), way.dtype, device)
    network = with_random_weights(lambda: VideoUNet(variant.unet, way.operations), way.dtype, device)
    with torch.inference_mode():
        apart, together = alternating(
            [lambda: (network(*one), network(*one)), lambda: network(*two)], device, runs
        )
    return [
        {
            "variant": variant.name,
            "input": f"8x{frames}x{height}x{width}",
            "way": way.name,
            "apart s": min(apart),
            "one batch s": min(together),
            "ratio": min(together) / min(apart),
        }
    ]


def vae_rows(
    variant: Variant, size: tuple[int, int], frames: int, ways: Sequence[Way], device: torch.device, runs: int
) -> list[Row]:
    """Encoding an image and decoding frames of ``size`` (width, height), one at a time as the pipeline does."""
    width, height = size
    torch.manual_seed(0)
    picture = torch.rand(1, 3, height, width, device=device) * 2 - 1
    z = torch.randn(
        frames, variant.vae.latent_channels, height // LATENT_FACTOR, width // LATENT_FACTOR, device=device
    )

    def encode(network: Any, dtype: torch.dtype) -> Tensor:
        return network.encode(picture.to(dtype)).mean

    def decode(network: Any, dtype: torch.dtype) -> Tensor:
        both = torch.cat([picture, picture]).to(dtype)
        return torch.cat(list(network.frames(z.to(dtype), both)))

    ways = [way for way in ways if way.compile == "off" and not way.openvino]
    rows: list[Row] = []
    for what, call in (("encode an image", encode), (f"decode {frames} frames", decode)):

        def on_meta(attention: Callable[..., Tensor], call: Any = call) -> Callable[[], object]:
            nonlocal picture, z
            network = build_autoencoder(variant.vae, Operations(attention=attention))
            return lambda: call(network, torch.float32)

        kept = picture, z
        picture, z = picture.to("meta"), z.to("meta")
        try:
            flops = counted_flops(on_meta)
        finally:
            picture, z = kept
        about = {"variant": variant.name, "what": what, "size": f"{width}x{height}"}
        rows += compared(about, ways, lambda o: build_autoencoder(variant.vae, o), call, flops, device, runs)
    return rows


def encoder_rows(variant: Variant, ways: Sequence[Way], device: torch.device, runs: int) -> list[Row]:
    """Both CLIP encoders and the resampler, for an image or prompt and its negative."""
    torch.manual_seed(0)
    side = variant.vision.image_size
    tokens = torch.randint(1, 1000, (2, TEXT_TOKENS), device=device)
    pixels = torch.randn(2, 3, side, side, device=device)
    seen = torch.randn(2, (side // variant.vision.patch) ** 2 + 1, variant.resampler.input_dim, device=device)
    rows: list[Row] = []
    for way in ways:
        if not way.plain:
            continue
        text = CLIPTextEncoder(variant.text, way.dtype, device)
        vision = CLIPImageEncoder(variant.vision, way.dtype, device)
        resampler = with_random_weights(lambda: Resampler(variant.resampler), way.dtype, device)
        works: dict[str, Callable[[], object]] = {
            "text": lambda text=text: text.encode(tokens),
            "image": lambda vision=vision, way=way: vision.encode(pixels.to(way.dtype)),
            "resampler": lambda resampler=resampler, way=way: resampler(seen.to(way.dtype)),
        }
        with torch.inference_mode():
            timings = alternating(list(works.values()), device, runs)
        for what, seconds in zip(works, timings, strict=True):
            rows.append(
                {
                    "variant": variant.name,
                    "what": what,
                    "way": way.name,
                    "s min": min(seconds),
                    "s median": statistics.median(seconds),
                }
            )
    return rows


def random_model(
    variant: Variant, dtype: torch.dtype, device: torch.device, compile: Compile = "off"
) -> Model:
    unet = with_random_weights(lambda: VideoUNet(variant.unet), dtype, device)
    compile_blocks(unet, compile)
    return Model(
        variant=variant,
        unet=unet,
        vae=with_random_weights(lambda: build_autoencoder(variant.vae), dtype, device),
        resampler=with_random_weights(lambda: Resampler(variant.resampler), dtype, device),
        text=CLIPTextEncoder(variant.text, dtype, device),
        vision=CLIPImageEncoder(variant.vision, dtype, device),
        device=device,
        dtype=dtype,
    )


def clip_of(model: Model, jobs: int = 1, **choices: Any) -> tuple[dict[str, float], float]:
    """Seconds at the end of each stage, from images in memory to frames, and the peak in bytes, for ``jobs`` clips."""
    variant = model.variant
    settings = make_settings(variant, variant.modes[0], prompt="a boat rocks on the waves", **choices)
    first, last = torch.rand(2, 1, 3, settings.height, settings.width) * 2 - 1
    pictures = KeyPictures(first, last if settings.mode == "interpolate" else None)
    start_counting_memory(model.device)
    start = time.perf_counter()
    ended: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if done == total:
            # A step's values are checked, which waits for the device; encoding is waited for here.
            wait_for(model.device)
        ended[stage] = time.perf_counter() - start

    for job in range(jobs):
        generate(model, pictures, [replace(settings, seed=123 + job)], progress)
    return {**ended, "total": time.perf_counter() - start}, peak_bytes(model.device)


def clip_rows(
    variant: Variant, frames: int, dtype: torch.dtype, device: torch.device, compile: Compile = "off"
) -> list[Row]:
    """A whole clip with the variant's defaults: the first, and the same once more when everything is warm."""
    model = random_model(variant, dtype, device, compile)
    rows: list[Row] = []
    for when in ("first", "warm"):
        ended, peak = clip_of(model, frames=frames)
        rows.append(
            {
                "variant": variant.name,
                "mode": variant.modes[0],
                "size": f"{variant.preset.width}x{variant.preset.height}",
                "steps": variant.preset.steps,
                "dtype": name_of(dtype),
                "compile": compile,
                "run": when,
                "encode s": ended["encode"],
                "sample s": ended["sample"] - ended["encode"],
                "decode s": ended["decode"] - ended["sample"],
                "total s": ended["total"],
                "peak GiB": peak / GIB,
            }
        )
    return rows


def growth_rows(
    variant: Variant, dtype: torch.dtype, device: torch.device, frames: int, steps: int
) -> list[Row]:
    """Time and memory of clips with more steps, frames and jobs; with "per unit" equal, growth is linear."""
    model = random_model(variant, dtype, device)
    clip_of(model, frames=frames, steps=1)
    rows: list[Row] = []
    for what in ("steps", "frames", "jobs"):
        for factor in (1, 2, 4):
            chosen: dict[str, Any] = {"frames": frames, "steps": steps, "jobs": 1}
            chosen[what] *= factor
            ended, peak = clip_of(model, **chosen)
            part = ended["sample"] - ended["encode"] if what != "jobs" else ended["total"]
            rows.append(
                {
                    "variant": variant.name,
                    "grown": what,
                    "to": chosen[what],
                    "s": part,
                    "s per unit": part / chosen[what],
                    "peak GiB": peak / GIB,
                }
            )
    return rows


def golden_rows(device: torch.device, most: int | None = None) -> list[Row]:
    """Sampling loops recorded from the original, repeated on the device in float32; at most ``most`` of them."""
    if str(GOLDENS) not in sys.path:
        sys.path.append(str(GOLDENS))
    from cases import ddim_loop
    from golden import OWN, read_golden, relative_error

    rows: list[Row] = []
    loops = [path for path in sorted(OWN.glob("ddim_*.json")) if "unet" not in path.name]
    for sidecar in loops[:most]:
        case = read_golden(sidecar)
        there = replace(case, tensors={key: value.to(device) for key, value in case.tensors.items()})
        with torch.device(device), torch.no_grad():
            compared = [(c, relative_error(c.ours.to("cpu"), c.theirs.to("cpu"))) for c in ddim_loop(there)]
        largest = max(error for _, error in compared)
        good = all(c.tolerance is None or error <= c.tolerance for c, error in compared)
        rows.append(
            {"golden": case.name, "largest error": largest, "within tolerance": "yes" if good else "NO"}
        )
    return rows


def plot(rows: Sequence[Row]) -> str:
    """The growth as SVG: seconds over steps, frames and jobs, with the line through each first point."""
    font = 'font-family="sans-serif" font-size="11"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="780" height="240" {font}>']
    for panel, what in enumerate(dict.fromkeys(row["grown"] for row in rows)):
        points = [(float(row["to"]), float(row["s"])) for row in rows if row["grown"] == what]
        right, top = max(x for x, _ in points), max(max(y for _, y in points), 1e-9)
        left = 45 + 260 * panel

        def at(x: float, y: float, left: int = left, right: float = right, top: float = top) -> str:
            return f"{left + 190 * x / right:.1f},{200 - 170 * y / top:.1f}"

        slope = points[0][1] / points[0][0]
        end = min(right, top / slope) if slope else right
        parts.append(f'<polyline points="{at(0, 0)} {at(end, slope * end)}" stroke="#bbb" fill="none"/>')
        parts.append(
            f'<polyline points="{" ".join(at(x, y) for x, y in points)}" stroke="#06c" fill="none"/>'
        )
        for x, y in points:
            cx, cy = at(x, y).split(",")
            parts.append(
                f'<circle cx="{cx}" cy="{cy}" r="3" fill="#06c"><title>{what} {x:g}: {y:.3g} s</title></circle>'
            )
        parts.append(f'<path d="M{left},30V200H{left + 190}" stroke="#333" fill="none"/>')
        parts.append(f'<text x="{left}" y="22">seconds, up to {top:.3g}</text>')
        parts.append(f'<text x="{left + 60}" y="222">{what}, up to {right:g}</text>')
    return "\n".join([*parts, "</svg>", ""])


def alike(variants: Sequence[Variant], key: Callable[[Variant], Any]) -> Iterator[tuple[str, Variant]]:
    """Names and one representative for each group of variants with equal ``key``, from small to large."""
    groups: dict[Any, list[Variant]] = {}
    for variant in sorted(variants, key=pixels):
        groups.setdefault((key(variant), pixels(variant)), []).append(variant)
    for group in groups.values():
        yield ", ".join(variant.name for variant in group), group[0]


def pixels(variant: Variant) -> int:
    return variant.preset.width * variant.preset.height
