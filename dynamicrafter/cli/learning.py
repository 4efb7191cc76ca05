"""The commands that train a model and measure one: train, evaluate."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..api import load
from ..errors import UsageError
from ..training.behaviour import measure_behaviour
from ..training.config import TinyConfig, load_config
from ..training.finetune import finetune
from ..training.tiny import STAGES, Stage, train_tiny
from ..training.trainer import Report

_TOY_SIZE = (64, 64)
_FEWEST = 4
"""Clips for the four directions."""


def run(command: str, given: Namespace) -> object:
    """Do what one of the commands asks for and return what ``--json`` prints."""
    return {"train": _train, "evaluate": _evaluate}[command](given)


def _train(given: Namespace) -> dict[str, Any]:
    config = load_config(given.config)
    folder = given.folder or Path(Path(given.config).stem)
    quiet = given.quiet or given.json

    def report(line: Report, stage: str = "") -> None:
        if not quiet:
            measured = " ".join(f"{name} {value:.4g}" for name, value in line.extra.items())
            print(
                f"{stage:8} step {line.step:6} loss {line.loss:.4f} {line.seconds:7.0f} s {measured}",
                flush=True,
            )

    skipped: list[str] = []

    def skip(reason: str) -> None:
        skipped.append(reason)
        if not quiet:
            print(f"left out: {reason}")

    if isinstance(config, TinyConfig):
        stages: tuple[Stage, ...] = tuple(stage for stage in STAGES if given.stage in (None, stage))
        if not stages:
            raise UsageError(f"the stages are {', '.join(STAGES)}, not {given.stage!r}")
        path = train_tiny(folder, lambda stage, line: report(line, stage), stages)
    else:
        if given.stage is not None:
            raise UsageError("only the tiny recipe has stages; leave --stage out")
        model = load(config.model, device=given.device, dtype="float32")
        path = finetune(model, config, folder, skipped=skip, report=report)
    if not given.json:
        print(path)
    return {"file": str(path), "left_out": skipped}


def _evaluate(given: Namespace) -> dict[str, Any]:
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
