"""What a golden is compared by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

EXACT = 0.0


@dataclass(frozen=True)
class Comparison:
    """One tensor of a golden: our value, theirs and the largest relative error allowed."""

    name: str
    ours: Tensor
    theirs: Tensor
    tolerance: float | None
    """None where the error is only reported (reduced precision)."""


Comparisons = Iterator[Comparison]
