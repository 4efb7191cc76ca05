"""Classifies every tensor of a file as used, known but unused, of the wrong shape, or unexpected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError, Remedy
from ..model.configs import QUANTISED, Quantised
from ..model.quantised import SCALE, STORED
from ..model.variants import Variant
from .formats.entries import Entry
from .layout import PREFIXES, UNUSED, Place, locate
from .networks import TITLES, Component, described

_PARTS = 3
"""Number of parts into which a file may split a tensor: query, key and value."""


@dataclass(frozen=True)
class Misfit:
    """A tensor that is present but unusable."""

    key: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.key} is {self.found} instead of {self.wanted}"


@dataclass(frozen=True)
class Stock:
    """The tensors of a model's networks in a file or in several."""

    placed: Mapping[str, Mapping[str, Place]]
    """By network, the tensors' names in the file and their places."""
    missing: Mapping[str, tuple[str, ...]]
    """By network, released names of the missing tensors."""
    misfits: tuple[Misfit, ...]
    unexpected: tuple[str, ...]
    unused: tuple[str, ...]
    """Tensors that are known but never used, or belong to networks that were not requested."""
    quantised: Quantised | None
    """How the layers of the denoising network are stored; None for plain weights."""

    def holds(self, component: str) -> bool:
        """Whether any tensor of a network is present."""
        return bool(self.placed[component])


def take_stock(entries: Mapping[str, Entry], variant: Variant, components: Collection[Component]) -> Stock:
    """Compare a file's tensors with those of the named networks of a variant."""
    kind = stored_kind(entries)

    def place_of(key: str) -> Place | None:
        place = locate(key)
        return UNUSED if place is not None and _never_run(place, variant) else place

    wanted = {
        component: {name: Entry(shape, dtype) for name, shape, dtype in described(variant, component, kind)}
        for component in components
    }
    return account(entries, wanted, place_of, PREFIXES, kind)


def account(
    entries: Mapping[str, Entry],
    wanted: Mapping[str, Mapping[str, Entry]],
    place_of: Callable[[str], Place | None],
    prefixes: Mapping[str, str],
    kind: Quantised | None = None,
) -> Stock:
    """Compare tensors with those of ``wanted`` networks, by name; float32 stands for any floating dtype.

    ``place_of`` tells a tensor's place from its name, and None of an unknown one. ``prefixes`` stand before the names
    of missing tensors. ``kind`` is how layers are quantised.
    """
    placed: dict[str, dict[str, Place]] = {network: {} for network in wanted}
    filled: dict[tuple[str, str], set[int]] = {}
    misfits: list[Misfit] = []
    unexpected: list[str] = []
    unused: list[str] = []
    for key, entry in entries.items():
        place = place_of(key)
        if place is None:
            unexpected.append(key)
            continue
        network = place.component
        if network is None or network not in wanted:
            unused.append(key)
        elif place.name not in wanted[network]:
            unexpected.append(key)
        else:
            taken = filled.setdefault((network, place.name), set())
            stretch = {place.part} if place.parts > 1 else set(range(_PARTS))
            if taken & stretch:
                unexpected.append(key)
                continue
            taken |= stretch
            placed[network][key] = place
            misfit = _compare(key, entry, wanted[network][place.name], place)
            if misfit is not None:
                misfits.append(misfit)
    missing: dict[str, tuple[str, ...]] = {
        network: tuple(
            prefixes[network] + name for name in names if len(filled.get((network, name), ())) < _PARTS
        )
        for network, names in wanted.items()
    }
    return Stock(placed, missing, tuple(misfits), tuple(unexpected), tuple(unused), kind)


def is_denoising(key: str) -> bool:
    """Whether a name is that of a tensor of DynamiCrafter's denoising network."""
    place = locate(key)
    return place is not None and place.component == "unet"


def stored_kind(
    entries: Mapping[str, Entry], is_layer: Callable[[str], bool] = is_denoising
) -> Quantised | None:
    """How the layers of a file's denoising network are quantised, by the first one that has scales.

    ``is_layer`` tells its tensors by their names, DynamiCrafter's by default.
    """
    for key in entries:
        if not key.endswith(f".{SCALE}") or not is_layer(key):
            continue
        weight = entries.get(key.removesuffix("_scale"))
        return next((kind for kind in QUANTISED if weight and weight.dtype == STORED[kind][0]), None)
    return None


def _never_run(place: Place, variant: Variant) -> bool:
    """Whether a tensor belongs to the text encoder's last trained block, whose output is not used."""
    return place.component == "text" and place.name.startswith(
        f"transformer.resblocks.{variant.text.layers}."
    )


def _compare(key: str, entry: Entry, wanted: Entry, place: Place) -> Misfit | None:
    shape = wanted.shape
    if place.parts > 1:
        shape = (shape[0] // place.parts, *shape[1:])
    # A linear layer over pixels is stored with or without the two sides of its kernel, which are 1.
    if entry.shape not in (shape, shape[:2] if shape[2:] == (1, 1) else shape):
        return Misfit(key, str(list(entry.shape)), str(list(shape)))
    if wanted.dtype != torch.float32 and entry.dtype != wanted.dtype:
        return Misfit(key, f"stored as {_plain(entry)}", f"{_plain(wanted)}, like the other layers")
    if wanted.dtype == torch.float32 and not entry.dtype.is_floating_point:
        return Misfit(key, f"stored as {_plain(entry)}", "floating-point numbers")
    return None


def _plain(entry: Entry) -> str:
    return str(entry.dtype).removeprefix("torch.")


def require(stock: Stock, components: Iterable[Component], path: Path, variant: Variant) -> None:
    """Raise CheckpointError unless the file contains the named networks completely and no unknown tensors."""
    components = list(components)
    wrong = problems(stock, components)
    if wrong:
        what = "" if "unet" in components else f"the {TITLES[components[0]]} of "
        cause, remedy = _cause(stock, components)
        raise CheckpointError(
            f"{path} does not contain exactly {what}{variant.name}: {', '.join(wrong)}; {cause}", remedy
        )


def problems(stock: Stock, networks: Iterable[str]) -> list[str]:
    """What keeps the named networks from being loaded, and tensors that are unknown, as phrases with examples."""
    found: list[str] = []
    missing = [name for network in networks for name in stock.missing[network]]
    if missing:
        found.append(f"{len(missing)} tensors are missing ({_first(missing)})")
    if stock.misfits:
        found.append(f"{len(stock.misfits)} do not fit ({_first(map(str, stock.misfits))})")
    if stock.unexpected:
        found.append(f"{len(stock.unexpected)} are unexpected ({_first(stock.unexpected)})")
    return found


def _cause(stock: Stock, components: list[Component]) -> tuple[str, Remedy | None]:
    """The likely cause, and a remedy unless the cause already says what to do."""
    absent: list[Component] = [component for component in components if not stock.holds(component)]
    encoders = {"text": "text", "vision": "image"}
    pruned = tuple(encoders[component] for component in absent if component in encoders)
    if absent and len(absent) == len(pruned):
        titles = " and the ".join(TITLES[component] for component in absent)
        return f"it was pruned and lacks the {titles}", Remedy("name_encoder", pruned)
    if absent:
        titles = ", ".join(TITLES[component] for component in absent)
        return f"it does not contain the {titles}: use the complete checkpoint", None
    if any("scale_weight" in key or "weight_scale" in key or key == "scaled_fp8" for key in stock.unexpected):
        return "it is in scaled fp8, which is not supported: use a plain fp8, fp16 or bf16 file", None
    if stock.misfits and "unet" not in components:
        return "it is a different CLIP model from the encoders of ViT-H-14 (laion2b)", Remedy(
            "download", ("towers",)
        )
    if stock.misfits:
        return "it has a different architecture or was quantised: use a released checkpoint", None
    if stock.unexpected:
        return (
            "it was merged with something else or has a different architecture: use a released checkpoint",
            None,
        )
    return "it is damaged or too much was pruned: download it again", None


def _first(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
