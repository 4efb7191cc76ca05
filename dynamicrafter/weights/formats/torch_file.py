"""PyTorch's own format: a pickle that describes tensors, and their values beside it.

A small interpreter reads the pickle. It builds only dictionaries, lists, numbers, strings and descriptions of tensors;
it never imports or calls anything that the pickle names, and its time and memory are limited.
``torch.load(weights_only=True)`` has no such limits: a file of one kilobyte can make it allocate any amount of memory
or run without end.
"""

from __future__ import annotations

import io
import pickletools
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import torch

from ...errors import CheckpointError
from .entries import PIECE_BYTES, Entry, Piece, is_name, is_shape, mapped, telling_of_reading, unreadable

_LARGEST_PICKLE = 64 * 2**20
"""Bytes; a checkpoint with its optimiser has about a megabyte."""
_MOST_STEPS = 1_000_000
"""Steps of the interpreter; a tensor takes about 45. This many take two seconds and 80 MB."""

_DEEPSPEED_PREFIX = 16
"""Length of the prefix (``_forward_module.``) that DeepSpeed adds to every name."""

# The first two values of a file of the old format (torch/serialization.py).
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_PROTOCOL = 1001

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
"""Dtypes by their class names in pickles."""
_REBUILDERS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_TYPED = "torch._tensor._rebuild_from_type_v2"
_TABLE = "collections.OrderedDict"
_OTHERS = {
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "torch.Size",
    "torch.Tensor",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.per_channel_affine",
    "torch.per_tensor_affine",
    "torch.serialization._get_layout",
}
"""Harmless and allowed beside the tensors; the objects that they would build are skipped."""


@dataclass(frozen=True)
class _Named:
    """A global of a pickle, or the name of a storage class."""

    name: str


_PASSED_OVER = _Named("")
"""Stands for every object that is neither a tensor nor a plain value."""


@dataclass(frozen=True)
class _Storage:
    """A storage of ``numel`` values, shared by one or more tensors."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _View:
    """A tensor as a view of a storage; offset and strides are in values."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Number of values from the first to the last one in the storage."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def contiguous(self) -> bool:
        """Whether the values are contiguous in the storage."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


@dataclass(frozen=True)
class TorchFile:
    """One ``.ckpt``, ``.pt``, ``.pth`` or ``.bin`` file, opened by :func:`open_torch`."""

    path: Path
    entries: Mapping[str, Entry]
    """In file order."""
    views: Mapping[str, _View]
    begins: Mapping[str, int]
    """Byte at which each tensor begins, counted from the start of the file."""
    kind: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """The values of the named tensors, as :class:`~.entries.WeightsFile` says."""
        wanted = set(names)
        with telling_of_reading(self.path), self.path.open("rb") as stream:
            for name in self.entries:
                if name in wanted:
                    yield from self._pieces(stream, name)

    def _pieces(self, stream: BinaryIO, name: str) -> Iterator[Piece]:
        entry, view, begin = self.entries[name], self.views[name], self.begins[name]
        step = PIECE_BYTES // entry.dtype.itemsize
        starts = range(0, entry.numel, step)
        if view.contiguous:
            for start in starts:
                count = min(step, entry.numel - start)
                yield Piece(
                    name, start, mapped(stream, begin + start * entry.dtype.itemsize, count, entry.dtype)
                )
        elif starts:
            # Transposed views and the like are rare, so they are copied as a whole.
            values = mapped(stream, begin, view.span, entry.dtype)
            ordered = values.as_strided(view.shape, view.strides).reshape(-1)
            for start in starts:
                yield Piece(name, start, ordered[start : start + step])


def open_torch(path: Path, zipped: bool) -> TorchFile:
    """Read the list of tensors of a PyTorch file without running any code in it.

    ``zipped`` is False for files older than PyTorch 1.6. ``state_dict`` and DeepSpeed's ``module`` are unwrapped.
    Raises CheckpointError if the file is damaged or contains anything but plain tensors.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    with stream:
        try:
            size = stream.seek(0, io.SEEK_END)
            loaded, begins_of = (_from_zip if zipped else _from_old)(stream, path)
        except CheckpointError:
            raise
        except Exception as error:
            # Damaged bytes can make the readers of zip archives and pickles raise any exception.
            raise CheckpointError(f"{path} is damaged or truncated; download it again") from error
    views = _views(path, loaded)
    begins: dict[str, int] = {}
    for name, view in views.items():
        begin, there = begins_of[view.storage.key]
        begins[name] = begin + view.offset * view.dtype.itemsize
        needed = (view.offset + view.span) * view.dtype.itemsize
        if needed > there or begin + there > size:
            raise CheckpointError(
                f"{path} is damaged or truncated: {name!r} is incomplete; download it again"
            )
    order = sorted(views, key=begins.__getitem__)
    return TorchFile(
        path,
        {name: Entry(views[name].shape, views[name].dtype) for name in order},
        views,
        begins,
        "PyTorch pickle" if zipped else "PyTorch pickle of the old format",
    )


_Places = dict[str, tuple[int, int]]
"""By key, the first byte and the number of bytes of each storage in the file."""


def _from_zip(stream: BinaryIO, path: Path) -> tuple[Any, _Places]:
    records = {info.filename: info for info in zipfile.ZipFile(stream).infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
        raise CheckpointError(
            f"{path} is a compressed archive, not a PyTorch file; unpack it and use the weights file inside"
        )
    (main,) = (name for name in records if name.endswith("/data.pkl"))
    folder = main.removesuffix("data.pkl")

    def place(name: str) -> tuple[int, int]:
        record = records[name]
        # A record's local header has 30 bytes; the last 4 are the lengths of name and extra field (PKWARE's APPNOTE).
        stream.seek(record.header_offset + 26)
        named, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
        return record.header_offset + 30 + named + extra, record.file_size

    def read(name: str) -> bytes:
        begin, length = place(name)
        if length > _LARGEST_PICKLE:
            raise _too_long(path)
        stream.seek(begin)
        return stream.read(length)

    if f"{folder}byteorder" in records and read(f"{folder}byteorder") != sys.byteorder.encode():
        raise _of_other_order(path)
    loaded, storages = _Machine(path).run(io.BytesIO(read(main)))
    return loaded, {key: place(f"{folder}data/{key}") for key in storages}


def _from_old(stream: BinaryIO, path: Path) -> tuple[Any, _Places]:
    stream.seek(0)
    head = io.BytesIO(stream.read(_LARGEST_PICKLE))
    machine = _Machine(path)
    if machine.run(head)[0] != _OLD_MAGIC or machine.run(head)[0] != _OLD_PROTOCOL:
        raise ValueError("another kind of pickle")
    if machine.run(head)[0]["little_endian"] != (sys.byteorder == "little"):
        raise _of_other_order(path)
    loaded, storages = machine.run(head)
    keys, _ = machine.run(head)
    places: _Places = {}
    begin = head.tell()
    for key in keys:
        stream.seek(begin)
        length = int.from_bytes(stream.read(8), "little") * storages[key].dtype.itemsize
        places[key] = begin + 8, length
        begin += 8 + length
    return loaded, places


def _views(path: Path, loaded: Any) -> dict[str, _View]:
    """The tensors of a decoded pickle by name."""
    held = _unwrapped(loaded)
    if held is None:
        kind = "tensor" if isinstance(loaded, _View) else type(loaded).__name__.lstrip("_").lower()
        raise CheckpointError(
            f"{path} contains a {kind} instead of named tensors; use a file with a model's weights"
        )
    for name, value in held.items():
        if not is_name(name):
            raise CheckpointError(
                f"{path} contains an entry named {name[:40]!r}; use a file that contains only a model's weights"
            )
        if not isinstance(value, _View):
            raise CheckpointError(
                f"{path} contains {name!r}, which is not a plain tensor; "
                "use a file that contains only a model's weights"
            )
    return held


class _Machine:
    """Interprets pickles as PyTorch writes them (protocol 2)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps = 0

    def run(self, stream: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
        """The value of the pickle at the stream's position and its storages; the stream is then at the pickle's end.

        Raises CheckpointError for a pickle that is not allowed, and any exception for a damaged one.
        """
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        storages: dict[str, _Storage] = {}

        def since_mark() -> list[Any]:
            nonlocal stack
            items, stack = stack, marks.pop()
            return items

        for step, argument, _ in cast(
            Iterator[tuple[pickletools.OpcodeInfo, Any, int]], pickletools.genops(stream)
        ):
            self._count(1)
            match step.name:
                case "PROTO":
                    pass
                case "STOP":
                    return stack.pop(), storages
                case (
                    "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING"
                ):
                    stack.append(argument)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE":
                    stack.append(True)
                case "NEWFALSE":
                    stack.append(False)
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_SET":
                    stack.append(_PASSED_OVER)
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "TUPLE":
                    items = since_mark()
                    stack.append(tuple(items))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(step.name[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case "APPEND":
                    item = stack.pop()
                    _extend(stack[-1], [item])
                case "APPENDS":
                    items = since_mark()
                    _extend(stack[-1], items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    self._set(stack[-1], [key, value])
                case "SETITEMS":
                    items = since_mark()
                    self._set(stack[-1], items)
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(self._named(argument))
                case "BINPERSID":
                    storage = _storage(stack.pop())
                    if storages.setdefault(storage.key, storage).dtype != storage.dtype:
                        raise ValueError("one storage in two dtypes")
                    stack.append(storage)
                case "REDUCE" | "NEWOBJ":
                    arguments = stack.pop()
                    stack.append(self._built(stack.pop(), arguments))
                case "BUILD":
                    # Drops the state of an object; dictionaries and tensors need none.
                    stack.pop()
                case _:
                    raise CheckpointError(
                        f"{self._path} was not loaded because its pickle contains more than plain tensors; "
                        "use a file in safetensors format"
                    )
        raise EOFError

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise _too_long(self._path)

    def _named(self, argument: str) -> _Named | torch.dtype:
        module, _, name = argument.partition(" ")
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        storage = module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage")
        if storage or full in _REBUILDERS | _PARAMETERS | _OTHERS | {_TABLE, _TYPED}:
            return _Named(name if storage else full)
        raise CheckpointError(
            f"{self._path} was not loaded because it refers to {full[:100]}, which is not a tensor; "
            "such a file can run any program on this computer, so use one in safetensors format"
        )

    def _built(self, made: Any, arguments: Any) -> Any:
        if not isinstance(made, _Named) or not isinstance(arguments, tuple):
            raise TypeError("something else than a function and its arguments")
        given = cast(tuple[Any, ...], arguments)
        # A pickle can pass the same long tuple many times, with one step each.
        self._count(len(given))
        if made.name == _TABLE:
            table: dict[Any, Any] = {}
            pairs = given[0] if given else ()
            self._count(len(pairs))
            for key, value in pairs:
                self._set(table, [key, value])
            return table
        if made.name == _TYPED:
            function, _, inner, _ = given
            if isinstance(function, _Named) and function.name == _TYPED:
                raise ValueError("a tensor's type in another's")
            return self._built(function, inner)
        if made.name in _PARAMETERS:
            return given[0]
        if made.name in _REBUILDERS:
            return _view(made.name, *given)
        return _PASSED_OVER

    def _set(self, table: Any, items: list[Any]) -> None:
        """Insert alternating keys and values into a dictionary."""
        if table is _PASSED_OVER:
            return
        if not isinstance(table, dict):
            raise TypeError("keys of something else than a table")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing nested tuples can take exponential time.
            if not isinstance(key, (str, int, float, torch.dtype, type(None))):
                raise CheckpointError(
                    f"{self._path} was not loaded because it contains a dictionary whose keys are not names; "
                    "use a file in safetensors format"
                )
            table[key] = value


def _extend(held: Any, items: list[Any]) -> None:
    if isinstance(held, list):
        cast(list[Any], held).extend(items)
    elif held is not _PASSED_OVER:
        raise TypeError("items of something else than a list")


def _storage(reference: Any) -> _Storage:
    """The storage of a persistent id: a word, its class, its key, its device and its number of values."""
    match reference:
        case ("storage", _Named(name=kind), str(key), str(), int(numel), *views) if views in ([], [None]):
            return _Storage(key, _STORAGES[kind], numel)
        case _:
            raise ValueError("no reference to a storage")


def _view(rebuilder: str, *given: Any) -> Any:
    """A tensor from the arguments of its rebuild function; tensors that are not plain are skipped."""
    storage, offset, shape, strides, *more = given
    dtype = more[2] if rebuilder.endswith("v3") else storage.dtype
    metadata = more[3:] if rebuilder.endswith("v3") else more[2:]
    if not (isinstance(storage, _Storage) and isinstance(dtype, torch.dtype)) or any(metadata):
        return _PASSED_OVER
    if not (_plain(shape) and _plain(strides) and _plain((offset,))) or len(shape) != len(strides):
        raise ValueError("neither shape nor strides of a tensor")
    view = _View(storage, dtype, offset, shape, strides)
    numel = Entry(shape, dtype).numel
    # An expanded tensor has fewer values in the file than elements, so it could need any amount of memory.
    if numel > view.span and numel * dtype.itemsize > PIECE_BYTES:
        raise ValueError("a tensor that is larger than its values")
    return view


def _plain(value: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and is_shape(cast(object, value))


def _of_other_order(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} was written on a computer with another byte order; convert it there")


def _too_long(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} was not loaded because its list of tensors is longer than that of any known model; "
        "use a file in safetensors format"
    )


def _unwrapped(loaded: Any) -> dict[str, Any] | None:
    """The dictionary of tensors inside ``loaded``, or None."""
    if not isinstance(loaded, dict):
        return None
    table = cast(dict[Any, Any], loaded)
    for key in ("state_dict", "module"):
        inner = table.get(key)
        if isinstance(inner, dict):
            named = _by_name(cast(dict[Any, Any], inner))
            return _without_prefix(named) if key == "module" else named
    return _by_name(table)


def _by_name(table: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in table.items()}


def _without_prefix(named: dict[str, Any]) -> dict[str, Any]:
    """The names without DeepSpeed's prefix, if all of them have the same one."""
    prefixes = {name[:_DEEPSPEED_PREFIX] for name in named}
    if len(prefixes) != 1 or not min(prefixes).endswith("."):
        return named
    return {name[_DEEPSPEED_PREFIX:]: value for name, value in named.items()}
