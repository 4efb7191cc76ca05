"""Where the output of networks stops being finite, which would make the clip black."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ..errors import DynamiCrafterError, Remedy
from .samplers import Callback, Step

_log = logging.getLogger(__name__)


def require_finite(values: Tensor, part: str, dtype: torch.dtype) -> None:
    """Raise DynamiCrafterError if the output of a ``part`` of a model, which computes in ``dtype``, is not finite."""
    if not torch.isfinite(values).all():
        raise _not_finite(part, dtype)


def overflows(frames: Tensor, dtype: torch.dtype) -> bool:
    """Whether what an autoencoder decoded in ``dtype`` is not finite, but may be in float32: whether it was in float16.

    The log then says that it is decoded again, and how to avoid it.
    """
    if dtype != torch.float16 or bool(torch.isfinite(frames).all()):
        return False
    _log.warning(
        "the autoencoder's output is not finite in float16, so it decodes in float32, which takes more time and "
        "memory; bfloat16 has the range of float32 and avoids it"
    )
    return True


def finite_steps(dtype: torch.dtype, callback: Callback | None = None) -> Callback:
    """A callback that raises DynamiCrafterError after the first step whose latents are not finite.

    A lost clip then does not run to its end. The sentence has the step and the largest latent of the step before: what
    grew to thousands was guided too strongly, and what was below ten met an overflow of ``dtype`` or damaged weights.
    ``callback`` is called after every other step.
    """
    before = ""

    def check(step: Step) -> None:
        nonlocal before
        largest = float(step.x.abs().amax())
        if not math.isfinite(largest):
            where = f" at step {step.index + 1} of {step.total}, timestep {step.timestep}{before}"
            raise _not_finite("denoising network", dtype, where)
        before = f", where the largest latent was {largest:.3g} a step before"
        if callback is not None:
            callback(step)

    return check


def _not_finite(part: str, dtype: torch.dtype, where: str = "") -> DynamiCrafterError:
    remedy = Remedy("lower_cfg" if dtype == torch.float32 else "widen_dtype")
    name = str(dtype).removeprefix("torch.")
    return DynamiCrafterError(f"the {part}'s output is not finite in {name}{where}", remedy)
