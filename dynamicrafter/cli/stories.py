"""The command that makes a film of a story: story."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..director.film import Film, FilmPlan, Models, film_seconds, make_film, plan_film
from ..director.profiles import find_profile
from ..director.scenes import Story, read_story, read_text
from ..director.shot_list import FilmClip
from ..director.splitting import MOST_QUESTIONS, keep_split, kept_split, split_story
from ..errors import LanguageModelError, UsageError
from ..model.variants import TINY
from ..parameters import PARAMETERS
from ..settings import clip_length
from ..shots import Means, check_means
from . import clips
from .plan import RunPlan, plan_of, size_text
from .progress import Bars
from .streams import Streams
from .words import WORDS, tiny_knows


def run(given: Namespace, written: list[str]) -> object:
    """Run ``story`` and return what ``--json`` prints; the finished film is appended to ``written``."""
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if not given.json:
            print(f"note: {text}\n", end="", file=sys.stderr)

    source: Path = given.story
    target = Path(f"{source.stem}.mp4") if given.output is None else given.output
    if given.picture and source.suffix.lower() != ".txt":
        raise UsageError(f"--picture is for plain text, but {source} names its own pictures; omit it")
    if given.picture:
        # Names in a story are relative to it; this one is relative to the current folder.
        given.picture = str(Path(given.picture).absolute())
    files = clips.model_files(given)
    models = Models(
        files, None if given.between_model is None else clips.files_of(given.between_model, _plain(given))
    )
    means = clips.means_of(given)
    for each in (models.main, models.between):
        if each is not None:
            check_means(means, each)

    def planned(story: Story) -> FilmPlan:
        return plan_film(
            replace(story, style=given.style or story.style),
            lambda name: source.parent / name,
            target,
            models,
            _choices(given),
            backend=means.backend,
            sounds=given.sounds,
            mute=given.mute,
        )

    questions = 0
    if given.llm is None:
        plan = planned(read_story(source, given.picture))
    else:
        # By its paragraphs first: what is wrong with pictures and settings is known before anybody is asked.
        plan = planned(read_story(source, given.picture))
        told = _split(given, plan.folder, note)
        questions = MOST_QUESTIONS if told is None else 0
        plan = plan if told is None else planned(told)
    for text in plan.notes:
        note(text)
    if files.asked == TINY.name:
        note(tiny_knows("animate"))
    done = plan.finished()
    if given.dry_run or given.verbose:
        shown = _plans(plan, means, done)
        if not given.json:
            out = sys.stdout if given.dry_run else sys.stderr
            for line in _lines(plan, done, shown, questions, given):
                print(line, file=out)
        if given.dry_run:
            return {
                "output": str(plan.target),
                "seconds": round(film_seconds(plan), 3),
                "scenes": [
                    _planned_row(plan, piece, place in done) for place, piece in enumerate(plan.pieces)
                ],
                "plans": [asdict(each) for each in shown],
                "questions": questions,
                "notes": notes,
            }
    with Bars(files.asked, hidden=given.quiet or given.json, clips=len(plan.pieces) - len(done)) as bars:

        def finished(count: int, _: int) -> None:
            bars.finished(count - len(done))

        film = make_film(plan, means, progress=bars.clip, finished=finished)
    written.append(str(film.path))
    if not given.json:
        chosen = plan.pieces[0].settings
        size = size_text(chosen.width, chosen.height, film.frames, film.fps)
        sound = "with sound" if film.has_sound else "without sound"
        print(f"{film.path}: {size}, {len(film.scenes)} scene(s), {sound}", flush=True)
    return {**_result(film), "notes": notes}


def _plain(given: Namespace) -> Namespace:
    """The arguments without those that belong to the main model."""
    return Namespace(
        **{**vars(given), "variant": None, "text_encoder": None, "image_encoder": None, "lora": None}
    )


def _choices(given: Namespace) -> dict[str, Any]:
    """The settings that were typed."""
    names = PARAMETERS.keys() - {"width", "height"}
    return {"size": given.size, **{name: getattr(given, name, None) for name in names}}


def _split(given: Namespace, folder: Path, note: Any) -> Story | None:
    """What the language model makes of the text, now or in an earlier run; None if it fails or must not be asked."""
    if given.story.suffix.lower() != ".txt":
        raise UsageError(f"--llm splits plain text, but {given.story} has its scenes already; omit it")
    profile, text = find_profile(given.llm), read_text(given.story)
    kept = kept_split(folder, profile, text, given.picture)
    if kept is not None or given.dry_run:
        return kept
    try:
        told = asyncio.run(split_story(profile, text, given.picture))
    except LanguageModelError as problem:
        note(f"{problem.said(WORDS)}; the scenes are the paragraphs")
        return None
    keep_split(folder, profile, text, given.picture, told)
    return told


def _plans(plan: FilmPlan, means: Means, done: set[int]) -> list[RunPlan]:
    """What the missing clips take, for each model."""
    found: list[RunPlan] = []
    missing = [piece for place, piece in enumerate(plan.pieces) if place not in done]
    with Streams() as streams:
        for files in dict.fromkeys(plan.models.files(piece.settings.mode) for piece in missing):
            shots = [plan.shot(piece) for piece in missing if plan.models.files(piece.settings.mode) == files]
            found.append(plan_of(shots, files, means, streams))
    return found


def _lines(
    plan: FilmPlan, done: set[int], plans: Sequence[RunPlan], questions: int, given: Namespace
) -> list[str]:
    """The plan for a person."""
    lines = [f"{plan.target}: {len(plan.story.scenes)} scene(s), at most {film_seconds(plan):.1f} s"]
    if questions:
        host = find_profile(given.llm).host
        lines.append(
            f"language model: at most {questions} questions to {host}, which then decides the scenes; these are the "
            f"paragraphs"
        )
    for place, piece in enumerate(plan.pieces):
        row = _planned_row(plan, piece, place in done)
        state = "is there" if row["done"] else "to be generated"
        sound = f", sound: {row['sound']}" if row["sound"] else ""
        lines.append(f"{row['clip']} ({row['joint']}, {row['seconds']:g} s, {state}{sound}): {row['prompt']}")
    for each in plans:
        lines += each.lines()
    return lines


def _planned_row(plan: FilmPlan, piece: FilmClip[Path], done: bool) -> dict[str, Any]:
    source = plan.sources[piece.scene - 1]
    return {
        "scene": piece.scene,
        "clip": piece.name,
        "prompt": piece.settings.prompt,
        "joint": piece.joint,
        "seconds": round(clip_length(piece.settings) / piece.settings.fps, 3),
        "sound": source.name if isinstance(source, Path) else source or "",
        "done": done,
    }


def _result(film: Film) -> dict[str, Any]:
    return {
        "output": str(film.path),
        "frames": film.frames,
        "fps": film.fps,
        "sound": film.has_sound,
        "scenes": [{**asdict(scene), "clip": str(scene.clip)} for scene in film.scenes],
    }
