"""Work in a process of its own: what comes back, whatever becomes of it."""

from __future__ import annotations

import os
import re
import signal
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from dynamicrafter.errors import CheckpointError, Remedy, UsageError
from dynamicrafter.own_process import Failed, run_apart
from dynamicrafter.process_memory import peak_resident

Report = Callable[..., None]


class Unpicklable(Exception):
    """As some libraries' exceptions, it cannot be made again from its message."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def tells(report: Report, count: int) -> tuple[int, int]:
    for done in range(count):
        report("work", done, count)
    return os.getpid(), count


def fails(report: Report, how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "kill while sending":
        (pipe,) = (cell.cell_contents for cell in report.__closure__ or ())
        os.write(pipe.fileno(), struct.pack("!i", 1000) + b"less than was announced")
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "unnamed signal":
        os.kill(os.getpid(), signal.SIGRTMIN + 1)
    if how == "leave":
        os._exit(3)
    if how == "foreign":
        raise Unpicklable("this", "that")
    raise CheckpointError("the file is damaged", Remedy("download", ("512",)))


def never_ends(report: Report) -> None:
    report(os.getpid())
    while True:
        time.sleep(0.01)


def hears_ctrl_c(report: Report) -> str:
    signal.raise_signal(signal.SIGINT)
    return "heard nothing"


def takes(report: Report, count: int) -> int:
    return len(b"1" * count) and peak_resident()


def failure(how: str) -> Failed:
    result = run_apart(fails, how, report=print)
    assert isinstance(result, Failed)
    return result


def test_the_result_and_the_reports_come_from_another_process() -> None:
    told: list[tuple[Any, ...]] = []
    pid, count = run_apart(tells, 3, report=lambda *values: told.append(values))
    assert pid != os.getpid() and count == 3
    assert told == [("work", 0, 3), ("work", 1, 3), ("work", 2, 3)]


def test_an_error_comes_back_whole() -> None:
    result = failure("raise")
    assert isinstance(result.problem, CheckpointError)
    assert result.problem.remedy == Remedy("download", ("512",))
    assert re.search(r"in fails\n.*raise CheckpointError", result.trace)


def test_an_exception_that_cannot_be_sent_comes_back_as_text() -> None:
    problem = failure("foreign").problem
    assert type(problem) is RuntimeError
    assert str(problem) == "Unpicklable: this and that"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", "its process was ended by SIGKILL; if nobody did that, there was not enough memory"),
        (
            "kill while sending",
            "its process was ended by SIGKILL; if nobody did that, there was not enough memory",
        ),
        (
            "unnamed signal",
            f"its process was ended by signal {signal.SIGRTMIN + 1}; if nobody did that, there was not enough memory",
        ),
        ("leave", "its process ended with exit code 3 and without a result; what it printed says why"),
    ],
)
def test_a_process_that_is_lost_is_an_error(how: str, message: str) -> None:
    assert str(failure(how).problem) == message


@pytest.mark.parametrize("kind", [UsageError, KeyboardInterrupt])
def test_what_a_report_raises_ends_the_process(kind: type[BaseException]) -> None:
    pids: list[int] = []

    def stop(pid: int) -> None:
        pids.append(pid)
        raise kind("enough")

    with pytest.raises(kind, match="enough"):
        run_apart(never_ends, report=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_ctrl_c_is_for_the_process_that_started_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run_apart(hears_ctrl_c, report=print) == "heard nothing"
    assert signal.getsignal(signal.SIGINT) is before


def test_memory_is_that_of_the_process_alone() -> None:
    held = b"1" * 400_000_000
    assert peak_resident() > len(held)
    small, large = (run_apart(takes, count, report=print) for count in (1, 200_000_000))
    assert small < 200_000_000
    assert large - small == pytest.approx(200_000_000, rel=0.2)
