"""Layers whose weights are stored in 8 bits with one scale for each output channel, and widened at use.

``weight`` has the shape of the plain layer's in ``int8`` or ``float8_e4m3fn``, and ``weight_scale`` is ``[out]`` in
float32: their product, by channel, is the weight. Biases and norms are not quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import grad as gradients

from .configs import Quantised
from .operations import LayerClasses, MadeClass, Operations

SCALE = "weight_scale"
"""Name of a layer's scales, beside ``weight``."""

STORED: dict[Quantised, tuple[torch.dtype, float]] = {
    "int8": (torch.int8, 127.0),
    "fp8_scaled": (torch.float8_e4m3fn, 448.0),
}
"""Dtype of the stored weights, and the value that the largest of a channel becomes."""

_NARROW = 16
"""Channels up to which a layer stays plain: those at the ends of a network hold little and matter much."""


def is_quantised(shape: tuple[int, ...]) -> bool:
    """Whether a linear or convolution layer with a weight of ``shape`` is quantised."""
    return min(shape[:2]) > _NARROW


def quantise(weight: Tensor, kind: Quantised) -> tuple[Tensor, Tensor]:
    """A weight ``[out, ...]`` as stored values of the same shape, and their scales ``[out]`` in float32.

    The scales have 8 significant bits, so that a product with a stored value is exact in float32, and rounded only once
    in a dtype of 16 bits. What such weights stand for is quantised to the same again.
    """
    dtype, largest = STORED[kind]
    rows = weight.detach().float().flatten(1)
    scale = (rows.abs().amax(dim=1) / largest).bfloat16().float()
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    values = rows / scale[:, None]
    if kind == "int8":
        values = values.round_()
    return values.to(dtype).view(weight.shape), scale


def widen(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights that stored values and scales stand for, in ``dtype``.

    For float16 they are multiplied in float32, because the scales of small weights are below its range.
    """
    wide = torch.float32 if dtype == torch.float16 else dtype
    return weight.to(wide).mul_(scale.to(wide).view(-1, *[1] * (weight.ndim - 1))).to(dtype)


class QuantisedLayer(nn.Module):
    """What the quantised layers share; a mixin before a plain layer, whose weight it replaces.

    The weight is frozen: gradients pass through the layer to its input, for which nothing but the stored weight is
    kept.
    """

    plain: type[nn.Module]
    """The class of the layer before it was quantised."""
    kind: Quantised
    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    @torch.no_grad()
    def store(self, weight: Tensor, kind: Quantised) -> None:
        """Quantise ``weight`` ``[out, ...]`` as this layer's; it may be of any floating dtype."""
        self.kind = kind
        if weight.device.type == "meta":
            values = torch.empty(weight.shape, dtype=STORED[kind][0], device="meta")
            scale = torch.empty(len(weight), device="meta")
        else:
            values, scale = quantise(weight, kind)
        self.weight = nn.Parameter(values, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)

    def widened(self, dtype: torch.dtype) -> Tensor:
        """The weight in ``dtype``."""
        return widen(self.weight, self.weight_scale, dtype)

    @torch.no_grad()
    def add(self, change: Tensor) -> None:
        """Add ``change`` to the weight, which is quantised again; raises nothing for finite values."""
        changed = self.widened(torch.float32) + change.to(self.weight.device, torch.float32)
        values, scale = quantise(changed, self.kind)
        self.weight.copy_(values)
        self.weight_scale.copy_(scale)

    def forward(self, input: Tensor) -> Tensor:
        """As the plain layer, in the dtype of ``input`` or of autocast."""
        if torch.is_grad_enabled() and input.requires_grad:
            return cast(Tensor, cast(Any, _ThroughFrozen).apply(input, self))
        return self.applied(input, self.widened(_dtype_for(input)))

    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        """The plain layer with another weight."""
        raise NotImplementedError

    def pulled(self, gradient: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
        """The gradient of an input of ``size``, from that of the output."""
        raise NotImplementedError


def _dtype_for(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _ThroughFrozen(torch.autograd.Function):
    """Applies a layer without keeping its input or its widened weight for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLayer) -> Tensor:
        ctx.layer, ctx.size = layer, x.shape
        return layer.applied(x, layer.widened(_dtype_for(x)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        return ctx.layer.pulled(gradient, ctx.layer.widened(gradient.dtype), ctx.size), None


class _Linear(QuantisedLayer):
    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, None if self.bias is None else self.bias.to(weight.dtype))

    def pulled(self, gradient: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
        return gradient @ weight


class _Convolution(QuantisedLayer):
    def applied(self, x: Tensor, weight: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return cast(Any, self)._conv_forward(x, weight, bias)

    def pulled(self, gradient: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
        own, pulls = cast(Any, self), cast(Any, gradients)
        pull = pulls.conv2d_input if weight.ndim == 4 else pulls.conv3d_input
        return pull(size, weight, gradient, own.stride, own.padding, own.dilation, own.groups)


_MIXINS: dict[type[nn.Module], type[QuantisedLayer]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Convolution,
    nn.Conv3d: _Convolution,
}


@cache
def _class_for(plain: type[nn.Module]) -> type[QuantisedLayer] | None:
    """The quantised class of a plain layer's, which may be an own form of a convolution; None if there is none."""
    for base, mixin in _MIXINS.items():
        # Linear layers of other classes do not always apply their weight themselves.
        if plain is base or base is not nn.Linear and issubclass(plain, base):
            own = {"plain": plain, "made_by": (_class_for, (plain,))}
            return cast(type[QuantisedLayer], MadeClass(f"Quantised{plain.__name__}", (mixin, plain), own))
    return None


def quantise_layer(layer: nn.Module, kind: Quantised) -> nn.Module:
    """``layer`` with its weight stored as ``kind``, or unchanged if it is not one that is quantised.

    The layer itself becomes the quantised one, so that what refers to it, hooks and adapters included, stays valid.
    """
    made = None if isinstance(layer, QuantisedLayer) else _class_for(type(layer))
    if made is None or not is_quantised(tuple(cast(Tensor, layer.weight).shape)):
        return layer
    weight = cast(Tensor, layer.weight)
    layer.__class__ = made
    cast(QuantisedLayer, layer).store(weight, kind)
    return layer


def plain_layer(layer: QuantisedLayer, dtype: torch.dtype) -> None:
    """Make a quantised layer a plain one again, with the weights that its stored ones stand for."""
    weight = layer.widened(dtype)
    del layer.weight_scale, layer.kind
    plain = cast(nn.Module, layer)
    plain.__class__ = layer.plain
    plain.weight = nn.Parameter(weight, requires_grad=False)


class QuantisedLayers:
    """The layer classes of a network whose linear, 2-D and 3-D convolution layers are quantised."""

    def __init__(self, plain: LayerClasses, kind: Quantised) -> None:
        self.Conv1d, self.GroupNorm, self.LayerNorm = plain.Conv1d, plain.GroupNorm, plain.LayerNorm

        def storing(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
            def made(*arguments: Any, **named: Any) -> nn.Module:
                return quantise_layer(make(*arguments, **named), kind)

            return made

        self.Linear, self.Conv2d, self.Conv3d = map(storing, (plain.Linear, plain.Conv2d, plain.Conv3d))


def quantised(operations: Operations, kind: Quantised) -> Operations:
    """``operations`` with quantised layers; theirs must be PyTorch's own."""
    return replace(operations, layers=cast(LayerClasses, QuantisedLayers(operations.layers, kind)))
