"""Classifier-free guidance: which evaluations it needs and how they are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Branch = Literal["full", "unconditional", "image_only", "stg", "pag"]
"""The context of a conditioning that an evaluation attends to; the last two are "full" in a weakened network."""


Scale = float | Tensor
"""A guidance scale: one for all frames, or ``[t, 1, 1]``, one for each."""


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

    scale: Scale
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

    text_scale: Scale
    image_scale: Scale
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


PlainGuidance = NoGuidance | TextGuidance | TextImageGuidance


@dataclass(frozen=True)
class WeakGuidance:
    """Guidance away from weakened networks as well, ``guided + sum of scale * (full - weak)``; one evaluation for each.

    ``base`` is without rescale, which comes last.
    """

    base: PlainGuidance
    weak: tuple[tuple[Branch, float], ...]
    rescale: float = 0.0

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Evaluations in the order :meth:`combine` takes them."""
        return (*self.base.branches, *(branch for branch, _ in self.weak))

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """Guided output, ``[b, 4, t, h, w]``."""
        full, count = outputs[0], len(self.base.branches)
        guided = self.base.combine(outputs[:count])
        for (_, scale), weak in zip(self.weak, outputs[count:], strict=True):
            guided = guided + scale * (full - weak)
        return _rescaled(guided, full, self.rescale)


Guidance = PlainGuidance | WeakGuidance


def make_guidance(cfg: Scale, image_cfg: Scale | None, guidance_rescale: float) -> PlainGuidance:
    """The guidance for the given scales: none if ``cfg`` is 1 and there is no ``image_cfg``, else text or both."""
    if image_cfg is not None:
        return TextImageGuidance(cfg, image_cfg, guidance_rescale)
    return NoGuidance() if isinstance(cfg, (int, float)) and cfg == 1 else TextGuidance(cfg, guidance_rescale)


def curve(points: Sequence[float], count: int) -> list[float]:
    """``count`` values on the line through ``points``, which are evenly spaced from the first value to the last."""
    if len(points) == 1:
        return [points[0]] * count
    made: list[float] = []
    for index in range(count):
        at = index / max(1, count - 1) * (len(points) - 1)
        low = min(int(at), len(points) - 2)
        made.append(points[low] + (at - low) * (points[low + 1] - points[low]))
    return made


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
