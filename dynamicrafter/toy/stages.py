"""Recipes of built-in models: stages, each in a folder of its own, that resume where they were stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..training.run_log import Report
from ..training.state import make_folder, save_state

Hear = Callable[[Report], None]
RecipeStep = Callable[[Path, Hear], None]
"""Trains in the recipe's folder, which holds the results of the stages before."""


def run_stages(
    folder: Path,
    table: Mapping[str, RecipeStep],
    stages: Iterable[str],
    report: Callable[[str, Report], None],
) -> None:
    """Run ``stages`` of ``table`` in ``folder``; ``report`` is called with the stage of every log line."""
    for stage in stages:
        make_folder(folder / stage)

        def hear(line: Report, stage: str = stage) -> None:
            report(stage, line)

        table[stage](folder, hear)


def keep_weights(weights: Mapping[str, Tensor], folder: Path, stage: str) -> None:
    """Write the result of a stage."""
    save_state({name: value.detach().cpu() for name, value in weights.items()}, folder / f"{stage}.pt")
