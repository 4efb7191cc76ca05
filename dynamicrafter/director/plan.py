"""A plan for one clip, and how it is read from a language model's answer.

An answer is untrusted text. Unknown fields are ignored, numbers are clamped, and every string is only ever used as a
prompt, as a cue of a sound or as something to show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from ..bounded_json import parse_json
from ..forms import one_line
from ..model.variants import Mode

Camera = Literal["static", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out"]
"""Movements of the camera, in the words of VBench (Huang et al. 2024)."""
CAMERAS: tuple[Camera, ...] = get_args(Camera)
_CAMERA_PROMPTS: Mapping[Camera, str] = {
    "static": "",
    "pan left": "camera pans left",
    "pan right": "camera pans right",
    "tilt up": "camera tilts up",
    "tilt down": "camera tilts down",
    "zoom in": "camera zooms in",
    "zoom out": "camera zooms out",
}

PROMPT_WORDS, PROMPT_TOKENS = 40, 75
"""Maximum words of a motion prompt, and the tokens of which the text encoder sees no more."""
_TEXT = 400
"""Maximum characters of any other string."""
SHORTEST, LONGEST = 0.5, 60.0
"""Range of a clip's duration in seconds."""
_ANSWER, _CANDIDATES = 65_536, 50
"""How many characters of an answer are read, and how many opening braces are tried as the start of the plan."""


class PlanError(ValueError):
    """An answer contains no plan; the message says why, in words that a language model can act on."""


@dataclass(frozen=True)
class ClipPlan:
    """What is generated from one picture."""

    subject: str
    """What moves."""
    motion_prompt: str
    """At most :data:`PROMPT_WORDS` words and :data:`PROMPT_TOKENS` tokens, without the movement of the camera."""
    camera: Camera
    motion: float
    """Amount of motion, from 0 (still) to 1 (lively)."""
    mode: Mode
    negative_prompt: str
    seconds: float
    """Duration, from :data:`SHORTEST` to :data:`LONGEST`."""
    sound: str
    """Cue of a sound, in a few words; empty for none."""
    why: str
    """The reason, to be shown to the person."""

    @property
    def prompt(self) -> str:
        """The prompt of the clip: the motion, then the camera."""
        camera = _CAMERA_PROMPTS[self.camera]
        if not camera or camera in self.motion_prompt.lower():
            return self.motion_prompt
        return f"{shortened_prompt(self.motion_prompt, camera)}, {camera}"


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "camera": CAMERAS,
    "mode": tuple(mode for mode in get_args(Mode) if mode != "views"),
}
_RANGES: Mapping[str, tuple[float, float]] = {"motion": (0.0, 1.0), "seconds": (SHORTEST, LONGEST)}
_FIELDS = tuple(field.name for field in fields(ClipPlan))


def clip_plan(values: Mapping[str, Any]) -> ClipPlan:
    """The plan with these fields, all of which are required; others are ignored.

    Numbers are clamped and strings shortened. Raises PlanError for a field that is missing or of another type.
    """
    return ClipPlan(**{name: _value(name, values.get(name)) for name in _FIELDS})


def _value(name: str, value: Any) -> Any:
    if name in _RANGES:
        least, most = _RANGES[name]
        # bool is a number in Python; in a plan it is a mistake.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise PlanError(f"{name}: a number from {least:g} to {most:g} is needed")
        return min(max(float(value), least), most)
    if not isinstance(value, str):
        raise PlanError(f"{name}: a string is needed")
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise PlanError(f"{name}: one of {', '.join(_CHOICES[name])} is needed")
        return value
    if name != "motion_prompt":
        return one_line(value, _TEXT)
    prompt = motion_prompt_of(value)
    if not prompt:
        raise PlanError(f"{name}: it must say what moves")
    return prompt


def motion_prompt_of(text: str) -> str:
    """The prompt in what a language model wrote: one line of few words; may be empty."""
    # A bar would separate the prompts of a long clip.
    return shortened_prompt(one_line(text, 10 * _TEXT).replace("|", ","))


def shortened_prompt(prompt: str, followed_by: str = "") -> str:
    """The first words of a prompt, as many as are allowed.

    They are at most :data:`PROMPT_WORDS`, and with ``followed_by`` at most :data:`PROMPT_TOKENS` tokens.
    """
    # The tokenizer takes a while to load, which plans made of other parts need not wait for.
    from ..model.encoders import count_tokens

    end = f", {followed_by}" if followed_by else ""
    words = prompt.split()[:PROMPT_WORDS]
    while words and count_tokens(" ".join(words) + end) > PROMPT_TOKENS:
        words.pop()
    return " ".join(words).rstrip(" ,;")


def plan_schema() -> dict[str, Any]:
    """JSON Schema of a plan, within what servers accept: all fields required, no others, no ranges."""
    properties: dict[str, Any] = {}
    for name in _FIELDS:
        choices = {"enum": list(_CHOICES[name])} if name in _CHOICES else {}
        properties[name] = {"type": "number" if name in _RANGES else "string", **choices}
    return {
        "type": "object",
        "properties": properties,
        "required": list(_FIELDS),
        "additionalProperties": False,
    }


def read_plan(answer: str) -> ClipPlan:
    """The first plan in an answer, which may stand between prose or fences.

    Raises PlanError if there is none, with the reason for the object that is most like one.
    """
    reason = "it contains no JSON object"
    for found in objects_in(answer):
        try:
            return clip_plan(found)
        except PlanError as problem:
            reason = str(problem)
            if {"motion_prompt", "subject"} & found.keys():
                break
    raise PlanError(reason)


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a text that are balanced, outer ones before those inside them."""
    text = text[:_ANSWER]
    start = text.find("{")
    for _ in range(_CANDIDATES):
        if start < 0:
            return
        end = _closing(text, start)
        if end is not None:
            try:
                value = parse_json(text[start : end + 1])
            except ValueError:
                pass
            else:
                yield cast(dict[str, Any], value)
        start = text.find("{", start + 1)


def _closing(text: str, start: int) -> int | None:
    """Where the object that opens at ``start`` closes; None if it does not."""
    depth, quoted, escaped = 0, False, False
    for place in range(start, len(text)):
        sign = text[place]
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = sign == "\\", sign != '"'
        elif sign == '"':
            quoted = True
        elif sign in "{}":
            depth += 1 if sign == "{" else -1
            if depth == 0:
                return place
    return None
