# pyright: reportMissingTypeStubs=false
"""Quantises weights and activations of the denoising network to 8 bits, but for layers that this hurts too much."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np

from .calibration import Call
from .library import nncf, openvino
from .manifest import Accuracy
from .sensitivity import LayerError, choose_kept

WANTED = 30.0
"""Mean signal-to-noise ratio of an evaluation in dB, below which more layers are left in floating point."""
_MARGIN = 0.5
"""dB added to it when layers are chosen, because their errors are estimates."""
_ROUNDS = 4
"""How often the network is quantised at most."""
_WEIGHTED = frozenset(("Convolution", "GroupConvolution", "MatMul"))


def quantise_layers(
    graph: Any,
    layers: Sequence[LayerError],
    calibrating: Sequence[Call],
    measuring: Sequence[Call],
    progress: Callable[[int, int], None],
) -> tuple[Any, list[LayerError], Accuracy, Accuracy]:
    """The graph in 8 bits, the layers left in floating point, and the accuracy with none and with these left.

    More layers are left until the accuracy on ``measuring`` is :data:`WANTED`, in at most four rounds, with which
    ``progress`` is called; the accuracy of the last one is returned even if it is lower.
    """
    names = operations_of(graph, layers)
    kept: list[LayerError] = []
    before: Accuracy | None = None
    allowed = 1.0
    for done in range(_ROUNDS):
        progress(done, _ROUNDS)
        made = _quantised(graph, [name for layer in kept for name in names[layer.name]], calibrating)
        found = accuracy(made, measuring)
        before = before or found
        if found.mean >= WANTED or done == _ROUNDS - 1:
            return made, kept, before, found
        allowed *= 10 ** ((found.mean - WANTED - _MARGIN) / 10)
        kept = choose_kept(layers, allowed)
    raise AssertionError("the last round returns")


def accuracy(graph: Any, calls: Sequence[Call]) -> Accuracy:
    """Signal-to-noise ratio of a graph's outputs on the CPU, with the remaining layers in float32."""
    compiled = openvino().Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ratios: list[float] = []
    for call in calls:
        found = compiled(list(call.inputs))[0]
        wanted = call.output.astype(np.float64)
        ratios.append(
            10 * math.log10(float(np.square(wanted).mean() / max(np.square(found - wanted).mean(), 1e-30)))
        )
    return Accuracy(round(min(ratios), 2), round(statistics.fmean(ratios), 2))


def _quantised(graph: Any, kept: Sequence[str], calls: Sequence[Call]) -> Any:
    """A copy of the graph, quantised and its biases corrected by nncf, but for the operations ``kept``."""
    package = nncf()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return package.quantize(
            graph.clone(),
            package.Dataset([list(call.inputs) for call in calls]),
            subset_size=len(calls),
            model_type=package.ModelType.TRANSFORMER,
            fast_bias_correction=True,
            ignored_scope=package.IgnoredScope(names=list(kept)),
        )


def operations_of(graph: Any, layers: Sequence[LayerError]) -> dict[str, list[str]]:
    """The names of the operations in the graph that each layer became, which begin with its path."""
    names = [each.get_friendly_name() for each in graph.get_ops() if each.get_type_name() in _WEIGHTED]
    return {
        layer.name: [name for name in names if name.startswith(f"__module.{layer.name}/")] for layer in layers
    }
