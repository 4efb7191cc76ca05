"""The commands that run two ways of generating one clip side by side: compare and compare-person."""

from __future__ import annotations

import difflib
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from ..animate_anyone.clips import fps_of
from ..animate_anyone.config import BUILT_IN_PERSON
from ..animate_anyone.detection import load_finder
from ..animate_anyone.pose_clips import Finder, remembering
from ..animate_anyone.ways import person_way
from ..api import notes_on, variant_of
from ..errors import ClipError, DynamiCrafterError, UsageError
from ..evaluation.comparison import (
    ClipWay,
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
from ..parameters import PARAMETERS
from ..settings import PROGRAM, settings_to_json
from ..shots import Shot, check_means, check_settings
from . import person, verdict
from .clips import clip_settings, means_of, model_files, targets_of
from .defaults import ONE_RUN, REPLACES, actions_of, parse_value
from .parser import CLIP_COMMANDS, make_parser
from .plan import plan_of
from .progress import Bars
from .streams import STANDARD, Streams
from .words import TINY_PERSON_KNOWS, WORDS, tiny_knows

_OF_BOTH = (
    *(*ONE_RUN, "quiet", "verbose", "batch", "poses", "preview_poses", "side_by_side"),
    "model",
)
"""Options of ``animate`` and ``person`` that cannot differ between the two sides, and the model, which has no name
there."""

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


@dataclass(frozen=True)
class _Side:
    """A way, and what is said of it."""

    way: Way
    settings: Mapping[str, Any]
    """As JSON."""
    fps: float
    noise: tuple[object, ...]
    """What the noise of its clip depends on."""
    notes: Sequence[str]
    planned: Callable[[], tuple[dict[str, Any], Iterable[str]]]
    """What it would generate, as ``--json`` prints it and in lines."""


def run(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Run ``compare`` or ``compare-person`` and return what ``--json`` prints; the video is appended to ``written``."""
    with Streams() as streams:
        target, a, b = (_persons if given.command == "compare-person" else _clips)(given, streams)
        return _run(a, b, target, given, written, streams)


def _run(
    a: _Side, b: _Side, target: str, given: Namespace, written: list[str], streams: Streams
) -> dict[str, Any]:
    check_comparable(a.way, b.way)
    piped = given.output == STANDARD
    notes = [*a.notes, *b.notes]
    if a.noise != b.noise:
        notes.append("A and B start from different noise, so their clips differ for that reason alone")
    notes = list(dict.fromkeys(notes))
    if not given.json:
        for note in notes:
            print(f"note: {note}\n", end="", file=sys.stderr)
    if given.dry_run or given.verbose:
        plans = [side.planned() for side in (a, b)]
        if not given.json:
            _print_plans((a.way, b.way), plans, sys.stdout if given.dry_run else sys.stderr)
        if given.dry_run:
            return {"a": plans[0][0], "b": plans[1][0], "notes": notes}
    with Bars(a.way.name, hidden=given.quiet or given.json) as bars:
        result = compare(a.way, b.way, progress=bars.clip)
    out = sys.stderr if piped else sys.stdout
    if not given.json:
        _print((a.way, b.way), result, out)
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


def _write(a: _Side, b: _Side, result: Comparison, target: str) -> int:
    """Write the video of both clips and their difference; returns the factor of the difference."""
    assert isinstance(result.a, Outcome) and isinstance(result.b, Outcome)
    frames, factor = side_by_side(result.a.frames, result.b.frames, (a.way.name, b.way.name))
    record = {
        "program": PROGRAM,
        "version": program_version(),
        "compared": [{"name": side.way.name, "settings": side.settings} for side in (a, b)],
        "difference_factor": factor,
    }
    write_clip(frames, target, a.fps, record)
    return factor


# DynamiCrafter


def _clips(given: Namespace, streams: Streams) -> tuple[str, _Side, _Side]:
    """Where the video of ``compare`` goes, and its sides."""
    if given.loop and given.last is not None:
        raise UsageError(f"a loop has one image, but {given.last} was given as well; omit it or --loop")
    mode: Mode = "loop" if given.loop else "animate" if given.last is None else "interpolate"
    names = [given.first] if given.last is None else [given.first, given.last]
    sources = _sources(names, streams)
    pictures = [read_picture(source) for source in sources]
    paths = tuple(Path(source) for source in sources)
    (target,) = targets_of(given, [given.output or f"{paths[0].stem}-{given.command}.mp4"], paths, streams)

    def side(name: str, text: str) -> _Side:
        chosen = _chosen(name, text, given, CLIP_COMMANDS[0])
        seeds: list[int] = chosen.seed
        if len(seeds) != 1:
            raise UsageError(f"{name} has {len(seeds)} seeds, but one clip is compared; pass one seed")
        with _of_side(name, text):
            files, means = model_files(chosen), means_of(chosen)
            check_means(means, files)
            settings = clip_settings(chosen, variant_of(files), mode, pictures[0].size)
            check_settings([settings], means)

        def planned() -> tuple[dict[str, Any], Iterable[str]]:
            plan = plan_of([Shot(settings, paths, text, target)], files, means, streams)
            return asdict(plan), plan.lines()

        notes = notes_on(variant_of(files), settings)
        return _Side(
            ClipWay(text, files, settings, tuple(pictures), means),
            settings_to_json(settings),
            settings.fps,
            (settings.seed, settings.noise_device),
            [*notes, tiny_knows(mode)] if files.asked == TINY.name else notes,
            planned,
        )

    return target, side("A", given.a), side("B", given.b)


def _sources(names: Sequence[str], streams: Streams) -> list[str]:
    """Paths of images; raises UsageError unless there is one for each name."""
    sources = streams.pictures(names)
    if len(sources) != len(names):
        raise UsageError(
            f"the pattern stands for {len(sources)} images, but one clip is compared; name its image"
        )
    return sources


# AnimateAnyone


def _persons(given: Namespace, streams: Streams) -> tuple[str, _Side, _Side]:
    """Where the video of ``compare-person`` goes, and its sides."""
    (source,) = _sources([given.picture], streams)
    read_picture(source)
    path = Path(source)
    (target,) = targets_of(given, [given.output or f"{path.stem}-{given.command}.mp4"], [path], streams)

    @cache
    def finder() -> Finder:
        # For both sides, which mostly have the same poses.
        return remembering(load_finder())

    def side(name: str, text: str) -> _Side:
        chosen = _chosen(name, text, given, "person")
        chosen.picture = source
        with _of_side(name, text):
            shot = replace(person.shot_of(chosen), target=target)
            person.check_kept(shot, target)
            way = person_way(text, shot, person.person_means(chosen), finder() if shot.detect else None)
            fps = fps_of(shot, way.poses)

        def planned() -> tuple[dict[str, Any], Iterable[str]]:
            result = person.result_of(shot, way.poses, fps, way.plan) | {"output": streams.name(target)}
            return {**result, "seconds": way.plan.seconds}, person.lines_of(result, way.plan)

        notes = list(way.poses.notes)
        return _Side(
            way,
            asdict(shot.settings),
            fps,
            (shot.settings.seed, shot.settings.noise_dtype),
            [TINY_PERSON_KNOWS, *notes] if str(shot.model) == BUILT_IN_PERSON else notes,
            planned,
        )

    return target, side("A", given.a), side("B", given.b)


# What a side has of its own


@contextmanager
def _of_side(name: str, text: str) -> Generator[None]:
    """Errors inside begin with the side."""
    try:
        yield
    except DynamiCrafterError as problem:
        raise type(problem)(f"{name}, {text}: {problem.facts}", problem.remedy) from problem


def _chosen(side: str, text: str, given: Namespace, command: str) -> Namespace:
    """The arguments of one side, from ``MODEL``, ``NAME=VALUE,...`` or both with a colon between.

    Its options are those of ``command``.
    """
    first = re.search(rf"(?:^|:)(?={_NAME}=)", text)
    model = text if first is None else text[: first.start()]
    options = "" if first is None else text[first.end() :]
    return Namespace(**_with_options(side, model, options, given, command))


_NAME = r"[a-z][a-z_-]*"
"""Name of an option, with hyphens or underscores."""


def _with_options(side: str, model: str, text: str, given: Namespace, command: str) -> dict[str, Any]:
    """The arguments with the model and the options of one side in their place."""
    actions = actions_of(make_parser(""), command)
    own = {action.dest: action for action in actions}
    table = PARAMETERS if command in CLIP_COMMANDS else {}
    known = {
        option.lstrip("-").replace("-", "_"): action
        for action in actions
        if action.dest not in _OF_BOTH
        for option in action.option_strings
    }
    values: dict[str, Any] = {**vars(given), "batch": 1}
    if model:
        values["model"] = parse_value(own["model"], model, side, table)
    found: dict[str, Any] = {}
    for option in re.split(rf",(?={_NAME}=)", text) if text else ():
        name, _, value = option.partition("=")
        action = known.get(name.replace("-", "_"))
        if action is None:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(sorted(known))}"
            raise UsageError(f"{side} has the unknown option {name!r}; {advice}")
        parsed = parse_value(action, value, side, table)
        # A repeated option, such as lora, adds to those before it.
        more = isinstance(parsed, list) and action.dest in found
        found[action.dest] = [*found[action.dest], *parsed] if more else parsed
        values.update({name: own[name].default for name in REPLACES.get(action.dest, ()) if name in own})
    return values | found


def _told(side: _Side, outcome: Outcome | Failed, debug: bool) -> dict[str, Any]:
    """One side, as ``--json`` prints it."""
    told = {"name": side.way.name, "settings": side.settings}
    if isinstance(outcome, Failed):
        if debug and outcome.trace:
            print(outcome.trace, file=sys.stderr)
        return {**told, "error": verdict(outcome.problem, "compare", [])[1]}
    return {**told, **asdict(outcome.cost), "seconds": outcome.cost.seconds}


# For people


def _print_plans(ways: Sequence[Way], plans: Sequence[tuple[object, Iterable[str]]], out: TextIO) -> None:
    for side, way, (_, lines) in zip("AB", ways, plans, strict=True):
        print(f"{side}: {way.name}", file=out)
        for line in lines:
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
