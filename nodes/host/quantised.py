"""The host's layers with weights in 8 bits, which it can leave in system memory, cast layer by layer and patch.

The host patches a layer that is loaded whole once, through :meth:`_Quantised.convert_weight` and
:meth:`~_Quantised.set_weight`, and keeps the stored weight to give it back; the patches of a streamed layer are added
whenever it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.lora
import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...dynamicrafter.model.configs import Quantised
from ...dynamicrafter.model.quantised import SCALE, STORED, is_quantised, quantise, widen

_plain: Any = comfy.ops.manual_cast


class _Quantised(nn.Module):
    """A mixin of the host's layers: what the host casts are the stored values, exactly, and the scales follow."""

    weight: Tensor
    weight_function: list[Callable[[Tensor], Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        """As the plain layer, in the dtype of ``x``."""
        functions, self.weight_function = self.weight_function, []
        try:
            # Without the host's patches, which are for what the stored values stand for.
            weight, bias = comfy.ops.cast_bias_weight(self, x)
        finally:
            self.weight_function = functions
        weight = widen(weight, self.get_parameter(SCALE).to(x.device), x.dtype)
        for function in functions:
            weight = _patched(weight, function)
        return self.applied(x, weight, bias)

    def convert_weight(self, weight: Tensor, **_: Any) -> Tensor:
        """What stored values, in any dtype, stand for, in float32; called by the host before it patches them."""
        return widen(weight, self.get_parameter(SCALE).to(weight.device), torch.float32)

    @torch.no_grad()
    def set_weight(
        self, weight: Tensor, inplace_update: bool = False, return_weight: bool = False, **_: Any
    ) -> Tensor | None:
        """Quantise a patched weight as this layer's; the one before comes back when the host sets it again.

        ``return_weight``: return the stored values instead. Raises ValueError for what would lose the scales: patches
        in place, as hooks need them, and patched values by themselves, as saving needs them.
        """
        stored = self.weight.dtype
        kind: Quantised = next(kind for kind, (dtype, _) in STORED.items() if dtype == stored)
        values, scale = quantise(weight, kind)
        own = self.get_parameter(SCALE)
        if inplace_update or (return_weight and not torch.equal(scale.cpu(), own.cpu())):
            raise ValueError(
                f"a LoRA on weights in {kind} must apply to all steps and cannot be saved with them, but this one is "
                f"scheduled or saved; load the checkpoint with another weight_dtype"
            )
        if return_weight:
            return values
        self.weight = nn.Parameter(values, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)
        # In a tuple, as a parameter of the layer would be loaded, moved and saved by the host.
        self.stored_scale = (own,)
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        # The host sets the weight that it has kept, and knows nothing of its scales.
        stored = self.__dict__.pop("stored_scale", None) if name == "weight" else None
        super().__setattr__(name, value)
        if stored is not None:
            (self.weight_scale,) = stored

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with a weight."""
        own: Any = self
        return own._conv_forward(x, weight, bias)


def _patched(weight: Tensor, function: Any) -> Tensor:
    """``weight`` after one of the host's functions."""
    if not hasattr(function, "patches"):
        return function(weight)
    # Not by calling it, because older hosts then convert and store the weight as well.
    patches = function.patches[function.key]
    return comfy.lora.calculate_weight(patches, weight, function.key, intermediate_dtype=weight.dtype)


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
