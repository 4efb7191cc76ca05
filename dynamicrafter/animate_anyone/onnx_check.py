"""Whether an ONNX file is nothing but a graph of ONNX's own operators, told before any runtime reads it.

A file can name other files for its tensors, anywhere on the disk, and operators of other libraries. Both are found by a
walk over the protocol buffer, which needs no other parser for data that may be hostile, and copies none of the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError

_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse tensor"),
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Messages in each message, by the numbers of their fields (onnx.proto3)."""
_OPERATOR, _DOMAIN = 4, 7
_EXTERNAL_DATA, _LOCATION = 13, 14
_OWN = (b"", b"ai.onnx")
_DEEPEST = 50
"""Levels of messages in each other; a loop in a loop takes three."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_onnx(path: Path) -> None:
    """Raise CheckpointError for a file that is damaged, names other files, or has operators that are not ONNX's."""
    try:
        with path.open("rb") as file:
            # Closed with its last part, which an error may hold.
            graphs = _walk(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), "model", path, 0)
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{path} is no ONNX file ({problem}); download it again") from problem
    if not graphs:
        raise CheckpointError(f"{path} is no ONNX file (it has no graph); download it again")


def _walk(data: memoryview, kind: str, path: Path, depth: int) -> int:
    """Check a message and those in it; returns the number of its graphs."""
    if depth > _DEEPEST:
        raise ValueError("its messages are too deep")
    graphs = 0
    operator, domain = b"", b""
    for number, value in _fields(data):
        if kind == "tensor" and (number == _EXTERNAL_DATA or number == _LOCATION and value != 0):
            raise CheckpointError(
                f"{path} keeps tensors in other files, which are not read; use a file that has its own"
            )
        if isinstance(value, int):
            continue
        if kind == "node" and number == _OPERATOR:
            operator = bytes(value)
        elif kind == "node" and number == _DOMAIN:
            domain = bytes(value)
        inner = _NESTED[kind].get(number)
        graphs += inner == "graph"
        if inner is not None:
            _walk(value, inner, path, depth + 1)
    if domain not in _OWN:
        name = f"{domain.decode(errors='replace')}.{operator.decode(errors='replace')}"[:80]
        raise CheckpointError(
            f"{path} has the operator {name}, which is not ONNX's own; use the released file"
        )
    return graphs


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message; fixed-width numbers, which nothing here asks for, are 0."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} is of the unknown kind {wire}")
        if place + length > len(data):
            raise ValueError("it ends too early")
        yield number, data[place : place + length] if wire == _BYTES else 0
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it ends too early")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number has more than 10 bytes")
