"""A whole list of jobs: skips what is finished, generates the rest, and keeps a record of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backends.choice import TORCH
from ..errors import DynamiCrafterError
from ..forecast import evaluations
from ..forms import to_json
from ..media.video import write_clip
from ..model.configs import Compile, Memory, Weights
from ..model.variants import TINY
from ..records import Record, know_pictures
from ..settings import clip_metadata
from ..shots import Means
from .ledger import JobRecord, clip_folder, done_record, only_run, write_job_record
from .lines import Job, ModelChoice, Shard, read_jobs
from .pool import Ended, Take, Worker, work_off
from .workers import devices_for, local_workers

BatchProgress = Callable[[float, str], None]
"""Called several times a second with the share of all work that is done, 0 to 1, and a name of what is being worked on;
any exception it raises stops the run within a step."""


@dataclass(frozen=True)
class BatchOutcome:
    """How a run ended."""

    records: tuple[JobRecord, ...]
    """Of the jobs that are finished or have failed, in the order of their lines."""
    skipped: int
    """How many of them were finished before."""
    left: int
    """How many jobs were not tried, because all workers are gone."""
    gone: tuple[str, ...]
    """Why each worker that is gone has gone."""

    @property
    def failed(self) -> int:
        """How many jobs have failed."""
        return sum(record.state == "failed" for record in self.records)


def batch(
    listing: str | Path,
    folder: str | Path,
    *,
    model: str | Path = TINY.name,
    devices: Sequence[str] = ("auto",),
    dtype: str = "auto",
    weights: Weights = "auto",
    memory: Memory = "auto",
    backend: str = TORCH,
    compile: Compile = "off",
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    progress: BatchProgress | None = None,
) -> BatchOutcome:
    """Generate the jobs of the file ``listing`` that are not finished yet, with their clips and records in ``folder``.

    ``model`` is that of jobs that name none. ``dtype``, ``weights``, ``memory``, ``backend`` and ``compile`` are as in
    :func:`~dynamicrafter.api.load`. Each of ``devices`` has as many ``workers``; if there are several in all, each is a
    process. ``shard`` ``(i, n)`` takes every n-th line from line i on. Raises UsageError for a line that is not a valid
    job, and if another run is at work in the folder; a job that fails is recorded, and the others go on.
    """
    place, part = clip_folder(Path(folder)), Shard(*shard)
    with only_run(place, part):
        jobs = read_jobs(Path(listing), place, ModelChoice(str(model)), shard=part)
        means = Means(dtype=dtype, weights=weights, memory=memory, backend=backend, compile=compile)
        crew = local_workers(devices_for(unfinished(jobs, place), devices, means), means, workers)
        return run_jobs(jobs, place, crew, progress=progress)


def unfinished(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs whose clips are missing in ``folder`` or were generated from something else."""
    return [job for job in jobs if done_record(folder, job) is None]


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    workers: Sequence[Worker],
    *,
    progress: BatchProgress | None = None,
    finished: Callable[[JobRecord], None] | None = None,
    say: Callable[[DynamiCrafterError], str] = str,
) -> BatchOutcome:
    """Generate the jobs of :func:`~dynamicrafter.jobs.lines.read_jobs` that are not finished yet.

    ``folder`` is one of :func:`~dynamicrafter.jobs.ledger.clip_folder`, and nobody else writes to it meanwhile. A job
    that fails is recorded with its error, as phrased by ``say``, and the others go on. ``finished`` is called with each
    record when it has been written. Raises ClipError if a record cannot be written, and what the callbacks raise; the
    workers are closed in any case.
    """
    done = {job.line: record for job in jobs if (record := done_record(folder, job)) is not None}
    ready = [job for job in jobs if job.line not in done]
    made: dict[int, JobRecord] = {}

    def keep(job: Job, take: Take) -> None:
        settings = job.settings
        if take.model is None:
            metadata = clip_metadata(settings)
        else:
            metadata = to_json(Record(settings, know_pictures(job.pictures), take.model))
        write_clip(take.frames, folder / job.output, settings.fps, metadata)

    def ended(one: Ended) -> None:
        record = JobRecord(
            line=one.job.line,
            output=one.job.output,
            sha256=one.job.sha256,
            state="done" if one.problem is None else "failed",
            seconds=one.seconds,
            where=one.worker,
            attempts=one.attempts,
            error="" if one.problem is None else say(one.problem),
        )
        write_job_record(folder, record)
        made[one.job.line] = record
        if finished is not None:
            finished(record)

    def glance(share: float, doing: str) -> None:
        if progress is not None:
            progress(share, doing)

    gone: list[str] = []
    if ready:
        gone = work_off(ready, workers, keep, ended, glance, lambda job: evaluations(job.settings))
    records = {**done, **made}
    return BatchOutcome(
        tuple(records[job.line] for job in jobs if job.line in records),
        len(done),
        len(jobs) - len(records),
        tuple(gone),
    )
