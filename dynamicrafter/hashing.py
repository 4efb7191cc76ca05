"""Cached hashes of files, so that a weights file of several gigabytes is hashed only once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from .atomic import replacing

_CHUNK = 1 << 23


def file_sha256(path: Path) -> str:
    """SHA-256 of one file in lower-case hexadecimal.

    Raises OSError if it cannot be read or is not a regular file: reading a pipe or a device may never end.
    """
    digest = hashlib.sha256()
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def remembered_sha256(
    path: Path,
    memory: Path,
    compute: Callable[[Path], str] = file_sha256,
    parts: Sequence[Path] = (),
) -> str:
    """The hash that ``compute`` returns for ``path``, computed only once for each state of the file.

    ``memory`` is a JSON file that caches hashes by path, size and modification time; it is ignored if it cannot be read
    or written. If ``path`` is a folder or an index of several files, it does not change when one of them does: list
    those files in ``parts``.
    """
    key = "|".join(_state(file) for file in dict.fromkeys((path, *parts)))
    known = _read(memory).get(key)
    if known is None:
        known = compute(path)
        # Read again, because another process may have added entries in the meantime.
        _write(memory, {**_read(memory), key: known})
    return known


def _state(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _read(memory: Path) -> dict[str, str]:
    try:
        values = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(values, dict):
        return {}
    items = cast(dict[str, object], values).items()
    return {key: value for key, value in items if isinstance(value, str)}


def _write(memory: Path, known: dict[str, str]) -> None:
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memory) as part:
            part.write_text(json.dumps(known, indent=1), encoding="utf-8")
