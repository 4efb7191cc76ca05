"""Workers in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dynamicrafter.errors import Cancelled, UsageError
from dynamicrafter.jobs.ledger import clip_folder
from dynamicrafter.jobs.lines import Job, ModelChoice, read_jobs
from dynamicrafter.jobs.run import run_jobs
from dynamicrafter.jobs.studio import Studio
from dynamicrafter.jobs.workers import ProcessWorker, local_workers
from dynamicrafter.media.video import read_frames
from dynamicrafter.model.variants import TINY
from dynamicrafter.settings import make_settings
from dynamicrafter.shots import Means


def jobs_of(folder: Path, picture: Path, *lines: dict[str, object]) -> list[Job]:
    listing = folder / "jobs.jsonl"
    texts = [json.dumps({"pictures": [str(picture)], "frames": 2, **line}) for line in lines]
    listing.write_text("\n".join(texts), encoding="utf-8")
    return read_jobs(listing, clip_folder(folder / "out"), ModelChoice("random"))


def children() -> list[psutil.Process]:
    """Our workers, without what the standard library starts for its own sake."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        # One that has just ended is no worker any more.
        with suppress(psutil.NoSuchProcess):
            if "--multiprocessing-fork" in child.cmdline():
                found.append(child)
    return found


def test_a_single_worker_needs_no_process() -> None:
    (worker,) = local_workers(["cpu"], Means())
    assert isinstance(worker, Studio)


def test_there_is_a_process_for_each_device_and_worker() -> None:
    means = Means(weights="int8", memory="low", compile="default")
    workers = local_workers(["cpu", "cuda:1"], means, 2)
    names = ["cpu, worker 1", "cpu, worker 2", "cuda:1, worker 1", "cuda:1, worker 2"]
    assert [worker.name for worker in workers] == names
    assert all(isinstance(worker, ProcessWorker) for worker in workers)
    assert vars(workers[0])["_means"] == replace(means, device="cpu")
    assert vars(workers[3])["_means"] == replace(means, device="cuda:1")


@pytest.mark.parametrize(("devices", "each"), [([], 1), (["cpu"], 0)])
def test_there_must_be_a_worker(devices: list[str], each: int) -> None:
    with pytest.raises(UsageError, match=f"there must be at least 1 worker, but {each} were given"):
        local_workers(devices, Means(), each)


class Deaf:
    """A process that does not notice that nobody listens."""

    killed = False

    def is_alive(self) -> bool:
        return not self.killed

    def join(self, timeout: float | None = None) -> None:
        assert timeout is not None or self.killed

    def kill(self) -> None:
        self.killed = True


def test_a_process_that_does_not_end_after_a_cancel_is_killed(tmp_path: Path) -> None:
    """The next job gets another one."""
    worker = ProcessWorker(Means(), "cpu", 1)
    deaf, (ours, theirs) = Deaf(), multiprocessing.Pipe()
    vars(worker).update(_process=deaf, _pipe=ours)

    def cancel(*_: object) -> None:
        raise Cancelled

    theirs.send(("news", "sample", 0, 1))
    with pytest.raises(Cancelled):
        worker.make(Job(1, "", make_settings(TINY, "animate"), (), ModelChoice(), ""), cancel)
    assert deaf.killed and ours.closed
    assert (vars(worker)["_process"], vars(worker)["_pipe"]) == (None, None)


@pytest.mark.slow
def test_killed_workers_lose_no_job(home: Path, tmp_path: Path, pictures: dict[str, Path]) -> None:
    """Both are killed at their first job; an image that is gone fails its job alone."""
    there, gone = tmp_path / "there.png", tmp_path / "gone.png"
    there.write_bytes(pictures["wide"].read_bytes())
    gone.write_bytes(pictures["wide"].read_bytes())
    jobs = jobs_of(
        tmp_path,
        there,
        {"output": "1.mp4", "steps": 40},
        {"output": "2.mp4", "steps": 40},
        {"output": "3.mp4", "steps": 1, "pictures": [str(gone)]},
    )
    gone.unlink()
    killed: list[int] = []

    def kill(share: float, doing: str) -> None:
        if share > 0 and not killed:
            for child in children():
                killed.append(child.pid)
                os.kill(child.pid, 9)

    outcome = run_jobs(jobs, tmp_path / "out", local_workers(["cpu"], Means(), 2), progress=kill)
    assert len(killed) == 2
    assert [record.state for record in outcome.records] == ["done", "done", "failed"]
    assert [record.attempts for record in outcome.records] == [2, 2, 1]
    assert outcome.records[2].error.startswith(f"there is no image {gone}")
    assert {record.where for record in outcome.records} <= {"cpu, worker 1", "cpu, worker 2"}
    assert (outcome.left, outcome.gone) == (0, ())
    assert children() == []
    # The same as from this process.
    again = run_jobs(jobs_of(tmp_path, there, {"output": "here.mp4", "steps": 40}), tmp_path / "out",
                     local_workers(["cpu"], Means()))  # fmt: skip
    assert again.failed == 0
    assert read_frames(tmp_path / "out" / "1.mp4").equal(read_frames(tmp_path / "out" / "here.mp4"))
