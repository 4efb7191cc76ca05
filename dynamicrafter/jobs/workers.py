"""Workers in processes of their own, one for each device: what kills one of them leaves the others at work.

The processes are copies of this program, and end with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ..api import pick_device
from ..errors import Cancelled, UsageError
from ..shots import Means, Work, check_means, check_settings
from .lines import Job
from .pool import Lost, Show, Take, Task, Tell, Worker, as_error
from .studio import Studio

_GLANCE = 0.1
"""Seconds between two looks at whether the work was cancelled."""
_PATIENCE = 60.0
"""Seconds that a process has to end after its work was cancelled: a step of a large clip on a CPU takes some."""


def local_workers(devices: Sequence[str], means: Means, each: int = 1) -> list[Worker]:
    """``each`` workers for each of ``devices``, instead of that of ``means``; a single one works in this process.

    Raises UsageError if there would be none.
    """
    if each < 1 or not devices:
        raise UsageError(f"there must be at least 1 worker, but {each} were given")
    if len(devices) * each == 1:
        return [Studio(replace(means, device=devices[0]))]
    # All processes together use the processor once.
    threads = max(1, torch.get_num_threads() // (len(devices) * each))
    return [
        ProcessWorker(
            replace(means, device=device), f"{device}, worker {number}" if each > 1 else device, threads
        )
        for device in devices
        for number in range(1, each + 1)
    ]


def devices_for(jobs: Sequence[Job], devices: Sequence[str], means: Means) -> list[str]:
    """The names of ``devices``, "auto" as the one that it selects.

    Raises UsageError if one of them is not available or cannot run the models of ``jobs`` by ``means``, before any is
    loaded.
    """
    for device in devices:
        for model in {job.model: None for job in jobs}:
            check_means(replace(means, device=device), model.files())
    check_settings((job.settings for job in jobs), means)
    return [str(pick_device(device, means.backend)) for device in devices]


class ProcessWorker:
    """A :class:`~dynamicrafter.jobs.studio.Studio` in another process, which is started for the first job and whenever
    the last one was killed. ``show`` is as for a studio, in this process."""

    def __init__(self, means: Means, name: str, threads: int, show: Show | None = None) -> None:
        self.name = name
        self._means = means
        self._threads = threads
        self._show = show
        self._process: Any = None
        self._pipe: Any = None

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job; raises Lost if the process ends before they are there."""
        return Take(*self._result(job, tell))

    def do(self, task: Task, tell: Tell) -> None:
        """Do a task; raises as :meth:`make`."""
        self._result(task, tell)

    def _result(self, work: Job | Task, tell: Tell) -> Sequence[Any]:
        """What the process answers when it has finished; raises Lost if it ends before."""
        if self._process is None or not self._process.is_alive():
            self._start()
        process: Any = self._process
        pipe: Any = self._pipe
        try:
            pipe.send(work)
            while True:
                while not pipe.poll(_GLANCE):
                    tell("load", 0, 0)
                kind, *news = pipe.recv()
                if kind == "made":
                    return news
                if kind == "failed":
                    raise news[0]
                if kind == "preview" and self._show is not None:
                    self._show(*news)
                elif kind == "news":
                    tell(*news)
        except Cancelled:
            # The process notices that nobody listens, and ends within a step; one that does not is killed.
            pipe.close()
            process.join(_PATIENCE)
            self.close()
            raise
        except (EOFError, OSError) as problem:
            process.join(_PATIENCE)
            code = process.exitcode
            self.close()
            raise Lost(
                f"the process of worker {self.name} has ended with exit code {code}", gone=False
            ) from problem

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _start(self) -> None:
        # Not a fork: CUDA does not survive one.
        context: Any = torch.multiprocessing.get_context("spawn")
        self.close()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, self._means, self.name, self._threads, self._show is not None),
            daemon=True,
        )
        self._process.start()
        theirs.close()


def _serve(pipe: Any, means: Means, name: str, threads: int, shows: bool) -> None:
    """The other process: generate one job after another until nobody listens; ``shows`` is for previews."""
    # Ctrl-C reaches every process of a terminal; ours end when the first one closes their pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)

    def show(frames: Any) -> None:
        # That nobody listens is noticed by tell, which is called in the same step.
        with suppress(OSError):
            pipe.send(("preview", frames))

    studio = Studio(means, name, show if shows else None)

    def tell(work: Work, done: int, total: int) -> None:
        try:
            pipe.send(("news", work, done, total))
            # Nothing is sent here while a job is at work: there is something to read only when the pipe is closed.
            if pipe.poll():
                raise Cancelled
        except OSError as problem:
            raise Cancelled from problem

    with suppress(EOFError, OSError, Cancelled):
        while True:
            work: Job | Task = pipe.recv()
            made: tuple[Any, ...] = ()
            try:
                if isinstance(work, Job):
                    take = studio.make(work, tell)
                    made = take.frames, take.model
                else:
                    studio.do(work, tell)
            except Cancelled:
                raise
            except Exception as problem:
                pipe.send(("failed", as_error(problem)))
            else:
                pipe.send(("made", *made))
    # Without waiting for the threads of libraries.
    os._exit(0)
