"""Runs a piece of work in a process of its own and says what it took: memory, time and how it ended."""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicrafter.errors import DynamiCrafterError
from dynamicrafter.process_memory import peak_resident

LINUX = Path("/proc/self/status").exists()


@dataclass(frozen=True)
class Ran:
    """What a piece of work took."""

    grown: int
    """Bytes by which the process was larger at its peak than before."""
    seconds: float
    ended: str
    """The value's repr, or the error's class and message; at most 300 characters."""


@functools.cache
def _server() -> Any:
    """Starts processes: on Linux, copies of one that has imported what takes seconds to import."""
    context = multiprocessing.get_context("forkserver" if LINUX else "spawn")
    context.set_forkserver_preload(["dynamicrafter.media.video", "dynamicrafter.weights.convert", "psutil"])
    return context


def run_bounded(
    work: Callable[..., object], *given: object, first: tuple[object, ...] = (), seconds: float = 120
) -> Ran:
    """Do ``work`` in a process that must end within ``seconds``, and with the arguments ``first`` before, if any.

    ``work`` is a function of a module. On Linux, the process must also do with 8 GB.
    """
    ours, theirs = _server().Pipe(duplex=False)
    process = _server().Process(target=_measure, args=(theirs, work, given, first))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            return Ran(0, seconds, "foreign: no end")
        return ours.recv()
    except EOFError:
        process.join()
        return Ran(0, 0, f"foreign: exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _measure(
    result: Any, work: Callable[..., object], given: tuple[object, ...], first: tuple[object, ...]
) -> None:
    import psutil

    kept = [work(*first)] if first else []
    if LINUX:
        import resource

        # What would take more ends in a MemoryError instead of taking the computer down.
        limit = psutil.Process().memory_info().vms + 8_000_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    try:
        kept.append(work(*given))
        ended = repr(kept[-1])
    except DynamiCrafterError as error:
        ended = f"{type(error).__name__}: {error}"
    except BaseException as error:
        ended = f"foreign {error!r}"
    result.send(Ran(max(0, peak_resident() - before), time.perf_counter() - begun, ended[:300]))
