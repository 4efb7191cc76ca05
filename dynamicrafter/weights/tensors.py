"""Reads a checkpoint's tensors, grouped by network, for a host that builds the networks itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..model.configs import Quantised
from ..model.quantised import SCALE, quantise, widen
from ..model.variants import Variant
from .accounting import require, take_stock
from .detect import choose, detect
from .fill import copy_piece, single_thread
from .formats.files import open_weights
from .networks import Component, described, expected


@dataclass(frozen=True)
class ComponentTensors:
    """All tensors of one network under its own names."""

    tensors: dict[str, Tensor]
    dtype: torch.dtype
    """Dtype that most of the network's values are stored in; all tensors but those of quantised layers have it."""
    quantised: Quantised | None = None
    """How the layers' weights are stored; their scales are then among the tensors, in float32."""
    layers: frozenset[str] = frozenset()
    """Names of the weights that can be quantised."""

    def kept(self, kind: Quantised | None) -> ComponentTensors:
        """The same with layers stored as ``kind``, or plainly in ``dtype``, for a denoising network."""
        if kind == self.quantised:
            return self
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            if name.endswith(f".{SCALE}"):
                continue
            scale = self.tensors.get(f"{name}_scale")
            exact = self.dtype if kind is None else torch.float32
            plain = tensor if scale is None else widen(tensor, scale, exact)
            if kind is not None and name in self.layers:
                tensors[name], tensors[f"{name}_scale"] = quantise(plain, kind)
            else:
                tensors[name] = plain
        return replace(self, tensors=tensors, quantised=kind)


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
        kind = stock.quantised if component == "unet" else None
        own = {name: dtype for name, _, dtype in described(chosen, component, kind)}
        special = {name for name, dtype in own.items() if dtype != torch.float32 or f".{SCALE}" in name}
        sizes: Counter[torch.dtype] = Counter()
        for key, place in places.items():
            if place.name not in special:
                sizes[file.entries[key].dtype] += file.entries[key].numel
        common = sizes.most_common(1)[0][0]
        tensors = {
            name: torch.empty(shape, dtype=own[name] if name in special else common)
            for name, shape in expected(chosen, component, kind).items()
        }
        layers: frozenset[str] = frozenset()
        if component == "unet":
            scales = [name for name in expected(chosen, component, "int8") if name.endswith(f".{SCALE}")]
            layers = frozenset(name.removesuffix("_scale") for name in scales)
        found[component] = ComponentTensors(tensors, common, kind, layers)
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
