"""The training loop for a module that maps a batch to a loss, using accelerate; resuming is bit-identical.

All random numbers of a step come from a generator seeded with the run's seed, the step and the process. A resumed run
therefore continues exactly as if it had not been stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from ..atomic import clear_unfinished
from ..errors import CheckpointError, UsageError
from ..settings import check_seed
from .muon import Muon
from .options import Option, check_options
from .processes import forget_gathered, local, make_accelerator, spread, whole, widen_scalars
from .run_log import LogKind, Report, RunLog
from .state import load_state, make_folder, save_state

Batch = dict[str, Any]
Draw = Callable[[torch.Generator], Batch]
"""Returns the batch of a step; it depends only on the generator."""
StepProgress = Callable[[int, int], None]
"""Called with the number of steps done and the total."""
MixedPrecision = Literal["no", "bf16", "fp16"]
Decay = Literal["constant", "linear", "cosine"]
Method = Literal["adamw", "muon"]

STATE = "state.pt"
_STATE_KEYS = {"step", "seconds", "module", "optimizer", "mean", "rng", "identity"}


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the optimiser and the training loop; the batch size belongs to the data."""

    steps: Annotated[int, Option("number of steps of the optimizer", low=1)] = 1000
    method: Annotated[
        Method,
        Option(
            "optimizer: AdamW as released, or Muon, which makes more progress in short runs of small networks"
        ),
    ] = "adamw"
    learning_rate: Annotated[float, Option("learning rate after the warm-up", low=0, above=True)] = 1e-4
    warm_up: Annotated[
        int, Option("steps over which the learning rate rises linearly to its value", low=0)
    ] = 0
    decay: Annotated[
        Decay, Option("learning rate schedule after the warm-up; all but constant end at zero")
    ] = "constant"
    betas: Annotated[
        tuple[float, float],
        Option(
            "decay rates of the optimizer's averages",
            low=0,
            high=1,
            below=True,
            hint="0.9 and 0.999 are usual",
        ),
    ] = (0.9, 0.999)
    weight_decay: Annotated[float, Option("weight decay; 0 disables it", low=0)] = 0.01
    max_grad_norm: Annotated[float, Option("maximum norm of the gradient; 0 disables clipping", low=0)] = 0.5
    accumulate: Annotated[int, Option("batches whose gradients are summed into one step", low=1)] = 1
    ema: Annotated[
        float,
        Option("decay of the EMA weights; 0 disables them", low=0, high=1, below=True, hint="0.999 is usual"),
    ] = 0.0
    precision: Annotated[MixedPrecision, Option("mixed precision; fp16 needs a GPU")] = "no"
    compile: Annotated[bool, Option("compile the network with torch.compile")] = False
    seed: Annotated[int, Option("seed of all random numbers of the run")] = 0
    log: Annotated[LogKind, Option("where the log is written besides log.csv; csv means nowhere else")] = (
        "csv"
    )
    log_every: Annotated[int, Option("steps between lines of the log", low=1)] = 50
    save_every: Annotated[int, Option("steps between saved states", low=1)] = 500

    def __post_init__(self) -> None:
        """Check the ranges; raises UsageError."""
        check_options(self)
        check_seed(self.seed)

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


def seed_everything(seed: int) -> None:
    """Seed the global generators, which initialise weights."""
    cast(Any, torch).manual_seed(seed)


def step_seed(seed: int, step: int, micro: int = 0, process: int = 0) -> int:
    """Seed of the generator of one batch; different for each step, accumulated batch and process."""
    # Generators accept 64 bits.
    return (((seed * 1_000_003 + step) * 4096 + micro) * 1024 + process) % 2**64


class Trainer:
    """Trains ``module`` (batch as keyword arguments to scalar loss) in ``folder``, resuming a run that is there."""

    def __init__(
        self,
        module: nn.Module,
        draw: Draw,
        config: TrainerConfig,
        folder: Path,
        *,
        validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        report: Callable[[Report], None] | None = None,
        progress: StepProgress | None = None,
        sample: Callable[[int], None] | None = None,
        sample_every: int = 0,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        """Prepare a run.

        ``validate`` measures the module with its EMA weights before the first step and at every save; ``report`` is
        called with every log line, ``progress`` after every step. ``sample`` is called with the EMA weights in place
        before the first step and every ``sample_every`` steps (0 for never): in the main process, or with FSDP in all
        processes, but then not before the first step. ``identity`` maps names of settings that must not change when a
        run is resumed to their values. Raises UsageError for a run that cannot start and CheckpointError for the state
        of a different run.
        """
        self._identity = {key: str(value) for key, value in (identity or {}).items()}
        self._identity["method"] = config.method
        self._accelerator = make_accelerator(config.precision)
        self._plain = module
        self._draw = draw
        self._config = config
        self._folder = folder
        self._validate = validate
        self._report = report
        self._progress = progress
        self._sample = sample
        self._sample_every = sample_every if sample is not None else 0
        if self._sharded:
            if config.method == "muon":
                raise UsageError("muon needs unsharded weight matrices; with FSDP, set method to adamw")
            widen_scalars(module)
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise UsageError("there is nothing to train: no weight of the model is trainable")
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
        if self._accelerator.is_main_process:
            clear_unfinished(folder)
        self._resume()
        if config.ema and not self._mean:
            self._mean = {name: p.detach().clone() for name, p in self._trained()}

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self._step

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self._accelerator.is_main_process

    def run(self) -> nn.Module:
        """Train to the last step; returns the module, with its EMA weights if they are kept."""
        config = self._config
        log = None
        if self.is_main:
            make_folder(self._folder)
            log = RunLog(self._folder, config.log, self._step)
        begun = time.monotonic() - self._seconds
        losses: list[float] = []
        try:
            if self._step == 0:
                self._measure_start(log)
                self._make_sample()
            while self._step < config.steps:
                losses.append(self._advance())
                self._seconds = time.monotonic() - begun
                last = self._step == config.steps
                saving = self._step % config.save_every == 0 or last
                measured: Mapping[str, float] = {}
                if saving:
                    self._refuse_spoiled()
                    measured = self._measure()
                    self._save()
                if saving or self._step % config.log_every == 0:
                    self._tell(log, sum(losses) / len(losses), measured)
                    losses = []
                if self._progress is not None and self.is_main:
                    self._progress(self._step, config.steps)
                self._make_sample()
        finally:
            if log is not None:
                log.close()
        self._swap()
        return self._plain

    def trained_weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The full state dict of ``module``, a part of the trained one, on the CPU; empty except in the main process.

        A collective that every process must call.
        """
        return self._gathered(module.state_dict())

    @property
    def _sharded(self) -> bool:
        return bool(self._accelerator.is_fsdp2)

    def _advance(self) -> float:
        """One step of the optimiser; returns its mean loss."""
        config, accelerator = self._config, self._accelerator
        for group in self._optimizer.param_groups:
            group["lr"] = config.rate(self._step)
        total = 0.0
        for micro in range(config.accumulate):
            batch = self._batch(micro)
            # DDP synchronises once per step; with FSDP, deferring the synchronisation would keep unsharded gradients.
            alone = micro < config.accumulate - 1 and not self._sharded
            with accelerator.no_sync(self._module) if alone else nullcontext():
                with accelerator.autocast():
                    loss = self._module(**batch)
                if not torch.isfinite(loss):
                    raise UsageError(
                        f"the loss is {loss.item()} at step {self._step}; "
                        "lower the learning rate, or train in float32"
                    )
                accelerator.backward(loss / config.accumulate)
            total += loss.item() / config.accumulate
        if config.max_grad_norm:
            accelerator.clip_grad_norm_([p for _, p in self._trained()], config.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        if config.ema:
            decay = min(config.ema, (1 + self._step) / (10 + self._step))
            with torch.no_grad():
                for name, parameter in self._trained():
                    local(self._mean[name]).lerp_(local(parameter), 1 - decay)
        return total

    def _batch(self, micro: int) -> Batch:
        """One of the batches of the next step, on the device."""
        process = self._accelerator.process_index
        generator = torch.Generator().manual_seed(step_seed(self._config.seed, self._step, micro, process))
        return {key: _moved(value, self._accelerator.device) for key, value in self._draw(generator).items()}

    def _refuse_spoiled(self) -> None:
        """Raise UsageError before saving weights without a finite loss, since the previous state may still be good."""
        # Random numbers used here must not affect later steps.
        kept = torch.get_rng_state()
        with torch.no_grad(), self._accelerator.autocast():
            loss = self._module(**self._batch(0))
            if self._accelerator.num_processes > 1:
                # All processes must stop, or the others would wait forever.
                loss = self._accelerator.reduce(loss, "mean")
        torch.set_rng_state(kept)
        if not torch.isfinite(loss):
            raise UsageError(
                f"the loss is {loss.item()} after step {self._step}, and these weights were not saved; "
                "lower the learning rate, or train in float32"
            )

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._plain.named_parameters() if p.requires_grad]

    def _swap(self) -> None:
        """Swap the weights and the EMA weights."""
        with torch.no_grad():
            for name, parameter in self._trained():
                if name in self._mean:
                    kept = local(parameter).clone()
                    local(parameter).copy_(local(self._mean[name]))
                    local(self._mean[name]).copy_(kept)
        forget_gathered(self._plain)

    @contextmanager
    def _with_mean(self) -> Generator[None]:
        """A context in which the module has the EMA weights."""
        self._swap()
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap()

    def _measure(self) -> Mapping[str, float]:
        if self._validate is None:
            return {}
        with self._with_mean():
            return self._validate(self._plain)

    def _measure_start(self, log: RunLog | None) -> None:
        """Write a line of the log before the first step, to which later measurements can be compared."""
        # Random numbers used here must not affect the steps.
        kept = torch.get_rng_state()
        measured = self._measure()
        torch.set_rng_state(kept)
        if measured:
            self._tell(log, None, measured)

    def _make_sample(self) -> None:
        if self._sample is None or not self._sample_every or self._step % self._sample_every:
            return
        # Sharded networks need every process, and FSDP requires a full forward pass before a part is used alone.
        if self._step == 0 if self._sharded else not self.is_main:
            return
        with self._with_mean():
            self._sample(self._step)

    def _tell(self, log: RunLog | None, loss: float | None, extra: Mapping[str, float]) -> None:
        """Write a line of the log, with the mean of ``loss`` over all processes."""
        if loss is not None and self._accelerator.num_processes > 1:
            mean = self._accelerator.reduce(torch.tensor(loss, device=self._accelerator.device), "mean")
            loss = float(mean)
        if log is None:
            return
        line = Report(self._step, loss, self._config.rate(max(0, self._step - 1)), self._seconds, extra)
        log.write(line)
        if self._report is not None:
            self._report(line)

    def _gathered(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors on the CPU; empty except in the main process."""
        kept: dict[str, Tensor] = {}
        for name, value in values.items():
            full = whole(value)
            if self.is_main:
                kept[name] = full.cpu()
        return kept

    def _save(self) -> None:
        module = self._gathered(dict(self._trained()))
        mean = self._gathered(self._mean)
        optimizer = self._optimizer.state_dict()
        moments = {
            index: {key: whole(value) if isinstance(value, Tensor) else value for key, value in row.items()}
            for index, row in optimizer["state"].items()
        }
        if self.is_main:
            state = {
                "step": self._step,
                "seconds": self._seconds,
                "module": module,
                "optimizer": {**optimizer, "state": moments},
                "mean": mean,
                "rng": torch.get_rng_state(),
                "identity": self._identity,
            }
            if self._accelerator.scaler is not None:
                state["scaler"] = self._accelerator.scaler.state_dict()
            save_state(state, self._folder / STATE)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> None:
        path = self._folder / STATE
        if not path.exists():
            return
        state = load_state(path)
        if not set(state) >= _STATE_KEYS:
            raise CheckpointError(f"{path} is not a complete training state; delete it to start from scratch")
        advice = "use another folder for this run, or delete that one"
        for key, value in self._identity.items():
            before = state["identity"].get(key)
            if before != value:
                raise CheckpointError(f"{path} belongs to a run with {key} {before}, not {value}; {advice}")
        own = dict(self._trained())
        # Compare element counts: a vector of one element under FSDP is a scalar elsewhere.
        if {name: p.numel() for name, p in own.items()} != {n: v.numel() for n, v in state["module"].items()}:
            raise CheckpointError(f"{path} belongs to a run that trained other weights; {advice}")
        with torch.no_grad():
            for name, value in state["module"].items():
                local(own[name]).copy_(local(spread(value, own[name])))
        optimizer = state["optimizer"]
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        for index, row in optimizer["state"].items():
            for key, value in row.items():
                # The step count is a scalar; all other tensors have the shape of the weight.
                if isinstance(value, Tensor) and key != "step":
                    row[key] = spread(value, parameters[index])
        self._optimizer.load_state_dict(optimizer)
        for group in self._optimizer.param_groups:
            # These may change when a run is resumed; the state has the old values.
            group["betas"], group["weight_decay"] = self._config.betas, self._config.weight_decay
        # EMA weights that are no longer updated must not become the result.
        if self._config.ema:
            self._mean = {name: spread(value, own[name]) for name, value in state["mean"].items()}
        if self._accelerator.scaler is not None and "scaler" in state:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._step, self._seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
