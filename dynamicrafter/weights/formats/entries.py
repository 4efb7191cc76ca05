"""Common interface of weights files: names, shapes, and values in small pieces."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeGuard, cast

import torch
from torch import Tensor

from ...errors import CheckpointError

PIECE_BYTES = 16 * 2**20
"""Largest piece of a tensor that is in memory at a time while a file is read."""

_LONGEST_NAME = 500
"""Characters; several times the longest name in any known model."""
_MOST_DIMENSIONS = 16
_MOST_VALUES = 2**48
"""Along one dimension of a tensor; more cannot be addressed."""

ByteProgress = Callable[[int, int], None]
"""Called with the bytes done and their total; any exception it raises stops the work."""


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
    """One-dimensional, in the file's dtype, on the CPU; valid until the next piece is requested."""


class WeightsFile(Protocol):
    """An opened weights file of any format; only its list of tensors stays in memory."""

    @property
    def path(self) -> Path:
        """The requested path."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that contain the tensors; several if sharded."""
        ...

    @property
    def kind(self) -> str:
        """Human-readable name of the format."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All tensors by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text stored with the tensors; empty in formats without it."""
        ...

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """The values of the named tensors in pieces of at most ``PIECE_BYTES``, in file order."""
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
    """Whether a string from a file can be a tensor's name: printable, and short enough to search quickly."""
    return len(name) <= _LONGEST_NAME and name.isprintable()


def is_shape(value: object) -> TypeGuard[list[int] | tuple[int, ...]]:
    """Whether a value from a file's header is the shape of a possible tensor."""
    if not isinstance(value, (list, tuple)):
        return False
    lengths = cast("list[Any] | tuple[Any, ...]", value)
    return len(lengths) <= _MOST_DIMENSIONS and all(
        type(length) is int and 0 <= length <= _MOST_VALUES for length in lengths
    )


def mapped(stream: BinaryIO, begin: int, count: int, dtype: torch.dtype) -> Tensor:
    """``count`` values of a file, starting at byte ``begin``, memory-mapped as long as the tensor exists."""
    shift = begin % mmap.ALLOCATIONGRANULARITY
    length = shift + count * dtype.itemsize
    # A private copy-on-write map, because PyTorch warns about read-only memory.
    window = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_COPY, offset=begin - shift)
    if shift % dtype.itemsize:
        # Old versions of safetensors did not align tensors.
        return torch.frombuffer(window, dtype=torch.uint8, offset=shift).clone().view(dtype)
    return torch.frombuffer(window, dtype=dtype, count=count, offset=shift)


@contextmanager
def telling_of_reading(path: Path) -> Generator[None]:
    """Raise CheckpointError for what goes wrong while tensors of a file that was opened before are read."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        # From mmap, if the file was truncated after it was opened.
        raise CheckpointError(f"{path} changed while it was being read ({error}); load it again") from error


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error to raise if the system cannot open or read ``path``."""
    return CheckpointError(
        f"{path} cannot be read ({error.strerror or error}); check the path and its permissions"
    )
