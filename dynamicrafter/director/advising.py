"""A language model corrects a clip: it sees the metrics and a contact sheet, and names one change."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import LanguageModelError, UsageError
from ..evaluation.sentence import describe
from ..forms import one_line
from ..media.pictures import Picture
from ..model.variants import Variant
from ..settings import Settings, motion_to_fs
from .chat import Message, ask
from .correcting import (
    LEVERS,
    MOST_GUIDANCE,
    Advise,
    Aim,
    Attempt,
    Change,
    advise_by_rules,
    best_of,
    next_seed,
)
from .plan import PROMPT_WORDS, PlanError, motion_prompt_of, objects_in
from .profiles import Profile
from .proposing import check_pictures_allowed, data_url

_FRAMES = 5
_SIDE = 192
"""Pixels to which smaller frames of a contact sheet are enlarged, by a whole number."""
_WHY = 200
_NONE = "none"
_ASKED = tuple(lever for lever in LEVERS if lever != "steps")
"""What a language model may change; more steps only take longer."""

_INSTRUCTIONS = f"""\
You judge a clip that a model generated from one still picture, by its metrics and {_FRAMES} of its frames, \
from first to last, and name the one change that most likely makes it show what was asked for. Answer with one \
JSON object and nothing else, with these fields:
change: prompt, motion, cfg (guidance; lower if colours burn or details flicker, higher if the prompt is ignored), \
image_cfg (guidance by the picture alone; higher if the clip departs from it), seed (other noise), or none if the clip \
is good or nothing would help.
prompt: the new motion prompt if change is prompt, in English, at most {PROMPT_WORDS} words; otherwise empty.
number: the new value if change is motion (0 still to 1 lively), cfg or image_cfg (1 to {MOST_GUIDANCE:g}); otherwise 0.
why: one short sentence for the person.
"""


def contact_sheet(frames: Tensor) -> Tensor:
    """Five frames from first to last side by side, uint8 ``[h, w, 3]``, of a clip, uint8 ``[t, h, w, 3]``."""
    few = sorted({round(index * (len(frames) - 1) / (_FRAMES - 1)) for index in range(_FRAMES)})
    times = max(1, math.ceil(_SIDE / frames.shape[1]))
    return torch.cat(list(frames[few].repeat_interleave(times, 1).repeat_interleave(times, 2)), dim=1)


def advisor(profile: Profile, tell: Callable[[str], None], seconds: float = 180.0) -> Advise:
    """Advice of a language model, and that of the rules where it has none; ``tell`` is called with the reason.

    Raises UsageError if its host may not be sent pictures.
    """
    check_pictures_allowed(profile)

    def advise(aim: Aim, variant: Variant, attempts: Sequence[Attempt]) -> Change | None:
        try:
            return asyncio.run(_advised(profile, aim, variant, attempts, seconds))
        except (LanguageModelError, PlanError) as problem:
            tell(f"the language model gave no advice ({problem}); the rules are used instead")
            return advise_by_rules(aim, variant, attempts)

    return advise


async def _advised(
    profile: Profile, aim: Aim, variant: Variant, attempts: Sequence[Attempt], seconds: float
) -> Change | None:
    answer = await ask(profile, _questions(aim, attempts), _schema(aim), seconds)
    return read_advice(answer, aim, variant, attempts)


def _questions(aim: Aim, attempts: Sequence[Attempt]) -> list[Message]:
    """What a language model is asked about the best of the attempts."""
    best = best_of(attempts)
    chosen = best.settings
    told = {
        "asked for": aim.prompt,
        "seen": describe(best.figures),
        "prompt": chosen.prompt,
        "fs": chosen.fs,
        "cfg": chosen.cfg,
        "image_cfg": chosen.image_cfg,
        "score": round(best.score, 1),
        "falls short": {name: round(size, 2) for name, size in best.short.items() if size > 0},
        "metrics": {name: round(value, 3) for name, value in best.figures.items()},
        "tried": [
            {"change": one.change.lever, "value": one.change.value, "score": round(one.score, 1)}
            for one in attempts
            if one.change is not None
        ],
    }
    sheet = data_url(Picture(contact_sheet(best.frames)))
    content = [
        {"type": "text", "text": json.dumps(told)},
        {"type": "image_url", "image_url": {"url": sheet}},
    ]
    return [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": content}]


def _schema(aim: Aim) -> dict[str, Any]:
    levers = [lever for lever in _ASKED if lever not in aim.fixed]
    properties: Mapping[str, Any] = {
        "change": {"type": "string", "enum": [*levers, _NONE]},
        "prompt": {"type": "string"},
        "number": {"type": "number"},
        "why": {"type": "string"},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_advice(answer: str, aim: Aim, variant: Variant, attempts: Sequence[Attempt]) -> Change | None:
    """The change that an answer names, its numbers clamped; None if it names none.

    Raises PlanError for an answer without advice, and for a change that may not be made or was tried before.
    """
    advice = next((found for found in objects_in(answer) if "change" in found), None)
    if advice is None:
        raise PlanError("it contains no JSON object with a change")
    lever, chosen = advice["change"], best_of(attempts).settings
    if lever == _NONE:
        return None
    if lever not in _ASKED or lever in aim.fixed:
        raise PlanError(f"{str(lever)[:40]!r} is nothing to change")
    try:
        changed = _changed(lever, advice, variant, chosen)
    except UsageError as problem:
        raise PlanError(str(problem)) from problem
    tried = [one.settings for one in attempts]
    while lever == "seed" and changed in tried:
        changed = next_seed(changed)
    if changed in tried:
        raise PlanError(f"this value of {lever} was tried before")
    why = advice.get("why")
    return Change(lever, changed, one_line(why, _WHY) if isinstance(why, str) else "")


def _changed(lever: str, advice: Mapping[str, Any], variant: Variant, chosen: Settings) -> Settings:
    """The settings with the change; raises PlanError for a missing value, and UsageError for what is not allowed."""
    if lever == "prompt":
        prompt = advice.get("prompt")
        words = motion_prompt_of(prompt) if isinstance(prompt, str) else ""
        if not words:
            raise PlanError("the new prompt is missing")
        return replace(chosen, prompt=words)
    if lever == "seed":
        return next_seed(chosen)
    number = advice.get("number")
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise PlanError("the new value is not a number")
    if lever == "motion":
        return replace(chosen, fs=motion_to_fs(variant, min(max(float(number), 0.0), 1.0)))
    limited = min(max(float(number), 1.0), MOST_GUIDANCE)
    return replace(chosen, cfg=limited) if lever == "cfg" else replace(chosen, image_cfg=limited)
