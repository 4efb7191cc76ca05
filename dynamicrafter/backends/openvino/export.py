# pyright: reportMissingTypeStubs=false
"""Writes a model as OpenVINO's graphs."""

from __future__ import annotations

import gc
import io
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...atomic import replacing
from ...errors import CheckpointError, UsageError
from ...pipeline import TorchModel
from ...weights.detect import variant_metadata
from .calibration import Shown, calibration_settings, record_calls
from .graphs import Signature, example, function_of, signature
from .library import nncf, openvino, runtime_version
from .manifest import (
    DYNAMICRAFTER,
    GRAPHS,
    Calibration,
    Family,
    Graph,
    Manifest,
    Source,
    StoredAs,
    is_export,
    write_manifest,
)
from .quantise import quantise_layers
from .sensitivity import layer_errors
from .untrusted import check_graph

ExportProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is finished and its total; may raise to stop the export."""

_MOST_FOR_LAYERS = 8
"""Evaluations on which the errors of the layers are estimated."""


def write_export(
    model: TorchModel,
    target: Path,
    asked: str,
    sources: Sequence[Source],
    stored: StoredAs = "fp16",
    *,
    shown: Sequence[Shown] = (),
    progress: ExportProgress | None = None,
) -> Manifest:
    """Write the networks of ``model`` to the folder ``target`` as graphs for inputs of any size; returns the manifest.

    ``shown`` is what int8_full is calibrated on. ``model`` must be float32 on the CPU and cannot be used afterwards:
    each network is released when it is written. The folder is written completely or not at all; an existing export is
    replaced. Raises UsageError if ``target`` is
    something else or the packages are not installed, and CheckpointError if the folder cannot be written.
    """
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise UsageError(
            f"a model is exported from float32 on the CPU, but it is {model.dtype} on {model.device}; load it so"
        )
    report = progress or untold
    with writing(target) as part:
        calibration = None
        for done, name in enumerate(GRAPHS):
            if name == "unet" and stored == "int8_full":
                graph, calibration = _int8_unet(model, shown, report)
            else:
                report(f"exporting {name}", done, len(GRAPHS))
                graph = trace(model, name)
                if stored != "fp16":
                    graph = int8_weights(graph)
            save_graph(graph, part, name)
            del graph
            _release(model, name)
        described = variant_metadata(model.variant)
        manifest = complete(part, DYNAMICRAFTER, described, asked, sources, stored, calibration)
        report("exporting", len(GRAPHS), len(GRAPHS))
    return manifest


def untold(what: str, done: int, total: int) -> None:
    """For exports without anybody to tell of their progress."""


@contextmanager
def writing(target: Path) -> Generator[Path]:
    """An empty folder that becomes ``target`` if all goes well; raises what :func:`write_export` says of it."""
    check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            part.mkdir()
            yield part
    except OSError as problem:
        raise CheckpointError(
            f"the export {target} cannot be written ({problem.strerror or problem}); choose another folder or free "
            f"space"
        ) from problem


def save_graph(graph: Any, folder: Path, name: str) -> None:
    """Write a graph to a folder, with its weights in half precision where they are not in 8 bits."""
    path = folder / f"{name}.xml"
    openvino().save_model(graph, path, compress_to_fp16=True)
    # Here, so that a release with new operations is noticed by whoever exports, not by whoever loads.
    check_graph(path, path.with_suffix(".bin").stat().st_size)


def complete(
    folder: Path,
    family: Family,
    described: Mapping[str, str],
    asked: str,
    sources: Sequence[Source],
    stored: StoredAs,
    calibration: Calibration | None = None,
) -> Manifest:
    """Write the manifest of a folder with all graphs of ``family`` and return it; ``described`` has its key."""
    manifest = Manifest(
        asked=asked,
        sources=tuple(sources),
        variant=described,
        stored=stored,
        openvino=runtime_version(),
        torch=torch.__version__,
        files=(),
        nncf="" if stored == "fp16" else str(nncf().__version__),
        calibration=calibration,
    )
    return write_manifest(folder, manifest, family)


def check_target(target: Path) -> None:
    """Raise UsageError if an export would replace something else than an export or an empty folder."""
    if target.is_dir() and (is_export(target) or not any(target.iterdir())):
        return
    if target.is_symlink() or target.exists():
        raise UsageError(f"{target} exists and is not an export; choose another folder")


def trace(model: TorchModel, name: Graph) -> Any:
    """One network of a float32 model as :func:`trace_function`."""
    return trace_function(
        function_of(model, name), example(model.variant, name), signature(model.variant, name)
    )


def trace_function(function: nn.Module, inputs: tuple[Tensor, ...], found: Signature) -> Any:
    """A module as a graph in memory, with float32 weights and the names and free axes of its signature."""
    graph = converted(function, inputs)
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


@torch.inference_mode()
def converted(function: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The graph of a module of tensors, traced with ``inputs``."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # Branches on sizes, which a trace fixes, serve only to split what is large (feed-forward, attention on CUDA).
        warnings.simplefilter("ignore")
        # Traced here, because OpenVINO would run every network three times to check the trace.
        traced = cast(Any, torch.jit).trace(function.train(False), inputs, check_trace=False, strict=False)
        return openvino().convert_model(traced, example_input=inputs)


def int8_weights(graph: Any) -> Any:
    """The graph with the weights of its matrices and kernels in 8 bits for each output channel."""
    with redirect_stdout(io.StringIO()):
        return nncf().compress_weights(graph)


def _int8_unet(model: TorchModel, shown: Sequence[Shown], report: ExportProgress) -> tuple[Any, Calibration]:
    """The graph of the denoising network that computes in 8 bits, and how it was made."""
    nncf()  # Before the long work.
    calibrating, measuring = record_calls(model, shown, partial(report, "generating clips to calibrate on"))
    report("measuring layers", 0, 1)
    layers = layer_errors(function_of(model, "unet").train(False), calibrating[:_MOST_FOR_LAYERS])
    graph = trace(model, "unet")
    _release(model, "unet")
    made, kept, before, after = quantise_layers(
        graph, layers, calibrating, measuring, partial(report, "quantising unet, round")
    )
    settings = calibration_settings(model.variant)
    return made, Calibration(
        clips=len(shown),
        calls=len(calibrating),
        size=(settings.width, settings.height, settings.frames),
        before=before,
        after=after,
        kept=tuple(layer.name.removeprefix("owner.") for layer in kept),
        kept_work=round(sum(layer.work for layer in kept) / sum(layer.work for layer in layers), 4),
    )


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
