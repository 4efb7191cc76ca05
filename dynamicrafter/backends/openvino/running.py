"""Loads an export as a model whose networks run in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...model.configs import VaeConfig
from ...model.encoders import clip_pixels, tokenize
from ...model.layers import sinusoidal_embedding
from ...model.protocols import Context, Posterior
from ...pipeline import Model
from ...weights.formats.entries import ByteProgress
from .compiled import CompiledGraph, check_device, compile_cache
from .graphs import Signature, signature
from .manifest import GRAPHS, Manifest, check_files, read_manifest, variant_in
from .untrusted import check_graph


@dataclass(frozen=True)
class ExportedNetwork:
    """The denoising network, as :class:`dynamicrafter.model.protocols.Network`."""

    graph: CompiledGraph
    channels: int
    """Width of the sinusoids, which are computed by PyTorch: half precision is too coarse for their frequencies."""

    def __call__(self, x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        """As the protocol; float32."""
        context = context.grouped(x.shape[2])
        time, rate = (sinusoidal_embedding(values, self.channels) for values in (timesteps, fs))
        return self.graph(x, time, context.text, context.image, rate)[0]


@dataclass(frozen=True)
class ExportedCodec:
    """The autoencoder, as :class:`dynamicrafter.model.protocols.PictureCodec`."""

    config: VaeConfig
    encoder: Callable[..., list[Tensor]]
    """A compiled graph, as ``decoder``."""
    decoder: Callable[..., list[Tensor]]

    def encode(self, pictures: Tensor) -> Posterior:
        """As the protocol; float32."""
        mean, logvar = self.encoder(pictures)[0].chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        """As the protocol; a video decoder needs the pictures."""
        if not self.config.video_decoder:
            for index in range(latents.shape[0]):
                yield self.decoder(latents[index : index + 1])[0]
            return
        if pictures is None:
            raise ValueError(
                "this decoder was exported for interpolation, which needs the two images; pass them"
            )
        yield self.decoder(latents, *self.encoder(pictures)[1:])[0]


@dataclass(frozen=True)
class ExportedTextEncoder:
    """The text encoder, as :class:`dynamicrafter.model.protocols.TextEncoder`."""

    graph: CompiledGraph

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """As the protocol; float32."""
        return self.graph(tokenize(prompts))[0]


@dataclass(frozen=True)
class ExportedImageEncoder:
    """The image encoder, as :class:`dynamicrafter.model.protocols.ImageEncoder`.

    Images are resized by PyTorch: the kernel against aliasing depends on their size, which a graph would fix.
    """

    graph: CompiledGraph
    image_size: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """As the protocol; float32."""
        return self.graph(clip_pixels(pictures, self.image_size))[0]


@dataclass(frozen=True)
class ExportedResampler:
    """The resampler, as :class:`dynamicrafter.model.protocols.TokenResampler`."""

    graph: CompiledGraph

    def __call__(self, tokens: Tensor) -> Tensor:
        """As the protocol; float32."""
        return self.graph(tokens)[0]


def load_export(folder: Path, device: str, dtype: torch.dtype, progress: ByteProgress | None = None) -> Model:
    """The model in an export, compiled for OpenVINO's ``device`` and computing in ``dtype``; tensors are on the CPU.

    Everything is checked before OpenVINO reads a file. ``progress`` is called with the bytes loaded and their total.
    Raises CheckpointError for a damaged or unsafe export and for one that the device cannot run; UsageError for a
    device or a precision that is not there.
    """
    manifest = read_manifest(folder)
    variant = variant_in(folder, manifest)
    signatures = {name: signature(variant, name) for name in GRAPHS}
    compiled = compile_graphs(folder, manifest, signatures, device, dtype, progress)
    return Model(
        variant=variant,
        unet=ExportedNetwork(compiled["unet"], variant.unet.model_channels),
        vae=ExportedCodec(variant.vae, compiled["vae_encoder"], compiled["vae_decoder"]),
        resampler=ExportedResampler(compiled["resampler"]),
        text=ExportedTextEncoder(compiled["text"]),
        vision=ExportedImageEncoder(compiled["vision"], variant.vision.image_size),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def compile_graphs(
    folder: Path,
    manifest: Manifest,
    signatures: Mapping[str, Signature],
    device: str,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CompiledGraph]:
    """Check an export and compile the networks in ``signatures``; as :func:`load_export`."""
    check_graphs(folder, manifest, signatures, device)
    cache = compile_cache()
    total = sum(map(manifest.bytes_of, signatures))
    compiled: dict[str, CompiledGraph] = {}
    done = 0
    for name, found in signatures.items():
        compiled[name] = CompiledGraph(folder / f"{name}.xml", found, device, dtype, cache)
        done += manifest.bytes_of(name)
        if progress is not None:
            progress(done, total)
    return compiled


def check_graphs(folder: Path, manifest: Manifest, graphs: Iterable[str], device: str) -> None:
    """Check that ``device`` is there, all files of an export, and the graphs of some of its networks.

    Raises UsageError and CheckpointError as :func:`load_export`.
    """
    check_device(device)
    check_files(folder, manifest)
    for name in graphs:
        check_graph(folder / f"{name}.xml", manifest.bytes_of(name))
