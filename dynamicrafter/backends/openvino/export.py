# pyright: reportMissingTypeStubs=false
"""Writes a model as OpenVINO's graphs."""

from __future__ import annotations

import gc
import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import torch

from ...atomic import replacing
from ...errors import CheckpointError, UsageError
from ...pipeline import TorchModel
from ...weights.detect import variant_metadata
from .graphs import example, function_of, signature
from .library import nncf, openvino, runtime_version
from .manifest import GRAPHS, Graph, Manifest, Source, StoredAs, is_export, write_manifest
from .untrusted import check_graph

ExportProgress = Callable[[str, int, int], None]
"""Called with what is being done, the number of networks finished and their total; may raise to stop the export."""


def write_export(
    model: TorchModel,
    target: Path,
    asked: str,
    sources: Sequence[Source],
    stored: StoredAs = "fp16",
    *,
    progress: ExportProgress | None = None,
) -> Manifest:
    """Write the networks of ``model`` to the folder ``target`` as graphs for inputs of any size; returns the manifest.

    ``model`` must be float32 on the CPU and cannot be used afterwards: each network is released when it is written.
    The folder is written completely or not at all; an existing export is replaced. Raises UsageError if ``target`` is
    something else or the packages are not installed, and CheckpointError if the folder cannot be written.
    """
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise UsageError(
            f"a model is exported from float32 on the CPU, but it is {model.dtype} on {model.device}; load it so"
        )
    check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            part.mkdir()
            for done, name in enumerate(GRAPHS):
                if progress is not None:
                    progress(f"exporting {name}", done, len(GRAPHS))
                graph = trace(model, name)
                if stored == "int8":
                    graph = _int8_weights(graph)
                path = part / f"{name}.xml"
                openvino().save_model(graph, path, compress_to_fp16=True)
                # Here, so that a release with new operations is noticed by whoever exports, not by whoever loads.
                check_graph(path, path.with_suffix(".bin").stat().st_size)
                del graph
                _release(model, name)
            manifest = Manifest(
                asked=asked,
                sources=tuple(sources),
                variant=variant_metadata(model.variant),
                stored=stored,
                openvino=runtime_version(),
                torch=torch.__version__,
                files=(),
                nncf="" if stored == "fp16" else str(nncf().__version__),
            )
            write_manifest(part, manifest)
            if progress is not None:
                progress("exporting", len(GRAPHS), len(GRAPHS))
    except OSError as problem:
        raise CheckpointError(
            f"the export {target} cannot be written ({problem.strerror or problem}); choose another folder or free "
            f"space"
        ) from problem
    return manifest


def check_target(target: Path) -> None:
    """Raise UsageError if an export would replace something else than an export or an empty folder."""
    if target.is_dir() and (is_export(target) or not any(target.iterdir())):
        return
    if target.is_symlink() or target.exists():
        raise UsageError(f"{target} exists and is not an export; choose another folder")


@torch.inference_mode()
def trace(model: TorchModel, name: Graph) -> Any:
    """One network of a float32 model as a graph in memory, with float32 weights and the names of its signature."""
    found = signature(model.variant, name)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # Branches on sizes, which a trace fixes, serve only to split what is large (feed-forward, attention on CUDA).
        warnings.simplefilter("ignore")
        inputs = example(model.variant, name)
        # Traced here, because OpenVINO would run every network three times to check the trace.
        traced = cast(Any, torch.jit).trace(
            function_of(model, name).train(False), inputs, check_trace=False, strict=False
        )
        graph = openvino().convert_model(traced, example_input=inputs)
    for port, label in zip(graph.inputs, found.inputs, strict=True):
        port.get_tensor().set_names({label})
    for port, label in zip(graph.outputs, found.outputs, strict=True):
        port.get_tensor().set_names({label})
    shape = openvino().PartialShape
    graph.reshape(
        {
            label: shape([-1 if length is None else length for length in lengths])
            for label, lengths in found.inputs.items()
        }
    )
    return graph


def _int8_weights(graph: Any) -> Any:
    """The graph with the weights of its matrices and kernels in 8 bits for each output channel."""
    with redirect_stdout(io.StringIO()):
        return nncf().compress_weights(graph)


def _release(model: TorchModel, name: Graph) -> None:
    """Free the weights of a network that no later graph needs."""
    owners = {
        "unet": "unet",
        "vae_decoder": "vae",
        "resampler": "resampler",
        "text": "text",
        "vision": "vision",
    }
    if name in owners:
        getattr(model, owners[name]).to("meta")
        gc.collect()
