"""Runs a piece of code in a process of its own and says what it took: memory, time and how it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Everything is imported, and a picture and a pickle read once, before the measuring begins.
PROGRAM = """
import json, resource, sys, time
from pathlib import Path
import psutil
from dynamicrafter.errors import DynamiCrafterError
from dynamicrafter.media.pictures import as_picture, fit_picture, read_picture
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.training.config import load_config
from dynamicrafter.weights.formats.files import open_weights
from dynamicrafter.weights.inspect import inspect
path = sys.argv[1]
fit_picture(read_picture(sys.argv[3]), 64, 64)

def peak():
    # getrusage would count what this process inherited from the one that started it.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

# What would take more ends in a MemoryError instead of taking the computer down.
limit = psutil.Process().memory_info().vms + 8_000_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before, begun = psutil.Process().memory_info().rss, time.perf_counter()
try:
    ended = repr(eval(sys.argv[2]))
except DynamiCrafterError as error:
    ended = f"{type(error).__name__}: {error}"
except BaseException as error:
    ended = f"foreign {error!r}"[:300]
print(json.dumps([max(0, peak() - before), time.perf_counter() - begun, ended]))
"""


@dataclass(frozen=True)
class Ran:
    """What a piece of code took."""

    grown: int
    """Bytes by which the process was larger at its peak than before."""
    seconds: float
    ended: str
    """The value's repr, or the error's class and message."""


def run_bounded(path: Path, expression: str, seconds: float = 120, root: Path = ROOT) -> Ran:
    """Evaluate ``expression``, where ``path`` is the file's name, in a process that must end within ``seconds``."""
    picture = ROOT / "pictures" / "red_circle.png"
    try:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path), expression, str(picture)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Ran(0, seconds, "foreign: no end")
    if result.returncode:
        return Ran(0, 0, f"foreign: exit code {result.returncode}: {result.stderr[-300:]}")
    return Ran(*json.loads(result.stdout.splitlines()[-1]))
