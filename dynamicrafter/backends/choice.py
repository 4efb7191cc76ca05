"""The choice of what computes the networks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError

TORCH = "torch"
"""The default backend."""
BACKEND_MEANING = "torch, openvino, openvino:CPU, openvino:GPU or openvino:NPU"
"""What a backend may be, for messages and help."""

_KNOWN = re.compile(r"openvino(?::((?:CPU|GPU|NPU)(?:\.\d{1,2})?))?")


@dataclass(frozen=True)
class Backend:
    """What computes the networks, and on which of its devices."""

    name: Literal["torch", "openvino"] = "torch"
    device: str = ""
    """OpenVINO's name of a device, such as CPU or GPU.1; empty for PyTorch, whose device is a separate choice."""

    def __str__(self) -> str:
        return f"{self.name}:{self.device}" if self.device else self.name


def parse_backend(text: str) -> Backend:
    """The backend of a name; ``openvino`` alone is its CPU. Raises UsageError for any other name."""
    if text == TORCH:
        return Backend()
    found = _KNOWN.fullmatch(text)
    if found is None:
        raise UsageError(f"backend must be {BACKEND_MEANING}, not {text!r}")
    return Backend("openvino", found[1] or "CPU")
