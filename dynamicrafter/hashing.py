"""Hashes of files, remembered, so that a weights file of several gigabytes is read for it only once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

_CHUNK = 1 << 23


def file_sha256(path: Path) -> str:
    """SHA-256 of one file in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def remembered_sha256(path: Path, memory: Path, compute: Callable[[Path], str] = file_sha256) -> str:
    """The hash of a file, or of the files behind a folder, computed only once for each state of the file.

    ``memory`` is a JSON file in which hashes are kept under the file's path, size and time of change; one that cannot
    be read or written is done without.
    """
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    known = _read(memory)
    if key not in known:
        digest = compute(path)
        _write(memory, {**_read(memory), key: digest})
        return digest
    return known[key]


def _read(memory: Path) -> dict[str, str]:
    try:
        values = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast(dict[str, str], values) if isinstance(values, dict) else {}


def _write(memory: Path, known: dict[str, str]) -> None:
    part = memory.with_name(f"{memory.name}.{os.getpid()}.part")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(part, memory)
    except OSError:
        part.unlink(missing_ok=True)
