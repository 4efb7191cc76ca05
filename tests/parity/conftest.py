"""``--golden DIR`` chooses the goldens; every case's largest error is printed at the end of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden import OWN

_REPORT = pytest.StashKey[list[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sidecar" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden") or OWN)
        sidecars = sorted(folder.glob("*.json"))
        if not sidecars:
            raise pytest.UsageError(f"--golden {folder} holds no golden cases (*.json)")
        metafunc.parametrize("sidecar", sidecars, ids=[path.stem for path in sidecars])


@pytest.fixture
def report(request: pytest.FixtureRequest) -> list[str]:
    """Lines to print in the terminal summary."""
    return request.config.stash.setdefault(_REPORT, [])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_REPORT, [])
    if lines:
        terminalreporter.section("parity: largest error relative to the original's largest value")
        for line in lines:
            terminalreporter.write_line(line)
