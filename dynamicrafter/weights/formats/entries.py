"""What every weights file is to the rest of this package: names, shapes, and values in small pieces."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeGuard, cast

import torch
from torch import Tensor

from ...errors import CheckpointError

PIECE_BYTES = 16 * 2**20
"""Largest piece of a tensor that is in memory at once while a file is read."""

_LONGEST_NAME = 500
"""Characters; several times those of any model's tensors."""
_MOST_DIMENSIONS = 16
_MOST_VALUES = 2**48
"""In one dimension of a tensor; more cannot be addressed."""

ByteProgress = Callable[[int, int], None]
"""Called with the bytes done and their total; whatever it raises stops the work."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, as stored."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.numel * self.dtype.itemsize


class Piece(NamedTuple):
    """Consecutive values of one tensor."""

    name: str
    start: int
    """Index of the first value in the flattened tensor."""
    values: Tensor
    """One-dimensional, in the file's dtype, on the CPU; only borrowed until the next piece is asked for."""


class WeightsFile(Protocol):
    """An opened weights file of any format; nothing of it stays in memory but its list of tensors."""

    @property
    def path(self) -> Path:
        """What was asked for."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors; several if sharded."""
        ...

    @property
    def kind(self) -> str:
        """Name of the format, for people."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All tensors by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text stored beside the tensors; empty in formats without it."""
        ...

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """The values of the named tensors in pieces of at most ``PIECE_BYTES``, in the file's own order."""
        ...


def read_tensor(file: WeightsFile, name: str) -> Tensor:
    """A copy of one tensor; meant for small ones."""
    entry = file.entries[name]
    values = torch.empty(entry.numel, dtype=entry.dtype)
    for piece in file.pieces([name]):
        values[piece.start : piece.start + piece.values.numel()] = piece.values
    return values.reshape(entry.shape)


def raw_bytes(values: Tensor) -> memoryview:
    """The bytes of one-dimensional ``values``, as a file stores them."""
    return memoryview(cast(Any, values.detach().cpu().contiguous().view(torch.uint8).numpy()))


def is_name(name: str) -> bool:
    """Whether a text of a file can be the name of a tensor: it can be printed, and looking into it takes no time."""
    return len(name) <= _LONGEST_NAME and name.isprintable()


def is_shape(value: object) -> TypeGuard[list[int] | tuple[int, ...]]:
    """Whether a value of a file's header is the shape of a tensor that there can be."""
    if not isinstance(value, (list, tuple)):
        return False
    lengths = cast("list[Any] | tuple[Any, ...]", value)
    return len(lengths) <= _MOST_DIMENSIONS and all(
        type(length) is int and 0 <= length <= _MOST_VALUES for length in lengths
    )


def mapped(stream: BinaryIO, begin: int, count: int, dtype: torch.dtype) -> Tensor:
    """``count`` values of a file from byte ``begin`` on; the map lives as long as the tensor does."""
    shift = begin % mmap.ALLOCATIONGRANULARITY
    length = shift + count * dtype.itemsize
    # A private copy-on-write map: PyTorch warns about memory that cannot be written.
    window = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=begin - shift)
    if shift % dtype.itemsize:
        # Old writers did not align their tensors.
        return torch.frombuffer(window, dtype=torch.uint8, offset=shift).clone().view(dtype)
    return torch.frombuffer(window, dtype=dtype, count=count, offset=shift)


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error to raise when the system refuses to open or read ``path``."""
    return CheckpointError(
        f"{path} cannot be read ({error.strerror or error}); check the path and its permissions"
    )
