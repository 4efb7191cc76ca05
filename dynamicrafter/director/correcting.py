"""Corrects a clip that is not as it should be: measured, changed in a setting, generated again, the best one kept.

What falls short is told by the weight-free metrics and the number of steps, as sizes of 0 to 1, and the score is 100
minus their weighted sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor

from ..errors import UsageError
from ..evaluation.figures import (
    CLIPPED,
    CLOSURE,
    DELTA_E,
    ENLARGED,
    EXPLAINED,
    FIRST_SSIM,
    FLICKER,
    FLOW,
    FLOW_DOWN,
    FLOW_LEFT,
    FLOW_RIGHT,
    FLOW_UP,
    SATURATION,
    SHARPNESS,
    WARPING,
    WAY,
)
from ..evaluation.learned import PROMPT_CLIP
from ..evaluation.subjects import find_courses, named_colours
from ..model.variants import Variant
from ..settings import Settings
from .plan import shortened_prompt

Direction = Literal["left", "right", "up", "down"]
Lever = Literal["prompt", "motion", "cfg", "image_cfg", "steps", "seed"]
"""What one round changes; ``motion`` is the setting ``fs``."""
LEVERS: tuple[Lever, ...] = get_args(Lever)
Fault = Literal[
    "direction", "size", "restless", "still", "wild", "unfaithful", "unsteady", "saturated", "blurred", "drifting",
    "off prompt", "seam", "hasty",
]  # fmt: skip

MOST_ROUNDS = 3
"""Maximum number of corrections."""
_PATIENCE = 2
"""Rounds in a row without gain after which a correction ends."""
_GAIN = 1.0
"""Points of the score that count as a gain."""
_ENOUGH = 0.1
"""Size up to which something that falls short is left alone."""
_STEPS = 25
"""Steps beyond which the released models' clips hardly change."""
_FEW_STEPS = 8
"""Steps below which details are lost that no metric of this package may show."""
MOST_GUIDANCE = 10.0
"""Largest guidance scale that is tried."""
_STRONG_GUIDANCE = 3.0
"""Smallest scale of what counts as more guidance."""

_WEIGHTS: Mapping[Fault, float] = {
    "direction": 40,
    "size": 40,
    "restless": 40,
    "still": 30,
    "wild": 30,
    # As much as what it hides, so that a clip does not lose points by becoming steady.
    "unsteady": 70,
    "unfaithful": 25,
    "saturated": 10,
    "blurred": 20,
    "drifting": 10,
    "off prompt": 10,
    "seam": 10,
    "hasty": 20,
}
_FLOWS: Mapping[Direction, str] = {
    "left": FLOW_LEFT.name,
    "right": FLOW_RIGHT.name,
    "up": FLOW_UP.name,
    "down": FLOW_DOWN.name,
}
_VECTORS: Mapping[Direction, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
_STILL_WAY, _LIVELY_WAY = 0.09, 0.34
"""Way of the built-in model's shapes as a share of the width, at both ends of its motion."""
_KEPT = 0.7
"""Cosine from which a course counts as one of four directions: up to 45 degrees off."""
_APART = 2.5
"""Factor by which the way of a plan may be exceeded or missed: how far things move is hardly known beforehand."""


@dataclass(frozen=True)
class Aim:
    """What a clip should show, as far as it can be measured; what is None is not judged."""

    prompt: str
    """What should happen, in the person's words; the clip may have been generated with others."""
    directions: frozenset[Direction] = frozenset()
    """Where things should move; empty if that is not said."""
    subjects: tuple[tuple[str, Direction], ...] = ()
    """Colours of several subjects, each with where it should move; empty unless that is said of all that moves."""
    growth: Literal[-1, 0, 1] = 0
    """Whether something should grow (1) or shrink (-1), as by a camera that zooms in or out."""
    still: bool = False
    """Whether nothing should move."""
    way: tuple[float, float] | None = None
    """Least and greatest way of what moves, as shares of the width."""
    fixed: frozenset[Lever] = frozenset()
    """What a person chose and is not to be changed."""


_MOVES = (
    "moves?|moving|slid(?:es?|ing)|drift(?:s|ing)?|fl(?:y|ies|ying)|walk(?:s|ing)?|runs?|running|goes|going"
    "|drives?|driving|sails?|sailing|floats?|floating|roll(?:s|ing)?|swims?|swimming"
)
_SAID: Mapping[Direction, str] = {
    "left": rf"\b(?:{_MOVES})(?: \w+){{0,3}} left\b|\bpans right\b",
    "right": rf"\b(?:{_MOVES})(?: \w+){{0,3}} right\b|\bpans left\b",
    "up": rf"\b(?:{_MOVES})(?: \w+){{0,3}} (?:up|upwards?)\b|\b(?:rises?|rising|ascends?|climbs?)\b|\btilts down\b",
    "down": rf"\b(?:{_MOVES})(?: \w+){{0,3}} (?:down|downwards?)\b|\b(?:sinks?|sinking|falls?|falling|descends?)\b"
    r"|\btilts up\b",
}
"""What moves in the frame; a camera that pans right moves everything to the left."""
_CAMERA = r"\b(?:camera|pans|tilts|zooms)\b"
_GROWS = r"\b(?:grows?|growing|gets? bigger|gets? larger|expands?|comes closer|approach(?:es)?|zooms? in)\b"
_SHRINKS = r"\b(?:shrinks?|shrinking|gets? smaller|recedes?|zooms? out)\b"
_RESTS = r"\b(?:stands? still|stays? still|keeps? still|does not move|do not move|motionless)\b"


def aim_of(prompt: str, way: tuple[float, float] | None = None) -> Aim:
    """The aim that a prompt's words state."""
    words = " ".join(prompt.lower().split())
    directions: frozenset[Direction] = frozenset(
        name for name, said in _SAID.items() if re.search(said, words)
    )
    grows, shrinks = (re.search(said, words) is not None for said in (_GROWS, _SHRINKS))
    still = re.search(_RESTS, words) is not None and not (directions or grows or shrinks)
    growth: Literal[-1, 0, 1] = 0 if grows == shrinks else 1 if grows else -1
    return Aim(prompt, directions, _subjects_of(words), growth, still, None if still else way)


def _subjects_of(words: str) -> tuple[tuple[str, Direction], ...]:
    """The subjects of a prompt that names several by different colours, each with one direction."""
    found: list[tuple[str, Direction]] = []
    for clause in re.split(r"\band\b|\bwhile\b|\bthen\b|[,;]", words):
        directions: list[Direction] = [name for name, said in _SAID.items() if re.search(said, clause)]
        if not directions:
            continue
        colours = named_colours(clause)
        if len(colours) != 1 or len(directions) != 1 or re.search(_CAMERA, clause):
            return ()
        found.append((colours[0], directions[0]))
    return tuple(found) if len(found) == len(dict(found)) > 1 else ()


def measure_subjects(frames: Tensor, aim: Aim) -> dict[str, float]:
    """How well each of an aim's subjects keeps its direction in a clip, uint8 ``[t, h, w, 3]``, by a metric's name.

    The cosine between the direction and the subject's course, -1 to 1; 0 if it does not move or is lost. Subjects whose
    colour the first frame does not show are omitted.
    """
    if not aim.subjects:
        return {}
    clip = frames.movedim(-1, 1).float() / 127.5 - 1
    courses = find_courses(clip, [colour for colour, _ in aim.subjects])
    return {
        _course_name(colour): sum(a * b for a, b in zip(courses[colour], _VECTORS[direction], strict=True))
        / max(math.hypot(*courses[colour]), 1e-6)
        for colour, direction in aim.subjects
        if colour in courses
    }


def _course_name(colour: str) -> str:
    return f"direction of what is {colour}, cosine"


def way_of(motion: float) -> tuple[float, float]:
    """The way of what moves for an amount of motion of 0 to 1, which may be missed by a factor of 2.5."""
    way = _STILL_WAY * (_LIVELY_WAY / _STILL_WAY) ** motion
    return way / _APART, way * _APART


def shortfalls(figures: Mapping[str, float], aim: Aim, settings: Settings) -> dict[Fault, float]:
    """By how much a clip falls short of its aim, 0 (not at all) to 1, for all that its metrics allow to judge."""
    found: dict[Fault, float] = {}
    moving = figures.get(WAY.name, 0.0) > 0
    noise = max(0.0, figures.get(WARPING.name, 0.0) - 1.5) / 6 * (1 - figures.get(EXPLAINED.name, 0.0))
    unsteady = found["unsteady"] = _limited(max(noise, (figures.get(FLICKER.name, 0.0) - 1.5) / 4))
    # The flow of noise says nothing about where things move.
    if aim.directions and moving:
        shares = [figures[_FLOWS[one]] for one in aim.directions]
        wrong = (0.7 - sum(shares)) / 0.5
        missing = (0.3 / len(shares) - min(shares)) * len(shares) / 0.3
        kept = min((figures.get(_course_name(colour), 1.0) for colour, _ in aim.subjects), default=1.0)
        found["direction"] = _limited(max(wrong, missing, (_KEPT - kept) / _KEPT)) * (1 - unsteady)
    if aim.growth and ENLARGED.name in figures:
        grown = aim.growth * math.log(figures[ENLARGED.name])
        found["size"] = _limited((math.log(1.1) - grown) / math.log(1.2)) * (1 - unsteady)
    if aim.still:
        passed = figures.get(FLOW.name, 0.0) * settings.frames / settings.width
        found["restless"] = _limited((passed - 0.002) / 0.01) * (1 - unsteady)
    if aim.way is not None and WAY.name in figures:
        least, most = aim.way
        way = max(figures[WAY.name], 1e-3)
        found["still"] = _limited(math.log(least / way) / math.log(2.5))
        found["wild"] = _limited(math.log(way / most) / math.log(2.5)) * (1 - unsteady)
    elif aim.directions:
        found["still"] = float(not moving)
    if FIRST_SSIM.name in figures:
        found["unfaithful"] = _limited((0.9 - figures[FIRST_SSIM.name]) / 0.3)
    burnt, colourful = figures.get(CLIPPED.name, 0.0), figures.get(SATURATION.name, 1.0)
    found["saturated"] = _limited(max((burnt - 0.01) / 0.1, (colourful - 1.3) / 0.5))
    found["blurred"] = _limited((0.45 - figures.get(SHARPNESS.name, 1.0)) / 0.3)
    found["drifting"] = _limited((figures.get(DELTA_E.name, 0.0) - 15) / 20)
    if PROMPT_CLIP.name in figures:
        found["off prompt"] = _limited((20 - figures[PROMPT_CLIP.name]) / 10)
    if "steps" not in aim.fixed:
        found["hasty"] = max(0.0, 1 - settings.steps / _FEW_STEPS)
    if settings.mode == "loop":
        found["seam"] = _limited((figures.get(CLOSURE.name, 0.0) - 2) / 4)
    return found


def score_of(short: Mapping[Fault, float]) -> float:
    """100 for a clip that falls short of nothing, less the weight of what does, at least 0."""
    return max(0.0, 100 - sum(_WEIGHTS[name] * size for name, size in short.items()))


def _limited(value: float) -> float:
    return min(max(value, 0.0), 1.0)


@dataclass(frozen=True)
class Change:
    """A setting changed."""

    lever: Lever
    settings: Settings
    """All settings, with the change."""
    why: str
    """What it is to correct, in a few words."""

    @property
    def value(self) -> str | float | int | None:
        """The new value of the setting."""
        return getattr(self.settings, "fs" if self.lever == "motion" else self.lever)


@dataclass(frozen=True, eq=False)
class Attempt:
    """One clip of a correction."""

    settings: Settings
    frames: Tensor
    """uint8 ``[t, h, w, 3]``."""
    figures: Mapping[str, float]
    short: Mapping[Fault, float]
    score: float
    """0 to 100, :func:`score_of`."""
    change: Change | None
    """From the best attempt before, or as its ``why`` says; None for the first."""
    best: bool
    """Whether it is better than all before."""


Advise = Callable[[Aim, Variant, Sequence[Attempt]], Change | None]
"""Chooses the next change from the best of the attempts so far; None ends the correction."""


def correct(
    make: Callable[[Settings], Tensor],
    measure: Callable[[Tensor, Settings], Mapping[str, float]],
    settings: Settings,
    aim: Aim,
    variant: Variant,
    *,
    rounds: int = MOST_ROUNDS,
    advise: Advise | None = None,
) -> Iterator[Attempt]:
    """Generate a clip and up to ``rounds`` corrections of it, of which the last :attr:`Attempt.best` is the result.

    ``make`` generates frames, uint8 ``[t, h, w, 3]``; ``measure`` returns their metrics by name, to which those
    of the aim's subjects are added. ``advise`` is :func:`advise_by_rules` if it is None. Ends early if nothing is left
    to correct, or after two rounds in a row without gain. What ``make``, ``measure`` and ``advise`` raise ends it as
    well; attempts are yielded as they are finished. Raises UsageError for more rounds than :data:`MOST_ROUNDS`.
    """
    check_rounds(rounds)
    attempts: list[Attempt] = []
    idle = 0
    change: Change | None = None
    for number in range(rounds + 1):
        if number:
            change = (advise or advise_by_rules)(aim, variant, attempts)
            if change is None:
                return
        chosen = settings if change is None else change.settings
        frames = make(chosen)
        figures = {
            **measure(frames, chosen),
            **measure_subjects(frames, aim),
        }
        short = shortfalls(figures, aim, chosen)
        score = score_of(short)
        best = not attempts or score >= best_of(attempts).score + _GAIN
        attempts.append(Attempt(chosen, frames, figures, short, score, change, best))
        yield attempts[-1]
        idle = 0 if best else idle + 1
        if idle == _PATIENCE:
            return


def check_rounds(rounds: int) -> None:
    """Raise UsageError for a number of rounds out of range."""
    if not 0 <= rounds <= MOST_ROUNDS:
        raise UsageError(
            f"rounds must be 0 to {MOST_ROUNDS}, but {rounds} was given; more corrections rarely help"
        )


def best_of(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt that is kept."""
    return next(one for one in reversed(attempts) if one.best)


def advise_by_rules(aim: Aim, variant: Variant, attempts: Sequence[Attempt]) -> Change | None:
    """The first lever for what falls short most that has not been tried on the best attempt; None if there is none.

    If one of several subjects does not move where it should, the seed is tried twice, with all settings of the attempt
    before unless those made the clip worse.
    """
    best = best_of(attempts)
    since = attempts[attempts.index(best) + 1 :]
    failed = {one.change.lever for one in since if one.change is not None}
    seeds = sum(one.change is not None and one.change.lever == "seed" for one in since)
    tried = [one.settings for one in attempts]
    by_weight = sorted(best.short.items(), key=lambda one: -_WEIGHTS[one[0]] * one[1])
    for fault, size in by_weight:
        if size <= _ENOUGH:
            continue
        for rule in _RULES[fault]:
            change = rule(aim, variant, best, fault)
            if change is None or change.lever in aim.fixed:
                continue
            if rule is _seed and fault == "direction" and aim.subjects and seeds < 2:
                # That one seed lost a subject says little about the next one.
                last = attempts[-1]
                basis = best if last.score <= best.score - _GAIN else last
                chosen = replace(basis.settings, seed=next_seed(last.settings).seed)
                kept = "" if basis is best else ", with what was changed before"
                return Change(change.lever, chosen, change.why + kept)
            if change.lever not in failed and change.settings not in tried:
                return change
    return None


Rule = Callable[[Aim, Variant, Attempt, Fault], Change | None]


def _prompt(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """The person's own words."""
    return None if aim.prompt == best.settings.prompt else _changed("prompt", best, fault, prompt=aim.prompt)


def _said_again(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """The person's words with the direction said once more."""
    if len(aim.directions) != 1 or "|" in aim.prompt:
        return None
    said = f"moving {next(iter(aim.directions))}"
    return _changed("prompt", best, fault, prompt=f"{shortened_prompt(aim.prompt, said)}, {said}")


def _motion(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """More motion for a clip that is too still, less otherwise: in proportion to the way, if it is told."""
    low, high = sorted((variant.preset.fs_still, variant.preset.fs_lively))
    fs = best.settings.fs
    if not low <= fs <= high:
        # What values outside of the range mean is not known, so their way says nothing.
        return _changed("motion", best, fault, fs=round(math.sqrt(low * high)))
    factor = 2.0 if fault == "still" else 0.5
    way = best.figures.get(WAY.name, 0.0)
    if aim.way is not None and way > 0:
        factor = min(max(math.sqrt(aim.way[0] * aim.way[1]) / way, 1 / 3), 3.0)
    # A frame stride is livelier if higher, frames per second if lower.
    by_stride = variant.preset.fs_lively > variant.preset.fs_still
    wanted = fs * factor if by_stride else fs / factor
    return _changed("motion", best, fault, fs=round(min(max(wanted, low), high)))


def _less_guidance(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """The geometric middle between the scale and none."""
    cfg = best.settings.cfg
    return None if cfg <= 1.2 else _changed("cfg", best, fault, cfg=round(math.sqrt(cfg), 2))


def _some_guidance(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """A scale below 1 follows the prompt less than the network does by itself."""
    return None if best.settings.cfg >= 1 else _changed("cfg", best, fault, cfg=2.0)


def _more_guidance(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    cfg = min(max(2 * best.settings.cfg, _STRONG_GUIDANCE), MOST_GUIDANCE)
    return None if cfg <= best.settings.cfg else _changed("cfg", best, fault, cfg=cfg)


def _subjects_guidance(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """More guidance for a prompt of several subjects, of which a network follows one and loses the other without it."""
    return _more_guidance(aim, variant, best, fault) if aim.subjects else None


def _image_scale(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    """A separate scale for the image, above that for the prompt."""
    chosen = best.settings
    if chosen.apg or chosen.image_cfg is not None:
        return None
    return _changed("image_cfg", best, fault, image_cfg=min(1.5 * max(chosen.cfg, 1.0), MOST_GUIDANCE))


def _steps(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    chosen = best.settings
    steps = min(_STEPS, chosen.start_time)
    return None if chosen.steps >= steps else _changed("steps", best, fault, steps=steps)


def _seed(aim: Aim, variant: Variant, best: Attempt, fault: Fault) -> Change | None:
    return _changed("seed", best, fault, seed=next_seed(best.settings).seed)


def next_seed(settings: Settings) -> Settings:
    """The settings with the seed after theirs."""
    return replace(settings, seed=(settings.seed + 1) % 2**63)


def _changed(lever: Lever, best: Attempt, fault: Fault, **value: Any) -> Change:
    return Change(lever, replace(best.settings, **value), _WHY[fault])


_RULES: Mapping[Fault, tuple[Rule, ...]] = {
    "direction": (_prompt, _some_guidance, _subjects_guidance, _seed, _said_again, _steps, _more_guidance),
    "size": (_prompt, _some_guidance, _seed, _steps, _more_guidance),
    "restless": (_prompt, _some_guidance, _less_guidance, _seed, _motion),
    "still": (_prompt, _motion, _some_guidance, _seed),
    "wild": (_motion, _seed),
    "unfaithful": (_less_guidance, _steps, _image_scale, _seed),
    "unsteady": (_less_guidance, _steps, _seed),
    "saturated": (_less_guidance, _seed),
    "blurred": (_some_guidance, _steps, _less_guidance, _seed),
    "drifting": (_less_guidance, _image_scale, _seed),
    "off prompt": (_prompt, _more_guidance, _seed),
    "seam": (_seed,),
    "hasty": (_steps,),
}
"""What is tried against each fault, in this order."""

_WHY: Mapping[Fault, str] = {
    "direction": "it does not move where it should",
    "size": "its size does not change as it should",
    "restless": "it moves but should not",
    "still": "it moves too little",
    "wild": "it moves too much",
    "unfaithful": "it does not begin with its image",
    "unsteady": "it changes in ways that no motion explains",
    "saturated": "its colours are too strong",
    "blurred": "it becomes soft",
    "drifting": "its colours drift",
    "off prompt": "it does not show what the prompt says",
    "seam": "it does not end as it begins",
    "hasty": "it has few steps",
}
