"""PyTorch's own format: a pickle that describes tensors, and their values beside it.

The pickle is followed by a small machine of our own that builds nothing but tables, lists, numbers, texts and
descriptions of tensors: nothing that it names is imported or called, and its work and memory have bounds.
``torch.load(weights_only=True)`` has none: a kilobyte can ask it for any amount of memory or keep it busy for ever.
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
from .entries import PIECE_BYTES, Entry, Piece, is_name, is_shape, mapped, unreadable

_LARGEST_PICKLE = 64 * 2**20
"""Bytes; that of a checkpoint with its optimiser is of about a megabyte."""
_MOST_STEPS = 1_000_000
"""Of the machine; a tensor takes about 45, and this many take two seconds and 80 MB."""

_DEEPSPEED_PREFIX = 16
"""Length of the prefix (``_forward_module.``) that deepspeed puts before every name."""

# What a file of the old format begins with, and the version that follows it (torch/serialization.py).
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
"""Dtypes by the names that pickles have for them."""
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
"""Harmless, and allowed beside the tensors: what they would build is passed over."""


@dataclass(frozen=True)
class _Named:
    """Something that a pickle names by module and name."""

    name: str


_PASSED_OVER = _Named("")
"""In the place of whatever is neither a tensor nor a plain value."""


@dataclass(frozen=True)
class _Storage:
    """The values of one or several tensors; ``numel`` of them."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _View:
    """A tensor, as a part of a storage: offset and strides count values."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Values from its first to its last in the storage."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def contiguous(self) -> bool:
        """Whether its values lie one after the other."""
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
    """In the order of the values in the file."""
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
        try:
            with self.path.open("rb") as stream:
                for name in self.entries:
                    if name in wanted:
                        yield from self._pieces(stream, name)
        except OSError as error:
            raise unreadable(self.path, error) from error
        except ValueError as error:
            # What mmap raises when the file has become shorter since it was opened.
            raise CheckpointError(
                f"{self.path} changed while it was read ({error}); load it again"
            ) from error

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
            # Transposed and the like: rare, and put into order as a whole.
            values = mapped(stream, begin, view.span, entry.dtype)
            ordered = values.as_strided(view.shape, view.strides).reshape(-1)
            for start in starts:
                yield Piece(name, start, ordered[start : start + step])


def open_torch(path: Path, zipped: bool) -> TorchFile:
    """Read the list of tensors of a PyTorch file, never running code that it may contain.

    ``zipped`` is False for files older than PyTorch 1.6. ``state_dict`` and deepspeed's ``module`` are unwrapped.
    Raises CheckpointError when the file is damaged or holds anything but plain tensors.
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
            # Broken bytes can raise anything at all in a reader of zip archives and in one of pickles.
            raise CheckpointError(
                f"{path} is damaged or truncated and cannot be read; fetch it again"
            ) from error
    views = _views(path, loaded)
    begins: dict[str, int] = {}
    for name, view in views.items():
        begin, there = begins_of[view.storage.key]
        begins[name] = begin + view.offset * view.dtype.itemsize
        needed = (view.offset + view.span) * view.dtype.itemsize
        if needed > there or begin + there > size:
            raise CheckpointError(f"{path} is damaged or truncated: {name!r} lacks values; fetch it again")
    order = sorted(views, key=begins.__getitem__)
    return TorchFile(
        path,
        {name: Entry(views[name].shape, views[name].dtype) for name in order},
        views,
        begins,
        "PyTorch pickle" if zipped else "PyTorch pickle of the old format",
    )


_Places = dict[str, tuple[int, int]]
"""By key, the byte of the file at which each storage begins, and how many bytes are there."""


def _from_zip(stream: BinaryIO, path: Path) -> tuple[Any, _Places]:
    records = {info.filename: info for info in zipfile.ZipFile(stream).infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
        raise CheckpointError(
            f"{path} is a compressed archive, which PyTorch does not write; unpack it and give the weights in it"
        )
    (main,) = (name for name in records if name.endswith("/data.pkl"))
    folder = main.removesuffix("data.pkl")

    def place(name: str) -> tuple[int, int]:
        record = records[name]
        # A record's local header: 30 bytes, of which the last 4 are the lengths of what follows (PKWARE's APPNOTE).
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
            f"{path} holds no named tensors but a {kind}; use a file with a model's weights"
        )
    for name, value in held.items():
        if not is_name(name):
            raise CheckpointError(
                f"{path} holds something called {name[:40]!r}; use a file with nothing but a model's weights"
            )
        if not isinstance(value, _View):
            raise CheckpointError(
                f"{path} holds {name!r}, which is no plain tensor; use a file with nothing but a model's weights"
            )
    return held


class _Machine:
    """Follows the steps of pickles as PyTorch writes them (protocol 2)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps = 0

    def run(self, stream: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
        """The value of the pickle at the stream's position, which then stands after it, and the storages it names.

        Raises CheckpointError for a pickle that is refused, and anything for one that is damaged.
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
                    # The state of an object; that of a table or a tensor is of no use.
                    stack.pop()
                case _:
                    raise CheckpointError(
                        f"{self._path} is refused because its pickle holds more than plain tensors; "
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
            f"{self._path} is refused because loading it would run or build {full[:100]}, which is not a tensor; "
            "such a file can take over the computer, so use one in safetensors format"
        )

    def _built(self, made: Any, arguments: Any) -> Any:
        if not isinstance(made, _Named) or not isinstance(arguments, tuple):
            raise TypeError("something else than a function and its arguments")
        given = cast(tuple[Any, ...], arguments)
        # A long value may be used again and again, by a step each time.
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
        """Put keys and values, one after the other, into a table."""
        if table is _PASSED_OVER:
            return
        if not isinstance(table, dict):
            raise TypeError("keys of something else than a table")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of tuples in tuples may take for ever.
            if not isinstance(key, (str, int, float, torch.dtype, type(None))):
                raise CheckpointError(
                    f"{self._path} is refused because it has a table whose keys are no names; "
                    "use a file in safetensors format"
                )
            table[key] = value


def _extend(held: Any, items: list[Any]) -> None:
    if isinstance(held, list):
        cast(list[Any], held).extend(items)
    elif held is not _PASSED_OVER:
        raise TypeError("items of something else than a list")


def _storage(reference: Any) -> _Storage:
    """The storage that a pickle refers to: a word, its type, its key, its device and its number of values."""
    match reference:
        case ("storage", _Named(name=kind), str(key), str(), int(numel), *views) if views in ([], [None]):
            return _Storage(key, _STORAGES[kind], numel)
        case _:
            raise ValueError("no reference to a storage")


def _view(rebuilder: str, *given: Any) -> Any:
    """A tensor as the arguments of its rebuilder say; what is not plain or lies outside its storage is not taken."""
    storage, offset, shape, strides, *more = given
    dtype = more[2] if rebuilder.endswith("v3") else storage.dtype
    metadata = more[3:] if rebuilder.endswith("v3") else more[2:]
    if not (isinstance(storage, _Storage) and isinstance(dtype, torch.dtype)) or any(metadata):
        return _PASSED_OVER
    if not (_plain(shape) and _plain(strides) and _plain((offset,))) or len(shape) != len(strides):
        raise ValueError("neither shape nor strides of a tensor")
    view = _View(storage, dtype, offset, shape, strides)
    numel = Entry(shape, dtype).numel
    # An expanded tensor has fewer values in the file than it shows, and would ask for any amount of memory.
    if numel > view.span and numel * dtype.itemsize > PIECE_BYTES:
        raise ValueError("a tensor that is larger than its values")
    return view


def _plain(value: Any) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and is_shape(cast(object, value))


def _of_other_order(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} was written on a computer with another order of bytes; convert it there")


def _too_long(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused because its list of tensors is longer than that of any model; "
        "use a file in safetensors format"
    )


def _unwrapped(loaded: Any) -> dict[str, Any] | None:
    """The table of names and tensors inside ``loaded``, or None."""
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
    """The names without deepspeed's prefix, if all of them carry the same one."""
    prefixes = {name[:_DEEPSPEED_PREFIX] for name in named}
    if len(prefixes) != 1 or not min(prefixes).endswith("."):
        return named
    return {name[_DEEPSPEED_PREFIX:]: value for name, value in named.items()}
