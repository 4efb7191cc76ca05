"""How much memory do the activations of each network take at their peak? Counted, so it runs on any machine.

    python benchmarks/memory.py
    python benchmarks/memory.py --network unet --where
    python benchmarks/memory.py --network person --attention fused
    python benchmarks/memory.py --check
    python benchmarks/memory.py --check --device cuda

The networks run on the meta device, where every tensor that PyTorch would allocate is known and none is stored (see
live_bytes.py). There are three kinds of attention: "fused" allocates its output and one number for each query, as flash
and memory-efficient kernels do; "sliced" holds the scores of 256 queries at a time, about what ComfyUI's split and
sub-quadratic attention do when memory is short; "whole" holds all scores at once.

``--check`` executes small shapes instead, and compares the count with the peak of PyTorch's allocator.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from live_bytes import count
from measure import Table, machine, versions
from torch import Tensor, nn
from unet import inputs

from dynamicrafter.animate_anyone.config import PersonConfig
from dynamicrafter.animate_anyone.memory import WindowSize, denoising_bytes, reference_bytes
from dynamicrafter.animate_anyone.pose_guider import PoseGuider
from dynamicrafter.animate_anyone.unet import DenoisingUNet, ReferenceUNet
from dynamicrafter.model.configs import LATENT_FACTOR, TEXT_TOKENS
from dynamicrafter.model.encoders import CLIPImageEncoder, CLIPTextEncoder
from dynamicrafter.model.memory import SLICE, unet_bytes, vae_decode_bytes, vae_encode_bytes
from dynamicrafter.model.operations import Attention, Operations, fused_attention
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import SMALL, TOON_512, V512, Variant
from dynamicrafter.model.video_decoder import VideoAutoencoder, build_autoencoder

SIZES = ((256, 256), (320, 512), (576, 1024))
"""Heights and widths of the released models."""
PERSON_SIZES = ((512, 448), (768, 512))
FRAMES = (1, 8, 16, 32)
DTYPES = {"fp16, bf16": torch.float16, "float32": torch.float32}
"""Both half precisions take the same space."""
NETWORKS = ("unet", "vae", "toon", "small", "person")
MIB = 2**20
META = torch.device("meta")


def fused(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Allocates what a fused kernel does: the output and the log-sum-exp of each query."""
    torch.empty(q.shape[0], heads, q.shape[1], dtype=torch.float32, device=q.device)
    return torch.empty_like(q)


def sliced(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Explicit attention for a slice of the queries at a time, with scores in float32."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1).contiguous() for x in (q, k, v))
    out = torch.empty_like(q)
    for start in range(0, q.shape[1], SLICE):
        piece = slice(start, start + SLICE)
        out[:, piece] = (q[:, piece].float() @ k.float().mT).softmax(dim=-1).to(v.dtype) @ v
    return out.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def whole(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Explicit attention for all queries at once, with scores in the dtype of the queries."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


ATTENTIONS: dict[str, Attention] = {"fused": fused, "sliced": sliced, "whole": whole}


@dataclass(frozen=True)
class Case:
    """A case to count: what runs, and the formula's estimate (None if there is no formula)."""

    work: str
    height: int
    width: int
    frames: int
    run: Callable[[], object]
    formula: float | None = None


@dataclass(frozen=True)
class Setup:
    """How networks are built."""

    dtype: torch.dtype
    attention: str
    device: torch.device = META
    kernel: Attention | None = None
    """The attention function to run; by default the one that ``attention`` names."""

    def operations(self) -> Operations:
        kernel = self.kernel or ATTENTIONS[self.attention]
        return Operations(attention=kernel, dtype=self.dtype, device=self.device)

    def empty(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


def ready(network: nn.Module) -> Any:
    """The network prepared for inference; weights that are stored at all are zero."""
    for parameter in network.requires_grad_(False).parameters():
        parameter.zero_()
    return network


def unet_cases(
    variant: Variant, setup: Setup, shapes: list[tuple[int, int, int]], batch: int = 1
) -> Iterator[Case]:
    """One evaluation for each of ``(frames, height, width)`` in pixels."""
    network = ready(VideoUNet(variant.unet, setup.operations()))
    for frames, height, width in shapes:
        shape = (batch, frames, height // LATENT_FACTOR, width // LATENT_FACTOR)
        given = inputs(variant, shape, setup.dtype, setup.device)
        formula = unet_bytes(
            variant.unet, shape[0] * shape[1] * shape[2] * shape[3], setup.dtype, setup.attention == "fused"
        )
        yield Case(
            "UNet evaluation",
            height,
            width,
            batch * frames,
            lambda given=given: network(*given),
            None if setup.attention == "whole" else formula,
        )


def vae_cases(variant: Variant, setup: Setup, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    """Encoding one image and decoding one frame."""
    network = ready(build_autoencoder(variant.vae, setup.operations()))
    for height, width in sizes:
        pixels = height * width
        picture = setup.empty(1, 3, height, width)
        latents = setup.empty(1, 4, height // LATENT_FACTOR, width // LATENT_FACTOR)
        encoding = vae_encode_bytes(variant.vae, pixels, setup.dtype)
        decoding = vae_decode_bytes(variant.vae, 1, pixels, setup.dtype)
        known = setup.attention != "whole"
        yield Case(
            "VAE encode", height, width, 1, lambda x=picture: network.encode(x), encoding if known else None
        )
        yield Case(
            "VAE decode", height, width, 1, lambda z=latents: network.decode(z), decoding if known else None
        )


def toon_cases(variant: Variant, setup: Setup, shapes: list[tuple[int, int, int]]) -> Iterator[Case]:
    """ToonCrafter: encoding both key images with their features kept, and decoding a whole clip with them."""
    network: VideoAutoencoder = ready(VideoAutoencoder(variant.vae, setup.operations()))
    for frames, height, width in shapes:
        pixels = height * width
        picture = setup.empty(1, 3, height, width)
        latents = setup.empty(frames, 4, height // LATENT_FACTOR, width // LATENT_FACTOR)
        known = setup.attention != "whole"

        def encode(picture: Tensor = picture) -> list[Tensor]:
            return network.references(picture, picture)

        def decode(picture: Tensor = picture, latents: Tensor = latents) -> Tensor:
            return network.decode_clip(latents, latents.shape[0], network.references(picture, picture))

        if frames == shapes[0][0]:
            encoding = vae_encode_bytes(variant.vae, 2 * pixels, setup.dtype)
            yield Case("ToonCrafter key images", height, width, 2, encode, encoding if known else None)
        decoding = vae_decode_bytes(variant.vae, frames, pixels, setup.dtype)
        yield Case("ToonCrafter decode", height, width, frames, decode, decoding if known else None)


def small_cases(variant: Variant, setup: Setup) -> Iterator[Case]:
    """The small networks: CLIP encoders and resampler, for an image or prompt and its negative."""
    side = variant.vision.image_size
    vision = ready(CLIPImageEncoder(variant.vision, setup.dtype, setup.device))
    pixels = setup.empty(2, 3, side, side)
    yield Case("CLIP image encoder", side, side, 2, lambda: vision.encode(pixels))
    text = ready(CLIPTextEncoder(variant.text, setup.dtype, setup.device))
    tokens = torch.zeros(2, TEXT_TOKENS, dtype=torch.int64, device=setup.device)
    yield Case("CLIP text encoder", 1, TEXT_TOKENS, 2, lambda: text.encode(tokens))
    resampler = ready(Resampler(variant.resampler, setup.operations()))
    patches = (side // variant.vision.patch) ** 2 + 1
    seen = setup.empty(2, patches, variant.resampler.input_dim)
    yield Case("resampler", 1, patches, 2, lambda: resampler(seen))


def person_cases(config: PersonConfig, setup: Setup, shapes: list[tuple[int, int, int]]) -> Iterator[Case]:
    """AnimateAnyone: the reference, and a window of ``(frames, height, width)`` with its pose features."""
    operations = setup.operations()
    seeing: ReferenceUNet = ready(ReferenceUNet(config.pair, operations))
    network: DenoisingUNet = ready(DenoisingUNet(config.pair, operations))
    guider: PoseGuider = ready(PoseGuider(config.pose_guider, operations))
    context = setup.empty(1, 1, config.pair.context_dim)
    for frames, height, width in shapes:
        rows, columns = height // LATENT_FACTOR, width // LATENT_FACTOR
        picture, x = setup.empty(1, 4, rows, columns), setup.empty(1, 4, frames, rows, columns)
        pose = setup.empty(1, 3, 1, height, width)
        size = WindowSize(frames, width, height)

        def project(picture: Tensor = picture) -> Any:
            return network.project(seeing(picture, context))

        def window(x: Tensor = x, pose: Tensor = pose, picture: Tensor = picture) -> Tensor:
            bank = project(picture)
            features = torch.cat([guider(pose) for _ in range(x.shape[2])], dim=2)
            return network(x, torch.zeros(1, device=x.device), context, features, bank)

        known = setup.attention == "fused"
        if frames == shapes[0][0]:
            formula = reference_bytes(config.pair, size, setup.dtype)
            yield Case("reference", height, width, 1, project, formula if known else None)
        formula = denoising_bytes(config, size, setup.dtype)
        yield Case("window", height, width, frames, window, formula if known else None)


def cases(network: str, setup: Setup) -> Iterator[Case]:
    """All cases of one network."""
    if network == "unet":
        yield from unet_cases(V512, setup, [(f, h, w) for h, w in SIZES for f in FRAMES])
    elif network == "vae":
        yield from vae_cases(V512, setup, list(SIZES))
    elif network == "toon":
        yield from toon_cases(TOON_512, setup, [(f, 320, 512) for f in FRAMES])
    elif network == "person":
        yield from person_cases(
            PersonConfig(), setup, [(f, h, w) for h, w in PERSON_SIZES for f in (1, 8, 24)]
        )
    else:
        yield from small_cases(V512, setup)


def counted(networks: list[str], attentions: list[str], where: bool) -> Table:
    """Table of counted peaks and the formulas' estimates."""
    table = Table(
        (
            "work",
            "size",
            "frames",
            "dtype",
            "attention",
            "tensors",
            "with scratch",
            "formula",
            "formula / with scratch",
        )
    )
    for network in networks:
        for attention in attentions if network != "small" else ["fused"]:
            for name, dtype in DTYPES.items():
                for case in cases(network, Setup(dtype, attention)):
                    live = count(case.run)
                    row = [case.work, f"{case.width}x{case.height}", str(case.frames), name, attention]
                    row += [f"{live.peak / MIB:.0f}", f"{live.peak_with_scratch / MIB:.0f}"]
                    if case.formula is None:
                        row += ["", ""]
                    else:
                        ratio = case.formula / live.peak_with_scratch
                        row += [f"{case.formula / MIB:.0f}", f"{ratio:.2f}"]
                    table.add(*row)
                    if where:
                        print(" > ".join([case.work, *count(case.run, live.peak).where]))
    return table


def allocated(run: Callable[[], object], device: torch.device) -> int:
    """Peak reported by PyTorch's allocator on a GPU, or by the profiler on the CPU."""
    with torch.no_grad():
        if device.type == "cuda":
            run()
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        run()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        now += change
        peak = max(peak, now)
    return peak


def checked(device: torch.device) -> Table:
    """Table of counted and allocated peaks, for shapes that any machine can run."""
    table = Table(("work", "size", "frames", "dtype", "attention", "tensors", "allocated", "with scratch"))
    if device.type == "cuda":
        shapes, sizes, variants = (
            [(f, h, w) for h, w in SIZES for f in (1, 16)],
            list(SIZES),
            (V512, TOON_512),
        )
        dtypes = {"fp16": torch.float16, "float32": torch.float32}
    else:
        toon = Variant("small toon", "", (), SMALL.preset, unet=SMALL.unet, vae=TOON_512.vae)
        shapes, sizes, variants = [(2, 128, 64)], [(128, 192)], (SMALL, toon)
        dtypes = {"float32": torch.float32}
    for name, dtype in dtypes.items():
        for attention, kernel in (("fused", fused_attention), ("sliced", sliced), ("whole", whole)):
            plain = Setup(dtype, attention)
            real = Setup(dtype, attention, device, kernel)
            pairs = [
                (unet_cases(variants[0], plain, shapes), unet_cases(variants[0], real, shapes)),
                (vae_cases(variants[0], plain, sizes), vae_cases(variants[0], real, sizes)),
                (toon_cases(variants[1], plain, shapes[-1:]), toon_cases(variants[1], real, shapes[-1:])),
            ]
            for ours, theirs in pairs:
                for case, same in zip(ours, theirs, strict=True):
                    live, true = count(case.run), allocated(same.run, device)
                    table.add(
                        case.work,
                        f"{case.width}x{case.height}",
                        str(case.frames),
                        name,
                        attention,
                        *(f"{size / MIB:.1f}" for size in (live.peak, true, live.peak_with_scratch)),
                    )
    return table


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--attention", choices=list(ATTENTIONS), action="append", help="default: all")
    parser.add_argument("--where", action="store_true", help="also print the lines that run at each peak")
    parser.add_argument("--check", action="store_true", help="compare the count with the allocator")
    parser.add_argument("--device", default="cpu", help="where --check runs")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    chosen = arguments(argv)
    if chosen.check:
        device = torch.device(chosen.device)
        print(f"MiB; {machine(device)}; {versions()}\n\n{checked(device).markdown()}")
        return
    table = counted(chosen.network or list(NETWORKS), chosen.attention or list(ATTENTIONS), chosen.where)
    print(f"MiB; {versions()}\n\n{table.markdown()}")


if __name__ == "__main__":
    main()
