"""The command that trains a model or an adapter: train."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..api import load
from ..errors import UsageError
from ..training.config import TinyConfig, load_config
from ..training.finetune import finetune
from ..training.tiny import STAGES, Stage, train_tiny
from ..training.trainer import Report


def run(given: Namespace) -> dict[str, Any]:
    """Do what ``train`` asks for and return what ``--json`` prints."""
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
