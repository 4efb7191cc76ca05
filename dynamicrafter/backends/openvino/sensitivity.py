"""How much the quantisation of each layer to 8 bits changes the output of a network."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .calibration import Call

_LEVELS = 255
"""Steps between the smallest and the largest value of 8 bits."""


@dataclass
class LayerError:
    """A layer with a matrix or a kernel."""

    name: str
    """Its path inside the network."""
    work: float = 0.0
    """Multiply-adds of all calls."""
    noise: float = 0.0
    """Estimated share of the error of an output that comes from its quantisation, mean over all calls."""
    low: float = math.inf
    high: float = -math.inf
    """Range of its input."""


def layer_errors(network: nn.Module, calls: Sequence[Call]) -> list[LayerError]:
    """What quantising each layer of ``network`` by itself would cost, estimated with two passes for each call.

    The first pass finds the ranges of all inputs. In the second one each layer also computes with quantised weights and
    inputs; this difference, squared, weighted with the squared gradient of a random combination of the outputs, is the
    power that it has in the outputs if its values are independent of each other. That costs the same for any number of
    layers, unlike measuring one after the other.
    """
    generator = torch.Generator().manual_seed(0)
    powers: dict[nn.Module, float] = {}
    layers: dict[nn.Module, LayerError] = {
        module: LayerError(name) for name, module in cast(Any, network.named_modules()) if _is_layer(module)
    }

    def measure(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        found, weight = layers[module], _weight(module)
        found.low = min(found.low, float(given[0].min()), 0.0)
        found.high = max(found.high, float(given[0].max()), 0.0)
        found.work += out.numel() / weight.shape[0] * weight.numel()

    def attribute(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        found = layers[module]
        with torch.no_grad():
            error = _forward_quantised(module, _quantised(given[0], found.low, found.high)) - out
            # What is constant is corrected in the biases. Features of matrices are last, of convolutions second.
            axis = out.ndim - 1 if isinstance(module, nn.Linear) else 1
            error -= error.mean([index for index in range(out.ndim) if index != axis], keepdim=True)

        def weigh(gradient: Tensor) -> None:
            powers[module] = powers.get(module, 0.0) + float((gradient * error).square().sum())

        if not out.requires_grad:  # It depends on the text, the image or the timestep alone.
            out = out.detach().requires_grad_()
        cast(Any, out).register_hook(weigh)
        return out

    with _hooked(layers, measure), torch.no_grad():
        for call in calls:
            network(*map(torch.as_tensor, call.inputs))
    with _hooked(layers, attribute), torch.enable_grad():
        for call in calls:
            powers.clear()
            out = network(*(torch.as_tensor(each).requires_grad_() for each in call.inputs))
            signs = torch.randint(0, 2, out.shape, generator=generator) * 2.0 - 1.0
            (out * signs).sum().backward()
            total = sum(powers.values())
            for module, power in powers.items():
                layers[module].noise += power / total / len(calls)
    return list(layers.values())


def choose_kept(layers: Sequence[LayerError], allowed: float) -> list[LayerError]:
    """The layers to leave in floating point so that at most the share ``allowed`` of the error remains.

    Those that remove the most of it for their work are the first.
    """
    order = sorted(layers, key=lambda layer: layer.noise / max(layer.work, 1.0), reverse=True)
    left = 1.0
    kept: list[LayerError] = []
    for layer in order:
        if left <= allowed:
            break
        kept.append(layer)
        left -= layer.noise
    return kept


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


def _weight(module: nn.Module) -> Tensor:
    weight: Any = module.weight
    return weight.detach()


def _forward_quantised(module: nn.Module, given: Tensor) -> Tensor:
    """What a layer returns with quantised weights, without its hooks."""
    plain: Any = module.weight
    module.weight = nn.Parameter(_quantised_weight(plain), requires_grad=False)
    try:
        return module.forward(given)
    finally:
        module.weight = plain


def _quantised(values: Tensor, low: float, high: float) -> Tensor:
    """``values`` rounded to the 256 levels of a range that contains 0."""
    scale = max(high - low, 1e-12) / _LEVELS
    return ((values / scale).round() * scale).clamp(low, high)


def _quantised_weight(weight: Tensor) -> Tensor:
    """A weight rounded to levels of its own for each output channel, symmetric around 0."""
    scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12) / (_LEVELS // 2)
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return (weight / scale).round() * scale


@contextmanager
def _hooked(layers: dict[nn.Module, LayerError], hook: Any) -> Generator[None]:
    handles = [module.register_forward_hook(hook) for module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
