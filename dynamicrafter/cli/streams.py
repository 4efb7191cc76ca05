"""Standard input and output in place of the files of a clip."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from ..errors import UsageError

STANDARD = "-"
"""The name of standard input among images, and of standard output for a clip."""


class Streams:
    """A temporary folder with the image from standard input and the clip for standard output.

    Both pass through files, because a format is recognised by seeking, and an MP4 has its index at the front.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dynamicrafter-")

    def __enter__(self) -> Streams:
        """Use as a context manager, so that the folder is removed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    def pictures(self, names: Sequence[str]) -> list[str]:
        """Paths of images; standard input is saved, and patterns are replaced by the files that match, in order.

        Raises UsageError if standard input is named twice or is a terminal, and if nothing matches a pattern.
        """
        if names.count(STANDARD) > 1:
            raise UsageError("standard input holds one image, but - was given more than once; use files")
        return [path for name in names for path in self._paths(name)]

    def _paths(self, name: str) -> list[str]:
        if name == STANDARD:
            return [self._saved()]
        # The pattern of a shell that does not expand them (Windows), or in quotes. A URL may have a question mark.
        if not glob.has_magic(name) or "://" in name or Path(name).exists():
            return [name]
        found = sorted(glob.glob(name))
        if not found:
            raise UsageError(f"no file matches {name!r}; check the pattern and the folder")
        return found

    def _saved(self) -> str:
        if sys.stdin.isatty():
            raise UsageError("- is standard input, which is a terminal here; pipe an image into the command")
        path = Path(self._folder.name, "stdin")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return str(path)

    def name(self, path: str | Path) -> str:
        """The name of a file as it was given: ``-`` for those that are in the temporary folder."""
        inside = os.path.realpath(Path(path).parent) == os.path.realpath(self._folder.name)
        return STANDARD if inside else str(path)

    def check(self, clips: int, as_json: bool) -> None:
        """Raise UsageError unless standard output can take the clip."""
        if as_json:
            raise UsageError("--json and --output - both write to standard output; use only one of them")
        if clips != 1:
            raise UsageError(
                f"standard output takes one clip, but {clips} were requested; name a file with --output"
            )
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal here; redirect it to a file or a program")

    @property
    def target(self) -> str:
        """Path of the clip for standard output."""
        return str(Path(self._folder.name, "stdout.mp4"))

    def send(self) -> None:
        """Copy the clip to standard output."""
        with open(self.target, "rb") as file:
            shutil.copyfileobj(file, cast(Any, sys.stdout).buffer)
