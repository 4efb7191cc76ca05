"""Options and fixtures of the whole test suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dynamicrafter.model.variants import SMALL

if TYPE_CHECKING:
    from dynamicrafter.pipeline import Model

# The networks of the tests are small: their layers lose more to threads waiting for each other than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The weights folder and the defaults of whoever runs the tests are not theirs."""
    # A file of its own, as the null device of some containers is a plain file that keeps what is written to it.
    no_defaults = tmp_path_factory.mktemp("settings") / "config.toml"
    no_defaults.touch()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DYNAMICRAFTER_HOME", str(tmp_path_factory.mktemp("weights")))
        environment.setenv("DYNAMICRAFTER_CONFIG", str(no_defaults))
        yield


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest variant, with random weights."""
    from dynamicrafter.weights.random_model import write_random_checkpoint

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_random_checkpoint(path, SMALL)
    return path


@pytest.fixture
def small_model(small_weights: Path) -> Model:
    """That checkpoint, loaded."""
    from dynamicrafter.api import load

    return load(small_weights, device="cpu")


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate does not look for a GPU."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", metavar="DIR", help="folder of goldens to compare with (default: the project's own copy)"
    )
