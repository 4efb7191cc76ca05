"""The ``dynamicrafter`` command; the only package that prints."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from ..errors import Cancelled, DynamiCrafterError, UsageError
from ..forms import program_version
from .interrupt import heed_ctrl_c
from .parser import CLIP_COMMANDS, make_parser
from .words import WORDS

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; 130 is what shells report for Ctrl-C."""

_KINDS = {FAILURE: "failure", USAGE: "usage", INTERRUPTED: "cancelled"}
_MEMORY = (
    "there is not enough memory; try --memory low or min, --weights int8, a smaller --size, fewer --frames, --batch 1 "
    "or a 16-bit --dtype"
)
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of PyTorch's out-of-memory messages on GPUs, on Linux and macOS, and on Windows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    if argv is None:  # Run as a program, not called from Python.
        heed_ctrl_c()
    words = list(sys.argv[1:] if argv is None else argv)
    # A file name that the terminal cannot encode must not turn a finished clip into an error.
    stdout = cast(Any, sys.stdout)
    if hasattr(stdout, "reconfigure"):
        stdout.reconfigure(errors="backslashreplace")
    written: list[str] = []
    try:
        code = _main(words, written)
        print(end="", flush=True)
        return code
    except OSError as problem:
        if not _reader_left(problem):
            raise
        # The remaining output must not fail at exit either.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return SUCCESS
    except KeyboardInterrupt:
        # Pressed again while the first one was being reported.
        return INTERRUPTED


def _main(words: list[str], written: list[str]) -> int:
    as_json, debug = "--json" in words, "--debug" in words
    command = ""
    try:
        arguments = make_parser(program_version()).parse_args(words)
        command = arguments.command
        if command in CLIP_COMMANDS:
            from .defaults import with_defaults

            arguments = with_defaults(arguments, words)
        result = _run(command, arguments, written)
        if as_json:
            print(json.dumps(result))
        return FAILURE if isinstance(result, dict) and "error" in result else SUCCESS
    except SystemExit as leaving:
        # --help and --version have already printed their text.
        return int(leaving.code or SUCCESS)
    except BaseException as problem:
        if _reader_left(problem):
            raise
        code, message = verdict(problem, command, written)
        if debug and code != INTERRUPTED:
            traceback.print_exc()
    if as_json:
        print(json.dumps({"error": message, "kind": _KINDS[code], "written": written}))
    else:
        print(f"dynamicrafter: {message}", file=sys.stderr)
    return code


def _run(command: str, arguments: Namespace, written: list[str]) -> object:
    """Call the function of a command; imported late, so that ``--help`` and usage errors are immediate.

    Finished files are appended to ``written``, so that they are known if a later one fails.
    """
    if command == "again":
        from . import again

        return again.run(arguments, written)
    if command in CLIP_COMMANDS:
        from . import clips

        return clips.run(command, arguments, written)
    if command == "camera":
        from . import camera

        return camera.run(arguments, written)
    if command == "direct":
        from . import directing

        return directing.run(arguments, written)
    if command == "story":
        from . import stories

        return stories.run(arguments, written)
    if command == "language-model":
        from . import directing

        return directing.run_language_model(arguments)
    if command == "batch":
        from . import batch

        return batch.run(arguments, written)
    if command == "serve":
        from . import serving

        return serving.run(arguments)
    if command in ("compare", "compare-person"):
        from . import comparing

        return comparing.run(arguments, written)
    if command == "export":
        from . import exporting

        return exporting.run(arguments)
    if command == "person":
        from . import person

        return person.run(arguments, written)
    if command == "train":
        from . import learning

        return learning.run(arguments)
    if command == "toy-clips":
        from . import toys

        return toys.run(arguments)
    if command == "statistics":
        from . import statistics

        return statistics.run(arguments)
    if command == "evaluate":
        from . import evaluation

        return evaluation.run(arguments, written)
    if command == "config":
        from . import defaults

        return defaults.run(arguments)
    if command == "completion":
        from . import completion

        return completion.run(arguments)
    if command == "doctor":
        from . import doctor

        return doctor.run(arguments)
    from . import weights

    return weights.run(command, arguments)


def _reader_left(problem: BaseException) -> bool:
    """Whether the reader of the output (head, a pager) has closed it; Windows has no separate exception for this."""
    if isinstance(problem, OSError) and sys.platform == "win32":
        return problem.errno in (errno.EPIPE, errno.EINVAL) and problem.filename is None
    return isinstance(problem, BrokenPipeError)


def verdict(problem: BaseException, command: str, written: list[str]) -> tuple[int, str]:
    """The exit code and the message for the exception that stopped a command."""
    if isinstance(problem, (KeyboardInterrupt, Cancelled)):
        if command == "download":
            return INTERRUPTED, "cancelled; repeat the command to resume"
        if command == "batch":
            return INTERRUPTED, "cancelled; repeat the command to generate the clips that are missing"
        if command == "story":
            return INTERRUPTED, "cancelled; repeat the command to generate the scenes that are missing"
        if command == "train":
            return INTERRUPTED, "cancelled; repeat the command to resume from the last saved state"
        finished = f"only the {len(written)} finished clip(s) were" if written else "nothing was"
        return INTERRUPTED, f"cancelled; {finished} written"
    if isinstance(problem, UsageError):
        return USAGE, problem.said(WORDS)
    if isinstance(problem, DynamiCrafterError):
        return FAILURE, problem.said(WORDS)
    text = str(problem).strip().partition("\n")[0]
    if isinstance(problem, MemoryError) or any(words in text.lower() for words in _MEMORY_WORDS):
        return FAILURE, _MEMORY
    return FAILURE, f"unexpected error ({type(problem).__name__}: {text}); use --debug to show the traceback"
