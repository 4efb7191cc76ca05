"""PyTorch's own format: a pickle, read as plain tensors only and mapped where it can be."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...errors import CheckpointError
from .entries import PIECE_BYTES, Entry, Piece, unreadable

_LARGEST_WINDOW = 256 * 2**20
"""Bytes read before the map is dropped and made anew, because mapped pages count as the process's memory."""

_DEEPSPEED_PREFIX = 16
"""Length of the prefix (``_forward_module.``) that deepspeed puts before every name."""


@dataclass(frozen=True)
class TorchFile:
    """One ``.ckpt``, ``.pt``, ``.pth`` or ``.bin`` file, opened by :func:`open_torch`."""

    path: Path
    entries: Mapping[str, Entry]
    """In the order of the values in the file."""
    mapped: bool
    """False for files older than PyTorch 1.6, which must be read as a whole."""
    kind: str = "PyTorch pickle"
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """The values of the named tensors, as :class:`~.entries.WeightsFile` says."""
        wanted = set(names)
        size = sum(entry.nbytes for entry in self.entries.values())
        # Reading the list of tensors anew takes a moment, so it is done at most about 32 times in a large
        # file.
        window = min(_LARGEST_WINDOW, max(PIECE_BYTES, size // 32))
        tensors = _tensors(self.path, self.mapped)
        touched = 0
        for name, entry in self.entries.items():
            if name in wanted:
                step = PIECE_BYTES // entry.dtype.itemsize
                for start in range(0, entry.numel, step):
                    if self.mapped and touched >= window:
                        tensors.clear()
                        tensors, touched = _tensors(self.path, self.mapped), 0
                    count = min(step, entry.numel - start)
                    touched += count * entry.dtype.itemsize
                    yield Piece(name, start, tensors[name].detach().reshape(-1)[start : start + count])
            if not self.mapped:
                del tensors[name]


def open_torch(path: Path, mapped: bool) -> TorchFile:
    """Read the list of tensors of a PyTorch file, never running code that it may contain.

    ``state_dict`` and deepspeed's ``module`` are unwrapped. Raises CheckpointError when the file is damaged
    or holds anything but plain tensors.
    """
    tensors = _tensors(path, mapped)
    # Storages of a mapped file lie in memory as they do in the file.
    order = sorted(tensors, key=lambda name: tensors[name].data_ptr()) if mapped else list(tensors)
    entries = {name: Entry(tuple(tensors[name].shape), tensors[name].dtype) for name in order}
    return TorchFile(
        path, entries, mapped, "PyTorch pickle" if mapped else "PyTorch pickle of the old format"
    )


def _tensors(path: Path, mapped: bool) -> dict[str, Tensor]:
    """All tensors by name; of a mapped file no values are read yet."""
    try:
        with warnings.catch_warnings():
            # About old pickle protocols and storage classes, of no use to whoever loads the file.
            warnings.simplefilter("ignore")
            loaded = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(path, error) from error
    except Exception as error:
        # Broken bytes can raise anything at all in an unpickler.
        raise CheckpointError(f"{path} is damaged or truncated and cannot be read; fetch it again") from error
    held = _unwrapped(loaded)
    if held is None:
        raise CheckpointError(
            f"{path} holds no named tensors but a {type(loaded).__name__}; use a file with a model's weights"
        )
    for name, value in held.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(
                f"{path} holds {name!r}, which is no plain tensor; "
                "use a file with nothing but a model's weights"
            )
    return held


def _refused(path: Path, message: str) -> CheckpointError:
    code = re.search(r"GLOBAL ([\w.]+)", message)
    if code is not None:
        return CheckpointError(
            f"{path} is refused because loading it would run or build {code[1]}, which is not a tensor; "
            "such a file can take over the computer, so use one in safetensors format"
        )
    if "Unsupported operand" in message:
        return CheckpointError(
            f"{path} is refused because its pickle holds more than plain tensors; "
            "use a file in safetensors format"
        )
    return CheckpointError(
        f"{path} is not a readable weights file; fetch it again or check that it is a model"
    )


def _unwrapped(loaded: Any) -> dict[str, Any] | None:
    """The table of names and tensors inside ``loaded``, or None."""
    if not isinstance(loaded, dict):
        return None
    table = cast(dict[Any, Any], loaded)
    for key in ("state_dict", "module"):
        inner = table.get(key)
        if isinstance(inner, dict):
            named = _named(cast(dict[Any, Any], inner))
            return _without_prefix(named) if key == "module" else named
    return _named(table)


def _named(table: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in table.items()}


def _without_prefix(named: dict[str, Any]) -> dict[str, Any]:
    """The names without deepspeed's prefix, if all of them carry the same one."""
    prefixes = {name[:_DEEPSPEED_PREFIX] for name in named}
    if len(prefixes) != 1 or not min(prefixes).endswith("."):
        return named
    return {name[_DEEPSPEED_PREFIX:]: value for name, value in named.items()}
