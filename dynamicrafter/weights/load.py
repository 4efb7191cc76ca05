"""Loads a checkpoint from a path into networks that are ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..model.autoencoder import Autoencoder
from ..model.configs import WEIGHTS, Quantised, Weights
from ..model.encoders import CLIPImageEncoder, CLIPTextEncoder
from ..model.operations import Operations
from ..model.preview import PreviewColours
from ..model.quantised import QuantisedLayer, is_quantised, plain_layer, quantise_layer, quantised
from ..model.resampler import Resampler
from ..model.unet import VideoUNet
from ..model.variants import Variant
from .accounting import Stock, require, take_stock
from .detect import choose, detect
from .fill import copy_piece, single_thread, targets
from .formats.entries import ByteProgress, WeightsFile
from .formats.files import open_weights
from .layout import Place
from .networks import CORE, TOWER_COMPONENTS, Component, build
from .preview import preview_of


@dataclass(frozen=True)
class Components:
    """The networks of a checkpoint on one device, in evaluation mode and without gradients."""

    variant: Variant
    unet: VideoUNet
    vae: Autoencoder
    resampler: Resampler
    text: CLIPTextEncoder | None
    """None only if the encoders were not requested."""
    vision: CLIPImageEncoder | None
    device: torch.device
    dtype: torch.dtype
    path: Path
    """The checkpoint's path, as passed."""
    preview: PreviewColours | None
    quantised: Quantised | None
    """How the weights of the denoising network's layers are kept; None if plainly."""


@dataclass(frozen=True)
class _Part:
    """The networks to load from one file."""

    file: WeightsFile
    stock: Stock
    components: tuple[Component, ...]


def load_components(
    path: Path | str,
    *,
    variant: str | None = None,
    text_encoder: Path | str | None = None,
    image_encoder: Path | str | None = None,
    towers: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations | None = None,
    weights: Weights = "auto",
    progress: ByteProgress | None = None,
) -> Components:
    """Load a checkpoint in any supported format, with its CLIP encoders from the same file or from others.

    ``variant`` is needed only if the weights are ambiguous (:func:`~.detect.detect`). ``text_encoder`` and
    ``image_encoder`` are files with open_clip's or Hugging Face's tensor names, or other checkpoints that contain the
    encoders; they take precedence over those in the checkpoint. ``towers=False`` omits both, for callers with their own
    features. ``operations`` supplies layers and attention; its dtype and device are ignored.

    ``weights`` is how the weights of the denoising network's layers are kept; with "auto" they are quantised if the
    file is. Quantised layers must be PyTorch's own.

    Every tensor is copied once, directly into a network of ``dtype`` on ``device``; apart from the networks, only a few
    per cent of the file are in memory at a time (all of it for pickles older than PyTorch 1.6). ``progress`` is called
    with the bytes read and their total.

    Raises CheckpointError if a file is missing, unreadable, unsafe, of a different architecture or variant, lacks a
    tensor, contains an unknown one, or contains values that are not finite in ``dtype``; UsageError if there is no such
    variant or no such way to keep weights.
    """
    if weights not in WEIGHTS:
        raise UsageError(f"weights must be {', '.join(WEIGHTS)}, not {weights!r}")
    file = open_weights(path)
    chosen = choose(detect(file), variant, file)
    elsewhere: dict[Component, Path | str] = {}
    if towers:
        if text_encoder is not None:
            elsewhere["text"] = text_encoder
        if image_encoder is not None:
            elsewhere["vision"] = image_encoder
    own: list[Component] = list(CORE)
    if towers:
        own.extend(component for component in TOWER_COMPONENTS if component not in elsewhere)
    parts = [_part(file, chosen, tuple(own))]
    for component, source in elsewhere.items():
        parts.append(_part(open_weights(source), chosen, (component,)))

    kind = replace(operations or Operations(), dtype=dtype, device="meta")
    stored = parts[0].stock.quantised
    wanted = stored if weights == "auto" else None if weights == "full" else weights
    networks: dict[Component, nn.Module] = {}
    found: list[tuple[WeightsFile, dict[str, Tensor], Mapping[str, Callable[[], object]]]] = []
    for part in parts:
        stretches: dict[str, Tensor] = {}
        complete: dict[str, Callable[[], object]] = {}
        for component in part.components:
            as_stored = kind if stored is None or component != "unet" else quantised(kind, stored)
            network = build(chosen, component, as_stored).train(False)
            if component == "unet" and stored is None and wanted is not None:
                complete = quantising(network, part.stock.placed[component], wanted)
            allocate(network, device)
            networks[component] = network
            stretches.update(targets(network, part.stock.placed[component]))
        found.append((part.file, stretches, complete))
    copy_all(found, progress)
    if stored is not None and stored != wanted:
        keep_otherwise(networks["unet"], wanted, dtype)
    return Components(
        variant=chosen,
        unet=cast(VideoUNet, networks["unet"]),
        vae=cast(Autoencoder, networks["vae"]),
        resampler=cast(Resampler, networks["resampler"]),
        text=cast("CLIPTextEncoder | None", networks.get("text")),
        vision=cast("CLIPImageEncoder | None", networks.get("vision")),
        device=torch.device(device),
        dtype=dtype,
        path=Path(path),
        preview=preview_of(file),
        quantised=wanted,
    )


def _part(file: WeightsFile, variant: Variant, components: tuple[Component, ...]) -> _Part:
    stock = take_stock(file.entries, variant, components)
    require(stock, components, file.path, variant)
    return _Part(file, stock, components)


def quantising(
    network: nn.Module, placed: Mapping[str, Place], kind: Quantised
) -> dict[str, Callable[[], object]]:
    """What to do when a tensor of the file is complete: quantise the layer that it fills.

    ``placed`` are the network's places by the names in the file. Such a weight is read in float32, so that the result
    is that of a file quantised before; each is released at once.
    """
    keys = {place.name: key for key, place in placed.items()}
    complete: dict[str, Callable[[], object]] = {}
    layers: Iterable[tuple[str, nn.Module]] = cast(Any, network).named_modules()
    for name, layer in layers:
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Conv3d)) and is_quantised(tuple(layer.weight.shape)):
            layer.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
            complete[keys[f"{name}.weight"]] = partial(quantise_layer, layer, kind)
    return complete


def keep_otherwise(network: nn.Module, kind: Quantised | None, dtype: torch.dtype) -> None:
    """Keep the weights of a quantised network's layers as ``kind``, or plainly in ``dtype``."""
    for layer in network.modules():
        if isinstance(layer, QuantisedLayer):
            if kind is None:
                plain_layer(layer, dtype)
            else:
                layer.store(layer.widened(torch.float32), kind)


def allocate(network: nn.Module, device: torch.device | str) -> None:
    """Allocate uninitialised memory for every parameter of a network built on the meta device."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            # PyTorch's own to_empty takes seconds to import its dependencies.
            memory = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(memory, requires_grad=False))


def copy_all(
    found: list[tuple[WeightsFile, dict[str, Tensor], Mapping[str, Callable[[], object]]]],
    progress: ByteProgress | None,
) -> None:
    """Copy the tensors of files to flat slices of parameters, by name in the file; each is read once.

    With each file comes what to do when one of its tensors is there.
    """
    total = sum(file.entries[key].nbytes for file, stretches, _ in found for key in stretches)
    done = 0
    with single_thread():
        for file, stretches, complete in found:
            for piece in file.pieces(tuple(stretches)):
                length = piece.values.numel()
                copy_piece(piece, stretches[piece.name][piece.start : piece.start + length], file.path)
                if piece.name in complete and piece.start + length == stretches[piece.name].numel():
                    # What is left of the plain weight is this view.
                    del stretches[piece.name]
                    complete[piece.name]()
                done += piece.values.nbytes
                if progress is not None:
                    progress(done, total)
