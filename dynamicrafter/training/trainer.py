"""The training loop for a module that maps a batch to a loss, using accelerate; resuming is bit-identical.

All random numbers of a step, those of dropout among them, come from generators seeded with the run's seed, the step and
the process. A resumed run therefore continues exactly as if it had not been stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from ..atomic import clear_unfinished
from ..errors import CheckpointError, UsageError
from ..settings import check_seed
from .optimizers import make_optimizer, optimizer_class
from .options import Option, check_options
from .processes import asked_to_stop, forget_gathered, local, make_accelerator, spread, whole, widen_scalars
from .run_log import TRACKERS, LogKind, Report, RunLog
from .state import load_state, make_folder, save_state

Batch = dict[str, Any]
Draw = Callable[[torch.Generator], Batch]
"""Returns the batch of a step; it depends only on the generator."""
StepProgress = Callable[[int, int], None]
"""Called with the number of steps done and the total."""
MixedPrecision = Literal["no", "bf16", "fp16"]
Decay = Literal["constant", "linear", "cosine"]

STATE = "state.pt"
_STATE_KEYS = {"step", "seconds", "module", "optimizer", "mean", "identity"}
"""States of earlier versions have more."""
_MICRO = 4096
"""Seeds of a step in one process."""


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the optimiser and the training loop; the batch size belongs to the data."""

    steps: Annotated[int, Option("number of steps of the optimizer", low=1)] = 1000
    method: Annotated[
        str,
        Option(
            "optimizer: adamw as released, muon, which makes more progress in short runs of small networks, a class of "
            "torch.optim such as Adafactor, or one of another package, such as bitsandbytes.AdamW8bit or "
            "prodigyopt.Prodigy"
        ),
    ] = "adamw"
    method_arguments: Annotated[
        Mapping[str, Any], Option("further arguments of the optimizer, as in { d_coef = 2.0 }")
    ] = field(default_factory=dict[str, Any])
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
    log: Annotated[
        LogKind,
        Option("where the log is written besides log.csv; csv means nowhere else; each needs its package"),
    ] = "csv"
    log_every: Annotated[int, Option("steps between lines of the log", low=1)] = 50
    save_every: Annotated[int, Option("steps between saved states", low=1)] = 500

    def __post_init__(self) -> None:
        """Check the ranges; raises UsageError."""
        check_options(self)
        check_seed(self.seed)
        optimizer_class(self.method)

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


class Stopped(Exception):
    """Training was asked to end before its last step; its state is saved, and the same run goes on from there."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"training was stopped at step {step} of {steps}")
        self.step = step
        self.steps = steps


def seed_everything(seed: int) -> None:
    """Seed the global generators, which initialise weights and draw the masks of dropout."""
    cast(Any, torch).manual_seed(seed)


def step_seed(seed: int, step: int, micro: int = 0, process: int = 0) -> int:
    """Seed of the generator of one batch; different for each step, accumulated batch and process."""
    # Generators accept 64 bits, but those on the CPU use only the lower 32, which alone would repeat every 1024 steps.
    seed = (((seed * 1_000_003 + step) * _MICRO + micro) * 1024 + process) % 2**64
    return seed ^ (seed >> 32) * 0x9E3779B1 % 2**32


class _Loader:
    """Draws batches in a background thread, always the one after the one that was taken."""

    def __init__(self, draw: Callable[[int, int], Batch], config: TrainerConfig) -> None:
        """``draw`` returns a batch by its step and its index within the step."""
        self._draw = draw
        self._config = config
        self._pool = ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def take(self, step: int, micro: int) -> Batch:
        """The batch, from the thread if it is the expected one; raises what drawing it raised."""
        if self._next is None or self._next[0] != (step, micro):
            self._next = (step, micro), self._pool.submit(self._draw, step, micro)
        batch = self._next[1].result()
        after = (step, micro + 1) if micro + 1 < self._config.accumulate else (step + 1, 0)
        self._next = (after, self._pool.submit(self._draw, *after)) if after[0] < self._config.steps else None
        return batch

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)


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
        background: bool = False,
        saved: Callable[[int], None] | None = None,
        identity: Mapping[str, object] | None = None,
        placed: bool = False,
    ) -> None:
        """Prepare a run.

        ``validate`` measures the module with its EMA weights before the first step and at every save; ``report`` is
        called with every log line, ``progress`` after every step. ``sample`` is called with the EMA weights in place
        before the first step and every ``sample_every`` steps (0 for never): in the main process, or with FSDP in all
        processes, but then not before the first step. ``background``: batches are drawn in a thread, one ahead, so
        ``draw`` must allow that. ``saved`` is called with the EMA weights in place after every saved state, in all
        processes. ``identity`` maps names of settings that must not change when a run is resumed to their values.
        ``placed``: the module's weights stay where they are, instead of being moved to the device.
        Raises UsageError for a run that cannot start and CheckpointError for the state of a different run.
        """
        self._identity = {key: str(value) for key, value in (identity or {}).items()}
        self._identity["method"] = config.method
        self._accelerator = make_accelerator(
            config.precision, config.log if config.log in TRACKERS else None, folder
        )
        self._plain = module
        self._draw = draw
        self._config = config
        self._folder = folder
        self._validate = validate
        self._report = report
        self._progress = progress
        self._loader = _Loader(self._drawn, config) if background else None
        self._sample = sample
        self._saved = saved
        self._sample_every = sample_every if sample is not None else 0
        if self._sharded:
            if config.method == "muon":
                raise UsageError("muon needs unsharded weight matrices; with FSDP, set method to adamw")
            widen_scalars(module)
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise UsageError("there is nothing to train: no weight of the model is trainable")
        common = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
        optimizer = make_optimizer(config.method, trained, common, config.method_arguments)
        self._module, self._optimizer = self._accelerator.prepare(
            module, optimizer, device_placement=[not placed, None]
        )
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
        """Train to the last step; returns the module, with its EMA weights if they are kept.

        Raises Stopped if the process is asked to end, with the state saved.
        """
        config = self._config
        log = None
        if self.is_main:
            make_folder(self._folder)
            log = RunLog(self._folder, config.log, self._step, self._accelerator, asdict(config))
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
                stopping = not last and asked_to_stop(self._accelerator)
                saving = self._step % config.save_every == 0 or last or stopping
                measured: Mapping[str, float] = {}
                if saving:
                    self._refuse_spoiled()
                    measured = self._measure()
                    self._save()
                    self._keep()
                if saving or self._step % config.log_every == 0:
                    self._tell(log, sum(losses) / len(losses), measured)
                    losses = []
                if self._progress is not None and self.is_main:
                    self._progress(self._step, config.steps)
                self._make_sample()
                if stopping:
                    raise Stopped(self._step, config.steps)
        finally:
            if self._loader is not None:
                self._loader.close()
            if log is not None:
                log.close()
        self._swap()
        return self._plain

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
            batch = self._batch(micro, ahead=True)
            # Counted from the other end: no batch has the same random numbers.
            seed_everything(self._seed(self._step, _MICRO - 1 - micro))
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

    def _batch(self, micro: int, ahead: bool = False) -> Batch:
        """One of the batches of the next step, on the device; ``ahead`` begins to draw the one after it."""
        if self._loader is None or not ahead:
            batch = self._drawn(self._step, micro)
        else:
            batch = self._loader.take(self._step, micro)
        return {key: _moved(value, self._accelerator.device) for key, value in batch.items()}

    def _drawn(self, step: int, micro: int) -> Batch:
        return self._draw(torch.Generator().manual_seed(self._seed(step, micro)))

    def _seed(self, step: int, micro: int) -> int:
        return step_seed(self._config.seed, step, micro, self._accelerator.process_index)

    def _refuse_spoiled(self) -> None:
        """Raise UsageError before saving weights without a finite loss, since the previous state may still be good."""
        with torch.no_grad(), self._accelerator.autocast():
            loss = self._module(**self._batch(0))
            if self._accelerator.num_processes > 1:
                # All processes must stop, or the others would wait forever.
                loss = self._accelerator.reduce(loss, "mean")
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
        """A context in which the module has the EMA weights and no dropout."""
        training = [part for part in self._plain.modules() if part.training]
        self._plain.train(False)
        self._swap()
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap()
            for part in training:
                part.training = True

    def _measure(self) -> Mapping[str, float]:
        if self._validate is None:
            return {}
        # In the precision that the steps compute in, as frozen weights may be stored in nothing else.
        with self._with_mean(), self._accelerator.autocast():
            return self._validate(self._plain)

    def _measure_start(self, log: RunLog | None) -> None:
        """Write a line of the log before the first step, to which later measurements can be compared."""
        measured = self._measure()
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

    def _keep(self) -> None:
        """Let the caller save a result of its own."""
        if self._saved is not None:
            with self._with_mean():
                self._saved(self._step)

    def gathered(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the trained module as full tensors on the CPU; empty except in the main process.

        A collective that every process must call.
        """
        kept: dict[str, Tensor] = {}
        for name, value in values.items():
            full = whole(value)
            if self.is_main:
                kept[name] = full.cpu()
        return kept

    def _save(self) -> None:
        module = self.gathered(dict(self._trained()))
        mean = self.gathered(self._mean)
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
        for key in {**state["identity"], **self._identity}:
            before, value = state["identity"].get(key), self._identity.get(key)
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
                if isinstance(value, Tensor) and key != "step" and _alike(value, parameters[index]):
                    row[key] = spread(value, parameters[index])
        self._optimizer.load_state_dict(optimizer)
        for group in self._optimizer.param_groups:
            # These may change when a run is resumed; the state has the old values.
            new: dict[str, Any] = {"betas": self._config.betas, "weight_decay": self._config.weight_decay}
            new |= self._config.method_arguments
            group.update({key: value for key, value in new.items() if key in group})
        # EMA weights that are no longer updated must not become the result.
        if self._config.ema:
            self._mean = {name: spread(value, own[name]) for name, value in state["mean"].items()}
        if self._accelerator.scaler is not None and "scaler" in state:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._step, self._seconds = state["step"], state["seconds"]


def _alike(value: Tensor, weight: Tensor) -> bool:
    """Whether a tensor of the optimizer belongs to the elements of a weight; factors and the like do not."""
    # A vector of one element under FSDP is a scalar elsewhere.
    return value.shape == weight.shape or value.numel() == weight.numel() == 1


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
