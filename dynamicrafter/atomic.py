"""Files and folders that are complete or not there: written under another name, then renamed.

An unfinished one lies beside its target as ``.<16 random hex digits>.part``. It is removed when writing fails or is
interrupted; only a process that is killed leaves it behind, for :func:`clear_unfinished`. What may be resumed (a
download) is no business of this module.
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
    """A path beside ``target`` to write a file or a folder to; it takes ``target``'s place when the block ends.

    What was at ``target`` stays until then, and for good when the block or the replacing raises. A folder replaces an
    existing folder with all that is in it, so check first whether it may; a file never replaces a folder. Raises
    OSError when ``target`` cannot be replaced.
    """
    with _unfinished(target) as part:
        yield part
        if part.is_dir() and target.is_dir():
            _replace_folder(part, target)
        else:
            os.replace(part, target)


def check_writable(target: Path) -> None:
    """Raise OSError unless a file can be made beside ``target``; ask before long work."""
    with _unfinished(target) as part:
        part.touch()


def clear_unfinished(folder: Path) -> None:
    """Remove the unfinished files that a killed process left directly in ``folder``, which need not exist."""
    for path in folder.glob(f"*{_SUFFIX}"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def _unfinished(target: Path) -> Generator[Path]:
    part = target.with_name(f".{secrets.token_hex(8)}{_SUFFIX}")
    try:
        yield part
    finally:  # Also after Ctrl-C. What went wrong before is what should be told.
        _remove(part)


def _replace_folder(part: Path, target: Path) -> None:
    # A folder cannot be replaced in one step; the old one comes back if the second step fails.
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
