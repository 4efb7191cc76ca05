"""Writes a model as OpenVINO's graphs."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from ..backends.openvino.export import (
    ExportProgress,
    check_target,
    complete,
    int8_weights,
    save_graph,
    trace_function,
    untold,
    writing,
)
from ..backends.openvino.library import nncf, openvino
from ..backends.openvino.manifest import Manifest, exports_folder, is_export
from ..errors import UsageError
from ..forms import to_json
from ..model.operations import Operations
from .config import PERSON_KEY
from .graphs import GRAPHS_OF, PERSON_FAMILY, person_example, person_function, person_signature
from .weights import check_person, load_person_networks, person_sources


def export_person_model(
    model: Path | str,
    target: Path | str | None = None,
    *,
    stored: Literal["fp16", "int8"] = "fp16",
    loading: Callable[[int, int], None] | None = None,
    progress: ExportProgress | None = None,
) -> tuple[Path, Manifest]:
    """Export a model for OpenVINO, its graphs for inputs of any size; returns the folder and its manifest.

    ``model`` and where the export goes are as in :func:`~.weights.load_person` and
    :func:`dynamicrafter.api.export_model`. ``stored`` is the precision of the weights: "fp16", or "int8" for half the
    size. One network at a time is loaded, in float32, and released when its graphs are written. ``loading`` is called
    with the bytes of a network that are read and their total, ``progress`` with what is being done, how much is done
    and the total. Raises what :func:`~.weights.load_person` raises, UsageError for an export, an existing ``target``
    that is none, and packages that are not installed, and CheckpointError if the export cannot be written.
    """
    if is_export(Path(model)):
        raise UsageError(f"{model} is an export already; pass the weights that it was made of")
    if target is not None:
        check_target(Path(target))
    openvino()
    if stored == "int8":
        nncf()
    config = check_person(model)
    sources = person_sources(model)
    folder = exports_folder(sources) if target is None else Path(target)
    report = progress or untold
    done = 0
    with writing(folder) as made:
        for part, names in GRAPHS_OF.items():
            _, networks = load_person_networks(
                model, [part], operations=Operations(dtype=torch.float32), progress=loading
            )
            network = networks.pop(part)
            for name in names:
                report(f"exporting {name}", done, len(PERSON_FAMILY.graphs))
                function = person_function(network, name)
                graph = trace_function(function, person_example(config, name), person_signature(config, name))
                save_graph(int8_weights(graph) if stored == "int8" else graph, made, name)
                del function, graph
                done += 1
            del network
            # Functions refer to themselves, so their weights are not released by counting.
            gc.collect()
        described = {PERSON_KEY: json.dumps(to_json(config), separators=(",", ":"))}
        manifest = complete(made, PERSON_FAMILY, described, Path(model).name, sources, stored)
        report("exporting", done, len(PERSON_FAMILY.graphs))
    return folder, manifest
