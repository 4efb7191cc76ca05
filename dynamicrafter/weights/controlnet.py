"""Loads ControlNets with the tensor names of the original implementation, each tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..model.configs import UNetConfig
from ..model.controlnet import SKETCH_CHANNELS, ControlNetwork
from ..model.operations import Operations
from .accounting import Stock, account, problems
from .architectures import recognise
from .fill import targets
from .formats.entries import ByteProgress, Entry, WeightsFile
from .formats.files import open_weights
from .layout import UNUSED, Place
from .load import allocate, copy_all

_PREFIX = "control_model."
"""Of the tensors of a ControlNet in a file that may also contain the model it was trained with."""
_NETWORK = "control"
_HINT = "input_hint_block.0.weight"
_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2.1", 2048: "Stable Diffusion XL"}
"""Families by the width of the tokens that a network attends to."""


def check_controlnet(path: Path | str, config: UNetConfig) -> int:
    """The channels of a ControlNet's hint, 1 or 3, from its list of tensors alone.

    Raises CheckpointError for a file that :func:`load_controlnet` would reject for its tensors.
    """
    return _open(Path(path), config)[1]


def load_controlnet(
    path: Path | str,
    config: UNetConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: ByteProgress | None = None,
) -> ControlNetwork:
    """Load a ControlNet for a denoising network of the sizes ``config``, or ToonCrafter's sketch encoder.

    ``progress`` is called with the bytes read and their total. Raises CheckpointError for a file that is not one, is
    one for another model, lacks a tensor, contains an unknown one, or has values that are not finite in ``dtype``.
    """
    file, channels, stock = _open(Path(path), config)
    network = ControlNetwork(config, channels, Operations(dtype=dtype, device="meta")).train(False)
    allocate(network, device)
    copy_all([(file, targets(network, stock.placed[_NETWORK]), {})], progress)
    return network


def _open(path: Path, config: UNetConfig) -> tuple[WeightsFile, int, Stock]:
    file = open_weights(path)
    prefix = _PREFIX if _PREFIX + _HINT in file.entries else ""
    hint = file.entries.get(prefix + _HINT)
    if hint is None or len(hint.shape) != 4:
        if any(key.startswith("controlnet_cond_embedding.") for key in file.entries):
            raise CheckpointError(
                f"{path} is a ControlNet with diffusers' tensor names; use one with those of the original "
                f"implementation, such as {_PREFIX}{_HINT}"
            )
        raise CheckpointError(
            f"{path} must be a ControlNet, but it is {recognise(file.entries)}; use one for Stable Diffusion 2.1, or "
            f"ToonCrafter's sketch encoder"
        )
    _check_family(path, file.entries, prefix, config)
    channels = hint.shape[1]
    if channels not in (SKETCH_CHANNELS, 3):
        raise CheckpointError(
            f"{path} is a ControlNet whose hints have {channels} channels; use one for RGB images, or ToonCrafter's "
            f"sketch encoder"
        )

    def place_of(key: str) -> Place | None:
        if key.startswith(prefix):
            return Place(_NETWORK, key.removeprefix(prefix))
        return UNUSED

    stock = account(file.entries, {_NETWORK: control_tensors(config, channels)}, place_of, {_NETWORK: prefix})
    wrong = problems(stock, [_NETWORK])
    if wrong:
        raise CheckpointError(
            f"{path} does not contain exactly a ControlNet of this model's sizes: {', '.join(wrong)}; use one for "
            f"Stable Diffusion 2.1, or ToonCrafter's sketch encoder"
        )
    return file, channels, stock


@cache
def control_tensors(config: UNetConfig, hint_channels: int) -> Mapping[str, Entry]:
    """All tensors of a ControlNet, by name; float32 stands for any floating dtype."""
    # What the ControlNet has no part of must not make a second entry of the cache.
    config = replace(config, learned_image_scale=False)
    network = ControlNetwork(config, hint_channels, Operations(dtype=torch.float32, device="meta"))
    return {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}


def _check_family(path: Path, entries: Mapping[str, Entry], prefix: str, config: UNetConfig) -> None:
    """Raise CheckpointError for a ControlNet that attends to the tokens of another model."""
    found = {
        entry.shape[-1]
        for key, entry in entries.items()
        if key.startswith(prefix) and key.endswith("attn2.to_k.weight")
    }
    if found == {config.context_dim}:
        return
    (width, *_) = sorted(found) or [0]
    family = _WIDTHS.get(width, "another model")
    wanted = _WIDTHS.get(config.context_dim, "this model")
    raise CheckpointError(
        f"{path} is a ControlNet for {family}, whose tokens have {width} values, but those of this model have "
        f"{config.context_dim}; use one for {wanted}"
    )
