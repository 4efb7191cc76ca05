"""Merges a model and the same model fine-tuned into a pair: one for the noisy steps of sampling, one for the rest.

This is the last stage of EDG (arXiv 2503.00948), whose authors merge DynamiCrafter 512 with its successor that was
trained against image leakage (CIL, arXiv 2406.15735).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from errno import EISDIR
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import check_writable
from ..errors import CheckpointError, UsageError
from ..model.variants import Variant, nameless
from .convert import check_conversion, stock_of, target_entries, target_names
from .detect import choose, detect, variant_metadata
from .fill import copy_piece, single_thread
from .formats.entries import ByteProgress, Entry, Piece, WeightsFile
from .formats.files import open_weights
from .formats.safetensors_file import write_safetensors
from .mixture import Mixture
from .preview import preview_metadata, preview_of

PUBLISHED = Mixture()
"""The numbers of EDG's code."""


def dynamic_of(base: Tensor, tuned: Tensor, mixture: Mixture, name: str) -> Tensor:
    """``base - dynamic B(tuned - base)``, float32.

    B keeps a random part of the values and divides them by its share, so that their mean stays; tensors with fewer than
    two dimensions stay as they are. The part depends on the seed and on ``name``, the tensor's, alone.
    """
    base = base.float()
    return base.sub(_sparse(tuned.float() - base, mixture, f"dynamic {name}"), alpha=mixture.dynamic)


def consistent_of(base: Tensor, tuned: Tensor, mixture: Mixture, name: str) -> Tensor:
    """``tuned + consistent B(tuned - base)``, float32; as :func:`dynamic_of`, with another random part."""
    tuned = tuned.float()
    return tuned.add(_sparse(tuned - base.float(), mixture, f"consistent {name}"), alpha=mixture.consistent)


def _sparse(change: Tensor, mixture: Mixture, name: str) -> Tensor:
    """B of ``change``, in its memory."""
    if change.ndim < 2:
        return change
    digest = hashlib.sha256(f"{mixture.seed} {name}".encode()).digest()
    # On the CPU, whose numbers are the same on every machine.
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    kept = torch.rand(change.shape, generator=generator) < mixture.keep
    return change.mul_(kept.to(change.device)).div_(mixture.keep)


def merge(
    base: Path | str,
    tuned: Path | str,
    dynamic: Path | str,
    consistent: Path | str,
    *,
    mixture: Mixture = PUBLISHED,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    progress: ByteProgress | None = None,
) -> Variant:
    """Write the models that ``mixture`` makes of ``base`` and ``tuned`` to ``dynamic`` and ``consistent``.

    Both sources may be in any supported format and precision, but for 8 bits with scales. ``dtype`` is the precision to
    store, with None that of each tensor of ``base``; computed is in float32. All tensors of the networks are merged,
    and unused ones are left out. ``variant`` is that of ``base`` and is needed only if its weights are ambiguous; it is
    returned and stored in both files.

    About five times the largest tensor is in memory at a time. Both files replace existing ones, and appear when both
    are complete. ``progress`` is called with the bytes read and their total. Raises UsageError if a target does not end
    in ``.safetensors``, is a source or the other target, and CheckpointError as loading does, for sources of different
    variants or with different tensors, and if there is not enough disk space.
    """
    dynamic, consistent = Path(dynamic), Path(consistent)
    one, other = open_weights(base), open_weights(tuned)
    for target in (dynamic, consistent):
        check_conversion(target, (*one.files, *other.files))
    for target in (dynamic, consistent):
        _check_target(target)
    if dynamic.resolve() == consistent.resolve():
        raise UsageError(f"both models would be written to {dynamic}; choose another name for one of them")
    chosen = choose(detect(one), variant, one)
    ours = _tensors(one, chosen)
    theirs = _tensors(other, _alike(other, one, chosen))
    _check_same(ours, theirs, one.path, other.path)
    entries = target_entries(one, {key: name for name, key in ours.items()}, dtype, ())
    metadata = variant_metadata(chosen) | preview_metadata(preview_of(one))
    total = 2 * sum(one.entries[ours[name]].nbytes + other.entries[theirs[name]].nbytes for name in ours)
    done = 0

    def pieces(mix: Callable[[Tensor, Tensor, Mixture, str], Tensor]) -> Iterator[Piece]:
        nonlocal done
        for name, entry in entries.items():
            a, b = (_read(file, keys[name], entry) for file, keys in ((one, ours), (other, theirs)))
            values = torch.empty(entry.numel, dtype=entry.dtype)
            copy_piece(Piece(name, 0, mix(a, b, mixture, name).view(-1)), values, one.path)
            yield Piece(name, 0, values)
            done += one.entries[ours[name]].nbytes + other.entries[theirs[name]].nbytes
            if progress is not None:
                progress(done, total)

    def first() -> Iterator[Piece]:
        yield from pieces(dynamic_of)
        # The first file appears after its last piece: so neither is there without the other.
        write_safetensors(consistent, entries, pieces(consistent_of), metadata)

    with single_thread():
        write_safetensors(dynamic, entries, first(), metadata)
    return chosen


def _check_target(target: Path) -> None:
    """Raise CheckpointError unless a file can be written or replaced there, before the long work."""
    try:
        if target.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        check_writable(target)
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written ({error.strerror}); choose another name or folder"
        ) from error


def _alike(file: WeightsFile, base: WeightsFile, wanted: Variant) -> Variant:
    """The variant of ``file`` with the networks and noise process of that of ``base``; raises CheckpointError."""
    found = detect(file) or (choose((), None, file),)
    for variant in found:
        if nameless(variant) == nameless(wanted):
            return variant
    names = " or ".join(variant.name for variant in found)
    raise CheckpointError(
        f"a model can be merged with the same one fine-tuned only, but {base.path} is {wanted.name} and {file.path} "
        f"is {names}; use two files of one variant"
    )


def _tensors(file: WeightsFile, variant: Variant) -> dict[str, str]:
    """The file's name of each tensor of the networks by its released name; raises CheckpointError for 8 bits."""
    stock = stock_of(file, variant)
    if stock.quantised is not None:
        raise CheckpointError(
            f"{file.path} stores layers in {stock.quantised}, whose rounding a merge would amplify; use the file that "
            f"it was converted from"
        )
    return {name: key for key, name in target_names(stock, keep_unused=False).items()}


def _check_same(ours: Mapping[str, str], theirs: Mapping[str, str], base: Path, tuned: Path) -> None:
    """Raise CheckpointError with the first tensor that only one of two files has."""
    for has, lacks, names in (
        (base, tuned, ours.keys() - theirs.keys()),
        (tuned, base, theirs.keys() - ours.keys()),
    ):
        if names:
            raise CheckpointError(
                f"both files must have the same tensors, but {min(names)} is in {has} and not in {lacks}; prune both "
                f"or neither"
            )


def _read(file: WeightsFile, key: str, entry: Entry) -> Tensor:
    """A whole tensor in float32, in the shape of ``entry``; raises CheckpointError for values that are not finite."""
    values = torch.empty(entry.numel)
    for piece in file.pieces([key]):
        copy_piece(piece, values[piece.start : piece.start + piece.values.numel()], file.path)
    return values.view(entry.shape)
