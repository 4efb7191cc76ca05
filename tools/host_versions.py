"""Run the node pack's tests against any number of ComfyUI checkouts, and print a row of docs/comfyui.md for each.

Usage, in the top folder, in an environment with the dev extra and each checkout's requirements:
``python -m tools.host_versions CHECKOUT [CHECKOUT ...] [-- PYTEST ARGUMENT ...]``. Pytest arguments replace
``tests/comfyui``, which is what runs otherwise. Ends with 1 if a test failed or none ran.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "| ComfyUI | date | passed | skipped | failed |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Counts:
    """What came of a run of pytest; errors count as failed."""

    passed: int
    skipped: int
    failed: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Test against every checkout, print the table, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    checkouts, tests = [Path(name).resolve() for name in given[:at]], given[at + 1 :] or ["tests/comfyui"]
    if not checkouts:
        print(__doc__)
        return 2
    versions = {checkout: version_of(checkout) for checkout in checkouts}
    counted = {checkout: run_tests(checkout, tests) for checkout in checkouts}
    print(HEADER)
    for checkout, counts in counted.items():
        print(row(versions[checkout], datetime.date.today(), counts))
    return int(any(counts.failed or not counts.passed for counts in counted.values()))


def version_of(checkout: Path) -> str:
    """The version that a checkout states; raises SystemExit for a folder that is not a ComfyUI."""
    file = checkout / "comfyui_version.py"
    stated = re.search(r'__version__\s*=\s*"([^"]+)"', file.read_text("utf-8")) if file.is_file() else None
    if stated is None:
        raise SystemExit(f"{checkout} is not a ComfyUI checkout: it has no comfyui_version.py with a version")
    return stated[1]


def run_tests(checkout: Path, tests: Sequence[str]) -> Counts:
    """Run pytest with ``checkout`` as the host, which must be usable; its output goes to the console."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *tests, f"--junitxml={report}"]
        environment = {**os.environ, "COMFYUI_PATH": str(checkout), "DYNAMICRAFTER_REQUIRE_HOST": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        return counts_in(report.read_text("utf-8")) if report.is_file() else Counts(0, 0, 0)


def counts_in(report: str) -> Counts:
    """The counts of a report in JUnit's form."""
    suites = ElementTree.fromstring(report).iter("testsuite")
    found = [
        [int(suite.get(name, "0")) for name in ("tests", "skipped", "failures", "errors")] for suite in suites
    ]
    every, skipped, failures, errors = (sum(column) for column in zip(*found, strict=True))
    return Counts(every - skipped - failures - errors, skipped, failures + errors)


def row(version: str, date: datetime.date, counts: Counts) -> str:
    """A row of the table below :data:`HEADER`."""
    return f"| {version} | {date} | {counts.passed} | {counts.skipped} | {counts.failed} |"


if __name__ == "__main__":
    sys.exit(main())
