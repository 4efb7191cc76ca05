"""Low-rank adapters (LoRA) in training: created by peft, stored under the network's own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from ..errors import UsageError
from ..weights.formats.entries import Entry, Piece
from ..weights.formats.safetensors_file import write_safetensors
from ..weights.lora import PREFIX

_TARGETS = r".*\.(to_q|to_k|to_v|to_k_ip|to_v_ip|to_out\.0)"
"""All projections of all attention layers: spatial, temporal and cross-attention."""


def add_adapters(unet: nn.Module, rank: int) -> None:
    """Add trainable adapters of ``rank`` to the attention projections of ``unet``; nothing else changes.

    Raises UsageError if peft is missing, and for a rank below 1 or above the layers' width.
    """
    if rank < 1:
        raise UsageError(f"rank must be at least 1, but {rank} was given; 16 is usual")
    try:
        peft = import_module("peft")
    except ImportError as problem:
        raise UsageError(
            "training a LoRA needs the peft package; install it with pip install 'dynamicrafter-studio[train]'"
        ) from problem
    weights = dict(unet.named_parameters())
    adapted = [name for name in weights if re.fullmatch(_TARGETS + r"\.weight", name)]
    most = max((min(weights[name].shape) for name in adapted), default=rank)
    if rank > most:
        raise UsageError(
            f"rank must be at most {most}, that of the widest layer, but {rank} was given; 16 is usual"
        )
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS)
    peft.inject_adapter_in_model(config, unet)


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters among the ``weights`` of a network, under their names in a file."""
    found = {
        PREFIX + name.replace(".default.", "."): value.detach().cpu().contiguous()
        for name, value in weights.items()
        if ".lora_A." in name or ".lora_B." in name
    }
    if not found:
        raise UsageError("the network has no adapters to save")
    return found


def save_adapters(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write adapters to one safetensors file, atomically."""
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in weights.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in weights.items())
    write_safetensors(path, entries, pieces, {"format": "pt"})
