"""Adaptive projected guidance (arXiv 2410.02416): guidance without the part that only raises contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .denoiser import Evaluate, EvaluateWrapper, translate
from .guidance import Branch
from .schedule import Schedule

_ELEMENTS = 4 * 40 * 64
"""Latent values of a frame to which the limit of the norm refers: those of 512x320."""


def project_guidance(schedule: Schedule, eta: float, norm: float, momentum: float) -> EvaluateWrapper:
    """Change the unconditional output so that guidance is projected, limited and given momentum.

    All of it happens frame by frame (axes channel, height and width) and in the estimates D of the clean
    latents without the dynamic rescale, so that ``norm`` means the same at each timestep. In each step::

        g = D_full - D_unconditional + momentum * (g of the step before)
        g = g * min(1, limit / |g|)             limit = norm * sqrt(values of a frame / 10240); no limit if norm is 0
        g = g - (1 - eta) * (part of g parallel to D_full)

    after which guidance of scale w is ``D_full + (w - 1) g``. With eta 1, norm 0 and momentum 0 this is
    classifier-free guidance. The momentum belongs to the wrapped evaluations: use one wrapper for each run. Steps that
    do not evaluate the unconditional branch change nothing.
    """

    def wrap(evaluate: Evaluate) -> Evaluate:
        before: Tensor | None = None

        def projected(x: Tensor, timestep: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
            nonlocal before
            outputs = list(evaluate(x, timestep, branches))
            if "unconditional" not in branches:
                return outputs
            where = branches.index("unconditional")
            full = _clean(outputs[branches.index("full")], x, schedule, timestep)
            guidance = full - _clean(outputs[where], x, schedule, timestep)
            if before is not None:
                guidance = guidance + momentum * before
            before = guidance
            if norm:
                limit = norm * (guidance[0, :, 0].numel() / _ELEMENTS) ** 0.5
                length = guidance.square().sum((1, 3, 4), keepdim=True).sqrt()
                guidance = guidance * (limit / length.clamp(min=1e-12)).clamp(max=1)
            power = full.square().sum((1, 3, 4), keepdim=True).clamp(min=1e-12)
            parallel = (guidance * full).sum((1, 3, 4), keepdim=True) / power * full
            guidance = guidance - (1 - eta) * parallel
            outputs[where] = outputs[branches.index("full")] - _output_of(guidance, schedule, timestep)
            return outputs

        return projected

    return wrap


def _clean(output: Tensor, x: Tensor, schedule: Schedule, timestep: int) -> Tensor:
    """The estimate of the clean latents without the dynamic rescale."""
    return translate(output, x, schedule, timestep).x0 / schedule.level(timestep)[2]


def _output_of(change: Tensor, schedule: Schedule, timestep: int) -> Tensor:
    """The change of a network output that changes the estimate of the clean latents by ``change``."""
    return change / _clean(torch.ones(()), torch.zeros(()), schedule, timestep).item()
