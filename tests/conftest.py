"""Options of the whole test suite."""

import os
from collections.abc import Iterator

import pytest

# The networks of the tests are small: their layers lose more to threads waiting for each other than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The weights folder of whoever runs the tests is not theirs."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DYNAMICRAFTER_HOME", str(tmp_path_factory.mktemp("weights")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", metavar="DIR", help="folder of goldens to compare with (default: the project's own copy)"
    )
