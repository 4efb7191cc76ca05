"""Gives jobs to workers: each job to one at a time, again if it was lost, the jobs of a model together."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import Cancelled, DynamiCrafterError
from ..forms import shortened
from ..records import KnownModel
from ..shots import Means, Work
from .lines import Job, ModelChoice

Tell = Callable[[Work, int, int], None]
"""Called with the kind of work on a job and the steps done and their total; raises Cancelled to stop it."""
Show = Callable[[np.ndarray[Any, Any]], None]
"""Called after each step with a preview of the clip, uint8 ``[t, h / 8, w / 8, 3]`` RGB."""

MOST_ATTEMPTS = 3
"""How many workers a job is given to before it is taken for the reason that they are lost."""
_GLANCE = 0.1
"""Seconds between two looks at the progress."""
_SHARE_OF_SAMPLING = 0.95
"""How much of a job is done when it is sampled, for the progress; decoding is the rest."""


@dataclass(frozen=True, eq=False)
class Take:
    """The frames of a finished job."""

    frames: np.ndarray[Any, Any]
    """uint8 ``[t, h, w, 3]`` RGB."""
    model: KnownModel | None
    """None if the model is on a server, which does not tell its hashes."""


class Task(Protocol):
    """Something else than one clip of the denoising network, for a worker of this machine; it can be pickled."""

    @property
    def output(self) -> str:
        """Name of what it makes."""
        ...

    def run(self, means: Means, tell: Tell, show: Show | None) -> None:
        """Make it and write it where it belongs; raises as :meth:`Worker.make`."""
        ...


class Lost(Exception):
    """The worker could not finish a job for a reason that is probably not the job's."""

    def __init__(
        self, reason: str, *, gone: bool, advice: str = "it may need more memory than there is"
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        """What to say if the job was lost too often."""
        self.gone = gone
        """Whether the worker will not finish any other job either."""


class Worker(Protocol):
    """Generates one job after another."""

    @property
    def name(self) -> str:
        """The device or the server, as in the records."""
        ...

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job.

        Raises Lost if another worker should try, Cancelled as soon as possible after ``tell`` has raised it, and
        anything else if the job fails.
        """
        ...

    def close(self) -> None:
        """End what was started for the worker; may be called at any time, and again."""
        ...


@runtime_checkable
class TaskWorker(Worker, Protocol):
    """One that does tasks as well."""

    def do(self, task: Task, tell: Tell) -> None:
        """Do a task; raises as :meth:`make`."""
        ...


@dataclass(frozen=True)
class Ended:
    """A job that was finished or has failed."""

    job: Job
    worker: str
    seconds: float
    attempts: int
    problem: DynamiCrafterError | None = None
    """Why it failed."""


def as_error(problem: Exception) -> DynamiCrafterError:
    """Why a job failed, in a sentence; exceptions of libraries cannot always be sent to another process."""
    if isinstance(problem, DynamiCrafterError):
        return problem
    return DynamiCrafterError(f"unexpected error ({shortened(f'{type(problem).__name__}: {problem}')})")


def work_off(
    jobs: Sequence[Job],
    workers: Sequence[Worker],
    keep: Callable[[Job, Take], None],
    ended: Callable[[Ended], None],
    glance: Callable[[float, str], None],
    work_of: Callable[[Job], float],
) -> list[str]:
    """Generate all jobs; returns why each worker that is gone has gone.

    ``keep`` is called with the frames in the worker's thread, and what it raises fails the job; ``ended`` is called in
    this thread, as is ``glance``, several times a second, with the share of all work done and what is being worked on.
    ``work_of`` tells how long a job takes, in any unit. When anything is raised here, such as KeyboardInterrupt, the
    workers are stopped first. Jobs are left over only if all workers are gone.
    """
    pool = _Pool(jobs, work_of)
    threads = [
        threading.Thread(target=pool.serve, args=(worker, keep), daemon=True, name=worker.name)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and pool.wait(_GLANCE):
            for one in pool.finished():
                ended(one)
            glance(*pool.progress())
        for one in pool.finished():
            ended(one)
        return pool.gone
    finally:
        pool.cancelled.set()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


class _Pool:
    """The jobs that are waiting, at work and finished, for threads that each serve one worker."""

    def __init__(self, jobs: Sequence[Job], work_of: Callable[[Job], float]) -> None:
        self.cancelled = threading.Event()
        self.gone: list[str] = []
        self._changed = threading.Condition()
        self._waiting = list(jobs)
        self._left = len(jobs)
        self._finished: deque[Ended] = deque()
        self._attempts: Counter[int] = Counter()
        self._models: dict[int, ModelChoice] = {}
        """The model of each worker's last job, by the identity of its thread."""
        self._works = {job.line: work_of(job) for job in jobs}
        self._shares: dict[int, float] = {}
        """How much of each job that is at work is done, by its line."""
        self._done = 0.0
        self._doing = ""

    def wait(self, seconds: float) -> bool:
        """Wait until a job ends, at most for ``seconds``; False once all are."""
        with self._changed:
            if self._left and not self._finished:
                self._changed.wait(seconds)
            return self._left > 0

    def finished(self) -> Iterator[Ended]:
        """The jobs that ended since the last call."""
        while self._finished:
            yield self._finished.popleft()

    def progress(self) -> tuple[float, str]:
        """The share of all work that is done, and the last news."""
        with self._changed:
            under_way = sum(self._works[line] * share for line, share in self._shares.items())
            return (self._done + under_way) / sum(self._works.values()), self._doing

    def serve(self, worker: Worker, keep: Callable[[Job, Take], None]) -> None:
        """Let a worker generate jobs until none is left, or it is gone; runs in a thread of its own."""
        if hasattr(signal, "pthread_sigmask"):
            # Processes that are started here inherit it: Ctrl-C reaches them in the order in which we stop them.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while (job := self._take()) is not None:
            started = time.monotonic()
            problem: DynamiCrafterError | None = None
            lost: Lost | None = None
            try:
                keep(job, worker.make(job, self._teller(job)))
            except Cancelled:
                return
            except Lost as reason:
                lost = reason
            # A job must not end the run, whatever is wrong with it.
            except Exception as reason:
                problem = as_error(reason)
            seconds = round(time.monotonic() - started, 3)
            with self._changed:
                self._shares.pop(job.line, None)
                attempts = self._attempts[job.line]
                if lost is not None and not self.cancelled.is_set() and attempts < MOST_ATTEMPTS:
                    self._waiting.insert(0, job)
                elif not self.cancelled.is_set():
                    if lost is not None:
                        problem = DynamiCrafterError(
                            f"{lost.reason}, as did {attempts - 1} before; {lost.advice}"
                        )
                    self._left -= 1
                    self._done += self._works[job.line]
                    self._finished.append(Ended(job, worker.name, seconds, attempts, problem))
                if lost is not None and lost.gone:
                    self.gone.append(lost.reason)
                self._changed.notify_all()
            if lost is not None and lost.gone:
                return

    def _take(self) -> Job | None:
        """The next job for this thread's worker; waits while others may lose theirs. None if there will be no more."""
        me = threading.get_ident()
        with self._changed:
            while self._left and not self.cancelled.is_set():
                if self._waiting:
                    job = self._waiting.pop(self._best(me))
                    self._models[me] = job.model
                    self._attempts[job.line] += 1
                    self._shares[job.line] = 0.0
                    return job
                self._changed.wait(_GLANCE)
        return None

    def _best(self, me: int) -> int:
        """Which of the waiting jobs loads the fewest models: one with the model that this worker has, or else one whose
        model no other worker has."""
        others = {model for owner, model in self._models.items() if owner != me}
        free = 0
        for index, job in reversed(list(enumerate(self._waiting))):
            if job.model not in others:
                free = index
        mine = self._models.get(me)
        return next((index for index, job in enumerate(self._waiting) if job.model == mine), free)

    def _teller(self, job: Job) -> Tell:
        def tell(work: Work, done: int, total: int) -> None:
            if self.cancelled.is_set():
                raise Cancelled
            with self._changed:
                self._doing = job.output
                if work == "sample" and total:
                    self._shares[job.line] = _SHARE_OF_SAMPLING * done / total

        return tell
