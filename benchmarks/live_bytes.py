"""Counts the bytes of all tensors alive at once during some work, on any device, including the meta device.

On the meta device nothing is computed or stored, so the peak of a network that would need 60 GB is counted on any
machine in a second. Only tensors returned by PyTorch's operators are counted, not storages that existed before
(weights, inputs).

Workspaces inside an operator (chosen by cuDNN, oneDNN and the like) and the caching allocator's rounding are not
visible. By far the largest workspace is that of convolutions, which may copy their input and output to another memory
format: ``peak_with_scratch`` assumes that every convolution does.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGE = Path(__file__).resolve().parents[1] / "dynamicrafter"


class LiveBytes(TorchDispatchMode):
    """A context manager that records ``peak``, the most bytes that storages of new tensors held at once.

    ``where`` receives the package's lines that are executing when ``look_at`` bytes are first reached.
    """

    def __init__(self, look_at: int | None = None) -> None:
        super().__init__()
        self.peak = 0
        self.peak_with_scratch = 0
        self.where: list[str] = []
        self._now = 0
        self._look_at = look_at
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            self._note(tensor, counted=False)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            self._note(tensor, counted=True)
        scratch = args[0].nbytes + out.nbytes if func is torch.ops.aten.convolution.default else 0
        self.peak_with_scratch = max(self.peak_with_scratch, self._now + scratch)
        return out

    def _note(self, tensor: object, counted: bool) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes() if counted else 0
        self._now += self._sizes[key]
        weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self._now)
        if self._look_at is not None and self._now >= self._look_at and not self.where:
            self.where = running_lines()

    def _gone(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def running_lines() -> list[str]:
    """``file:line`` of every line of the package on the call stack, outermost first."""
    lines: list[str] = []
    frame = sys._getframe()
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            lines.append(f"{file.name}:{frame.f_lineno}")
        frame = frame.f_back
    return lines[::-1]


def count(work: Callable[[], object], look_at: int | None = None) -> LiveBytes:
    """Peak of the bytes alive while ``work`` runs, not counting what existed before."""
    with torch.no_grad(), LiveBytes(look_at) as live:
        work()
    return live
