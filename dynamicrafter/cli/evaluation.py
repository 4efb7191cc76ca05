"""The command that measures what a model does: evaluate."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..api import load
from ..errors import UsageError
from ..training.behaviour import measure_behaviour

_TOY_SIZE = (64, 64)
_FEWEST = 4
"""Clips for the four directions."""


def run(given: Namespace) -> dict[str, Any]:
    """Do what ``evaluate`` asks for and return what ``--json`` prints."""
    if given.items < _FEWEST:
        raise UsageError(f"items must be at least {_FEWEST}, but {given.items} was given; 64 are usual")
    model = load(given.model, device=given.device, dtype="float32")
    preset = model.variant.preset
    if (preset.width, preset.height) != _TOY_SIZE:
        raise UsageError(
            f"the figures are of the toy world, whose pictures are 64x64, but {model.variant.name} makes "
            f"{preset.width}x{preset.height}; evaluate a model that was trained on it"
        )

    def note(name: str, value: float) -> None:
        if not given.json:
            print(f"{name:48} {value:8.3f}", flush=True)

    figures = measure_behaviour(
        model, items=given.items, seed=given.seed, steps=given.steps, cfg=given.cfg, report=note
    )
    return {"model": str(given.model), "items": given.items, "seed": given.seed, "figures": figures}
