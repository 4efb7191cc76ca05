"""Files of a run that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, UsageError

_UNFINISHED = "*.part"
"""What the names of all unfinished files of the package match."""


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` whole or not at all: what was at ``path`` stays until the new file is complete."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, unfinished)
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as problem:
        # Only the first line is a sentence; what PyTorch adds are names of functions.
        reason = str(problem).strip().partition("\n")[0]
        raise UsageError(
            f"{path} could not be written ({reason}); the one before is untouched; make room, then start again"
        ) from problem
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote; raises CheckpointError for anything else. Runs no code from the file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise CheckpointError(f"{path} is not a whole training state; delete it to begin anew") from problem


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed run left half-written directly in ``folder``, which need not exist."""
    for path in folder.glob(_UNFINISHED):
        if path.is_file():
            path.unlink(missing_ok=True)
