"""Loads an export as a model whose networks run in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..backends.openvino.compiled import CompiledGraph, compile_cache
from ..backends.openvino.manifest import Manifest, read_manifest
from ..backends.openvino.running import ExportedCodec, check_graphs
from ..model.layers import sinusoidal_embedding
from ..weights.formats.entries import ByteProgress
from .attention import Features, Reference
from .config import PersonConfig, parse_config
from .graphs import PERSON_FAMILY, feature_widths, person_signature, reference_tensors
from .pipeline import PersonModel

WORKING_TOGETHER: tuple[tuple[str, ...], ...] = (
    ("embedder",),
    ("vae_encoder",),
    ("reference",),
    ("projection",),
    ("denoising", "pose_guider"),
    ("vae_decoder",),
)
"""Networks that work in turn, and are in memory together."""


class Turns:
    """The graphs of an export, each compiled when it is called and released when one of another stage is."""

    def __init__(self, compile: Callable[[str], CompiledGraph]) -> None:
        self._compile = compile
        self._compiled: dict[str, CompiledGraph] = {}

    def run(self, name: str, *inputs: Tensor) -> list[Tensor]:
        """Outputs of a graph, as :class:`~dynamicrafter.backends.openvino.compiled.CompiledGraph`."""
        if name not in self._compiled:
            stage = next(stage for stage in WORKING_TOGETHER if name in stage)
            self._compiled = {each: graph for each, graph in self._compiled.items() if each in stage}
            self._compiled[name] = self._compile(name)
        return self._compiled[name](*inputs)

    def graph(self, name: str) -> Callable[..., list[Tensor]]:
        """One of them as a function."""
        return lambda *inputs: self.run(name, *inputs)


@dataclass(frozen=True)
class ExportedReference:
    """The reference network, as :class:`~.protocols.ReferenceNetwork`."""

    graphs: Turns
    config: PersonConfig

    def __call__(self, latents: Tensor, context: Tensor) -> Features:
        """As the protocol; float32."""
        found = self.graphs.run("reference", latents, context)
        return dict(zip(feature_widths(self.config), found, strict=True))


@dataclass(frozen=True)
class ExportedDenoiser:
    """The denoising network, as :class:`~.protocols.PersonNetwork`."""

    graphs: Turns
    config: PersonConfig

    def project(self, features: Features) -> Reference:
        """As the protocol; float32."""
        paths = list(feature_widths(self.config))
        found = self.graphs.run("projection", *(features[path] for path in paths))
        return dict(zip(paths, zip(found[::2], found[1::2], strict=True), strict=True))

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        pose: Tensor | None = None,
        reference: Reference | None = None,
    ) -> Tensor:
        """As the protocol; float32."""
        widths = self.config.pair.widths
        if pose is None:
            pose = x.new_zeros((1, widths[0], *x.shape[2:]))
        if reference is None:
            projected = [
                x.new_zeros((len(x), 0, width))
                for width in feature_widths(self.config).values()
                for _ in range(2)
            ]
        else:
            projected = list(reference_tensors(reference, self.config))
        time = sinusoidal_embedding(timesteps, widths[0])
        return self.graphs.run("denoising", x, time, context, pose, *projected)[0]


@dataclass(frozen=True)
class ExportedPoseGuider:
    """The pose guider, as :class:`~.protocols.PoseNetwork`."""

    graphs: Turns

    def __call__(self, poses: Tensor) -> Tensor:
        """As the protocol; float32."""
        return self.graphs.run("pose_guider", poses)[0]


@dataclass(frozen=True)
class ExportedEmbedder:
    """The image encoder, as :class:`~.protocols.PictureEmbedder`."""

    graphs: Turns

    def __call__(self, pixels: Tensor) -> Tensor:
        """As the protocol; float32."""
        return self.graphs.run("embedder", pixels)[0]


def read_person_export(folder: Path) -> tuple[PersonConfig, Manifest]:
    """The sizes and the manifest of an export; raises CheckpointError for a damaged one or one of another model."""
    manifest = read_manifest(folder, PERSON_FAMILY)
    return parse_config(manifest.variant[PERSON_FAMILY.key], folder, manifest.writer), manifest


def load_person_export(
    folder: Path, device: str, dtype: torch.dtype, progress: ByteProgress | None = None
) -> PersonModel:
    """The model in an export, computing in ``dtype`` on OpenVINO's ``device``; tensors are on the CPU.

    Everything is checked before OpenVINO reads a file. Each network is compiled when it is first called, and leaves
    memory when another one is, but for pose guider and denoising network, which work together. ``progress`` is called
    with the bytes checked and their total. Raises CheckpointError for a damaged or unsafe export; UsageError for a
    device that is not there.
    """
    config, manifest = read_person_export(folder)
    check_graphs(folder, manifest, PERSON_FAMILY.graphs, device)
    cache = compile_cache()

    def compiled(name: str) -> CompiledGraph:
        return CompiledGraph(folder / f"{name}.xml", person_signature(config, name), device, dtype, cache)

    graphs = Turns(compiled)
    if progress is not None:
        total = sum(map(manifest.bytes_of, PERSON_FAMILY.graphs))
        progress(total, total)
    return PersonModel(
        config=config,
        reference=ExportedReference(graphs, config),
        denoising=ExportedDenoiser(graphs, config),
        pose_guider=ExportedPoseGuider(graphs),
        vae=ExportedCodec(config.vae, graphs.graph("vae_encoder"), graphs.graph("vae_decoder")),
        embedder=ExportedEmbedder(graphs),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def stage_weights(manifest: Manifest, itemsize: int) -> int:
    """Bytes of weights in main memory at the peak, computing in a dtype of ``itemsize`` bytes."""
    return max(manifest.resident_bytes(stage, itemsize) for stage in WORKING_TOGETHER)
