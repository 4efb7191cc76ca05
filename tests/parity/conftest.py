"""``--golden DIR`` chooses the goldens; every case's largest error is printed at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from golden import OWN

_LARGEST = "largest error"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sidecar" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden") or OWN)
        sidecars = sorted(folder.glob("*.json"))
        if not sidecars:
            raise pytest.UsageError(f"--golden {folder} holds no golden cases (*.json)")
        metafunc.parametrize("sidecar", sidecars, ids=[path.stem for path in sidecars])


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Prints a line in the terminal summary, whichever process of pytest-xdist the test runs in."""
    return lambda line: record_property(_LARGEST, line)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # A test's properties come with the report of its teardown as well.
    reports = [one for outcome in ("passed", "failed") for one in terminalreporter.getreports(outcome)]
    lines = [str(line) for one in reports for name, line in one.user_properties if name == _LARGEST]
    if lines:
        terminalreporter.section("parity: largest error relative to the original's largest value")
        for line in sorted(lines):
            terminalreporter.write_line(line)
