"""The layer classes and the attention function that every network's constructor receives.

A host that streams or casts weights passes its own layer namespace (same names and signatures as ``torch.nn``).
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.jit import is_tracing  # pyright: ignore[reportPrivateImportUsage]
from torch.nn import functional as F

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""``(q, k, v, heads) -> out``, all ``[b, n, heads * d]`` with the heads outermost in the last axis."""


class LayerClasses(Protocol):
    """The six layer classes the networks are built from; ``torch.nn`` satisfies it.

    ``Conv3d`` must make layers of a subclass of torch's, which :func:`over_time` extends.
    """

    Linear: Callable[..., nn.Module]
    Conv1d: Callable[..., nn.Module]
    Conv2d: Callable[..., nn.Module]
    Conv3d: Callable[..., nn.Module]
    GroupNorm: Callable[..., nn.Module]
    LayerNorm: Callable[..., nn.Module]


_SMALL_PLANE = 64
"""Positions of a frame below which a CPU spends more time on rearranging a convolution's weights than on using them."""


def _is_small_on_cpu(x: Tensor) -> bool:
    # A trace stands for all sizes and devices, so it always takes the general form.
    plane = x.shape[-2] * x.shape[-1]
    return x.device.type == "cpu" and plane < _SMALL_PLANE and not is_tracing()


class Conv2d(nn.Conv2d):
    """PyTorch's layer; on a CPU, small planes of float32 are convolved as one matrix product over all images.

    oneDNN reorders the weights in every call, which takes most of the time where they outnumber the activations.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
        # With gradients, the unfolded input, nine times as large, would have to be kept.
        recorded = torch.is_grad_enabled()
        if input.dtype != torch.float32 or not plain or recorded or not _is_small_on_cpu(input):
            return super()._conv_forward(input, weight, bias)
        rows = F.unfold(input, self.kernel_size, padding=cast(tuple[int, int], self.padding)).transpose(0, 1)
        product = weight.flatten(1) @ rows.flatten(1)
        if bias is not None:
            product += bias[:, None]
        return rearrange(product, "c (n h w) -> n c h w", n=len(input), h=input.shape[-2])


class MadeClass(type):
    """The class of layer classes that a function makes from others; they are pickled as the call that makes them."""

    made_by: tuple[Callable[..., type], tuple[Any, ...]]


# Layers are saved with a reference to their class, which cannot be found by its name.
copyreg.pickle(cast(Any, MadeClass), lambda made: made.made_by)


@cache
def over_time(layer: type[nn.Conv3d]) -> type[nn.Conv3d]:
    """A class of three-dimensional convolution for kernels ``(k, 1, 1)``, computed in two dimensions.

    The second dimension is all positions of a frame, ``h * w``. Parameters and their names stay those of ``layer``, and
    whatever it does to its weights before the convolution is still done. Three-dimensional kernels are slower on CPUs
    and, in half precision, on GPUs with some versions of cuDNN.
    """

    class OverTime(layer, metaclass=MadeClass):
        made_by = (over_time, (layer,))

        def _conv_forward(
            self, input: Tensor, weight: Tensor, bias: Tensor | None, *_: Any, **__: Any
        ) -> Tensor:
            # A host's layers compute alike on all devices, so that its results on two of them can be compared.
            if getattr(layer, "plain", layer) is nn.Conv3d and _is_small_on_cpu(input):
                return super()._conv_forward(input, weight, bias)
            out = F.conv2d(
                input.flatten(3),
                weight.flatten(3),
                bias,
                self.stride[:2],
                cast(tuple[int, int], self.padding[:2]),
                self.dilation[:2],
                self.groups,
            )
            return out.reshape(out.shape[:3] + input.shape[3:])

    if hasattr(layer, "plain"):
        # Of a layer that can be made a plain one again.
        cast(Any, OverTime).plain = over_time(cast(Any, layer).plain)
    return OverTime


class _Layers:
    Linear = nn.Linear
    Conv1d = nn.Conv1d
    Conv2d = Conv2d
    Conv3d = nn.Conv3d
    GroupNorm = nn.GroupNorm
    LayerNorm = nn.LayerNorm


_LARGEST_BATCH = 65535
"""CUDA's fused kernels map the batch to a grid axis of at most this length."""


def fused_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention without mask, logits scaled by ``d ** -0.5``; ``[b, n, heads * d]`` in and out."""
    if q.shape[0] > _LARGEST_BATCH:
        starts = range(0, q.shape[0], _LARGEST_BATCH)
        pieces = [slice(start, start + _LARGEST_BATCH) for start in starts]
        return torch.cat([fused_attention(q[piece], k[piece], v[piece], heads) for piece in pieces])
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


@dataclass(frozen=True)
class Operations:
    """Layer classes, attention, dtype and device that a network is built with; the default is PyTorch."""

    layers: LayerClasses = cast(LayerClasses, _Layers)
    attention: Attention = fused_attention
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None

    def conv_over_time(self, channels: int) -> nn.Module:
        """A convolution of three frames at each position, ``[b, c, t, h, w]`` in and out."""
        layer = self.layers.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), **self.factory)
        # After it is built, so that whatever builds layers need not be their class.
        layer.__class__ = over_time(cast(type[nn.Conv3d], type(layer)))
        return layer

    @property
    def factory(self) -> dict[str, Any]:
        """Keyword arguments for layer constructors."""
        return {"dtype": self.dtype, "device": self.device}


PLAIN = Operations()
"""Plain PyTorch with its default dtype and device."""
