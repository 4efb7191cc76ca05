"""Converts a checkpoint to one safetensors file in a given precision, with its variant in the metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..model.configs import Quantised
from ..model.quantised import SCALE, STORED, quantise, widen
from ..model.variants import Variant
from .accounting import Stock, require, take_stock
from .detect import choose, detect, variant_metadata
from .fill import copy_piece, single_thread
from .formats.entries import ByteProgress, Entry, Piece, WeightsFile
from .formats.files import open_weights
from .formats.safetensors_file import write_safetensors
from .layout import PREFIXES
from .networks import CORE, TOWER_COMPONENTS, Component, expected
from .preview import preview_metadata, preview_of


def convert(
    source: Path | str,
    target: Path | str,
    *,
    dtype: torch.dtype | Quantised | None = None,
    prune: bool = False,
    variant: str | None = None,
    progress: ByteProgress | None = None,
) -> Variant:
    """Convert ``source``, in any supported format, to the safetensors file ``target``; returns its variant.

    With ``dtype`` None every tensor keeps its precision. fp8 applies to matrices and kernels only: all other tensors,
    about 0.1 % of the file, become bfloat16, because norms lose too much precision in fp8. "int8" and "fp8_scaled"
    quantise the layers of the denoising network, each output channel with a scale of its own, and keep the precision of
    all other tensors; any other ``dtype`` restores plain weights from quantised ones. ``prune`` omits unused
    tensors and the CLIP encoders, which are the same in all checkpoints and can be loaded from a separate file; without
    it everything is kept, unused tensors in their own precision. The variant is stored in the metadata, so that it need
    not be specified again.

    Only a few per cent of the file are in memory at a time. ``target`` is written atomically and replaces an existing
    file. ``progress`` is called with the bytes read and their total. Raises UsageError if ``target`` is ``source`` or
    does not end in ``.safetensors``, and CheckpointError as loading does or if there is not enough disk space.
    """
    target = Path(target)
    file = open_weights(source)
    check_conversion(target, file.files)
    chosen = choose(detect(file), variant, file)
    stock = stock_of(file, chosen, prune)
    names = target_names(stock, keep_unused=not prune)
    wanted = stock.quantised if dtype is None else dtype if isinstance(dtype, str) else None
    layers: dict[str, Quantised | None] = {}
    if wanted != stock.quantised:
        scales = [name for name in expected(chosen, "unet", "int8") if name.endswith(SCALE)]
        layers = {PREFIXES["unet"] + name.removesuffix("_scale"): wanted for name in scales}
    entries = target_entries(file, names, dtype, layers, stock.unused)
    pieces = cast_pieces(file, names, entries, layers, progress)
    metadata = variant_metadata(chosen) | preview_metadata(preview_of(file))
    with single_thread():
        write_safetensors(target, entries, pieces, metadata)
    return chosen


def check_conversion(target: Path, sources: Sequence[Path]) -> None:
    """Raise UsageError if ``target`` does not end in ``.safetensors`` or is one of the files that are read."""
    if target.suffix != ".safetensors":
        raise UsageError(f"{target} must end in .safetensors, the only output format")
    if target.exists() and any(target.samefile(part) for part in sources):
        raise UsageError(f"{target} is also the input file; choose another output name")


def stock_of(file: WeightsFile, variant: Variant, prune: bool = False) -> Stock:
    """The file's contents, checked to be complete; an encoder may be absent but not incomplete."""
    components: tuple[Component, ...] = CORE
    if not prune:
        held = take_stock(file.entries, variant, (*CORE, *TOWER_COMPONENTS))
        components = (*CORE, *(component for component in TOWER_COMPONENTS if held.holds(component)))
    stock = take_stock(file.entries, variant, components)
    require(stock, components, file.path, variant)
    return stock


def target_names(stock: Stock, keep_unused: bool) -> dict[str, str]:
    """Names of the tensors to write, in the source and in the target."""
    names: dict[str, str] = {}
    for component, places in stock.placed.items():
        for key, place in places.items():
            # An encoder with Hugging Face's names keeps them: its tensors are parts of ours.
            names[key] = PREFIXES[component] + place.name if place.parts == 1 else key
    if keep_unused:
        names.update({key: key for key in stock.unused})
    return names


def target_entries(
    file: WeightsFile,
    names: Mapping[str, str],
    dtype: torch.dtype | Quantised | None,
    layers: Collection[str],
    unused: Collection[str] = (),
) -> dict[str, Entry]:
    """The tensors of the target; ``layers`` are the names of the weights that are stored in another way.

    Those that are ``unused`` keep their own precision.
    """
    plain = dtype if isinstance(dtype, torch.dtype) else None
    entries: dict[str, Entry] = {}
    for key, name in names.items():
        entry = file.entries[key]
        if name.removesuffix("_scale") in layers:
            if name in layers and isinstance(dtype, str):
                entries[name] = Entry(entry.shape, STORED[dtype][0])
                entries[f"{name}_scale"] = Entry(entry.shape[:1], torch.float32)
            elif name in layers:
                entries[name] = Entry(entry.shape, plain or torch.float32)
        else:
            entries[name] = Entry(entry.shape, _stored_dtype(entry, None if key in unused else plain))
    return entries


def _stored_dtype(entry: Entry, dtype: torch.dtype | None) -> torch.dtype:
    """The precision to store a tensor in if ``dtype`` is asked for; its own if None."""
    if dtype is None or not entry.dtype.is_floating_point:
        return entry.dtype
    return torch.bfloat16 if dtype.itemsize == 1 and len(entry.shape) < 2 else dtype


def cast_pieces(
    file: WeightsFile,
    names: Mapping[str, str],
    entries: Mapping[str, Entry],
    layers: Mapping[str, Quantised | None],
    progress: ByteProgress | None,
) -> Iterator[Piece]:
    """The tensors of the target; those of ``layers`` are stored in the given way and need a whole layer at a time."""
    total = sum(file.entries[key].nbytes for key in names)
    done = 0
    gathered: dict[str, Tensor] = {}
    left: Counter[str] = Counter()
    for key, name in names.items():
        if name.removesuffix("_scale") in layers:
            left[name.removesuffix("_scale")] += file.entries[key].numel
    for piece in file.pieces(names):
        name = names[piece.name]
        layer = name.removesuffix("_scale")
        if layer in layers:
            source = file.entries[piece.name]
            whole = gathered.setdefault(name, torch.empty(source.numel, dtype=source.dtype))
            copy_piece(piece, whole[piece.start : piece.start + piece.values.numel()], file.path)
            left[layer] -= piece.values.numel()
            if left[layer] == 0:
                shape = entries[layer].shape
                weight, scale = gathered.pop(layer).view(shape), gathered.pop(f"{layer}_scale", None)
                plain = weight.float() if scale is None else widen(weight, scale, torch.float32)
                yield from _restored(layer, plain, layers[layer], entries[layer], file.path)
        else:
            values = torch.empty(piece.values.numel(), dtype=entries[name].dtype)
            copy_piece(piece, values, file.path)
            yield Piece(name, piece.start, values)
        done += piece.values.nbytes
        if progress is not None:
            progress(done, total)


def _restored(name: str, weight: Tensor, kind: Quantised | None, entry: Entry, path: Path) -> Iterator[Piece]:
    """A layer's weight, which is float32, as it is stored in the target."""
    if kind is not None:
        values, scale = quantise(weight, kind)
        yield Piece(name, 0, values.view(-1))
        yield Piece(f"{name}_scale", 0, scale)
    else:
        values = torch.empty(entry.numel, dtype=entry.dtype)
        copy_piece(Piece(name, 0, weight.view(-1)), values, path)
        yield Piece(name, 0, values)
