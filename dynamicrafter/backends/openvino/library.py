# pyright: reportMissingTypeStubs=false
"""The optional packages: openvino runs networks, nncf quantises them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from ...errors import UsageError


def openvino() -> Any:
    """The openvino package. Raises UsageError if it is not installed."""
    return _optional("openvino")


def nncf() -> Any:
    """The nncf package. Raises UsageError if it is not installed."""
    module = _optional("nncf")
    module.set_log_level(40)  # Errors only.
    return module


def _optional(name: str) -> Any:
    # Both report their use over the network if they can import this, and do without it if they cannot.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        return import_module(name)
    except ImportError as problem:
        raise UsageError(
            f"this needs {name}, which is not installed; install it with pip install "
            f"'dynamicrafter-studio[openvino]'"
        ) from problem


def runtime_version() -> str:
    """OpenVINO's full version, with its build number."""
    return str(openvino().get_version())
