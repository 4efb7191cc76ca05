"""Ctrl-C that is never lost: it waits for the end of an import, and comes again where Python had to drop it."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import time
from _thread import interrupt_main, start_new_thread
from types import FrameType, TracebackType
from typing import Any

_IMPORT = "<frozen importlib._bootstrap>"
_AGAIN = 0.05
"""Seconds until a Ctrl-C that could not be heard comes once more."""


class HeardCtrlC:
    """A context in which Ctrl-C raises KeyboardInterrupt where somebody hears it.

    Raised in the middle of an import it can leave a library half loaded, or be taken by the library for a part that is
    not installed; raised in a callback of the garbage collector it is printed and dropped (``sys.unraisablehook``), and
    the work would go on for hours. Who presses it again need not wait for the import. Wherever a program handles Ctrl-C
    itself, or ignores it, nothing is changed.
    """

    def __enter__(self) -> HeardCtrlC:
        """Take over from Python's own handler, where that one is in charge."""
        here = inspect.currentframe()
        self._outermost = here and here.f_back
        self._thread = threading.get_ident()
        self._awaited = False
        self._left = False
        self._leaving = threading.Lock()
        self._hook = sys.unraisablehook
        self._in_charge = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._in_charge:
            signal.signal(signal.SIGINT, self._asked)
            sys.unraisablehook = self._dropped
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what was taken over; a Ctrl-C that still waits came too late."""
        if self._in_charge:
            self._left = True
            # One that is about to come again has come when the lock is free, and is ignored.
            with self._leaving:
                sys.unraisablehook = self._hook
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._left:
            return
        patient = not self._awaited
        while frame is not None and frame is not self._outermost:
            # In the functions of this file nobody hears it, however often.
            if frame.f_globals is globals() or (patient and frame.f_code.co_filename == _IMPORT):
                self._ask_again()
                return
            frame = frame.f_back
        self._awaited = False
        raise KeyboardInterrupt

    def _dropped(self, what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            self._ask_again()
        else:
            self._hook(what)

    def _ask_again(self) -> None:
        if not self._awaited:
            self._awaited = True
            # Not threading.Thread: its locks may be held by the very code that was interrupted.
            start_new_thread(self._interrupt, ())

    def _interrupt(self) -> None:
        time.sleep(_AGAIN)
        with self._leaving:
            if self._awaited and not self._left:
                self._awaited = False
                # What waits (for a lock, a connection) is woken by a real signal only; Windows has none.
                if sys.platform == "win32":
                    interrupt_main()
                else:
                    signal.pthread_kill(self._thread, signal.SIGINT)
