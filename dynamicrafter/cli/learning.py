"""The command that trains a model or an adapter: train."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..api import load, pick_device
from ..cartoon.tiny_person import PERSON_STAGES, train_tiny_person
from ..errors import UsageError
from ..toy.tiny import STAGES, train_tiny
from ..training.config import FinetuneConfig, TinyConfig, load_config
from ..training.finetune import finetune, listed_clips
from ..training.printing import as_toml
from ..training.processes import heeding_termination, join_processes, process_index
from ..training.run_log import Report
from ..training.trainer import Stopped
from .progress import Bars

_UNITS = {"encoding": "clip", "training": "step"}


class _Bars(Bars):
    """The progress bars of training, with lines printed above them."""

    def work(self, what: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` clips encoded or steps trained."""
        self._show(what, _UNITS[what], done, total)

    def say(self, line: str) -> None:
        """Print a line above the bar; flushed, because the log may be followed while it is written."""
        if self._bar is None or self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.write(line)


def run(given: Namespace) -> dict[str, Any]:
    """Run ``train`` and return what ``--json`` prints."""
    config = load_config(given.config, given.set)
    if given.print:
        text = as_toml(config)
        if not given.json:
            print(text, end="")
        return {"toml": text}
    folder = given.folder or Path(Path(given.config).stem)
    stages: tuple[str, ...] = ()
    if not isinstance(config, FinetuneConfig):
        known = STAGES if isinstance(config, TinyConfig) else PERSON_STAGES
        stages = tuple(stage for stage in known if given.stage in (None, stage))
        if not stages:
            raise UsageError(f"the stages are {', '.join(known)}, not {given.stage!r}")
    elif given.stage is not None:
        raise UsageError("only the recipes of built-in models have stages; omit --stage")
    device = join_processes(None if given.device == "auto" else pick_device(given.device))
    # Only one of several processes prints.
    quiet = given.quiet or given.json or process_index() != 0
    skipped: list[str] = []
    notes: list[str] = []

    bars = _Bars("train", hidden=quiet)
    with bars, heeding_termination():

        def say(line: str) -> None:
            if not quiet:
                bars.say(line)

        def report(line: Report, stage: str = "") -> None:
            measured = " ".join(f"{name} {value:.4g}" for name, value in line.extra.items())
            loss = " " * 11 if line.loss is None else f"loss {line.loss:.4f}"
            say(f"{stage:8} step {line.step:6} {loss} {line.seconds:7.0f} s {measured}")

        def skip(reason: str) -> None:
            skipped.append(reason)
            say(f"skipped: {reason}")

        def note(text: str) -> None:
            notes.append(text)
            say(f"note: {text}")

        def train() -> Path:
            if not isinstance(config, FinetuneConfig):
                recipe = train_tiny if isinstance(config, TinyConfig) else train_tiny_person
                return recipe(folder, lambda stage, line: report(line, stage), stages)
            # An invalid list is reported before gigabytes are read.
            listed_clips(config)
            model = load(
                config.model,
                variant=config.variant,
                text_encoder=config.text_encoder,
                image_encoder=config.image_encoder,
                device=str(device),
                dtype="float32",
                weights="full",
                memory="high",
                progress=bars.loading,
            )
            return finetune(model, config, folder, skipped=skip, note=note, report=report, progress=bars.work)

        path: Path | None = None
        try:
            path = train()
        except Stopped as stop:
            note(f"{stop}; the same command goes on from there")
        if path is not None and not path.exists():
            note(f"{' and '.join(stages)} done; the last stage writes {path.name}")
            path = None
    if path is None:
        return {"file": None, "left_out": skipped, "notes": notes}
    if not given.json and process_index() == 0:
        print(path)
    return {"file": str(path), "left_out": skipped, "notes": notes}
