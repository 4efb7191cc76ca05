"""Writes files and folders atomically: under a temporary name that is renamed at the end.

An unfinished file is next to its target as ``.<16 random hex digits>.part``. It is removed if writing fails or is
interrupted; only a killed process leaves it behind, to be removed by :func:`clear_unfinished`. Resumable files
(downloads) are not handled here.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".part"


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """Yield a path next to ``target`` to write a file or a folder to; it replaces ``target`` when the block ends.

    An existing ``target`` is kept until then, and stays if the block or the replacement raises. A folder replaces an
    existing folder with all its contents, so the caller must check first; a file never replaces a folder. Raises
    OSError if ``target`` cannot be replaced.
    """
    with _unfinished(target) as part:
        yield part
        if part.is_dir() and target.is_dir():
            _replace_folder(part, target)
        else:
            os.replace(part, target)


def check_writable(target: Path) -> None:
    """Raise OSError unless a file can be created next to ``target``; call this before long work."""
    with _unfinished(target) as part:
        part.touch()


def clear_unfinished(folder: Path) -> None:
    """Remove unfinished files of killed processes directly inside ``folder``, which need not exist."""
    for path in folder.glob(f"*{_SUFFIX}"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def _unfinished(target: Path) -> Generator[Path]:
    part = target.with_name(f".{secrets.token_hex(8)}{_SUFFIX}")
    try:
        yield part
    finally:  # Also after Ctrl-C. Errors here must not replace the original exception.
        _remove(part)


def _replace_folder(part: Path, target: Path) -> None:
    # A folder cannot be replaced in one step; the old one is restored if the second rename fails.
    old = part.with_suffix(".old")
    target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        old.rename(target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
