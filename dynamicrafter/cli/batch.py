"""The command that generates many clips from a list of jobs: batch."""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..api import Lora, check_backend_options, notes_on
from ..backends.choice import TORCH
from ..errors import UsageError
from ..jobs.ledger import JobRecord, clip_folder, only_run
from ..jobs.lines import Job, ModelChoice, Shard, local_variant, named_variant, read_jobs
from ..jobs.pool import Worker
from ..jobs.ray_cluster import leave_ray, ray_workers
from ..jobs.run import BatchOutcome, run_jobs, unfinished
from ..jobs.servers import check_sendable, server_workers
from ..jobs.workers import devices_for, local_workers
from ..model.variants import TINY, Variant
from ..shots import Means
from .progress import Bars
from .words import WORDS, tiny_knows


def run(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Run ``batch`` and return what ``--json`` prints, with an ``error`` if a clip could not be generated.

    Finished clips are appended to ``written``.
    """
    started = time.monotonic()
    check_places(given)
    shard = Shard(*given.shard)
    folder = clip_folder(given.out)
    with only_run(folder, shard):
        variant_for = named_variant if given.server else local_variant
        jobs = read_jobs(given.jobs, folder, _default_model(given), variant_for, shard)
        if given.server:
            for job in jobs:
                check_sendable(job)
        missing = unfinished(jobs, folder)
        notes = _notes(missing, variant_for, given)
        if given.dry_run:
            return _plan(jobs, missing, folder, notes, given)
        outcome = _work(jobs, missing, folder, given, written)
    return _told(outcome, folder, notes, time.monotonic() - started, given)


def check_places(given: Namespace) -> None:
    """Raise UsageError for options that do not go together, such as those of this machine's devices with servers."""
    usual = {
        "devices": ["auto"],
        "workers": None,
        "dtype": "auto",
        "weights": "auto",
        "memory": "auto",
        "backend": TORCH,
        "compile": "off",
    }
    others = [f"--{name}" for name, value in usual.items() if getattr(given, name, value) != value]
    if given.server and others:
        raise UsageError(
            f"{' and '.join(others)} would apply to this machine, but the servers of --server compute in their own "
            f"way; omit one or the other"
        )
    check_backend_options(given.backend, given.weights, given.memory, given.compile)
    if getattr(given, "ray", None) and given.devices != ["auto"]:
        raise UsageError("--devices are those of this machine, but --ray was given; omit one or the other")


def _default_model(given: Namespace) -> ModelChoice:
    return ModelChoice(
        TINY.name if given.model is None else given.model,
        given.variant,
        given.text_encoder,
        given.image_encoder,
        tuple(Lora(path, strength) for path, strength in given.lora or ()),
    )


def _notes(
    missing: Sequence[Job], variant_for: Callable[[ModelChoice], Variant], given: Namespace
) -> list[str]:
    """What should be known before the clips are generated, each once."""
    notes = [tiny_knows(job.settings.mode) for job in missing if job.model.asked == TINY.name][:1]
    for job in missing:
        notes += [f"line {job.line}: {text}" for text in notes_on(variant_for(job.model), job.settings)]
    if not given.json:
        for text in notes:
            print(f"note: {text}\n", end="", file=sys.stderr)
    return notes


def _plan(
    jobs: Sequence[Job], missing: Sequence[Job], folder: Path, notes: list[str], given: Namespace
) -> dict[str, Any]:
    """Print and return what ``--dry-run`` tells."""
    lines = {job.line for job in missing}
    rows = [
        {
            "line": job.line,
            "output": str(folder / job.output),
            "state": "to do" if job.line in lines else "done",
        }
        for job in jobs
    ]
    if not given.json:
        for row in rows:
            print(f"line {row['line']}: {row['output']}: {row['state']}")
        print(f"{len(jobs)} jobs: {len(jobs) - len(missing)} done, {len(missing)} to do")
    return {"jobs": rows, "notes": notes}


def _workers(missing: Sequence[Job], given: Namespace) -> list[Worker]:
    if not missing:
        return []
    if given.server:
        return server_workers(given.server, given.queue, missing)
    means = Means(
        dtype=given.dtype,
        weights=given.weights,
        memory=given.memory,
        backend=given.backend,
        compile=given.compile,
    )
    if given.ray:
        return ray_workers(given.ray, means, given.workers)
    devices = devices_for(missing, given.devices, means)
    return local_workers(devices, means, 1 if given.workers is None else given.workers)


def _work(
    jobs: Sequence[Job], missing: Sequence[Job], folder: Path, given: Namespace, written: list[str]
) -> BatchOutcome:
    ended: list[JobRecord] = []

    def finished(record: JobRecord) -> None:
        ended.append(record)
        if record.state == "done":
            written.append(str(folder / record.output))
        elif not given.json:
            bars.close()
            print(f"line {record.line}: {record.error}\n", end="", file=sys.stderr, flush=True)

    def progress(share: float, doing: str) -> None:
        failed = sum(record.state == "failed" for record in ended)
        some = f", {failed} failed" if failed else ""
        bars.jobs(share, f"{len(ended)} of {len(missing)} jobs{some}, {doing}")

    with ExitStack() as leaving:
        if given.ray and missing:
            leaving.callback(leave_ray)
        workers = _workers(missing, given)
        bars = leaving.enter_context(Bars(given.jobs.name, hidden=given.quiet or given.json))
        return run_jobs(
            jobs,
            folder,
            workers,
            progress=progress,
            finished=finished,
            say=lambda problem: problem.said(WORDS),
        )


def _told(
    outcome: BatchOutcome, folder: Path, notes: list[str], seconds: float, given: Namespace
) -> dict[str, Any]:
    """Print and return the summary."""
    records, failed = outcome.records, outcome.failed
    done = [record for record in records if record.state == "done"]
    if not given.json:
        for line in _table(records, folder):
            print(line)
        print(_totals(done, outcome, seconds))
    result: dict[str, Any] = {
        "jobs": [{**asdict(record), "output": str(folder / record.output)} for record in records],
        "done": len(done),
        "skipped": outcome.skipped,
        "failed": failed,
        "left": outcome.left,
        "seconds": round(seconds, 3),
        "notes": notes,
    }
    problems = [f"{failed} of {len(records)} jobs failed"] if failed else []
    if outcome.left:
        problems.append(
            f"{outcome.left} job(s) are left, because {'; '.join(outcome.gone)}; repeat the command to resume"
        )
    if problems:
        result |= {"error": ", and ".join(problems), "kind": "failure"}
        if not given.json:
            print(f"dynamicrafter: {result['error']}", file=sys.stderr)
    return result


def _table(records: Sequence[JobRecord], folder: Path) -> list[str]:
    """The jobs in the order of their lines."""
    width = max((len(record.output) for record in records), default=0)
    return [
        f"{record.line:6}  {record.output:{width}}  {record.state:6}  {record.seconds:8.1f} s  {record.where}"
        for record in records
    ]


def _totals(done: Sequence[JobRecord], outcome: BatchOutcome, seconds: float) -> str:
    each = [record.seconds for record in done]
    spread = (
        f", {min(each):.1f} to {max(each):.1f} s a clip, median {statistics.median(each):.1f}" if each else ""
    )
    before = f" ({outcome.skipped} before)" if outcome.skipped else ""
    left = f", {outcome.left} left" if outcome.left else ""
    return f"{len(done)} done{before}, {outcome.failed} failed{left} in {seconds:.1f} s{spread}"
