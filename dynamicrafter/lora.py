"""Low-rank adapters (LoRA) of the network: read from a file and merged into its weights.

A file holds ``diffusion_model.<layer>.lora_A.weight`` and ``.lora_B.weight``, which loaders of other programs read too,
and optionally ``.alpha``; an adapter without it counts as if alpha were its rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .errors import CheckpointError

PREFIX = "diffusion_model."
"""What comes before the network's own names in a file."""


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
