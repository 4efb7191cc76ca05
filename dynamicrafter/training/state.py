"""The state that a run goes on from, and the folders of a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..atomic import replacing
from ..errors import CheckpointError, UsageError


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` whole or not at all: what was at ``path`` stays until the new file is complete."""
    make_folder(path.parent)
    try:
        with replacing(path) as part:
            torch.save(state, part)
    except OSError as problem:
        raise _unwritten(path, problem.strerror or str(problem)) from problem
    except RuntimeError as problem:
        # PyTorch names places in its own files, whatever the system said.
        free = shutil.disk_usage(path.parent).free
        raise _unwritten(
            path, f"the disk is full, {free / 1e6:.1f} MB free, or a file may not get that large"
        ) from problem


def _unwritten(path: Path, reason: str) -> UsageError:
    kept = "; the one before is untouched" if path.exists() else ""
    return UsageError(f"{path} could not be written ({reason}){kept}; make room, then start again")


def make_folder(folder: Path) -> None:
    """Make the folder of a run, or one in it; raises UsageError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(
            f"the folder {folder} could not be made ({problem.strerror or problem}); give another folder"
        ) from problem


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote; raises CheckpointError for anything else. Runs no code from the file."""
    wrong = f"{path} is not a whole training state; delete it to begin anew"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise CheckpointError(wrong) from problem
    if not isinstance(state, dict):
        raise CheckpointError(wrong)
    return cast(dict[str, Any], state)
