"""Low-rank adapters (LoRA) of the network: read from a file and merged into its weights.

A file holds ``diffusion_model.<layer>.lora_A.weight`` and ``.lora_B.weight``, which loaders of other programs read too,
and optionally ``.alpha``; an adapter without it counts as if alpha were its rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

PREFIX = "diffusion_model."
"""What comes before the network's own names in a file."""
_DOWN, _UP, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
"""What comes behind them: the parts of an adapter, of which only the last may be missing."""


def read_adapters(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file; raises CheckpointError for anything that is not one."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a LoRA; give a .safetensors file in it")
    try:
        with cast(Any, safe_open)(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"{path} cannot be read as a LoRA ({problem}); give a .safetensors file"
        ) from problem


@torch.no_grad()
def merge_adapters(unet: nn.Module, weights: Mapping[str, Tensor], strength: float, name: str) -> None:
    """Add adapters times ``strength`` to the weights of ``unet``; 0 changes nothing.

    ``name`` is what errors call the file. Raises CheckpointError, before anything is changed, for adapters of layers
    that the network lacks, of another shape or with values that are not finite, and for tensors that are no part of
    an adapter.
    """
    parameters = dict(unet.named_parameters())
    changes: list[tuple[nn.Parameter, Tensor]] = []
    left = dict.fromkeys(weights)
    stems = [key.removesuffix(_DOWN) for key in weights if key.endswith(_DOWN)]
    if not stems:
        raise CheckpointError(
            f"{name} holds no adapters named {PREFIX}...{_DOWN[1:]}; it is no LoRA of this program"
        )
    for stem in stems:
        layer = stem.removeprefix(PREFIX) + ".weight"
        if layer not in parameters:
            raise CheckpointError(
                f"{name} changes {layer}, which this model does not have; it is for another model"
            )
        if stem + _UP not in weights:
            continue
        weight = parameters[layer]
        change = _change(weights, stem, weight.shape, strength, name).to(weight.dtype)
        if not torch.isfinite(change).all():
            raise CheckpointError(
                f"{name} must change {layer} by numbers that {str(weight.dtype).removeprefix('torch.')} can hold, but "
                f"its values times the strength {strength} are too large; give a lower strength or another file"
            )
        changes.append((weight, change))
        for part in (_DOWN, _UP, _ALPHA):
            left.pop(stem + part, None)
    if left:
        raise CheckpointError(
            f"{name} must hold pairs of {_DOWN[1:]} and {_UP[1:]}, with {_ALPHA[1:]} at most, but {next(iter(left))} "
            f"belongs to no pair ({len(left)} such in all); give a whole file that holds nothing else"
        )
    for weight, change in changes:
        weight += change.to(weight.device)


def _change(
    weights: Mapping[str, Tensor], stem: str, shape: Sequence[int], strength: float, name: str
) -> Tensor:
    """What the pair called ``stem`` adds to a weight of ``shape``, in that shape; raises CheckpointError."""
    down, up = weights[stem + _DOWN], weights[stem + _UP]
    for part, value in ((_DOWN, down), (_UP, up)):
        if value.ndim < 2:
            raise CheckpointError(
                f"{name} does not fit: {stem}{part} must have two or more dimensions, but its shape is "
                f"{tuple(value.shape)}; the file is damaged or no LoRA, give another one"
            )
    rank = down.shape[0]
    # Behind the rank, the second of a convolution's pair has a kernel of one pixel.
    if rank < 1 or up.shape[1] != rank or any(size != 1 for size in up.shape[2:]):
        raise CheckpointError(
            f"{name} does not fit: {stem}{_DOWN} is {tuple(down.shape)} and {_UP[1:]} {tuple(up.shape)}, but the first "
            f"number of A must be the second of B, with at most ones behind it: a rank of 1 or more; the file is "
            f"damaged, give another one"
        )
    made = (up.shape[0], *down.shape[1:])
    if not _same(made, shape):
        raise CheckpointError(
            f"{name} does not fit: {stem.removeprefix(PREFIX)}.weight is {tuple(shape)}, the change {made}; it is for "
            f"another model"
        )
    alpha = weights.get(stem + _ALPHA)
    if alpha is not None and alpha.numel() != 1:
        raise CheckpointError(
            f"{name} does not fit: {stem}{_ALPHA} must be one number, but its shape is {tuple(alpha.shape)}; the file "
            f"is damaged or no LoRA, give another one"
        )
    for part in (_DOWN, _UP, _ALPHA):
        value = weights.get(stem + part)
        if value is not None and (value.is_complex() or not torch.isfinite(value.float()).all()):
            raise CheckpointError(
                f"{name} cannot be merged: {stem}{part} must hold finite real numbers, but some are not (NaN, infinite "
                f"or complex); the file is damaged, give another one"
            )
    scale = strength * (rank if alpha is None else float(alpha)) / rank
    return (up.float().flatten(1) @ down.float().flatten(1)).view(tuple(shape)) * scale


def _same(made: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a pair's product is of the shape of a weight, which a kernel that is flat or of one pixel does not alter.

    Only as many numbers would not do: they would land in other places.
    """
    if len(shape) < 2:
        return False
    flat = (shape[0], math.prod(shape[1:]))
    one_pixel = tuple(made[:2]) == flat and all(size == 1 for size in made[2:])
    return one_pixel or tuple(made) == tuple(shape)
