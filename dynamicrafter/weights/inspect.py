"""Describes a weights file without loading it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..model.quantised import SCALE
from .accounting import Stock, is_denoising, stored_kind, take_stock
from .architectures import recognise
from .detect import detect
from .formats.entries import WeightsFile
from .formats.files import open_weights
from .layout import locate
from .networks import COMPONENTS, TITLES, Component

_PERSON = "denoising_unet."
"""Prefix of that network's tensors in one file with all of AnimateAnyone."""


@dataclass(frozen=True)
class ComponentReport:
    """One network in a file."""

    name: Component
    title: str
    tensors: int
    parameters: int
    missing: int
    """Tensors that the network needs and the file lacks; all of them if the network is absent."""

    @property
    def complete(self) -> bool:
        """Whether the network can be loaded from the file."""
        return self.tensors > 0 and self.missing == 0


@dataclass(frozen=True)
class Inspection:
    """Contents of a weights file, as plain values that ``dataclasses.asdict`` makes ready for JSON."""

    path: str
    format: str
    files: int
    size_bytes: int
    variants: tuple[str, ...]
    """Names of all variants the file can be; empty if it is something else."""
    architecture: str
    """What the file is, as a noun phrase."""
    parameters: int
    """Parameters of all tensors, used or not."""
    dtypes: dict[str, int]
    """Parameters stored in each precision."""
    quantised: str | None
    """How the layers of the denoising network are quantised; None if they are not."""
    components: tuple[ComponentReport, ...]
    """All five networks, present or not; empty if no variant fits."""
    unexpected: tuple[str, ...]
    """Names that belong to no network."""
    misfits: tuple[str, ...]
    """Tensors of the wrong shape, with the actual and the expected shape."""
    unused: int
    """Tensors that are known but never used."""
    metadata: dict[str, str]


def inspect(path: Path | str) -> Inspection:
    """Describe a file in any supported format, DynamiCrafter or not; only its list of tensors is read.

    Raises CheckpointError if it cannot be read at all.
    """
    file = open_weights(path)
    fits = detect(file)
    dtypes: Counter[str] = Counter()
    kind = stored_kind(file.entries, lambda key: is_denoising(key) or key.startswith(_PERSON))
    for key, entry in file.entries.items():
        # The scales of quantised layers are no parameters of the network.
        if kind is not None and key.endswith(f".{SCALE}"):
            continue
        dtypes[str(entry.dtype).removeprefix("torch.")] += entry.numel
    held = {place.component for key in file.entries if (place := locate(key)) and place.component}
    present: list[Component] = [component for component in COMPONENTS if component in held]
    stock = take_stock(file.entries, fits[0], present) if fits else None
    return Inspection(
        path=str(file.path),
        format=file.kind,
        files=len(file.files),
        size_bytes=sum(part.stat().st_size for part in file.files),
        variants=tuple(variant.name for variant in fits),
        architecture="a DynamiCrafter checkpoint" if fits else recognise(file.entries),
        parameters=sum(dtypes.values()),
        dtypes=dict(dtypes),
        quantised=kind,
        components=tuple(_component(file, stock, name) for name in COMPONENTS) if stock else (),
        unexpected=stock.unexpected if stock else (),
        misfits=tuple(map(str, stock.misfits)) if stock else (),
        unused=len(stock.unused) if stock else 0,
        metadata=dict(file.metadata),
    )


def _component(file: WeightsFile, stock: Stock, name: Component) -> ComponentReport:
    keys = stock.placed.get(name, {})
    return ComponentReport(
        name=name,
        title=TITLES[name],
        tensors=len(keys),
        parameters=sum(
            file.entries[key].numel
            for key in keys
            if stock.quantised is None or not key.endswith(f".{SCALE}")
        ),
        missing=len(stock.missing.get(name, ())),
    )
