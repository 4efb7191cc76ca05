"""Copies tensors from a file, each once, casting them on the way and checking that their values are finite."""

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
    """Map each of a file's tensors to the flat slice of the network's parameter that it fills."""
    held = network.state_dict()
    found: dict[str, Tensor] = {}
    for key, place in places.items():
        flat = held[place.name].detach().view(-1)
        length = flat.numel() // place.parts
        found[key] = flat[place.part * length : (place.part + 1) * length]
    return found


def copy_piece(piece: Piece, target: Tensor, path: Path) -> None:
    """Cast a piece into ``target``, a slice of the same length.

    Raises CheckpointError if a value is NaN or infinite, or overflows the target's dtype.
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
    raise CheckpointError(f"{piece.name} in {path} has NaN or infinite values; download the file again")


@contextmanager
def single_thread() -> Generator[None, None, None]:
    """Use one PyTorch thread within the context, and the previous number after it.

    Copying is limited by memory bandwidth, and thousands of short copies would each wait for all threads, which takes
    several times as long as the copies on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _finite(values: Tensor) -> bool:
    """Whether there is no NaN or infinity; either shows in the minimum or the maximum."""
    if values.numel() == 0:
        return True
    if values.dtype.itemsize == 1:
        # There is no arithmetic in fp8.
        values = values.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
