"""Writes files and folders atomically: inside a hidden folder, from which they are moved into place at the end.

The hidden folder is next to the target, is called ``.<16 random hex digits>.part`` and is locked while it is in use. It
is removed at the end, even if writing fails or is interrupted. Only a killed process leaves it behind; the next write
to the same place removes it once it is a day old. Resumable files (downloads) are not handled here.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_SUFFIX = ".part"
_HIDDEN = re.compile(rf"\.[0-9a-f]{{16}}\{_SUFFIX}")
_NEW, _REPLACED, _LOCK = "new", "replaced", "lock"
"""Inside a hidden folder: what is being written, the folder for the target that it replaces, and the lock file."""
_ABANDONED_AFTER = 24 * 60 * 60.0
"""Age in seconds; not every file system has locks."""
_TRIES = 100


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """Yield a path to write a file or a folder to; it replaces ``target`` when the block ends.

    An existing ``target`` is kept until then, and stays if the block or the replacement raises. A folder replaces an
    existing folder with all its contents, so the caller must check first; a file never replaces a folder. Several
    processes may replace the same target at once; the last one wins. Raises OSError if ``target`` cannot be replaced.
    """
    with _unfinished(target) as part:
        yield part
        if part.is_dir():
            _replace_folder(part, target)
        else:
            os.replace(part, target)


def check_writable(target: Path) -> None:
    """Raise OSError unless a file can be created next to ``target``; call this before long work."""
    with _unfinished(target) as part:
        part.touch()


def clear_unfinished(folder: Path) -> None:
    """Remove everything unfinished that is not in use directly inside ``folder``, which need not exist.

    This includes every file with the suffix .part, so call it only for folders with nothing but this program's files.
    """
    _clear_abandoned(folder, 0.0)
    for path in folder.glob(f"*{_SUFFIX}"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def _unfinished(target: Path) -> Generator[Path]:
    _clear_abandoned(target.parent, _ABANDONED_AFTER)
    hidden = target.with_name(f".{secrets.token_hex(8)}{_SUFFIX}")
    hidden.mkdir()
    try:
        with ExitStack() as held:
            _lock(hidden, held)
            yield hidden / _NEW
    finally:  # Also after Ctrl-C. Errors here must not replace the original exception.
        shutil.rmtree(hidden, ignore_errors=True)


def _lock(hidden: Path, held: ExitStack) -> bool:
    """Whether the folder is not in use; it is then locked until ``held`` ends, if the file system has locks."""
    from filelock import FileLock, Timeout

    try:
        held.enter_context(FileLock(hidden / _LOCK, timeout=0))
    except Timeout:
        return False
    except NotImplementedError:
        pass
    return True


def _clear_abandoned(folder: Path, age: float) -> None:
    """Remove hidden folders of killed processes that are older than ``age`` in seconds."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not _HIDDEN.fullmatch(entry.name) or entry.is_symlink():
                continue
            with suppress(OSError):
                _clear_one(Path(entry.path), age)


def _clear_one(hidden: Path, age: float) -> None:
    folder = hidden.is_dir()
    parts = [hidden, *hidden.iterdir()] if folder else [hidden]
    if time.time() - max(path.lstat().st_mtime for path in parts) < age:
        return
    if not folder:  # Version 0.1.0 had files of this name instead.
        hidden.unlink()
        return
    with ExitStack() as held:
        if not _lock(hidden, held):
            return
        # Killed between the two steps of a replacement: the target is gone, and its last version is here.
        for replaced in (hidden / _REPLACED).glob("*"):
            target = hidden.with_name(replaced.name)
            if not os.path.lexists(target):
                replaced.rename(target)
    shutil.rmtree(hidden, ignore_errors=True)


def _replace_folder(part: Path, target: Path) -> None:
    """Move the folder ``part`` to ``target``.

    A folder cannot be replaced in one step: the existing one is moved away first. Between the two steps another process
    may move its own folder into place, which is then replaced in turn.
    """
    replaced = part.with_name(_REPLACED) / target.name
    replaced.parent.mkdir()
    try:
        for left in reversed(range(_TRIES)):
            if target.is_dir():
                with suppress(FileNotFoundError):  # Another process has just moved it away.
                    target.rename(replaced)
            try:
                part.rename(target)
                return
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not left:
                    raise
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not target.exists():
            with suppress(OSError):
                replaced.rename(target)
