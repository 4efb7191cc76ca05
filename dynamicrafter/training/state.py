"""The state from which a run resumes, and the folders of a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..atomic import replacing
from ..errors import CheckpointError, UsageError


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` atomically: an existing file at ``path`` stays until the new one is complete."""
    make_folder(path.parent)
    try:
        with replacing(path) as part:
            torch.save(state, part)
    except OSError as problem:
        raise _unwritten(path, problem.strerror or str(problem)) from problem
    except RuntimeError as problem:
        # PyTorch's message names its own source and omits the system's error.
        free = shutil.disk_usage(path.parent).free
        raise _unwritten(
            path, f"the disk is full, {free / 1e6:.1f} MB free, or the file is larger than allowed"
        ) from problem


def _unwritten(path: Path, reason: str) -> UsageError:
    kept = "; the previous one is unchanged" if path.exists() else ""
    return UsageError(f"{path} could not be written ({reason}){kept}; free some space, then start again")


def make_folder(folder: Path) -> None:
    """Create the folder of a run, or one inside it; raises UsageError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(
            f"the folder {folder} could not be created ({problem.strerror or problem}); choose another folder"
        ) from problem


def load_state(path: Path) -> dict[str, Any]:
    """Load what :func:`save_state` wrote; raises CheckpointError for anything else. Executes no code from the file."""
    wrong = f"{path} is not a complete training state; delete it to start from scratch"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise CheckpointError(wrong) from problem
    if not isinstance(state, dict):
        raise CheckpointError(wrong)
    return cast(dict[str, Any], state)
