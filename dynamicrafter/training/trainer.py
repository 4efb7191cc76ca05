"""The training loop: one module that turns a batch into a loss, trained by accelerate, resumable to the bit.

All random numbers of a step come from a generator that is seeded by the run's seed, the step and the process. A run
that was stopped therefore goes on exactly as if it had not been.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, UsageError
from .muon import Muon

Batch = dict[str, Any]
Draw = Callable[[torch.Generator], Batch]
"""Makes the batch of a step from a generator, the same one for the same generator."""
Precision = Literal["no", "bf16", "fp16"]
Decay = Literal["constant", "linear", "cosine"]
Method = Literal["adamw", "muon"]

STATE = "state.pt"
LOG = "log.csv"


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how fast and how exactly to train; the batch size belongs to the data."""

    steps: int = 1000
    method: Method = "adamw"
    """AdamW as released, or Muon, which gets further in short runs of small networks."""
    learning_rate: float = 1e-4
    warm_up: int = 0
    """Steps over which the learning rate rises to its value."""
    decay: Decay = "constant"
    """What the learning rate does after the warm-up; both others end at zero."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 0.5
    """Largest norm of the gradient; 0 switches clipping off."""
    accumulate: int = 1
    """Batches whose gradients are summed into one step."""
    ema: float = 0.0
    """Decay of the running mean of the weights; 0 keeps none."""
    precision: Precision = "no"
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    save_every: int = 500

    def __post_init__(self) -> None:
        """Check the ranges; raises UsageError."""
        if self.steps < 1 or self.accumulate < 1 or self.log_every < 1 or self.save_every < 1:
            raise UsageError("steps, accumulate, log_every and save_every must be at least 1")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be 0 (none) to below 1, but {self.ema} was given; 0.999 is usual")
        if self.learning_rate <= 0:
            raise UsageError(f"learning_rate must be above 0, but {self.learning_rate} was given")

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        share = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        factor = {
            "constant": 1.0,
            "linear": 1 - share,
            "cosine": 0.5 + 0.5 * math.cos(math.pi * share),
        }[self.decay]
        return self.learning_rate * factor


def _accelerate() -> Any:
    """The accelerate package; raises UsageError that says how to get it."""
    try:
        return import_module("accelerate")
    except ImportError as problem:
        raise UsageError(
            "training needs the accelerate package; install it with pip install 'dynamicrafter-studio[train]'"
        ) from problem


def _processes() -> Any:
    """What accelerate knows of the processes, set up as the trainer would: whoever comes first decides for all."""
    accelerate = _accelerate()
    return accelerate.PartialState(cpu=accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU"))


def one_process_first() -> AbstractContextManager[None]:
    """A context that the main process passes before all others, for work whose result the others only read."""
    return _processes().main_process_first()


def process_count() -> int:
    """Processes that train together."""
    return _processes().num_processes


def seed_everything(seed: int) -> None:
    """Seed what draws fresh weights."""
    cast(Any, torch).manual_seed(seed)


def step_seed(seed: int, step: int, micro: int = 0, process: int = 0) -> int:
    """Seed of the generator of one batch; differs for each step, accumulated batch and process."""
    return ((seed * 1_000_003 + step) * 4096 + micro) * 1024 + process


@dataclass
class Report:
    """What a run tells about its last stretch of steps."""

    step: int
    loss: float
    rate: float
    seconds: float
    """Since the beginning of the run, pauses between resumed parts left out."""
    extra: Mapping[str, float] = field(default_factory=dict[str, float])


class Trainer:
    """Trains ``module`` (a batch's keywords in, a scalar loss out) in ``folder`` and goes on from where it was."""

    def __init__(
        self,
        module: nn.Module,
        draw: Draw,
        config: TrainerConfig,
        folder: Path,
        *,
        validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        report: Callable[[Report], None] | None = None,
    ) -> None:
        """``validate`` measures the module with its running mean at every save; ``report`` hears every log line."""
        self._accelerator = _accelerate().Accelerator(mixed_precision=config.precision)
        self._plain = module
        self._draw = draw
        self._config = config
        self._folder = folder
        self._validate = validate
        self._report = report
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise UsageError("there is nothing to train: no weight of the model is set to be trained")
        make = Muon if config.method == "muon" else torch.optim.AdamW
        optimizer = make(
            trained, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self._module, self._optimizer = self._accelerator.prepare(module, optimizer)
        if config.compile:
            self._module = cast(Any, torch).compile(self._module)
        self._step = 0
        self._seconds = 0.0
        self._mean: dict[str, Tensor] = {}
        self._resume()
        if config.ema and not self._mean:
            self._mean = {name: p.detach().clone() for name, p in self._trained()}

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    def run(self) -> nn.Module:
        """Train to the last step; returns the module with the running mean as its weights, if one is kept."""
        config = self._config
        begun = time.monotonic() - self._seconds
        losses: list[float] = []
        while self._step < config.steps:
            losses.append(self._advance())
            self._seconds = time.monotonic() - begun
            last = self._step == config.steps
            saving = self._step % config.save_every == 0 or last
            measured: Mapping[str, float] = {}
            if saving:
                measured = self._measure()
                self._save()
            if saving or self._step % config.log_every == 0:
                self._log(sum(losses) / len(losses), measured)
                losses = []
        self._swap()
        return self._plain

    def _advance(self) -> float:
        """One step of the optimiser; returns its mean loss."""
        config, accelerator = self._config, self._accelerator
        for group in self._optimizer.param_groups:
            group["lr"] = config.rate(self._step)
        total = 0.0
        for micro in range(config.accumulate):
            seed = step_seed(config.seed, self._step, micro, accelerator.process_index)
            batch = self._draw(torch.Generator().manual_seed(seed))
            batch = {key: _moved(value, accelerator.device) for key, value in batch.items()}
            with accelerator.autocast():
                loss = self._module(**batch)
            if not torch.isfinite(loss):
                raise UsageError(
                    f"the loss is {loss.item()} at step {self._step}; lower the learning rate, or train in float32"
                )
            accelerator.backward(loss / config.accumulate)
            total += loss.item() / config.accumulate
        if config.clip:
            accelerator.clip_grad_norm_([p for _, p in self._trained()], config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        if config.ema:
            decay = min(config.ema, (1 + self._step) / (10 + self._step))
            with torch.no_grad():
                for name, parameter in self._trained():
                    self._mean[name].lerp_(parameter, 1 - decay)
        return total

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._plain.named_parameters() if p.requires_grad]

    def _swap(self) -> None:
        """Exchange the weights and their running mean."""
        with torch.no_grad():
            for name, parameter in self._trained():
                if name in self._mean:
                    kept = parameter.detach().clone()
                    parameter.copy_(self._mean[name])
                    self._mean[name] = kept

    def _measure(self) -> Mapping[str, float]:
        if self._validate is None:
            return {}
        self._swap()
        with torch.no_grad():
            measured = self._validate(self._plain)
        self._swap()
        return measured

    def _log(self, loss: float, extra: Mapping[str, float]) -> None:
        if not self._accelerator.is_main_process:
            return
        line = Report(self._step, loss, self._config.rate(self._step - 1), self._seconds, extra)
        path = self._folder / LOG
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "loss", "learning_rate", "seconds", "measured"])
            measured = " ".join(f"{key}={value:.5g}" for key, value in extra.items())
            writer.writerow([line.step, f"{loss:.6g}", f"{line.rate:.4g}", f"{line.seconds:.1f}", measured])
        if self._report is not None:
            self._report(line)

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            state = {
                "step": self._step,
                "seconds": self._seconds,
                "module": {name: p.detach() for name, p in self._trained()},
                "optimizer": self._optimizer.state_dict(),
                "mean": self._mean,
                "rng": torch.get_rng_state(),
            }
            save_state(state, self._folder / STATE)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        path = self._folder / STATE
        if not path.exists():
            return
        state = load_state(path)
        own = dict(self._trained())
        if set(own) != set(state["module"]):
            raise CheckpointError(
                f"{path} is of a run that trained other weights; give this run another folder, or delete that one"
            )
        with torch.no_grad():
            for name, value in state["module"].items():
                own[name].copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self._mean = {name: value.to(own[name].device) for name, value in state["mean"].items()}
        self._step, self._seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` whole or not at all: what was at ``path`` stays until the new file is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        torch.save(state, unfinished)
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as problem:
        raise UsageError(
            f"{path} could not be written ({problem}); the one before is untouched; make room, then start again"
        ) from problem
    finally:
        unfinished.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote; raises CheckpointError for anything else. Runs no code from the file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise CheckpointError(f"{path} is not a whole training state; delete it to begin anew") from problem


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
