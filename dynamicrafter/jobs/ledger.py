"""What is finished of a folder of jobs: one JSON file for each, and a lock for the run that writes them."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from ..atomic import replacing
from ..bounded_json import parse_json
from ..errors import ClipError, UsageError
from ..forms import Form, program_version, to_json
from .lines import RECORDS, Job, Shard

_LARGEST = 2**20
"""Maximum bytes of a record that is read."""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class JobRecord:
    """How a job ended."""

    line: int
    output: str
    sha256: str
    """That of :class:`~dynamicrafter.jobs.lines.Job`; a job with another one is generated again."""
    state: Literal["done", "failed"]
    seconds: float
    """Time of the last attempt, with loading the model if it was loaded for this job."""
    where: str
    """The device or the server that generated it."""
    attempts: int = 1
    """How many workers it was given to."""
    error: str = ""
    finished: str = field(default_factory=_now)
    """Time in UTC, ISO 8601."""
    version: str = field(default_factory=program_version)


def write_job_record(folder: Path, record: JobRecord) -> None:
    """Store a record in a folder of clips; raises ClipError if that is not possible."""
    place = _place(folder, record.output)
    try:
        with replacing(place) as part:
            part.write_text(json.dumps(to_json(record), indent=1) + "\n", encoding="utf-8")
    except OSError as problem:
        raise ClipError(
            f"{place} cannot be written ({problem.strerror or problem}); free some space, or make the folder writable"
        ) from problem


def read_job_record(folder: Path, job: Job) -> JobRecord | None:
    """The record of a job's output, or None if there is none that can be read."""
    place = _place(folder, job.output)
    try:
        with place.open("rb") as file:
            values = parse_json(file.read(_LARGEST))
        return Form(str(place), ClipError, "unknown").read(JobRecord, values)
    except (OSError, ValueError, ClipError):
        return None


def done_record(folder: Path, job: Job) -> JobRecord | None:
    """The record of a job whose clip is there and was generated from the same settings and images; else None."""
    record = read_job_record(folder, job)
    if record is None or record.state != "done" or record.sha256 != job.sha256:
        return None
    return record if (folder / job.output).exists() else None


def _place(folder: Path, output: str) -> Path:
    return folder / RECORDS / f"{output}.json"


def clip_folder(folder: Path) -> Path:
    """The absolute path of a folder for clips and records, which is created; raises UsageError if it cannot be."""
    try:
        (folder / RECORDS).mkdir(parents=True, exist_ok=True)
        return folder.resolve()
    except OSError as problem:
        raise UsageError(
            f"the folder {folder} cannot be created ({problem.strerror or problem}); choose another one"
        ) from problem


@contextmanager
def only_run(folder: Path, shard: Shard) -> Generator[None]:
    """Keep other runs that would generate the same jobs out of a folder; other shards of as many may run.

    Raises UsageError if there is one.
    """
    records = folder / RECORDS
    own = records / f".shard-{shard.number}-of-{shard.count}.lock"
    with ExitStack() as held:
        if not _locked(own, held):
            raise UsageError(_busy(folder))
        same_count = f"-of-{shard.count}.lock"
        others = [path for path in records.glob(".shard-*-of-*.lock") if not path.name.endswith(same_count)]
        if not _all_free(others):
            raise UsageError(_busy(folder))
        yield


def _busy(folder: Path) -> str:
    return f"another run is generating clips in {folder}; wait for its end, or choose another folder"


def _all_free(locks: Sequence[Path]) -> bool:
    with ExitStack() as held:
        return all(_locked(lock, held) for lock in locks)


def _locked(lock: Path, held: ExitStack) -> bool:
    """Whether the lock was free; it is then held until ``held`` ends, if the file system has locks."""
    from filelock import FileLock, Timeout

    with suppress(NotImplementedError):
        try:
            held.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            return False
    return True
