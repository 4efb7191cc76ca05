"""Training processes, managed by accelerate: one, several with full replicas (DDP), or several with shards (FSDP2)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError

_PATIENCE = timedelta(days=7)
"""How long a process waits for another; the default of ten minutes is too short for encoding many clips."""


_asked_to_stop = False


@contextmanager
def heeding_termination() -> Generator[None]:
    """A context in which SIGTERM, which schedulers send first, ends training after the present step.

    It has an effect in the main thread only, since signals are handled there.
    """
    global _asked_to_stop

    def asked(*_: object) -> None:
        global _asked_to_stop
        _asked_to_stop = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked_to_stop = False


def asked_to_stop(accelerator: Any) -> bool:
    """Whether any of the processes that train together got SIGTERM; a collective that every process must call."""
    if accelerator.num_processes == 1:
        return _asked_to_stop
    told = torch.tensor(float(_asked_to_stop), device=accelerator.device)
    return bool(accelerator.reduce(told, "sum") > 0)


def _accelerate() -> Any:
    """The accelerate package; raises UsageError with instructions if it is missing."""
    try:
        return import_module("accelerate")
    except ImportError as problem:
        raise UsageError(
            "training needs the accelerate package; install it with pip install 'dynamicrafter-studio[train]'"
        ) from problem


def join_processes(device: torch.device | None = None) -> torch.device:
    """Join the other processes, if there are any; returns the device on which this one trains.

    If ``device`` is None, accelerate chooses it. The first call decides for the whole run. Raises UsageError if a
    device is specified for several processes, each of which needs a different one.
    """
    accelerate = _accelerate()
    cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or (
        device is not None and device.type == "cpu"
    )
    state = accelerate.PartialState(cpu=cpu, timeout=_PATIENCE)
    if device is not None and _differ(device, state.device):
        if state.num_processes > 1:
            raise UsageError(
                f"{state.num_processes} processes cannot all train on {device}; omit the device, "
                "or start one process"
            )
        state.device = device
    return state.device


def _differ(wish: torch.device, own: torch.device) -> bool:
    """Whether ``own`` has a different type from ``wish``, or a different index if ``wish`` has one."""
    return wish.type != own.type or ":" in str(wish) and wish.index != (own.index or 0)


def make_accelerator(precision: str, tracker: str | None = None, folder: Path | None = None) -> Any:
    """Accelerate's Accelerator for the processes that were started.

    ``tracker`` is the package that it logs to, which may write files into ``folder``. Raises UsageError for unsupported
    setups and a package that is not installed.
    """
    join_processes()
    if tracker is not None and find_spec(tracker) is None:
        raise UsageError(
            f"the log {tracker} needs the {tracker} package; install it with pip install {tracker}, or set log to "
            '"csv"'
        )
    accelerate = _accelerate()
    state = import_module("accelerate.state").AcceleratorState
    # accelerate stores one precision per process, but the stages of the built-in model use different ones.
    if state._shared_state.get("_mixed_precision", precision) != precision:
        state._reset_state()
    try:
        accelerator = accelerate.Accelerator(mixed_precision=precision, log_with=tracker, project_dir=folder)
    except ValueError as problem:
        raise UsageError(f"accelerate cannot train like this: {problem}") from problem
    if precision == "fp16" and accelerator.scaler is None:
        raise UsageError(
            f"fp16 needs a GPU, but training runs on {accelerator.device}; set precision to bf16 or no"
        )
    kinds = accelerate.DistributedType
    kind = accelerator.distributed_type
    sharded = kind == kinds.FSDP
    if kind in (kinds.DEEPSPEED, kinds.MEGATRON_LM) or (sharded and not accelerator.is_fsdp2):
        raise UsageError(
            "several processes must use DDP or FSDP version 2; start them with accelerate launch, for the latter with "
            "--use_fsdp --fsdp_version 2"
        )
    if sharded:
        plugin = accelerator.state.fsdp_plugin
        # Autocast handles the precision, as everywhere else: the loss itself stays in float32.
        plugin.mixed_precision_policy = None
        # Every process has loaded the weights.
        plugin.cpu_ram_efficient_loading = False
        # The trained module defines which of its parts are sharded as units.
        plugin.auto_wrap_policy = import_module("torch.distributed.fsdp.wrap").transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = None
    return accelerator


def one_process_first() -> AbstractContextManager[None]:
    """A context that the main process runs before all others, for work whose result the others only read."""
    join_processes()
    return _accelerate().PartialState().main_process_first()


def process_count() -> int:
    """Number of processes that train together."""
    join_processes()
    return _accelerate().PartialState().num_processes


def process_index() -> int:
    """Index of this process; 0 is the main one, which writes and reports."""
    join_processes()
    return _accelerate().PartialState().process_index


def wait_for_all() -> None:
    """Wait until every process has reached this point."""
    join_processes()
    _accelerate().PartialState().wait_for_everyone()


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless FSDP2 shards it."""
    part = getattr(value, "to_local", None)
    return value if part is None else part()


def whole(value: Tensor) -> Tensor:
    """The full tensor, on the device of its parts; a collective that every process must call."""
    gather = getattr(value, "full_tensor", None)
    return value.detach() if gather is None else gather().detach()


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Shard the full tensor ``value``, the same in every process, like ``like``, which has its shape."""
    value = value.to(like.device).view(like.shape)
    shared = cast(Any, like)
    if not hasattr(shared, "placements"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, shared.device_mesh, shared.placements, src_data_rank=None)


def forget_gathered(module: nn.Module) -> None:
    """Make FSDP2 gather all weights of ``module`` again; it does not notice that the shards were changed."""
    for part in module.modules():
        reshard = getattr(part, "reshard", None)
        if reshard is not None:
            reshard()


def widen_scalars(module: nn.Module) -> None:
    """Replace scalar parameters by vectors of one element, since FSDP2 cannot shard scalars."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                wide = nn.Parameter(parameter.detach()[None], requires_grad=parameter.requires_grad)
                setattr(part, name, wide)
