"""Copies tensors out of a file, each once, cast on the way, with an eye on values that are not finite."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .formats.entries import Piece
from .layout import Place


def targets(network: nn.Module, places: Mapping[str, Place]) -> dict[str, Tensor]:
    """For each of a file's tensors the flat stretch of the network's memory that it fills."""
    held = network.state_dict()
    found: dict[str, Tensor] = {}
    for key, place in places.items():
        flat = held[place.name].detach().view(-1)
        length = flat.numel() // place.parts
        found[key] = flat[place.part * length : (place.part + 1) * length]
    return found


def copy_piece(piece: Piece, target: Tensor, path: Path) -> None:
    """Cast a piece into ``target``, a stretch of the same length.

    Raises CheckpointError when a value is NaN or infinite, or becomes so because the target's dtype is too
    narrow.
    """
    target.copy_(piece.values)
    if _finite(target):
        return
    if _finite(piece.values):
        narrow = str(target.dtype).removeprefix("torch.")
        largest = piece.values.abs().max().item()
        raise CheckpointError(
            f"{piece.name} in {path} has values up to {largest:.3g}, too large for {narrow}; "
            "use bfloat16 or float32"
        )
    raise CheckpointError(f"{piece.name} in {path} has values that are NaN or infinite; fetch the file again")


@contextmanager
def single_thread() -> Generator[None, None, None]:
    """Copy with one thread inside, as before outside.

    Copying is bound by memory, and thousands of short copies each wait for all threads to have had their turn, which
    on a busy machine takes several times as long as the copies.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _finite(values: Tensor) -> bool:
    """Whether there is no NaN and no infinity; both show in the smallest or the largest value."""
    if values.numel() == 0:
        return True
    if values.dtype.itemsize == 1:
        # fp8 has no arithmetic of its own.
        values = values.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
