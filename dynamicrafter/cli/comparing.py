"""The command that runs two ways of generating one clip side by side: compare."""

from __future__ import annotations

import difflib
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ..api import notes_on, variant_of
from ..errors import ClipError, DynamiCrafterError, UsageError
from ..evaluation.comparison import (
    Comparison,
    Cost,
    Outcome,
    Way,
    check_comparable,
    compare,
)
from ..evaluation.side_by_side import side_by_side
from ..forms import program_version
from ..media.pictures import read_picture
from ..media.video import write_clip
from ..model.variants import TINY, Mode
from ..own_process import Failed
from ..settings import PROGRAM, settings_to_json
from ..shots import Shot, check_means, check_settings
from . import verdict
from .clips import clip_settings, means_of, model_files, targets_of
from .defaults import ONE_RUN, REPLACES, actions_of, parse_value
from .parser import CLIP_COMMANDS, make_parser
from .plan import RunPlan, plan_of
from .progress import Bars
from .streams import STANDARD, Streams
from .words import WORDS, tiny_knows

_OF_BOTH = (*ONE_RUN, "quiet", "verbose", "batch", "model")
"""Options of ``animate`` that cannot differ between the two sides, and the model, which has no name there."""

_MEGABYTES = 1e6
_COSTS: Mapping[str, tuple[str, float]] = {
    "load": ("load, s", 1),
    "encode": ("encode, s", 1),
    "sample": ("sample, s", 1),
    "decode": ("decode, s", 1),
    "seconds": ("in all, s", 1),
    "step": ("one step, s", 1),
    "disk": ("on disk, MB", _MEGABYTES),
    "memory": ("peak memory, MB", _MEGABYTES),
    "memory_before": ("of that before loading, MB", _MEGABYTES),
    "device_memory": ("peak GPU memory, MB", _MEGABYTES),
}
"""Rows of the table: the label of each cost, and the unit in which it is shown."""


def run(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Run ``compare`` and return what ``--json`` prints; the video is appended to ``written``."""
    with Streams() as streams:
        return _run(given, written, streams)


def _run(given: Namespace, written: list[str], streams: Streams) -> dict[str, Any]:
    if given.loop and given.last is not None:
        raise UsageError(f"a loop has one image, but {given.last} was given as well; omit it or --loop")
    mode: Mode = "loop" if given.loop else "animate" if given.last is None else "interpolate"
    names = [given.first] if given.last is None else [given.first, given.last]
    sources = streams.pictures(names)
    if len(sources) != len(names):
        raise UsageError(
            f"the pattern stands for {len(sources)} images, but one clip is compared; name its image"
        )
    paths = tuple(Path(source) for source in sources)
    size = read_picture(sources[0]).size
    a, b = (_way(side, getattr(given, side.lower()), given, mode, size) for side in ("A", "B"))
    check_comparable(a, b)
    piped = given.output == STANDARD
    (target,) = targets_of(given, [given.output or f"{paths[0].stem}-compare.mp4"], paths, streams)
    notes = _notes((a, b), mode)
    if not given.json:
        for note in notes:
            print(f"note: {note}\n", end="", file=sys.stderr)
    if given.dry_run or given.verbose:
        plans = [
            plan_of([Shot(w.settings, paths, w.name, target)], w.files, w.means, streams) for w in (a, b)
        ]
        if not given.json:
            _print_plans((a, b), plans, sys.stdout if given.dry_run else sys.stderr)
        if given.dry_run:
            return {"a": asdict(plans[0]), "b": asdict(plans[1]), "notes": notes}
    with Bars(a.name, hidden=given.quiet or given.json) as bars:
        result = compare(a, b, *sources, progress=bars.clip)
    out = sys.stderr if piped else sys.stdout
    if not given.json:
        _print((a, b), result, out)
    told: dict[str, Any] = {
        "a": _told(a, result.a, given.debug),
        "b": _told(b, result.b, given.debug),
        "likeness": None if result.likeness is None else asdict(result.likeness),
        "output": None,
        "difference_factor": None,
        "notes": notes,
    }
    errors = [f"{side} failed: {told[key]['error']}" for side, key in ("Aa", "Bb") if "error" in told[key]]
    if not errors:
        try:
            told["difference_factor"] = _write(a, b, result, target)
            told["output"] = STANDARD if piped else str(Path(target))
            written.append(told["output"])
        except ClipError as problem:  # The figures are there all the same.
            errors.append(problem.said(WORDS))
    if errors:
        told |= {"error": "; ".join(errors), "kind": "failure"}
        if not given.json:
            print(f"dynamicrafter: {told['error']}", file=sys.stderr)
        return told
    if piped:
        streams.send()
    if not given.json:
        told_apart = f"A, B and their difference, amplified {told['difference_factor']} times"
        print(f"{told['output']}: {told_apart}", file=out)
    return told


def _write(a: Way, b: Way, result: Comparison, target: str) -> int:
    """Write the video of both clips and their difference; returns the factor of the difference."""
    assert isinstance(result.a, Outcome) and isinstance(result.b, Outcome)
    frames, factor = side_by_side(result.a.frames, result.b.frames, (a.name, b.name))
    record = {
        "program": PROGRAM,
        "version": program_version(),
        "compared": [{"name": way.name, "settings": settings_to_json(way.settings)} for way in (a, b)],
        "difference_factor": factor,
    }
    write_clip(frames, target, a.settings.fps, record)
    return factor


def _way(side: str, text: str, given: Namespace, mode: Mode, size: tuple[int, int]) -> Way:
    """One side, from ``MODEL``, ``NAME=VALUE,...`` or both with a colon between; errors begin with the side."""
    first = re.search(rf"(?:^|:)(?={_NAME}=)", text)
    model = text if first is None else text[: first.start()]
    options = "" if first is None else text[first.end() :]
    chosen = Namespace(**_with_options(side, options, given))
    if model:
        chosen.model = model
    try:
        files, means = model_files(chosen), means_of(chosen)
        check_means(means, files)
        settings = clip_settings(chosen, variant_of(files), mode, size)
        check_settings([settings], means)
        return Way(text, files, settings, means)
    except DynamiCrafterError as problem:
        raise type(problem)(f"{side}, {text}: {problem.facts}", problem.remedy) from problem


_NAME = r"[a-z][a-z_-]*"
"""Name of an option, with hyphens or underscores."""


def _with_options(side: str, text: str, given: Namespace) -> dict[str, Any]:
    """The arguments with the options of one side in their place."""
    actions = actions_of(make_parser(""), CLIP_COMMANDS[0])
    own = {action.dest: action.default for action in actions}
    known = {
        option.lstrip("-").replace("-", "_"): action
        for action in actions
        if action.dest not in _OF_BOTH
        for option in action.option_strings
    }
    values: dict[str, Any] = {**vars(given), "batch": 1}
    found: dict[str, Any] = {}
    for option in re.split(rf",(?={_NAME}=)", text) if text else ():
        name, _, value = option.partition("=")
        action = known.get(name.replace("-", "_"))
        if action is None:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(known))}"
            raise UsageError(f"{side} has the unknown option {name!r}; {advice}")
        parsed = parse_value(action, value, side)
        # A repeated option, such as lora, adds to those before it.
        more = isinstance(parsed, list) and action.dest in found
        found[action.dest] = [*found[action.dest], *parsed] if more else parsed
        values.update({name: own[name] for name in REPLACES.get(action.dest, ())})
    values |= found
    seeds: list[int] = values["seed"]
    if len(seeds) != 1:
        raise UsageError(f"{side} has {len(seeds)} seeds, but one clip is compared; pass one seed")
    return values


def _notes(ways: Sequence[Way], mode: Mode) -> list[str]:
    """What a person should know before the clips are generated."""
    notes = [note for way in ways for note in notes_on(variant_of(way.files), way.settings)]
    if any(way.files.asked == TINY.name for way in ways):
        notes.append(tiny_knows(mode))
    a, b = (way.settings for way in ways)
    if (a.seed, a.noise_device) != (b.seed, b.noise_device):
        notes.append("A and B start from different noise, so their clips differ for that reason alone")
    return list(dict.fromkeys(notes))


def _told(way: Way, outcome: Outcome | Failed, debug: bool) -> dict[str, Any]:
    """One side, as ``--json`` prints it."""
    told = {"name": way.name, "settings": settings_to_json(way.settings)}
    if isinstance(outcome, Failed):
        if debug and outcome.trace:
            print(outcome.trace, file=sys.stderr)
        return {**told, "error": verdict(outcome.problem, "compare", [])[1]}
    return {**told, **asdict(outcome.cost), "seconds": outcome.cost.seconds}


# For people


def _print_plans(ways: Sequence[Way], plans: Sequence[RunPlan], out: TextIO) -> None:
    for side, way, plan in zip("AB", ways, plans, strict=True):
        print(f"{side}: {way.name}", file=out)
        for line in plan.lines():
            print(f"  {line}", file=out)


def _print(ways: Sequence[Way], result: Comparison, out: TextIO) -> None:
    for side, way in zip("AB", ways, strict=True):
        print(f"{side}: {way.name}", file=out)
    costs = [None if isinstance(each, Failed) else each.cost for each in (result.a, result.b)]
    print(f"{'':28} {'A':>10} {'B':>10} {'B/A':>8}", file=out)
    for name, (label, unit) in _COSTS.items():
        values = [_value(cost, name, unit) for cost in costs]
        if values == [None, None]:
            continue
        a, b = values
        shown = ["-" if value is None else f"{value:.{3 if unit == 1 else 1}f}" for value in values]
        ratio = f"{b / a:.2f}" if a and b else ""
        print(f"{label:28} {shown[0]:>10} {shown[1]:>10} {ratio:>8}".rstrip(), file=out)
    alike = result.likeness
    if alike is not None:
        print(f"{'':28} {'PSNR, dB':>10} {'SSIM':>10}", file=out)
        print(f"{'latents, B to A':28} {alike.latents_psnr:10.2f} {alike.latents_ssim:10.4f}", file=out)
        print(f"{'frames, B to A':28} {alike.frames_psnr:10.2f} {alike.frames_ssim:10.4f}", file=out)


def _value(cost: Cost | None, name: str, unit: float) -> float | None:
    value = None if cost is None else getattr(cost, name)
    return None if value is None else value / unit
