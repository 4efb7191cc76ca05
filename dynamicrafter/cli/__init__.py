"""The ``dynamicrafter`` command: arguments in, files out; the only place that prints."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from ..errors import Cancelled, DynamiCrafterError, UsageError
from .arguments import make_parser

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; 130 is what shells report for Ctrl-C."""


def program_version() -> str:
    """Version of the installed package."""
    try:
        return version("dynamicrafter-studio")
    except PackageNotFoundError:
        return "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in words, "--debug" in words
    try:
        arguments = make_parser(program_version()).parse_args(words)
        result = _run(arguments.command, arguments)
        if as_json:
            print(json.dumps(result))
        return SUCCESS
    except (KeyboardInterrupt, Cancelled):
        return _complain("cancelled; nothing was written", INTERRUPTED, as_json)
    except UsageError as problem:
        return _complain(str(problem), USAGE, as_json, debug)
    except DynamiCrafterError as problem:
        return _complain(str(problem), FAILURE, as_json, debug)
    except BrokenPipeError:
        # Whoever read the output (head, a pager) has seen enough.
        sys.stdout = None
        return SUCCESS
    except MemoryError:
        return _complain(_MEMORY, FAILURE, as_json, debug)
    except Exception as problem:
        if "out of memory" in str(problem).lower():
            return _complain(_MEMORY, FAILURE, as_json, debug)
        message = (
            f"something unexpected went wrong ({type(problem).__name__}: {problem}); --debug shows where"
        )
        return _complain(message, FAILURE, as_json, debug)


_MEMORY = "there is not enough memory; try a smaller --size, fewer --frames, --batch 1 or a 16-bit --dtype"


def _run(command: str, arguments: object) -> object:
    """Call the function of a command; imported late, so that ``--help`` and usage errors come at once."""
    if command in ("animate", "interpolate", "loop", "again"):
        from . import clips

        return clips.run(command, arguments)
    from . import weights

    return weights.run(command, arguments)


def _complain(message: str, code: int, as_json: bool, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    if as_json:
        kinds = {USAGE: "usage", INTERRUPTED: "cancelled"}
        print(json.dumps({"error": message, "kind": kinds.get(code, "failure")}))
    else:
        print(f"dynamicrafter: {message}", file=sys.stderr)
    return code
