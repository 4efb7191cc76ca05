"""Checks the graph of an export before OpenVINO reads it: its XML may come from anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from ...errors import CheckpointError
from ...forms import shortened

_OPERATIONS = frozenset(
    """
    Abs Add Broadcast Concat Const Convert ConvertLike Convolution Cos Divide Equal Exp FakeQuantize Floor FloorMod
    Gather GatherElements GatherND Gelu Greater GreaterEqual GroupConvolution GroupNormalization Interpolate Less
    LessEqual LogicalAnd LogicalNot LogicalOr MVN MatMul Maximum Minimum Mod Multiply Negative NonZero NotEqual Pad
    Parameter Power Range ReduceMean ReduceProd ReduceSum Relu Reshape Result ScaledDotProductAttention
    ScatterElementsUpdate ScatterNDUpdate ScatterUpdate Select ShapeOf Sigmoid Sin Slice Softmax Split Sqrt Squeeze
    StridedSlice Subtract Swish Tanh Tile Transpose Unsqueeze VariadicSplit
    """.split()
)
"""Operations of OpenVINO's own sets that the graphs of these networks may contain: arithmetic on tensors, without
state, files, loops or subgraphs."""
_OPSETS = frozenset(f"opset{number}" for number in range(1, 33))
_PARENTS = {
    "net": {""},
    "layers": {"net"},
    "layer": {"layers"},
    "data": {"layer"},
    "input": {"layer"},
    "output": {"layer"},
    "port": {"input", "output"},
    "dim": {"port"},
    "edges": {"net"},
    "edge": {"edges"},
    "rt_info": {"net", "layer", "port"},
}
"""The elements of a graph, and inside which others each may be. Whatever is in rt_info is only for people."""
_BITS = {
    "boolean": 8,
    "i8": 8,
    "u8": 8,
    "f16": 16,
    "bf16": 16,
    "i32": 32,
    "f32": 32,
    "i64": 64,
    "f64": 64,
}
_MOST_ELEMENTS = 2_000_000
_DEEPEST = 16
_VERSION = "11"


def check_graph(path: Path, weights_bytes: int) -> None:
    """Raise CheckpointError unless the XML file at ``path`` is a graph of known operations whose data is all within a
    weights file of ``weights_bytes`` bytes."""
    try:
        _Graph(weights_bytes).read(path.read_bytes())
    except (ValueError, expat.ExpatError) as problem:
        raise CheckpointError(
            f"{shortened(str(path))} cannot be used ({shortened(str(problem))}); export the model again, and use no "
            f"export whose source you do not trust"
        ) from problem


class _Graph:
    """One pass over an XML text."""

    def __init__(self, weights_bytes: int) -> None:
        self._weights_bytes = weights_bytes
        self._open = [""]
        self._elements = 0

    def read(self, text: bytes) -> None:
        """Raise ValueError or ExpatError for anything that a graph of ours does not contain."""
        parser = expat.ParserCreate()
        # A document type can define entities, which expand without limit or name other files.
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.Parse(text, True)

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > _MOST_ELEMENTS or len(self._open) > _DEEPEST:
            raise ValueError(f"it has more than {_MOST_ELEMENTS} elements or more than {_DEEPEST} levels")
        informal = "rt_info" in self._open
        if not informal and self._open[-1] not in _PARENTS.get(name, ()):
            raise ValueError(f"it contains the element {name} inside {self._open[-1] or 'nothing'}")
        self._open.append(name)
        if informal:
            return
        if name == "net" and attributes.get("version") != _VERSION:
            raise ValueError(f"its format is version {attributes.get('version')}, not {_VERSION}")
        if name == "layer":
            self._check_layer(attributes)
        if name == "data":
            self._check_data(attributes)

    def _end(self, name: str) -> None:
        self._open.pop()

    def _check_layer(self, attributes: Mapping[str, str]) -> None:
        kind, opset = attributes.get("type"), attributes.get("version")
        if opset not in _OPSETS:
            raise ValueError(f"the operation {kind} is of {opset}, which is an extension")
        if kind not in _OPERATIONS:
            raise ValueError(f"it contains the operation {kind}, which these networks do not need")

    def _check_data(self, attributes: Mapping[str, str]) -> None:
        """A constant's data must be exactly its own size and lie within the weights."""
        if not attributes.keys() & {"offset", "size"}:
            return
        offset, size = (_number(attributes.get(name, "")) for name in ("offset", "size"))
        shape = attributes.get("shape", "?")
        count = math.prod(map(_number, shape.split(","))) if shape else 1
        bits = _BITS.get(attributes.get("element_type", ""))
        if bits is None or count * bits != size * 8:
            raise ValueError(f"a constant of shape {shape} has {size} bytes")
        if offset + size > self._weights_bytes:
            raise ValueError(f"a constant ends at byte {offset + size} of {self._weights_bytes}")


def _number(text: str) -> int:
    # isdecimal alone accepts the digits of other scripts.
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError(f"{text!r} is not a size")
    return int(text)


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("it has a document type, which a graph has not")
