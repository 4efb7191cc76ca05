"""The results of each visitor, kept for some hours in ``FOLDER/VISITOR/JOB``.

A path is put together from a visitor, a job and a kind alone, all of which are checked, and nothing on the way may be
a link; so that no request reaches a file that is not a result of its visitor.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ..bounded_json import parse_json
from ..errors import ClipError, UsageError
from ..media.video import Sound, takes_sound, write_clip

MEDIA_TYPES: Mapping[str, str] = {"mp4": "video/mp4", "gif": "image/gif", "webp": "image/webp"}
"""What a clip can be downloaded as, and the media type of each."""
_IDENTIFIER = re.compile(r"[0-9a-f]{32}")
_RECORD = "result.json"
"""Written last: a folder without it is of a clip that was not finished."""
_RECORD_BYTES = 100_000


@dataclass(frozen=True)
class Result:
    """A finished clip as its visitor sees it."""

    job: str
    prompt: str
    mode: str
    model: str
    seed: int
    width: int
    height: int
    seconds: float
    """Time that it took to generate."""
    made: float
    """When it was finished, in seconds since 1970."""


def is_identifier(text: str) -> bool:
    """Whether ``text`` can be a visitor or a job: 32 digits of a hexadecimal number, in lower case."""
    return _IDENTIFIER.fullmatch(text) is not None


def write_kinds(
    folder: Path, frames: Any, fps: float, metadata: Mapping[str, Any], sound: Sound | None = None
) -> None:
    """Write a clip in every kind; raises ClipError if that is not possible, such as when the disk is full."""
    for kind in MEDIA_TYPES:
        path = folder / f"clip.{kind}"
        write_clip(frames, path, fps, metadata, sound=sound if takes_sound(path) else None)


class Shelf:
    """The folder with the results; it is for this program alone."""

    def __init__(self, folder: Path, hours: float) -> None:
        self.folder = folder
        self._kept = hours * 3600
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise ClipError(
                f"the folder for results {folder} cannot be created ({problem.strerror or problem}); choose another "
                f"one with --results"
            ) from problem

    @contextmanager
    def alone(self) -> Generator[None]:
        """A context in which no other page uses the folder; raises UsageError if one does."""
        from filelock import FileLock, Timeout

        with ExitStack() as held:
            # Some file systems have no locks.
            with suppress(NotImplementedError):
                try:
                    held.enter_context(FileLock(self.folder / ".lock", timeout=0))
                except Timeout as busy:
                    raise UsageError(
                        f"another page keeps its results in {self.folder}; end it, or choose another folder with "
                        f"--results"
                    ) from busy
            yield

    def begin(self, visitor: str, job: str) -> Path:
        """A new folder for a clip and the images that it is made from. Raises ClipError if it cannot be created."""
        place = self.folder_of(visitor, job)
        try:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            place.mkdir(mode=0o700)
        except OSError as problem:
            raise ClipError(
                f"the image could not be stored ({problem.strerror or problem}); try again later"
            ) from problem
        return place

    def finish(self, visitor: str, result: Result) -> None:
        """List a clip whose files are written, and forget what it was made from.

        Raises ClipError if that is not possible, such as when the disk is full.
        """
        place = self.folder_of(visitor, result.job)
        try:
            for path in place.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in {f"clip.{kind}" for kind in MEDIA_TYPES}:
                    path.unlink()
            (place / _RECORD).write_text(json.dumps(asdict(result)), encoding="utf-8")
        except OSError as problem:
            raise ClipError(
                f"the clip could not be stored ({problem.strerror or problem}); try again later"
            ) from problem

    def folder_of(self, visitor: str, job: str) -> Path:
        """The folder of a clip that was begun."""
        place = self._place(visitor, job)
        assert place is not None
        return place

    def find(self, visitor: str, job: str, kind: str) -> Path | None:
        """The file of a finished clip of this visitor; None if there is none."""
        place = self._place(visitor, job)
        if place is None or kind not in MEDIA_TYPES:
            return None
        path = place / f"clip.{kind}"
        links = any(step.is_symlink() for step in (place.parent, place, path))
        return path if not links and path.is_file() and (place / _RECORD).is_file() else None

    def history(self, visitor: str) -> list[Result]:
        """The finished clips of a visitor, the latest first."""
        if not is_identifier(visitor):
            return []
        found = [result for job in _folders(self.folder / visitor) if (result := _result(job)) is not None]
        return sorted(found, key=lambda result: -result.made)

    def forget(self, visitor: str, jobs: Sequence[str]) -> None:
        """Remove clips of a visitor and all that belongs to them; those that are not there are ignored."""
        for job in jobs:
            place = self._place(visitor, job)
            if place is not None and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
        if is_identifier(visitor):
            with suppress(OSError):  # Others are left.
                (self.folder / visitor).rmdir()

    def sweep(self, now: float | None = None) -> None:
        """Remove results that are older than they are kept; what waits or is being generated stays."""
        oldest = (time.time() if now is None else now) - self._kept
        for visitor in _folders(self.folder):
            old = [
                job.name
                for job in _folders(visitor)
                if job.lstat().st_mtime < oldest and _result(job) is not None
            ]
            self.forget(visitor.name, old)

    def clear_unfinished(self) -> None:
        """Remove the folders of clips that were not finished when the program ended."""
        for visitor in _folders(self.folder):
            self.forget(visitor.name, [job.name for job in _folders(visitor) if _result(job) is None])

    def _place(self, visitor: str, job: str) -> Path | None:
        return self.folder / visitor / job if is_identifier(visitor) and is_identifier(job) else None


def _folders(place: Path) -> list[Path]:
    """The folders inside ``place`` that are visitors or jobs; others are not touched."""
    with suppress(OSError):
        return [
            path
            for path in place.iterdir()
            if is_identifier(path.name) and path.is_dir() and not path.is_symlink()
        ]
    return []


def _result(place: Path) -> Result | None:
    """What was written of a finished clip."""
    try:
        with (place / _RECORD).open("rb") as file:
            values = parse_json(file.read(_RECORD_BYTES).decode("utf-8"))
        return Result(**cast(dict[str, Any], values))
    except (OSError, ValueError, TypeError):
        return None
