"""Low-rank adapters of the network: made by peft for training, stored under the network's own names, merged to use.

A file holds ``diffusion_model.<layer>.lora_A.weight`` and ``.lora_B.weight``, which loaders of other programs read too,
and optionally ``.alpha``; an adapter without it counts as if alpha were its rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checkpoint.entries import Entry, Piece
from ..checkpoint.safetensors_file import write_safetensors
from ..errors import CheckpointError, UsageError

PREFIX = "diffusion_model."
_TARGETS = r".*\.(to_q|to_k|to_v|to_k_ip|to_v_ip|to_out\.0)"
"""All projections of all attentions, over space, over time and to the conditions."""


def add_adapters(unet: nn.Module, rank: int) -> None:
    """Put trainable adapters of ``rank`` on the attention projections of ``unet``; all else stays as it is.

    Raises UsageError when peft is missing or the rank is below 1.
    """
    if rank < 1:
        raise UsageError(f"rank must be at least 1, but {rank} was given; 16 is usual")
    try:
        peft = import_module("peft")
    except ImportError as problem:
        raise UsageError(
            "training a LoRA needs the peft package; install it with pip install 'dynamicrafter-studio[train]'"
        ) from problem
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS)
    peft.inject_adapter_in_model(config, unet)


def adapter_weights(unet: nn.Module) -> dict[str, Tensor]:
    """The adapters of ``unet`` under the names of the file."""
    found = {
        PREFIX + name.replace(".default.", "."): value.detach().cpu().contiguous()
        for name, value in unet.state_dict().items()
        if ".lora_A." in name or ".lora_B." in name
    }
    if not found:
        raise UsageError("the network has no adapters to save")
    return found


def save_adapters(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write adapters as one safetensors file, whole or not at all."""
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in weights.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in weights.items())
    write_safetensors(path, entries, pieces, {"format": "pt"})


def read_adapters(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file; raises CheckpointError for anything that is not one."""
    from safetensors import SafetensorError, safe_open

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
    that the network lacks or of another shape.
    """
    parameters = dict(unet.named_parameters())
    changes: list[tuple[nn.Parameter, Tensor]] = []
    for key, down in weights.items():
        stem, mark, _ = key.partition(".lora_A.")
        if not mark:
            continue
        layer = stem.removeprefix(PREFIX) + ".weight"
        up = weights.get(f"{stem}.lora_B.weight")
        if layer not in parameters or up is None:
            raise CheckpointError(
                f"{name} changes {layer}, which this model does not have; it is for another model"
            )
        weight = parameters[layer]
        rank = down.shape[0]
        alpha = float(weights.get(f"{stem}.alpha", torch.tensor(float(rank))))
        change = up.float().flatten(1) @ down.float().flatten(1)
        if change.numel() != weight.numel():
            raise CheckpointError(
                f"{name} does not fit: {layer} is {tuple(weight.shape)}, the change {tuple(change.shape)}"
            )
        changes.append((weight, change.view_as(weight) * (strength * alpha / rank)))
    if not changes:
        raise CheckpointError(
            f"{name} holds no adapters named {PREFIX}...lora_A.weight; it is no LoRA of this program"
        )
    for weight, change in changes:
        weight += change.to(weight.device, weight.dtype)


def parse_lora(text: str) -> tuple[Path, float]:
    """``FILE`` or ``FILE:STRENGTH`` as a path and a strength (1 where none is given); drive letters are no strength."""
    stem, colon, strength = text.rpartition(":")
    if colon and stem:
        try:
            return Path(stem), float(strength)
        except ValueError:
            pass
    return Path(text), 1.0
