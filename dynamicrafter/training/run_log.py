"""The log of a run: a csv file and, if requested, TensorBoard files next to it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from ..atomic import replacing
from ..errors import UsageError

LogKind = Literal[
    "csv",
    "tensorboard",
    "wandb",
    "mlflow",
    "comet_ml",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
    "trackio",
]
TRACKERS = frozenset(get_args(LogKind)) - {"csv", "tensorboard"}
"""Those that accelerate writes to; each is also the name of its package."""
_PROJECT = "dynamicrafter"

CSV = "log.csv"
TENSORBOARD = "tensorboard"
"""Names of the file and the folder inside the run's folder."""

HELD_OUT = "held_out"
"""Name of the validation loss among the measured values."""
_COLUMNS = ("step", "loss", "learning_rate", "seconds", HELD_OUT, "measured")
"""The last one contains the measured values without a column of their own, as ``name=value``."""


@dataclass
class Report:
    """A run's report on the steps since the previous report."""

    step: int
    loss: float | None
    """Mean over those steps; None before the first one."""
    rate: float
    seconds: float
    """Since the start of the run, without pauses before it was resumed."""
    extra: Mapping[str, float] = field(default_factory=dict[str, float])


class RunLog:
    """Writes the log of a run that starts or resumes after ``step``; later lines of a killed run are removed."""

    def __init__(
        self,
        folder: Path,
        kind: LogKind,
        step: int,
        accelerator: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the log.

        ``accelerator``, accelerate's Accelerator that was made for ``kind``, and the ``settings`` to show are for those
        of TRACKERS. Raises UsageError if the package of ``kind`` is not installed.
        """
        self._path = folder / CSV
        self._board: Any = None
        self._accelerator: Any = None
        if kind in TRACKERS:
            self._accelerator = accelerator
            accelerator.init_trackers(_PROJECT, config=dict(settings or {}))
        if kind == "tensorboard":
            try:
                writer = import_module("torch.utils.tensorboard").SummaryWriter
            except ImportError as problem:
                raise UsageError(
                    "a TensorBoard log needs the tensorboard package; install it with pip install tensorboard, "
                    'or set log to "csv"'
                ) from problem
            self._board = writer(str(folder / TENSORBOARD), purge_step=step + 1 if step else 0)
        self._forget_after(step)
        self._columns = self._found_columns()

    def write(self, line: Report) -> None:
        """Append a line; raises UsageError if the disk is full."""
        fresh = not self._path.exists()
        columns = _COLUMNS if fresh else self._columns
        values = {
            "step": str(line.step),
            "loss": "" if line.loss is None else f"{line.loss:.6g}",
            "learning_rate": f"{line.rate:.4g}",
            "seconds": f"{line.seconds:.1f}",
            **{key: f"{value:.5g}" for key, value in line.extra.items()},
        }
        values["measured"] = " ".join(f"{key}={value}" for key, value in values.items() if key not in columns)
        cells = [values.get(name, "") for name in columns]
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([columns, cells] if fresh else [cells])
        except OSError as problem:
            raise self._unwritten(problem) from problem
        if self._board is not None:
            if line.loss is not None:
                self._board.add_scalar("loss", line.loss, line.step)
            self._board.add_scalar("learning_rate", line.rate, line.step)
            for key, value in line.extra.items():
                self._board.add_scalar(f"measured/{key}", value, line.step)
            self._board.flush()
        if self._accelerator is not None:
            loss = {} if line.loss is None else {"loss": line.loss}
            self._accelerator.log({**loss, "learning_rate": line.rate, **line.extra}, step=line.step)

    def close(self) -> None:
        """Finish TensorBoard's file or the tracker's run."""
        if self._board is not None:
            self._board.close()
        if self._accelerator is not None:
            # Its own end_training would end the processes' communication as well.
            for tracker in self._accelerator.trackers:
                tracker.finish()

    def _found_columns(self) -> tuple[str, ...]:
        """The columns of an existing file, which may be those of another version."""
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                return tuple(next(csv.reader(file), _COLUMNS))
        except (OSError, UnicodeDecodeError, csv.Error):
            return _COLUMNS

    def _unwritten(self, problem: OSError) -> UsageError:
        return UsageError(
            f"{self._path} could not be written ({problem.strerror or problem}); free some space, then start again"
        )

    def _forget_after(self, step: int) -> None:
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError):
            return
        kept = lines[:1] + [line for line in lines[1:] if step and _step_of(line) <= step]
        if len(kept) < len(lines):
            try:
                with replacing(self._path) as part:
                    part.write_text("".join(kept), encoding="utf-8", newline="")
            except OSError as problem:
                raise self._unwritten(problem) from problem


def _step_of(line: str) -> float:
    """The step of a line; infinite for a truncated line."""
    number = line.partition(",")[0]
    return int(number) if number.isdecimal() and line.endswith("\n") else float("inf")
