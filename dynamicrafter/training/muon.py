"""An optimiser for small networks and short runs, with steps of equal size in all directions of a weight matrix.

The momentum of each matrix (a convolution's filters are its rows) is replaced by the nearest matrix with equal
singular values, found by a few steps of a polynomial iteration (https://kellerjordan.github.io/posts/muon/), and scaled
so that its entries are as large as Adam's would be (arXiv 2502.16982). Vectors and thin matrices use Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_ITERATION = (3.4445, -4.7750, 2.0315)
"""Coefficients of the odd polynomial that moves singular values towards 1."""
_ITERATIONS = 5
_THINNEST = 16
"""Matrices with fewer rows or columns use Adam."""
_SIZE = 0.2
"""Root mean square of Adam's steps, in units of the learning rate, as observed in practice."""


def orthogonalise(matrix: Tensor) -> Tensor:
    """Matrices ``[..., m, n]`` with the same row and column spaces and all singular values near 1 (0.7 to 1.2).

    Computed in bfloat16.
    """
    a, b, c = _ITERATION
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.transpose(-1, -2) if tall else matrix
    norm = x.square().sum((-2, -1), keepdim=True).sqrt()
    x = (x / (norm + 1e-7)).to(torch.bfloat16)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.transpose(-1, -2) if tall else x).to(matrix.dtype)


class Muon(Optimizer):
    """Momentum with orthogonalised steps for matrices, Adam for the rest; one learning rate for both."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Perform one step; ``closure``, if given, computes the loss that is returned."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            matrices: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= _THINNEST:
                    matrices.setdefault(parameter.flatten(1).shape, []).append(parameter)
                else:
                    _step_adam(parameter, self.state[parameter], group)
            for alike in matrices.values():
                self._step_matrices(alike, group)
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """One step for matrices of the same shape, batched."""
        ahead: list[Tensor] = []
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
            state["momentum"].mul_(group["momentum"]).add_(gradient)
            ahead.append(gradient.add(state["momentum"], alpha=group["momentum"]).flatten(1))
        steps = orthogonalise(torch.stack(ahead))
        size = group["lr"] * _SIZE * max(steps.shape[1:]) ** 0.5
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step.view_as(parameter), alpha=-size)


def _step_adam(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    gradient = parameter.grad
    assert gradient is not None
    first, second = group["betas"]
    if not state:
        state.update(count=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
    state["count"] += 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    mean = state["mean"] / (1 - first ** state["count"])
    square = state["square"] / (1 - second ** state["count"])
    parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-group["lr"])
