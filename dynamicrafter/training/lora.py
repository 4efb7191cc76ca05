"""Low-rank adapters (LoRA) in training: created by peft, stored under the network's own names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..weights.formats.entries import Entry, Piece
from ..weights.formats.safetensors_file import write_safetensors
from ..weights.lora import ALPHA, PREFIX, UP

Adapted = Literal["spatial", "temporal", "image", "feed_forward", "convolutions"]
"""Kinds of layers that can have adapters."""
USUAL: tuple[Adapted, ...] = ("spatial", "temporal", "image")
"""All projections of all attention layers."""
_NARROW = 16
"""Channels of a layer up to which it has no adapter."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_IMAGE = ("to_k_ip", "to_v_ip")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")


def is_temporal(name: str) -> bool:
    """Whether a parameter of the network belongs to its temporal layers."""
    parts = name.split(".")
    if "temopral_conv" in parts or parts[0] == "init_attn":
        return True
    place = 1 if parts[0] == "middle_block" else 2
    return parts[0] in ("input_blocks", "output_blocks", "middle_block") and (
        parts[place] == "2" and parts[place + 1] in ("norm", "proj_in", "proj_out", "transformer_blocks")
    )


def adapted_layers(unet: nn.Module, layers: Sequence[Adapted]) -> list[str]:
    """Names of the layers of ``unet`` that are of one of the kinds."""
    modules: Iterable[tuple[str, nn.Module]] = cast(Any, unet).named_modules()
    return [name for name, layer in modules if _kind(name, layer) in layers]


def _kind(name: str, layer: nn.Module) -> Adapted | None:
    if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
        # Those of the input and the output are no place for a low rank.
        return "convolutions" if min(layer.weight.shape[:2]) > _NARROW else None
    if not isinstance(layer, nn.Linear):
        return None
    if name.endswith(_IMAGE):
        return "image"
    if name.endswith(_FEED_FORWARD):
        return "feed_forward"
    if name.endswith(_ATTENTION):
        return "temporal" if is_temporal(f"{name}.weight") else "spatial"
    return None


@dataclass(frozen=True)
class Adapters:
    """What a LoRA is made of."""

    rank: int
    alpha: float | None = None
    """The change is multiplied by this over the rank; None is the rank itself."""
    layers: tuple[Adapted, ...] = USUAL
    dropout: float = 0.0
    """Share of the adapters' inputs that is set to zero in training."""

    @property
    def scale(self) -> float:
        """The factor of the product of both matrices."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def add_adapters(unet: nn.Module, wanted: Adapters) -> None:
    """Add trainable adapters to ``unet``; nothing else changes.

    Raises UsageError if peft is missing, and for a rank below 1 or above the layers' width.
    """
    rank = wanted.rank
    if rank < 1:
        raise UsageError(f"rank must be at least 1, but {rank} was given; 16 is usual")
    try:
        peft = import_module("peft")
    except ImportError as problem:
        raise UsageError(
            "training a LoRA needs the peft package; install it with pip install 'dynamicrafter-studio[train]'"
        ) from problem
    weights = dict(unet.named_parameters())
    adapted = adapted_layers(unet, wanted.layers)
    most = max((min(weights[f"{name}.weight"].shape[:2]) for name in adapted), default=rank)
    if rank > most:
        raise UsageError(
            f"rank must be at most {most}, that of the widest layer, but {rank} was given; 16 is usual"
        )
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank if wanted.alpha is None else wanted.alpha,
        lora_dropout=wanted.dropout,
        target_modules="|".join(map(re.escape, adapted)),
    )
    peft.inject_adapter_in_model(config, unet)


@torch.no_grad()
def start_from(unet: nn.Module, wanted: Adapters, values: Mapping[str, Tensor], path: str) -> None:
    """Give the adapters of ``unet`` the values of a LoRA file; those of layers that it lacks stay as they are.

    ``path`` is its name in errors. Raises UsageError if it has another rank or other layers.
    """
    own = {_file_name(name): value for name, value in unet.named_parameters() if is_adapter(name)}
    wrong = [name for name in values if name not in own and not name.endswith(ALPHA)]
    if wrong:
        raise UsageError(
            f"{path} contains {wrong[0]}, for which the config has no adapter; set layers to those of the file, or "
            "start from a LoRA of this program for the same model"
        )
    for name, value in values.items():
        if name.endswith(ALPHA):
            continue
        if value.shape != own[name].shape:
            raise UsageError(
                f"{path} has {tuple(value.shape)} as {name}, but the config needs {tuple(own[name].shape)}; set rank "
                "to that of the file"
            )
        stem = name.removesuffix(UP)
        alpha = values.get(stem + ALPHA)
        if stem != name and alpha is not None:
            value = value * (float(alpha) / wanted.rank)
        own[name].copy_(value / wanted.scale if stem != name else value)


def keep_compact(unet: nn.Module, resampler: nn.Module) -> None:
    """Store the frozen weights of linear and convolution layers in bfloat16.

    Under bfloat16 autocast, which rounds them to it for every use, this changes no result.
    """
    for network in (unet, resampler):
        for layer in network.modules():
            if (
                isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
                and not layer.weight.requires_grad
            ):
                layer.weight.data = layer.weight.data.bfloat16()


def is_adapter(name: str) -> bool:
    """Whether a parameter of a network belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def _file_name(name: str) -> str:
    """The name in a file of an adapter's parameter."""
    return PREFIX + name.replace(".default.", ".")


def adapter_weights(weights: Mapping[str, Tensor], wanted: Adapters) -> dict[str, Tensor]:
    """The adapters among the ``weights`` of a network, under their names in a file.

    A file without alpha has the rank as alpha, in every program that reads it.
    """
    found = {
        _file_name(name): value.detach().cpu().contiguous()
        for name, value in weights.items()
        if is_adapter(name)
    }
    if not found:
        raise UsageError("the network has no adapters to save")
    if wanted.alpha is not None:
        stems = [name.removesuffix(UP) for name in found if name.endswith(UP)]
        found |= {stem + ALPHA: torch.tensor(float(wanted.alpha)) for stem in stems}
    return found


def save_adapters(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write adapters to one safetensors file, atomically."""
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in weights.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in weights.items())
    write_safetensors(path, entries, pieces, {"format": "pt"})


def step_file(folder: Path, step: int) -> Path:
    """The LoRA file of a step in a run's folder."""
    return folder / f"lora_step_{step:06}.safetensors"


def forget_steps(folder: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest LoRA files of steps in a run's folder."""
    for _, path in _step_files(folder)[:-keep]:
        path.unlink()


def forget_steps_after(folder: Path, step: int) -> None:
    """Remove the LoRA files of steps after ``step``, which an earlier run left in a run's folder."""
    for number, path in _step_files(folder):
        if number > step:
            path.unlink()


def _step_files(folder: Path) -> list[tuple[int, Path]]:
    """The LoRA files of steps in a run's folder, in order."""
    found = {path: re.fullmatch(r"lora_step_(\d{6,})\.safetensors", path.name) for path in folder.iterdir()}
    return sorted((int(match[1]), path) for path, match in found.items() if match)
