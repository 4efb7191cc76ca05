"""Regional compilation: torch.compile of the blocks that the denoising network repeats, off by default.

Blocks of the same class, widths and input sizes share their code, so that the 55 blocks of a released network take 23
compilations instead of one of the whole network, which is several times as long.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from ..errors import UsageError
from ..forms import shortened
from .attention import SpatialTransformer, TemporalTransformer
from .configs import COMPILE, Compile, Memory
from .layers import ResBlock

_BLOCKS = (ResBlock, SpatialTransformer, TemporalTransformer)

_MOST_GRAPHS = 1024
"""Compilations that PyTorch may keep; by default 8, as it takes the kinds of blocks for one function that changes."""

_COMPILERS = {
    "cpu": "a C++ compiler, such as g++, clang++ or cl",
    "cuda": "Triton, which comes with PyTorch on Linux, and a C compiler",
}
"""What torch.compile needs, by the kind of the device."""


def check_compile(mode: Compile, memory: Memory, device: torch.device) -> None:
    """Raise UsageError if a network cannot be compiled as ``mode`` on a device of which it uses ``memory`` like this.

    Whether there is a compiler is found out by compiling a sum, once in a process.
    """
    if mode not in COMPILE:
        raise UsageError(f"compile must be {', '.join(COMPILE)}, not {mode!r}")
    if mode == "off":
        return
    if memory == "min":
        raise UsageError(
            f"layers that are streamed (memory min) cannot be compiled, but compile {mode} was given; use memory low "
            f"or high, or compile off"
        )
    if mode == "reduce-overhead":
        if device.type != "cuda":
            raise UsageError(
                f"compile reduce-overhead records CUDA graphs, which {device.type} does not have; use compile default"
            )
        if memory == "low":
            raise UsageError(
                "compile reduce-overhead records where weights are on the device, but with memory low they leave it; "
                "use memory high, or compile default"
            )
    problem = _compiler_problem(device)
    if problem is not None:
        needed = _COMPILERS.get(device.type, "a newer version of PyTorch")
        raise UsageError(
            f"torch.compile cannot generate code for {device.type} ({problem}); install {needed}, or use compile off"
        )


def compile_blocks(network: nn.Module, mode: Compile, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have the repeated blocks of ``network`` compiled when they are first called with tensors of a size.

    Names and values of the parameters stay as they are. ``mode`` is one of :func:`torch.compile`, or "off", which does
    nothing. Compiled blocks run with the parameters that they have when they are called.
    """
    if mode == "off":
        return
    limits: Any = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    for name in ("cache_size_limit", "accumulated_cache_size_limit"):
        setattr(limits, name, max(getattr(limits, name), _MOST_GRAPHS))
    for block in network.modules():
        if isinstance(block, _BLOCKS):
            # Sizes are constants: a kernel for all sizes is slower, and a clip's do not change.
            cast(Any, block).compile(mode=mode, backend=backend, dynamic=False)
    if mode == "reduce-overhead":
        network.register_forward_pre_hook(_begin_evaluation)


def _begin_evaluation(*_: object) -> None:
    """Let CUDA graphs use the memory of the last evaluation again, of which only the result is still needed."""
    torch.compiler.cudagraph_mark_step_begin()


@cache
def _compiler_problem(device: torch.device) -> str | None:
    """Why torch.compile cannot generate code for a device; None if it can."""
    try:
        # What is imported for it warns of its own deprecations.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cast(Any, torch).compile(_sum, dynamic=False)(torch.ones(8, device=device)).item()
    # Every missing part raises an exception of its own.
    except Exception as problem:
        cause = getattr(problem, "inner_exception", problem)
        text = next(iter(str(cause).strip().splitlines()), "")
        return shortened(f"{type(cause).__name__}: {text}")
    return None


def _sum(x: torch.Tensor) -> torch.Tensor:
    return (x + 1).sum()
