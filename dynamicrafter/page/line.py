"""The queue of the page: clips in the order in which they were asked for, on one or several workers.

The workers are those of :mod:`~dynamicrafter.jobs.pool`; a clip whose worker was killed is generated again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..errors import Cancelled, DynamiCrafterError, UsageError
from ..jobs.lines import Job
from ..jobs.pool import MOST_ATTEMPTS, Lost, Show, Take, Task, TaskWorker, Worker, as_error
from ..shots import Work
from .limits import Limits
from .shelf import Result

State = Literal["waiting", "working", "done", "failed", "cancelled"]
_DAY = 24 * 3600.0
_REMEMBERED = 500
"""How many tickets that ended are remembered."""
_NOBODY = "nothing is left to generate clips with; tell whoever runs this page"
_USUAL = 20
"""How many clips the estimate of the waiting time is made from."""


@dataclass(eq=False)
class Ticket:
    """A clip that was asked for. Changed by the line alone."""

    visitor: str
    """Who sees it."""
    owner: str
    """Whose limits it counts for."""
    job: Job | Task
    about: Result
    """What is listed of the clip when it is finished; how long it took and when is not known yet."""
    settings: Mapping[str, Any]
    """What it is generated with, for the visitor."""
    clips: int = 1
    """How many clips it counts as."""
    asked: float = field(default_factory=time.monotonic)
    sound: str = ""
    """Cue of a sound."""
    state: State = "waiting"
    work: Work = "load"
    done: int = 0
    total: int = 0
    """Steps or bytes of the work."""
    since: float = 0.0
    """When the work began, and when the whole clip did."""
    began: float = 0.0
    seconds: float = 0.0
    """Time that it took, once it ended."""
    attempts: int = 0
    preview: np.ndarray[Any, Any] | None = None
    """uint8 ``[t, h / 8, w / 8, 3]``, while it is sampled."""
    shown: int = 0
    """How many previews there were."""
    problem: DynamiCrafterError | None = None
    cancelled: bool = False

    @property
    def identifier(self) -> str:
        """Unguessable name of the clip."""
        return self.job.output

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed", "cancelled")

    def seconds_left(self) -> float | None:
        """Time until the clip is sampled; None before its first step."""
        if self.state != "working" or self.work != "sample" or not self.done:
            return None
        return (time.monotonic() - self.since) * (self.total - self.done) / self.done


class _Desk:
    """A worker, and what it works on."""

    def __init__(self, make: Callable[[Show], Worker]) -> None:
        self.ticket: Ticket | None = None
        self.worker = make(self._show)

    def _show(self, frames: np.ndarray[Any, Any]) -> None:
        ticket = self.ticket
        if ticket is not None and not ticket.ended:
            ticket.preview, ticket.shown = frames, ticket.shown + 1


class Line:
    """The queue; each of ``crew`` makes a worker that calls what it is given with previews.

    ``keep`` is called with each finished clip in the worker's thread, with None for a task, which has written its own;
    what it raises fails the clip. ``dropped`` is called with each that failed or was cancelled.
    """

    def __init__(
        self,
        crew: Sequence[Callable[[Show], Worker]],
        keep: Callable[[Ticket, Take | None], None],
        dropped: Callable[[Ticket], None],
        limits: Limits,
    ) -> None:
        self._keep, self._dropped, self._limits = keep, dropped, limits
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._working: list[Ticket] = []
        self._tickets: dict[str, Ticket] = {}
        self._asked: deque[tuple[float, str]] = deque()
        """When each clip of the last 24 hours was asked for, and by whom."""
        self._took: deque[float] = deque(maxlen=_USUAL)
        self._closed = False
        self._desks = [_Desk(make) for make in crew]
        self._threads = [
            threading.Thread(target=self._serve, args=(desk,), daemon=True, name=desk.worker.name)
            for desk in self._desks
        ]
        for thread in self._threads:
            thread.start()

    @property
    def does_tasks(self) -> bool:
        """Whether the workers do more than single clips."""
        return all(isinstance(desk.worker, TaskWorker) for desk in self._desks)

    def check(self, owner: str, more: int = 1, clips: int | None = None) -> None:
        """Raise UsageError if ``more`` clips or films of ``owner``, which count as ``clips``, would be too many."""
        with self._changed:
            if not self._desks:
                raise UsageError(_NOBODY)
            if self._closed:
                raise UsageError("the page is closing; try again later")
            limits, now = self._limits, time.monotonic()
            while self._asked and self._asked[0][0] < now - _DAY:
                self._asked.popleft()
            open_now = [*self._waiting, *self._working]
            mine = sum(ticket.owner == owner for ticket in open_now)
            today = sum(one == owner for _, one in self._asked)
            if mine + more > limits.queued:
                raise UsageError(
                    f"at most {limits.queued} clips of one visitor can wait at once; wait, or cancel one"
                )
            if len(open_now) + more > limits.queue:
                raise UsageError(f"the queue is full with {len(open_now)} clips; try again later")
            if today + (more if clips is None else clips) > limits.daily:
                raise UsageError(
                    f"at most {limits.daily} clips can be made in 24 hours, and {today} of yours are; come back "
                    f"tomorrow"
                )

    def join(self, ticket: Ticket) -> Ticket:
        """Add a clip to the end of the queue; raises as :meth:`check`."""
        with self._changed:
            self.check(ticket.owner, clips=ticket.clips)
            self._waiting.append(ticket)
            self._asked += [(time.monotonic(), ticket.owner)] * ticket.clips
            self._tickets[ticket.identifier] = ticket
            for name in [name for name, one in self._tickets.items() if one.ended][:-_REMEMBERED]:
                del self._tickets[name]
            self._changed.notify_all()
        return ticket

    def find(self, visitor: str, identifier: str) -> Ticket | None:
        """A clip of this visitor."""
        with self._changed:
            ticket = self._tickets.get(identifier)
        return ticket if ticket is not None and ticket.visitor == visitor else None

    def place(self, ticket: Ticket) -> int:
        """The place in the queue, from 1; 0 if it does not wait."""
        with self._changed:
            return self._waiting.index(ticket) + 1 if ticket in self._waiting else 0

    def wait_for(self, ticket: Ticket) -> float | None:
        """Seconds until a waiting clip is begun, as long as others took; None if none was made yet."""
        with self._changed:
            if not self._took:
                return None
            each = sum(self._took) / len(self._took)
            return each * self.place(ticket) / max(1, len(self._desks))

    @property
    def length(self) -> int:
        """How many clips wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether a worker is there."""
        return any(thread.is_alive() for thread in self._threads)

    def cancel(self, ticket: Ticket) -> None:
        """Stop a clip; one that is being generated ends within a step."""
        with self._changed:
            ticket.cancelled = True
            if ticket not in self._waiting:
                return
            self._waiting.remove(ticket)
            ticket.state = "cancelled"
            self._changed.notify_all()
        self._dropped(ticket)

    def close(self) -> None:
        """Stop everything."""
        with self._changed:
            self._closed = True
            for ticket in self._working:
                ticket.cancelled = True
            self._changed.notify_all()
        for desk in self._desks:
            # Ends a process at once; the thread of a step on a GPU would be waited for.
            desk.worker.close()
        for thread in self._threads:
            thread.join(5)

    def _take(self) -> Ticket | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            ticket = self._waiting.popleft()
            self._working.append(ticket)
            ticket.state, ticket.work, ticket.done, ticket.total = "working", "load", 0, 0
            ticket.began = ticket.since = time.monotonic()
            ticket.attempts += 1
            return ticket

    def _serve(self, desk: _Desk) -> None:
        while (ticket := self._take()) is not None:
            desk.ticket = ticket
            gone = False
            state: State = "failed"
            try:
                self._keep(ticket, self._made(desk.worker, ticket))
                state = "done"
            except Cancelled:
                state = "cancelled"
            except Lost as reason:
                gone = reason.gone
                if ticket.attempts < MOST_ATTEMPTS and not ticket.cancelled:
                    state = "waiting"
                else:
                    ticket.problem = DynamiCrafterError(f"{reason.reason}; {reason.advice}")
            # A clip must not end the page, whatever is wrong with it.
            except Exception as reason:
                ticket.problem = as_error(reason)
            desk.ticket = None
            self._end(ticket, state)
            if gone:
                self._leave(desk)
                return

    def _made(self, worker: Worker, ticket: Ticket) -> Take | None:
        tell = self._teller(ticket)
        if isinstance(ticket.job, Job):
            return worker.make(ticket.job, tell)
        if not isinstance(worker, TaskWorker):
            raise UsageError("films and persons are not made on servers; use a page with a device of its own")
        worker.do(ticket.job, tell)
        return None

    def _end(self, ticket: Ticket, state: State) -> None:
        if state in ("failed", "cancelled"):
            self._dropped(ticket)
        with self._changed:
            ticket.seconds = time.monotonic() - ticket.began
            ticket.preview = None
            self._working.remove(ticket)
            if state == "done":
                self._took.append(ticket.seconds)
            elif state == "waiting":
                self._waiting.appendleft(ticket)
            ticket.state = state
            self._changed.notify_all()

    def _leave(self, desk: _Desk) -> None:
        """What waits fails if the last worker is gone."""
        with self._changed:
            self._desks.remove(desk)
            left = [] if self._desks else list(self._waiting)
            if not self._desks:
                self._closed = True
                self._waiting.clear()
        for ticket in left:
            ticket.problem = DynamiCrafterError(_NOBODY)
            ticket.state = "failed"
            self._dropped(ticket)

    def _teller(self, ticket: Ticket) -> Callable[[Work, int, int], None]:
        def tell(work: Work, done: int, total: int) -> None:
            if ticket.cancelled:
                raise Cancelled
            if not total:  # A sign of life.
                return
            if work != ticket.work:
                ticket.since = time.monotonic()
            ticket.work, ticket.done, ticket.total = work, done, total

        return tell
