"""Reads low-rank adapters (LoRA) of the network from a file and merges them into its weights.

A file contains ``diffusion_model.<layer>.lora_A.weight`` and ``.lora_B.weight``, which other programs can read too, and
optionally ``.alpha``, whose default is the rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.quantised import QuantisedLayer

PREFIX = "diffusion_model."
"""Prefix of the network's own names in a file."""
DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
"""Suffixes of an adapter's parts, of which only the last may be missing."""


def read_adapters(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file; raises CheckpointError for anything that is not one."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a LoRA; choose a .safetensors file in it")
    try:
        with cast(Any, safe_open)(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"{path} cannot be read as a LoRA ({problem}); choose a .safetensors file"
        ) from problem


@torch.no_grad()
def merge_adapters(unet: nn.Module, weights: Mapping[str, Tensor], strength: float, name: str) -> None:
    """Add adapters, multiplied by ``strength``, to the weights of ``unet`` in place; 0 changes nothing.

    A quantised layer is quantised again with its changed weights.

    ``name`` is the file's name in errors. Raises CheckpointError, before anything is changed, for adapters of layers
    that the network lacks, with the wrong shape or with values that are not finite, and for tensors that do not belong
    to an adapter.
    """
    parameters = dict(unet.named_parameters())
    changes: list[tuple[str, Tensor]] = []
    left = dict.fromkeys(weights)
    stems = [key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)]
    if not stems:
        raise CheckpointError(
            f"{name} contains no adapters named {PREFIX}...{DOWN[1:]}; it is not a LoRA that this version can read"
        )
    for stem in stems:
        layer = stem.removeprefix(PREFIX) + ".weight"
        if layer not in parameters:
            raise CheckpointError(
                f"{name} changes {layer}, which this model does not have; it is for a different model"
            )
        if stem + UP not in weights:
            continue
        weight = parameters[layer]
        owner = unet.get_submodule(layer.removesuffix(".weight"))
        dtype = torch.float32 if isinstance(owner, QuantisedLayer) else weight.dtype
        change = _change(weights, stem, weight.shape, strength, name).to(dtype)
        if not torch.isfinite(change).all():
            raise CheckpointError(
                f"{name} must change {layer} by values that {str(dtype).removeprefix('torch.')} can represent, "
                f"but at strength {strength} they are too large; use a lower strength or another file"
            )
        changes.append((layer, change))
        for part in (DOWN, UP, ALPHA):
            left.pop(stem + part, None)
    if left:
        raise CheckpointError(
            f"{name} must contain only pairs of {DOWN[1:]} and {UP[1:]}, optionally with {ALPHA[1:]}, but "
            f"{next(iter(left))} belongs to no pair ({len(left)} such tensors); use a complete LoRA file"
        )
    for layer, change in changes:
        owner = unet.get_submodule(layer.removesuffix(".weight"))
        if isinstance(owner, QuantisedLayer):
            owner.add(change)
        else:
            parameters[layer].add_(change.to(parameters[layer].device))


def _change(
    weights: Mapping[str, Tensor], stem: str, shape: Sequence[int], strength: float, name: str
) -> Tensor:
    """The change that the pair called ``stem`` adds to a weight of ``shape``; raises CheckpointError."""
    down, up = weights[stem + DOWN], weights[stem + UP]
    for part, value in ((DOWN, down), (UP, up)):
        if value.ndim < 2:
            raise CheckpointError(
                f"{name} does not fit: {stem}{part} must have two or more dimensions, but its shape is "
                f"{tuple(value.shape)}; the file is damaged or not a LoRA, use another one"
            )
    rank = down.shape[0]
    # After the rank, the second matrix of a convolution's pair has a 1x1 kernel.
    if rank < 1 or up.shape[1] != rank or any(size != 1 for size in up.shape[2:]):
        raise CheckpointError(
            f"{name} does not fit: {stem}{DOWN} is {tuple(down.shape)} and {UP[1:]} {tuple(up.shape)}, but the first "
            f"dimension of A must be the second of B, the rank, at least 1, and further ones of B must be 1; the file "
            f"is damaged, use another one"
        )
    made = (up.shape[0], *down.shape[1:])
    if not _same(made, shape):
        raise CheckpointError(
            f"{name} does not fit: {stem.removeprefix(PREFIX)}.weight is {tuple(shape)}, the change {made}; it is for "
            f"a different model"
        )
    alpha = weights.get(stem + ALPHA)
    if alpha is not None and alpha.numel() != 1:
        raise CheckpointError(
            f"{name} does not fit: {stem}{ALPHA} must be one number, but its shape is {tuple(alpha.shape)}; the file "
            f"is damaged or not a LoRA, use another one"
        )
    for part in (DOWN, UP, ALPHA):
        value = weights.get(stem + part)
        if value is not None and (value.is_complex() or not torch.isfinite(value.float()).all()):
            raise CheckpointError(
                f"{name} cannot be merged: {stem}{part} must contain finite real numbers, but some are NaN, infinite "
                f"or complex; the file is damaged, use another one"
            )
    scale = strength * (rank if alpha is None else float(alpha)) / rank
    return (up.float().flatten(1) @ down.float().flatten(1)).view(tuple(shape)) * scale


def _same(made: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a pair's product has the shape of a weight, up to a flattened or 1x1 kernel.

    An equal number of elements is not enough: they would end up in the wrong places.
    """
    if len(shape) < 2:
        return False
    flat = (shape[0], math.prod(shape[1:]))
    one_pixel = tuple(made[:2]) == flat and all(size == 1 for size in made[2:])
    return one_pixel or tuple(made) == tuple(shape)
