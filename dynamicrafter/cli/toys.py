"""The command that writes a folder of toy clips to train on: toy-clips."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..toy.clips import write_toy_clips


def run(given: Namespace) -> dict[str, Any]:
    """Run ``toy-clips`` and return what ``--json`` prints."""
    written = write_toy_clips(given.folder, pictures=given.pictures, seed=given.seed)
    if not given.json:
        print(f"{given.folder}: {len(written)} clips and their captions")
    return {"folder": str(given.folder), "clips": len(written)}
