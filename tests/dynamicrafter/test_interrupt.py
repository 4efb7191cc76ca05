"""Ctrl-C is heard once, wherever Python was when it came."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dynamicrafter.cli import interrupt
from dynamicrafter.cli.interrupt import heed_ctrl_c

pytestmark = pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ,
    reason="Ctrl-C would end a process of pytest-xdist; run this file by itself",
)

LONG = 60.0
"""Seconds of work, none of which is waited for."""


@pytest.fixture(autouse=True)
def heeding(heeds_ctrl_c: None) -> Iterator[None]:
    """As in the program; what still waits at the end of a test is called off."""
    hook = sys.unraisablehook
    heed_ctrl_c()
    yield
    interrupt._waiting = False
    sys.unraisablehook = hook


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
    with pytest.raises(KeyboardInterrupt):
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
    with pytest.raises(KeyboardInterrupt):
        whole.append(import_module(name).whole)
        work()
    assert whole == [True]


def test_it_comes_again_where_it_was_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        Callback()
        work()
    assert capsys.readouterr().err == ""


def test_it_wakes_what_waits() -> None:
    """For a lock or for a silent connection, say."""
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Callback()
        time.sleep(LONG)
    assert time.monotonic() - started < LONG / 2


HANDLING = [interrupt._asked, interrupt._dropped, interrupt._ask_again]
LINES = sorted({line for f in HANDLING for *_, line in f.__code__.co_lines() if line})


@pytest.mark.parametrize("line", LINES)
def test_it_may_come_in_the_code_that_handles_it(line: int) -> None:
    """At whichever line is run in the main thread while a dropped one comes again."""
    pressed: list[bool] = []

    def trace(frame: FrameType, event: str, what: Any) -> Any:
        if frame.f_globals is not vars(interrupt):
            return None
        if event == "line" and frame.f_lineno == line and not pressed:
            pressed.append(True)
            ctrl_c()
        return trace

    heard = False
    sys.settrace(trace)
    try:
        try:
            Callback()
            # However long a busy machine takes to run the thread that raises it again.
            time.sleep(LONG)
        except KeyboardInterrupt:
            heard = True
        # One that came while another was handled may be heard after it.
        time.sleep(0.1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    assert heard


def test_pressed_again_it_does_not_wait_for_an_import(library: Callable[[str], str]) -> None:
    """And comes no third time: that would hit what the second has to tidy up."""
    name = library(
        "import signal\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "signal.raise_signal(signal.SIGINT)\n"
        "raise AssertionError('the import went on')\n"
    )
    tidied = []
    with pytest.raises(KeyboardInterrupt):
        try:
            import_module(name)
        finally:
            time.sleep(0.3)
            tidied.append(True)
    assert tidied == [True]


def test_other_dropped_exceptions_are_told_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError

    Broken()
    assert "ValueError" in capsys.readouterr().err


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_program_with_a_handler_of_its_own_keeps_it(handler: Any) -> None:
    signal.signal(signal.SIGINT, handler)
    heed_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is handler
