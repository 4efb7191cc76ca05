"""Parses TOML, with which Python comes since version 3.11."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; raises ValueError with the reason if it is none."""
    # tomli is the same library, for Python 3.10.
    loads = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads
    try:
        return loads(text)
    except RecursionError as problem:
        raise ValueError("it is nested too deeply") from problem
