"""Classifier-free guidance: which evaluations it needs and how they are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Branch = Literal["full", "unconditional", "image_only"]
"""The context of a conditioning that an evaluation attends to."""


@dataclass(frozen=True)
class NoGuidance:
    """The conditional prediction, unchanged; one evaluation."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Evaluations in the order :meth:`combine` takes them."""
        return ("full",)

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """The conditional output, unchanged."""
        return outputs[0]


@dataclass(frozen=True)
class TextGuidance:
    """Guidance away from the unconditional prediction, ``u + scale * (c - u)``; two evaluations."""

    scale: float
    rescale: float = 0.0

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Evaluations in the order :meth:`combine` takes them."""
        return ("full", "unconditional")

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Guided output, ``[b, 4, t, h, w]``."""
        full, unconditional = outputs
        guided = unconditional + self.scale * (full - unconditional)
        return _rescaled(guided, full, self.rescale)


@dataclass(frozen=True)
class TextImageGuidance:
    """Separate scales for image and prompt (paper, section 3.3); three evaluations."""

    text_scale: float
    image_scale: float
    rescale: float = 0.0

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Evaluations in the order :meth:`combine` takes them."""
        return ("full", "unconditional", "image_only")

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Guided output, ``[b, 4, t, h, w]``."""
        full, unconditional, image_only = outputs
        guided = (
            unconditional
            + self.image_scale * (image_only - unconditional)
            + self.text_scale * (full - image_only)
        )
        return _rescaled(guided, full, self.rescale)


Guidance = NoGuidance | TextGuidance | TextImageGuidance


def make_guidance(cfg: float, image_cfg: float | None, guidance_rescale: float) -> Guidance:
    """The guidance for the given scales: none if ``cfg`` is 1 and there is no ``image_cfg``, else text or both."""
    if image_cfg is not None:
        return TextImageGuidance(cfg, image_cfg, guidance_rescale)
    return NoGuidance() if cfg == 1 else TextGuidance(cfg, guidance_rescale)


def guided_steps(steps: int, start: float, end: float) -> range:
    """The indices of the steps with guidance, from fractions of all ``steps`` that are rounded to whole steps."""
    return range(round(start * steps), round(end * steps))


def _rescaled(guided: Tensor, full: Tensor, amount: float) -> Tensor:
    """``guided`` with its standard deviation pulled towards that of ``full`` (arXiv 2305.08891, section 3.4)."""
    if amount == 0:
        return guided
    axes = list(range(1, guided.ndim))
    ratio = full.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return amount * (guided * ratio) + (1 - amount) * guided
