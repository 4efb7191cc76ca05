"""What the tests of AnimateAnyone share."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from dynamicrafter.evaluation import comparison


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways are compared here: starting a process takes seconds, and tests of the other comparison start some."""

    def run(work: Callable[..., object], way: object, report: Callable[..., None]) -> object:
        return work(report, pickle.loads(pickle.dumps(way)))

    monkeypatch.setattr(comparison, "run_apart", run)
