"""Reliable Ctrl-C: it is deferred until an import has ended, and raised again if Python had to drop it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from _thread import interrupt_main, start_new_thread
from types import FrameType
from typing import Any, cast

_IMPORT = "<frozen importlib._bootstrap>"
_AGAIN = 0.05
"""Seconds until a Ctrl-C that could not be handled is raised again."""

_waiting = False
"""Whether one is about to be raised again."""


def heed_ctrl_c() -> None:
    """From now on, let Ctrl-C raise KeyboardInterrupt only where it takes effect; for programs, which end with it.

    Raised during an import, it can leave a library partially loaded, or the library can mistake it for a missing
    dependency. Raised in a callback of the garbage collector, it is printed and dropped (``sys.unraisablehook``), and
    the work would continue for hours. A second Ctrl-C does not wait for the import. If Ctrl-C is ignored or handled in
    another way, nothing is changed.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        sys.unraisablehook = _dropped
        signal.signal(signal.SIGINT, _asked)


def _asked(number: int, frame: FrameType | None) -> None:
    global _waiting
    patient = not _waiting
    while frame is not None:
        # An exception raised in this module's own functions would be lost, however often.
        if frame.f_globals is globals() or (patient and frame.f_code.co_filename == _IMPORT):
            _ask_again()
            return
        frame = frame.f_back
    _waiting = False
    raise KeyboardInterrupt


def _dropped(what: Any) -> None:
    if issubclass(what.exc_type, KeyboardInterrupt):
        _ask_again()
    else:
        sys.__unraisablehook__(what)


def _ask_again() -> None:
    global _waiting
    if not _waiting:
        _waiting = True
        # Not threading.Thread: its locks may be held by the very code that was interrupted.
        start_new_thread(_interrupt, ())


def _interrupt() -> None:
    global _waiting
    time.sleep(_AGAIN)
    if _waiting:
        _waiting = False
        # Blocking calls (a lock, a connection) are woken only by a real signal; Windows has none.
        if sys.platform == "win32":
            interrupt_main()
        else:
            signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)
