"""Converts a checkpoint to one safetensors file in a given precision, with its variant in the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ..errors import UsageError
from ..model.variants import Variant
from .accounting import Stock, require, take_stock
from .detect import choose, detect, variant_metadata
from .fill import copy_piece, single_thread
from .formats.entries import ByteProgress, Entry, Piece, WeightsFile
from .formats.files import open_weights
from .formats.safetensors_file import write_safetensors
from .layout import PREFIXES
from .networks import CORE, TOWER_COMPONENTS, Component
from .preview import preview_metadata, preview_of


def convert(
    source: Path | str,
    target: Path | str,
    *,
    dtype: torch.dtype | None = None,
    prune: bool = False,
    variant: str | None = None,
    progress: ByteProgress | None = None,
) -> Variant:
    """Convert ``source``, in any supported format, to the safetensors file ``target``; returns its variant.

    With ``dtype`` None every tensor keeps its precision. fp8 applies to matrices and kernels only: all other tensors,
    about 0.1 % of the file, become bfloat16, because norms lose too much precision in fp8. ``prune`` omits unused
    tensors and the CLIP encoders, which are the same in all checkpoints and can be loaded from a separate file; without
    it everything is kept, unused tensors in their own precision. The variant is stored in the metadata, so that it need
    not be specified again.

    Only a few per cent of the file are in memory at a time. ``target`` is written atomically and replaces an existing
    file. ``progress`` is called with the bytes read and their total. Raises UsageError if ``target`` is ``source`` or
    does not end in ``.safetensors``, and CheckpointError as loading does or if there is not enough disk space.
    """
    target = Path(target)
    file = open_weights(source)
    check_target(target, file.files)
    chosen = choose(detect(file), variant, file)
    stock = _stock(file, chosen, prune)
    names = _names(stock, keep_unused=not prune)
    entries = {
        name: Entry(
            file.entries[key].shape,
            stored_dtype(file.entries[key], dtype if key not in stock.unused else None),
        )
        for key, name in names.items()
    }
    pieces = cast_pieces(file, names, entries, progress)
    metadata = variant_metadata(chosen) | preview_metadata(preview_of(file))
    with single_thread():
        write_safetensors(target, entries, pieces, metadata)
    return chosen


def check_target(target: Path, sources: Sequence[Path]) -> None:
    """Raise UsageError if ``target`` does not end in ``.safetensors`` or is one of the files that are read."""
    if target.suffix != ".safetensors":
        raise UsageError(f"{target} must end in .safetensors, the only output format")
    if target.exists() and any(target.samefile(part) for part in sources):
        raise UsageError(f"{target} is also the input file; choose another output name")


def _stock(file: WeightsFile, variant: Variant, prune: bool) -> Stock:
    """The file's contents, checked to be complete; an encoder may be absent but not incomplete."""
    components: tuple[Component, ...] = CORE
    if not prune:
        held = take_stock(file.entries, variant, (*CORE, *TOWER_COMPONENTS))
        components = (*CORE, *(component for component in TOWER_COMPONENTS if held.holds(component)))
    stock = take_stock(file.entries, variant, components)
    require(stock, components, file.path, variant)
    return stock


def _names(stock: Stock, keep_unused: bool) -> dict[str, str]:
    """Names of the tensors to write, in the source and in the target."""
    names: dict[str, str] = {}
    for component, places in stock.placed.items():
        for key, place in places.items():
            # An encoder with Hugging Face's names keeps them: its tensors are parts of ours.
            names[key] = PREFIXES[component] + place.name if place.parts == 1 else key
    if keep_unused:
        names.update({key: key for key in stock.unused})
    return names


def stored_dtype(entry: Entry, dtype: torch.dtype | None) -> torch.dtype:
    """The precision to store a tensor in if ``dtype`` is asked for; its own if None."""
    if dtype is None or not entry.dtype.is_floating_point:
        return entry.dtype
    return torch.bfloat16 if dtype.itemsize == 1 and len(entry.shape) < 2 else dtype


def cast_pieces(
    file: WeightsFile, names: Mapping[str, str], entries: Mapping[str, Entry], progress: ByteProgress | None
) -> Iterator[Piece]:
    """The named tensors of a file in the precision of ``entries``, which are by the names to write."""
    total = sum(file.entries[key].nbytes for key in names)
    done = 0
    for piece in file.pieces(names):
        name = names[piece.name]
        values = torch.empty(piece.values.numel(), dtype=entries[name].dtype)
        copy_piece(piece, values, file.path)
        yield Piece(name, piece.start, values)
        done += piece.values.nbytes
        if progress is not None:
            progress(done, total)
