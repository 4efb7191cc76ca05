"""The command that moves a person by poses."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..animate_anyone.api import person_settings
from ..animate_anyone.clips import (
    PersonMeans,
    PersonPlan,
    PersonShot,
    amount,
    find_shot,
    fps_of,
    make_person,
    plan_person,
    poses_of,
    preview_poses,
    read_person_record,
)
from ..animate_anyone.config import BUILT_IN_PERSON, PersonPreset
from ..animate_anyone.detection import load_finder
from ..animate_anyone.exported import read_person_export
from ..animate_anyone.pose_clips import PoseChoices, PoseClip
from ..animate_anyone.weights import check_person, person_export_of
from ..backends.choice import TORCH
from ..errors import UsageError
from ..media.pictures import read_picture
from ..shots import clip_targets
from .again import check_stored, name_again
from .plan import memory_text, size_text, time_text
from .progress import Bars
from .streams import STANDARD
from .words import TINY_PERSON_KNOWS

_USUAL_POSES = 24
"""Of a clip of the original's demo."""


def run(given: Namespace, written: list[str]) -> object:
    """Run the command and return what ``--json`` prints."""
    shot = replace(shot_of(given), side_by_side=given.side_by_side)
    name = given.output or f"{shot.picture.stem}-person.mp4"
    return _made(shot, name, given, written, preview=given.preview_poses)


def shot_of(given: Namespace) -> PersonShot:
    """The clip that the arguments ask for; raises UsageError for a value out of range."""
    width, height = given.size or (None, None)
    settings = person_settings(
        check_person(given.model).preset,
        width=width,
        height=height,
        steps=given.steps,
        cfg=given.cfg,
        eta=given.eta,
        seed=given.seed,
        window=given.window,
        overlap=given.overlap,
        exact=given.exact,
        noise_dtype=given.noise_dtype,
        fit=given.fit,
        interpolate=given.interpolate,
    )
    choices = PoseChoices(
        start=given.start,
        seconds=given.seconds,
        every=given.every,
        frames=given.frames,
        scale=given.scale,
        shift=given.shift,
        smooth=given.smooth,
        hands=given.hands,
        face=given.face,
    )
    return PersonShot(
        settings,
        choices,
        picture=Path(given.picture),
        poses=Path(given.poses),
        model=given.model,
        reference=given.fit_to,
        detect=given.detect,
        fps=given.fps,
    )


def person_means(given: Namespace) -> PersonMeans:
    """How the clip is computed according to the arguments."""
    return PersonMeans(given.device, given.dtype, given.weights, given.memory, given.backend)


def repeat(
    given: Namespace, metadata: dict[str, Any], written: list[str], ask: Callable[[float], None]
) -> object:
    """Generate a clip again from its record, for the command of that name.

    ``ask`` is called with how many times the work of a clip of default settings it takes, and may raise.
    """
    for option in ("variant", "text_encoder", "image_encoder", "lora", "video", "mask"):
        if getattr(given, option) is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} is for DynamiCrafter, but {given.clip} is a clip of a person; omit it"
            )
    if given.compile != "off":
        raise UsageError(f"--compile is for DynamiCrafter, but {given.clip} is a clip of a person; omit it")
    record = read_person_record(metadata, given.clip)
    clip: Path = given.clip.resolve()
    if len(given.picture or ()) > 1:
        raise UsageError("a clip of a person has one image; pass --picture once")
    shot = find_shot(
        record,
        clip.parent,
        picture=given.picture[0] if given.picture else None,
        poses=given.poses,
        reference=given.fit_to,
        model=None if given.model is None else Path(given.model),
    )
    if given.dtype == "auto":
        given = Namespace(**{**vars(given), "dtype": record.model.dtype})
    backend = record.model.backend if given.backend is None else given.backend
    if backend == TORCH and given.weights == "auto":
        given = Namespace(**{**vars(given), "weights": record.model.stored})
    folder = person_export_of(shot.model, backend)
    if folder is not None and given.backend is None and given.model is None:
        check_stored(record.model.exported, read_person_export(folder)[1].stored, folder, backend)
    given = Namespace(**{**vars(given), "backend": backend})
    return _made(shot, given.output or name_again(clip), given, written, ask=ask)


def _made(
    shot: PersonShot,
    name: str,
    given: Namespace,
    written: list[str],
    *,
    preview: Path | None = None,
    ask: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Generate a clip after everything that can be checked is."""
    shot = replace(shot, target=_target(shot, name))
    shown = None if preview is None else _target(shot, str(preview), "--preview-poses")
    if shown == shot.target:
        raise UsageError(
            f"--preview-poses and --output are the same, {shown}; name another file with --preview-poses"
        )
    check_person(shot.model)
    read_picture(shot.picture)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if not given.json:
            print(f"note: {text}\n", end="", file=sys.stderr)

    if str(shot.model) == BUILT_IN_PERSON:
        note(TINY_PERSON_KNOWS)

    finder = load_finder() if shot.detect else None
    poses = poses_of(shot, finder)
    fps = fps_of(shot, poses)
    plan = plan_person(shot, poses, person_means(given))
    if ask is not None and not given.dry_run:
        work, usual = amount(shot.settings, len(poses)), amount(person_settings(PersonPreset()), _USUAL_POSES)
        ask(max(work.evaluations / usual.evaluations, work.cells / usual.cells))
    for text in poses.notes:
        note(text)
    result = result_of(shot, poses, fps, plan)
    if shown is not None:
        preview_poses(shot, poses, shown)
        written.append(shown)
        result["preview"] = shown
        if not given.json:
            print(f"{shown}: the poses over the image")
    if given.dry_run:
        if not given.json:
            print("\n".join(lines_of(result, plan)))
        return {**result, "seconds": plan.seconds, "notes": notes}
    with Bars(str(shot.model), hidden=given.quiet or given.json) as bars:
        seconds = make_person(shot, poses, plan, bars.clip, note)
    written.append(shot.target)
    if not given.json:
        print(f"{_line(result)}, {seconds:.1f} s")
    return {**result, "seconds": seconds, "notes": notes}


def result_of(shot: PersonShot, poses: PoseClip, fps: float, plan: PersonPlan) -> dict[str, Any]:
    """What ``--json`` prints of a clip, but for its time and notes."""
    return {
        "output": shot.target,
        "frames": shot.settings.length(len(poses)),
        "poses": len(poses),
        "fps": fps,
        "settings": asdict(shot.settings),
        "device": plan.computed_on,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "weights": plan.kept,
        "memory": plan.residence,
        "weights_bytes": plan.memory.weights,
        "activations_bytes": round(plan.memory.activations),
        "windows": len(shot.settings.windows(len(poses))),
    }


def lines_of(result: dict[str, Any], plan: PersonPlan) -> list[str]:
    """A planned clip for a person."""
    memory = memory_text(plan.memory.weights, plan.memory.activations, plan.residence)
    return [_line(result), memory, time_text(plan.seconds)]


def _line(result: dict[str, Any]) -> str:
    chosen = result["settings"]
    size = size_text(chosen["width"], chosen["height"], result["frames"], result["fps"])
    return f"{result['output']}: {size}, seed {chosen['seed']}, {result['windows']} window(s) a step"


def _target(shot: PersonShot, name: str, own: str = "--output") -> str:
    """Absolute path of the clip, which replaces none of the files it is made from."""
    if name == STANDARD:
        raise UsageError("person cannot write to standard output; name a file with --output")
    (target,) = clip_targets([name], [shot.picture])
    check_kept(shot, target, own)
    return target


def check_kept(shot: PersonShot, target: str, own: str = "--output") -> None:
    """Raise UsageError if the clip of the option ``own`` would replace what the poses are made from."""
    for option, path in (("--poses", shot.poses), ("--fit-to", shot.reference)):
        if path is not None and os.path.realpath(path) == os.path.realpath(target):
            raise UsageError(
                f"{own} and {option} are the same, {os.path.realpath(target)}; name another file with {own}"
            )
