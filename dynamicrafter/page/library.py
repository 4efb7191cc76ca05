"""Gradio and the web server under it, which come with the extra ``serve``."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UsageError


def gradio(uploads: Path) -> Any:
    """The gradio package, which reports nothing to its makers and keeps what is uploaded in ``uploads``.

    Raises UsageError if it is not installed.
    """
    # Both are read when the package is imported, and when the page is built.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    return web_library("gradio")


def web_library(name: str) -> Any:
    """A module that comes with gradio. Raises UsageError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as problem:
        raise UsageError(
            f"the page needs {name.partition('.')[0]}, which is not installed; install it with pip install "
            f"'dynamicrafter-studio[serve]'"
        ) from problem
