"""The host's layers with weights in 8 bits, which it can leave in system memory and cast layer by layer."""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...dynamicrafter.model.quantised import SCALE, is_quantised

_plain: Any = comfy.ops.manual_cast


class _Quantised(nn.Module):
    """A mixin of the host's layers: what the host casts are the stored values, exactly, and the scales follow."""

    def forward(self, x: Tensor) -> Tensor:
        """As the plain layer, in the dtype of ``x``."""
        weight, bias = comfy.ops.cast_bias_weight(self, x)
        # In float16, the scales of small weights would be 0 or nearly so.
        wide = torch.float32 if x.dtype == torch.float16 else x.dtype
        scale = self.get_parameter(SCALE).to(x.device, wide).view(-1, *[1] * (weight.ndim - 1))
        return self.applied(x, (weight.to(wide) * scale).to(x.dtype), bias)

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with a weight."""
        own: Any = self
        return own._conv_forward(x, weight, bias)


class _Linear(_Quantised, _plain.Linear):
    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class _Conv2d(_Quantised, _plain.Conv2d):
    pass


class _Conv3d(_Quantised, _plain.Conv3d):
    pass


def _made(name: str, quantised: type[nn.Module]) -> Any:
    def make(inputs: int, outputs: int, *arguments: Any, **named: Any) -> nn.Module:
        if not is_quantised((outputs, inputs)):
            return getattr(_plain, name)(inputs, outputs, *arguments, **named)
        # Without memory: the weights are placed whole.
        layer = quantised(inputs, outputs, *arguments, **{**named, "device": "meta"})
        layer.register_parameter(
            SCALE, nn.Parameter(torch.empty(outputs, device="meta"), requires_grad=False)
        )
        return layer

    return staticmethod(make)


class HostQuantisedLayers:
    """The layer classes of a quantised network, in the host's terms."""

    Conv1d, GroupNorm, LayerNorm = _plain.Conv1d, _plain.GroupNorm, _plain.LayerNorm
    Linear = _made("Linear", _Linear)
    Conv2d = _made("Conv2d", _Conv2d)
    Conv3d = _made("Conv3d", _Conv3d)


def place_weights(module: nn.Module, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Give ``module`` all of ``weights``; those that are not quantised are cast to ``dtype``."""
    scaled = {name.removesuffix("_scale") for name in weights if name.endswith(f".{SCALE}")}
    for name, tensor in weights.items():
        owner, _, own = name.rpartition(".")
        keeps = name.removesuffix("_scale") in scaled
        value = nn.Parameter(tensor if keeps else tensor.to(dtype), requires_grad=False)
        setattr(module.get_submodule(owner), own, value)
    module.train(False)
