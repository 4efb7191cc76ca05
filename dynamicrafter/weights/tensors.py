"""Reads a checkpoint's tensors, grouped by network, for a host that builds the networks itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..model.variants import Variant
from .accounting import require, take_stock
from .detect import choose, detect
from .fill import copy_piece, single_thread
from .formats.files import open_weights
from .networks import Component, expected


@dataclass(frozen=True)
class ComponentTensors:
    """All tensors of one network under its own names."""

    tensors: dict[str, Tensor]
    dtype: torch.dtype
    """Dtype that most of the network's values are stored in; all tensors have it."""


def load_tensors(
    path: Path | str,
    components: Sequence[Component],
    variant: str | None = None,
) -> tuple[Variant, dict[Component, ComponentTensors]]:
    """The variant of a checkpoint and the tensors of the requested networks, on the CPU.

    Raises the errors of :func:`~.load.load_components`; a requested CLIP encoder must be in the file.
    """
    file = open_weights(path)
    chosen = choose(detect(file), variant, file)
    stock = take_stock(file.entries, chosen, tuple(components))
    require(stock, tuple(components), file.path, chosen)
    found: dict[Component, ComponentTensors] = {}
    stretches: dict[str, Tensor] = {}
    for component in components:
        places = stock.placed[component]
        sizes: Counter[torch.dtype] = Counter()
        for key in places:
            sizes[file.entries[key].dtype] += file.entries[key].numel
        dtype = sizes.most_common(1)[0][0]
        shapes = expected(chosen, component)
        tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        found[component] = ComponentTensors(tensors, dtype)
        for key, place in places.items():
            flat = tensors[place.name].view(-1)
            length = flat.numel() // place.parts
            stretches[key] = flat[place.part * length : (place.part + 1) * length]
    with single_thread():
        for piece in file.pieces(stretches):
            length = piece.values.numel()
            copy_piece(piece, stretches[piece.name][piece.start : piece.start + length], file.path)
    return chosen, found


def components_in(path: Path | str, variant: str | None = None) -> tuple[Variant, tuple[Component, ...]]:
    """The variant of a checkpoint and the networks it contains; only its list of tensors is read."""
    file = open_weights(path)
    chosen = choose(detect(file), variant, file)
    every: tuple[Component, ...] = ("unet", "vae", "resampler", "text", "vision")
    placed = take_stock(file.entries, chosen, every).placed
    return chosen, tuple(component for component in every if placed.get(component))
