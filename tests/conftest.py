"""Options of the whole test suite."""

import os

import pytest

# The networks of the tests are small: their layers lose more to threads waiting for each other than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", metavar="DIR", help="folder of goldens to compare with (default: the project's own copy)"
    )
