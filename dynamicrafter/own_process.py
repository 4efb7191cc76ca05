"""Runs a function in a process of its own, where its memory and its crash are nobody else's.

The process is started from scratch, not forked, so that it shares no memory with this one.
"""

from __future__ import annotations

import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .errors import DynamiCrafterError

_PATIENCE = 10.0
"""Seconds for a process that is done to end by itself."""


@dataclass(frozen=True, eq=False)
class Failed:
    """What the function raised instead of returning a result."""

    problem: Exception
    trace: str = ""
    """The traceback as text; empty if the process was lost."""


def run_apart(work: Callable[..., Any], *arguments: Any, report: Callable[..., None]) -> Any:
    """The result of ``work(report, *arguments)`` in a new process, or Failed with its exception.

    ``work`` is a function of a module, which the new process imports; ``arguments``, its result and what it passes to
    ``report`` are pickled. ``report`` is called in this process. An exception it raises, such as Ctrl-C, ends the other
    process and is not caught. A script that calls this must keep its own statements below
    ``if __name__ == "__main__"``, because the new process imports it.
    """
    # Not the standard library's: the registry of ComfyUI's packs looks for modules that start programs.
    from torch import multiprocessing

    context: Any = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, work, arguments), daemon=True)
    with _ctrl_c_ignored():
        process.start()
    sender.close()
    try:
        while True:
            try:
                kind, values = receiver.recv()
            # A process that is killed while it sends leaves half a message.
            except (EOFError, OSError):
                process.join()
                return Failed(DynamiCrafterError(_lost(process.exitcode)))
            if kind != "report":
                process.join(_PATIENCE)
                return values
            report(*values)
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _run(sender: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The other process."""

    def report(*values: object) -> None:
        sender.send(("report", values))

    try:
        result = work(report, *arguments)
    # Whatever it is, it is the result of this process.
    except Exception as problem:
        result = Failed(_portable(problem), traceback.format_exc())
    sender.send(("result", result))


def _portable(problem: Exception) -> Exception:
    """``problem``, or its text in an exception that can be pickled, which those of some libraries cannot."""
    try:
        return pickle.loads(pickle.dumps(problem))
    except Exception:
        return RuntimeError(f"{type(problem).__name__}: {problem}")


@contextmanager
def _ctrl_c_ignored() -> Generator[None]:
    """A process that is started inside ignores Ctrl-C, which a terminal sends to both: this one ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with suppress(TypeError):  # A handler that was not set from Python cannot be restored from it.
            signal.signal(signal.SIGINT, before)


def _lost(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:  # Real-time signals have no names.
            name = f"signal {-code}"
        return f"its process was ended by {name}; if nobody did that, there was not enough memory"
    return f"its process ended with exit code {code} and without a result; what it printed says why"
