"""What could move in a picture, without a language model: CLIP ranks a bank of phrases against it.

The bank is data (``phrases.toml``). First the kind of scene is told from captions, then the phrases of likely kinds are
ranked among each other, so that a phrase of another kind is not taken because its words fit by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..errors import UsageError
from ..forms import shortened
from ..toml_text import parse_toml
from .plan import ClipPlan, PlanError, clip_plan

BANK = Path(__file__).with_name("phrases.toml")
_BYTES = 4_000_000
_SCALE = 100.0
"""CLIP's logit scale (Radford et al. 2021, section 2.5: the learned temperature is clipped to it)."""
_LIKELY = 0.1
"""Probability from which phrases of a kind of scene are suggested, besides those of the most likely one."""
_SECONDS = 2.0


class Sight(Protocol):
    """Both CLIP encoders with their projections, such as :class:`~..evaluation.clip_score.CLIPScorer`."""

    def see(self, frames: Tensor) -> Tensor:
        """Unit vectors ``[n, d]`` of images ``[n, 3, h, w]`` in [-1, 1]."""
        ...

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors ``[n, d]`` of prompts."""
        ...


@dataclass(frozen=True)
class SceneKind:
    """A kind of scene and what can move in it."""

    name: str
    captions: tuple[str, ...]
    """The kind is as likely as the best of them."""
    plans: tuple[ClipPlan, ...]


@dataclass(frozen=True)
class Suggestion:
    """A plan, and how well it fits."""

    plan: ClipPlan
    share: float
    """Probability among all phrases of the bank, 0 to 1."""


def read_bank(path: Path = BANK) -> tuple[SceneKind, ...]:
    """The kinds of scenes of a bank; raises UsageError naming what is wrong with it."""
    try:
        with path.open("rb") as file:
            table = parse_toml(file.read(_BYTES).decode("utf-8"))
        return tuple(_scene(values) for values in table["scene"])
    except OSError as problem:
        raise UsageError(
            f"the bank of phrases {path} could not be read ({problem.strerror}); check its name"
        ) from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise UsageError(
            f"{path} is not a bank of phrases ({shortened(str(problem))}); write it as {BANK.name} is written"
        ) from problem


def _scene(values: dict[str, Any]) -> SceneKind:
    name, captions, phrases = values["name"], values["captions"], values["phrases"]
    lists = (cast(list[Any], one) if isinstance(one, list) and one else [None] for one in (captions, phrases))
    if not all(isinstance(text, str) for texts in ([name], *lists) for text in texts):
        raise ValueError("name, captions and phrases of a scene must be strings")
    plans = [_plan(values, phrase) for phrase in phrases]
    return SceneKind(name, tuple(captions), tuple(plans))


def _plan(values: dict[str, Any], phrase: str) -> ClipPlan:
    try:
        return clip_plan(
            {
                "subject": values["subject"],
                "motion_prompt": phrase,
                "camera": values.get("camera", "static"),
                "motion": values["motion"],
                "mode": values["mode"],
                "negative_prompt": "",
                "seconds": _SECONDS,
                "sound": values["sound"],
                "why": f"it looks like {values['captions'][0]}",
            }
        )
    except PlanError as problem:
        raise ValueError(f"scene {values['name']}: {problem}") from problem


def suggest(picture: Tensor, sight: Sight, bank: Sequence[SceneKind], count: int = 5) -> list[Suggestion]:
    """The ``count`` phrases that fit a picture ``[3, h, w]`` in [-1, 1] best, best first.

    All are of likely kinds of scenes; at least the most likely kind is used.
    """
    seen = sight.see(picture[None])[0]
    scores = torch.stack([(_SCALE * sight.read(kind.captions) @ seen).max() for kind in bank])
    shares = scores.softmax(0)
    best = int(shares.argmax())
    found: list[Suggestion] = []
    for number, kind in enumerate(bank):
        if number != best and float(shares[number]) < _LIKELY:
            continue
        fit = (_SCALE * sight.read([plan.motion_prompt for plan in kind.plans]) @ seen).softmax(0)
        found += [
            Suggestion(plan, float(shares[number] * share))
            for plan, share in zip(kind.plans, fit, strict=True)
        ]
    return sorted(found, key=lambda one: -one.share)[:count]
