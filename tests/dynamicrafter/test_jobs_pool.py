"""Every job is done once, whatever happens to its workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dynamicrafter.errors import Cancelled, UsageError
from dynamicrafter.jobs.lines import Job, ModelChoice
from dynamicrafter.jobs.pool import MOST_ATTEMPTS, Ended, Lost, Take, Tell, Worker, work_off
from dynamicrafter.model.variants import SMALL
from dynamicrafter.settings import make_settings

FRAMES = Take(np.zeros((1, 2, 2, 3), np.uint8), None)


def job(line: int, model: str = "random") -> Job:
    settings = make_settings(SMALL, "animate")
    return Job(line, f"{line}.mp4", settings, (Path("a.png"),), ModelChoice(model), str(line))


class Hand:
    """A worker that does what a function says and remembers the lines of its jobs."""

    def __init__(self, name: str, make: Callable[[Job, Tell], Take] = lambda job, tell: FRAMES) -> None:
        self.name = name
        self.lines: list[int] = []
        self.closed = False
        self._make = make

    def make(self, job: Job, tell: Tell) -> Take:
        self.lines.append(job.line)
        return self._make(job, tell)

    def close(self) -> None:
        self.closed = True


def work(jobs: Sequence[Job], *workers: Worker) -> tuple[dict[int, Ended], list[str]]:
    """What became of each job, and why workers are gone."""
    ended: dict[int, Ended] = {}

    def keep_record(one: Ended) -> None:
        assert one.job.line not in ended, "a job ended twice"
        ended[one.job.line] = one

    gone = work_off(
        jobs, workers, lambda job, take: None, keep_record, lambda share, doing: None, lambda job: 1.0
    )
    assert all(worker.closed for worker in workers if isinstance(worker, Hand))
    return ended, gone


def losing(times: int, *, gone: bool = False) -> Callable[[Job, Tell], Take]:
    """Loses its first jobs."""
    left = [times]

    def make(job: Job, tell: Tell) -> Take:
        if left[0]:
            left[0] -= 1
            raise Lost("it was killed", gone=gone)
        return FRAMES

    return make


def test_jobs_of_a_model_follow_one_another() -> None:
    hand = Hand("one")
    work([job(1, "a"), job(2, "b"), job(3, "a"), job(4, "b")], hand)
    assert hand.lines == [1, 3, 2, 4]


def test_two_workers_load_two_models_once_each() -> None:
    both = threading.Barrier(2, timeout=30)
    models: dict[str, set[str]] = {"one": set(), "two": set()}

    def make(name: str) -> Callable[[Job, Tell], Take]:
        def made(job: Job, tell: Tell) -> Take:
            models[name].add(job.model.asked)
            both.wait()
            return FRAMES

        return made

    work([job(line, "ab"[line > 3]) for line in range(1, 7)], *(Hand(name, make(name)) for name in models))
    assert sorted(map(len, models.values())) == [1, 1]


def test_a_lost_job_is_given_out_again() -> None:
    ended, gone = work([job(1), job(2)], Hand("one", losing(1)))
    assert {line: one.problem for line, one in ended.items()} == {1: None, 2: None}
    assert (ended[1].attempts, ended[2].attempts, gone) == (2, 1, [])


def test_the_jobs_of_a_worker_that_is_gone_go_to_others() -> None:
    """Even if the other one had nothing left to do when that happened."""
    idle = threading.Event()

    def last(job: Job, tell: Tell) -> Take:
        assert idle.wait(30)
        time.sleep(0.3)
        raise Lost("the server is gone", gone=True)

    def first(job: Job, tell: Tell) -> Take:
        idle.set()
        return FRAMES

    staying = Hand("staying", first)
    ended, gone = work([job(1), job(2)], Hand("leaving", last), staying)
    assert sorted(staying.lines) == [1, 2]
    assert all(one.problem is None and one.worker == "staying" for one in ended.values())
    assert gone == ["the server is gone"]


def test_jobs_are_left_when_all_workers_are_gone() -> None:
    ended, gone = work([job(1), job(2), job(3)], Hand("one", losing(1, gone=True)))
    assert ended == {}
    assert gone == ["it was killed"]


def test_a_job_that_kills_every_worker_fails() -> None:
    hand = Hand("one", lambda job, tell: losing(1)(job, tell) if job.line == 1 else FRAMES)
    ended, _ = work([job(1), job(2)], hand)
    assert hand.lines == [1] * MOST_ATTEMPTS + [2]
    assert str(ended[1].problem) == "it was killed, as did 2 before; it may need more memory than there is"
    assert ended[2].problem is None


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (UsageError("the image is gone"), "the image is gone"),
        (ValueError("x\ny"), "unexpected error (ValueError: x\\ny)"),
        (MemoryError(), "unexpected error (MemoryError: )"),
    ],
)
def test_a_failing_job_does_not_stop_the_others(problem: Exception, told: str) -> None:
    def make(job: Job, tell: Tell) -> Take:
        if job.line == 1:
            raise problem
        return FRAMES

    ended, _ = work([job(1), job(2)], Hand("one", make))
    assert str(ended[1].problem) == told
    assert ended[2].problem is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled])
def test_what_is_raised_while_waiting_stops_every_worker_within_a_step(stop: type[BaseException]) -> None:
    steps = threading.Event()

    def endless(job: Job, tell: Tell) -> Take:
        while True:
            tell("sample", 1, 2)
            steps.set()
            time.sleep(0.01)

    def glance(share: float, doing: str) -> None:
        if steps.is_set():
            raise stop

    hands = [Hand("one", endless), Hand("two", endless)]
    ended: list[Ended] = []
    with pytest.raises(stop):
        work_off([job(1), job(2), job(3)], hands, lambda job, take: None, ended.append, glance, lambda job: 1)
    assert ended == []
    assert all(hand.closed and len(hand.lines) == 1 for hand in hands)
    assert not [thread for thread in threading.enumerate() if thread.name in ("one", "two")]


def test_progress_counts_work_and_the_steps_of_jobs_at_work() -> None:
    shares: list[float] = []
    seen = threading.Semaphore(0)

    def half(job: Job, tell: Tell) -> Take:
        tell("sample", 1, 2)
        before = len(shares)
        while len(shares) < before + 2:
            seen.acquire(timeout=10)
        return FRAMES

    def glance(share: float, doing: str) -> None:
        shares.append(share)
        seen.release()

    works = {1: 3.0, 2: 1.0}
    work_off(
        [job(1), job(2)],
        [Hand("one", half)],
        lambda job, take: None,
        lambda one: None,
        glance,
        lambda job: works[job.line],
    )
    assert shares == sorted(shares)
    assert any(share == pytest.approx(3 / 4 * 0.95 / 2) for share in shares)
    assert any(share == pytest.approx(3 / 4 + 1 / 4 * 0.95 / 2) for share in shares)
