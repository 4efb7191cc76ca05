"""Our numbers against the original's, one test for each golden."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from cases import KINDS
from golden import read_golden, relative_error
from person_cases import PERSON_KINDS

RESIZED = ("aa_clip", "aa_pipe_interp2", "aa_pipe_nocfg")
"""Goldens with an image that Pillow 13, with which they were computed, resizes downwards first."""
EVERY = {**KINDS, **PERSON_KINDS}


def test_golden(sidecar: Path, report: Callable[[str], None]) -> None:
    case = read_golden(sidecar)
    repeat = next((run for kind, run in EVERY.items() if case.info["what"].startswith(kind)), None)
    assert repeat is not None, f"{sidecar.name} is of an unknown kind: {case.info['what']}"
    if sidecar.stem in RESIZED and int(version("pillow").partition(".")[0]) < 13:
        pytest.skip(
            "Pillow before 13 always resizes across first, which rounds these images by a level elsewhere"
        )
    failed: list[str] = []
    largest = 0.0
    reduced: list[str] = []
    for c in repeat(case):
        error = relative_error(c.ours, c.theirs)
        if c.tolerance is None:
            reduced.append(f"{c.name} {error:.1e}")
        else:
            largest = max(largest, error)
            if not error <= c.tolerance:
                failed.append(f"{c.name}: {error:.2e} is above {c.tolerance:.0e}")
    report(f"{case.name:40} {largest:.1e}  {'; '.join(reduced)}")
    assert not failed, "; ".join(failed)
