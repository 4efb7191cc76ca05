"""Ctrl-C is heard once, wherever Python was when it came."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dynamicrafter.cli import interrupt
from dynamicrafter.cli.interrupt import HeardCtrlC

pytestmark = pytest.mark.usefixtures("heeds_ctrl_c")

LONG = 60.0
"""Seconds of work, none of which is waited for."""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module to import, and forgets it at the end."""
    name = "library_in_two_halves"

    def write(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop(name, None)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def work() -> None:
    """Take long, a little at a time."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        time.sleep(0.001)
    pytest.fail("the work went on")


class Callback:
    """Is pressed upon while the garbage collector calls back."""

    def __del__(self) -> None:
        ctrl_c()
        time.sleep(0)


def test_work_stops_at_once() -> None:
    passed = []
    with pytest.raises(KeyboardInterrupt), HeardCtrlC():
        ctrl_c()
        passed.append(True)
    assert passed == []


@pytest.mark.parametrize("fate", ["raise", "raise ImportError('half')", "pass"])
def test_an_import_is_finished_first(library: Callable[[str], str], fate: str) -> None:
    """Whatever the library makes of an interruption in its middle."""
    name = library(
        "import signal, time\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "except BaseException:\n"
        f"    {fate}\n"
        "else:\n"
        "    whole = True\n"
    )
    whole = []
    with pytest.raises(KeyboardInterrupt), HeardCtrlC():
        whole.append(import_module(name).whole)
        work()
    assert whole == [True]


def test_it_comes_again_where_it_was_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), HeardCtrlC():
        Callback()
        work()
    assert capsys.readouterr().err == ""


def test_it_wakes_what_waits() -> None:
    """For a lock or for a silent connection, say."""
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), HeardCtrlC():
        Callback()
        time.sleep(LONG)
    assert time.monotonic() - started < LONG / 2


@pytest.mark.parametrize("line", range(45))
def test_it_may_come_in_the_code_that_handles_it(line: int) -> None:
    """At whichever of the lines that are run from entering, by way of a dropped one, to leaving."""
    hook = sys.unraisablehook
    lines = itertools.count()

    def trace(frame: FrameType, event: str, what: Any) -> Any:
        if frame.f_globals is not vars(interrupt):
            return None
        if event == "line" and next(lines) == line:
            ctrl_c()
        return trace

    heard = False
    sys.settrace(trace)
    try:
        try:
            with HeardCtrlC():
                Callback()
                time.sleep(0.2)
        except KeyboardInterrupt:
            heard = True
    finally:
        sys.settrace(None)
    assert heard
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is hook


def test_pressed_again_it_does_not_wait_for_an_import(library: Callable[[str], str]) -> None:
    """And comes no third time: that would hit what the second has to tidy up."""
    name = library(
        "import signal\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "raise AssertionError('the import went on')\n"
    )
    tidied = []
    with pytest.raises(KeyboardInterrupt), HeardCtrlC():
        try:
            import_module(name)
        finally:
            time.sleep(0.3)
            tidied.append(True)
    assert tidied == [True]


def test_one_that_waited_for_the_end_is_too_late() -> None:
    with HeardCtrlC():
        Callback()
    time.sleep(0.3)


def test_other_dropped_exceptions_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    with HeardCtrlC():
        Broken()
    assert told == [ValueError]


def test_all_is_given_back() -> None:
    hook = sys.unraisablehook
    with HeardCtrlC():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_program_with_a_handler_of_its_own_keeps_it(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    with HeardCtrlC():
        assert signal.getsignal(signal.SIGINT) is handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_thread_leaves_the_handler_alone() -> None:
    """Python lets only the main thread set one."""
    seen: list[Any] = []

    def enter() -> None:
        with HeardCtrlC():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
