"""A run of the command line, and what it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUICK = ("--model", "random", "--steps", "1", "--frames", "4", "--quiet")
"""Options that make a clip in a fraction of a second."""


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on the standard output."""
        return json.loads(self.out)


Run = Callable[..., Ran]


def paint(path: Path, width: int, height: int, hue: int = 0) -> Path:
    """A picture file with soft stripes."""
    y, x = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin((x + 2 * y + 40 * hue) / (11 + channel)) for channel in range(3)]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)
    return path


def complaint(ran: Ran, code: int) -> str:
    """The one sentence of a command that failed, and nothing besides."""
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert ran.err.startswith("dynamicrafter: ")
    assert ran.err.endswith("\n") and ran.err.count("\n") == 1
    return ran.err.removeprefix("dynamicrafter: ").rstrip("\n")


def left() -> list[str]:
    """Everything in the folder the command ran in."""
    return sorted(path.name for path in Path.cwd().iterdir())
