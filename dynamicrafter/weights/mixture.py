"""The numbers by which two models are merged, without PyTorch, so that the help shows their defaults at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class Mixture:
    """How the values of two models are combined; the defaults are those of EDG's code (arXiv 2503.00948)."""

    dynamic: float = 0.75 * 0.25
    """How far the dynamic model goes from the base model, away from the fine-tuned one; 1 is their difference."""
    consistent: float = 0.25
    """How far the consistent model goes beyond the fine-tuned one."""
    keep: float = 0.3
    """Share of the changes that is kept, above 0 and up to 1."""
    seed: int = 0
    """Decides which changes are kept."""

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that make no model."""
        for name, weight in (("dynamic", self.dynamic), ("consistent", self.consistent)):
            if not math.isfinite(weight):
                raise UsageError(
                    f"the {name} weight must be a finite number, but {weight} was given; use 0 to 1"
                )
        if not 0 < self.keep <= 1:
            raise UsageError(
                f"keep must be above 0 and at most 1, but {self.keep:g} was given; 1 keeps all changes"
            )
