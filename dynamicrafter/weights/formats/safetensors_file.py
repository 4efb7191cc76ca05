"""The safetensors format: 8 bytes with the length of a JSON header, the header, then the tensors' bytes.

Files are read through small, short-lived memory maps, because mapped pages count as the process's memory, and written
as a stream, so that neither needs enough memory for a whole model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ...atomic import replacing
from ...bounded_json import parse_json
from ...errors import CheckpointError
from .entries import (
    PIECE_BYTES,
    Entry,
    Piece,
    is_name,
    is_shape,
    mapped,
    raw_bytes,
    telling_of_reading,
    unreadable,
)

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""
_METADATA = "__metadata__"


@dataclass(frozen=True)
class SafetensorsFile:
    """One safetensors file, opened by :func:`open_safetensors`."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    offsets: Mapping[str, int]
    """Byte at which each tensor begins, counted from the start of the file."""
    kind: str = "safetensors"

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """The values of the named tensors, as :class:`~.entries.WeightsFile` says."""
        with telling_of_reading(self.path), self.path.open("rb") as stream:
            for name in sorted(names, key=self.offsets.__getitem__):
                entry = self.entries[name]
                step = PIECE_BYTES // entry.dtype.itemsize
                for start in range(0, entry.numel, step):
                    count = min(step, entry.numel - start)
                    begin = self.offsets[name] + start * entry.dtype.itemsize
                    yield Piece(name, start, mapped(stream, begin, count, entry.dtype))


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of a safetensors file.

    Raises CheckpointError if the file is truncated or its header is invalid.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > _LARGEST_HEADER:
                raise _damaged(path, "it does not begin like a safetensors file")
            if 8 + length > size:
                raise _truncated(path, 8 + length, size)
            raw = stream.read(length)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        header = parse_json(raw)
    except ValueError as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a list of tensors")
    return _checked(path, cast(dict[str, Any], header), 8 + length, size)


def _checked(path: Path, header: dict[str, Any], data: int, size: int) -> SafetensorsFile:
    """The file for a decoded header; its tensors begin at byte ``data``."""
    metadata: Any = header.pop(_METADATA, None) or {}
    texts = cast(dict[str, Any], metadata)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _damaged(path, "its metadata is not an object of strings")
    entries: dict[str, Entry] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, described in header.items():
        if not is_name(name):
            raise _damaged(path, f"{name[:40]!r} is not a valid tensor name")
        fields = cast(dict[str, Any], described) if isinstance(described, dict) else {}
        code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(code, str) or not is_shape(shape) or not is_shape(offsets) or len(offsets) != 2:
            raise _damaged(path, f"its header does not describe {name!r}")
        begin, end = offsets
        if code not in _DTYPES:
            raise CheckpointError(
                f"{path} stores {name!r} as {code[:20]}, which is not supported; use a file in fp32, fp16, bf16 or fp8"
            )
        entries[name] = Entry(tuple(shape), _DTYPES[code])
        if end - begin != entries[name].nbytes:
            raise _damaged(path, f"the size of {name!r} in its header does not match its shape")
        spans[name] = (begin, end)
    reached = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != reached:
            raise _damaged(path, f"its tensors overlap or leave a gap before {name!r}")
        reached = end
    if data + reached > size:
        raise _truncated(path, data + reached, size)
    if data + reached < size:
        raise _damaged(path, f"it is {size - data - reached} bytes longer than its header says")
    return SafetensorsFile(
        path=path,
        entries=entries,
        metadata=texts,
        offsets={name: data + begin for name, (begin, _) in spans.items()},
    )


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a readable safetensors file: {why}; download it again")


def _truncated(path: Path, wanted: int, size: int) -> CheckpointError:
    return CheckpointError(f"{path} is truncated: it has {size} of {wanted} bytes; download it again")


def write_safetensors(
    path: Path,
    entries: Mapping[str, Entry],
    pieces: Iterable[Piece],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file piece by piece; the pieces may come in any order.

    The file appears under its name only when it is complete. Raises CheckpointError if the folder is missing, is not
    writable or has too little free space.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    offsets: dict[str, int] = {}
    end = 0
    # Widest dtypes first, as in the reference implementation, so that every tensor is aligned.
    for name, entry in sorted(entries.items(), key=lambda item: -item[1].dtype.itemsize):
        offsets[name], end = end, end + entry.nbytes
        header[name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offsets[name], end],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    data = 8 + len(raw)
    try:
        free = shutil.disk_usage(path.parent).free
        if free < data + end:
            raise CheckpointError(
                f"{path} needs {(data + end) / 1e9:.2f} GB but {path.parent} has {free / 1e9:.2f} GB free; "
                "free some space or choose another folder"
            )
        with replacing(path) as part, part.open("wb") as stream:
            stream.write(len(raw).to_bytes(8, "little") + raw)
            # Sets the full length first, so that an empty tensor at the end needs no special case.
            stream.truncate(data + end)
            for piece in pieces:
                stream.seek(data + offsets[piece.name] + piece.start * piece.values.element_size())
                stream.write(raw_bytes(piece.values))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder"
        ) from error
