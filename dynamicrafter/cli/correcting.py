"""Corrections of ``direct --rounds``: what is aimed at, who advises, and what is told of each attempt."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..api import ModelFiles
from ..director.advising import advisor
from ..director.correcting import Aim, Attempt, Lever, aim_of, way_of
from ..director.plan import ClipPlan
from ..director.profiles import find_profile
from ..director.rounds import make_corrected
from ..evaluation.clip_score import find_towers, load_scorer
from ..evaluation.learned import Learned
from ..evaluation.sentence import describe
from ..model.variants import TINY
from ..shots import Made, Means, Shot, ShotProgress
from .clips import Maker


def corrected(given: Namespace, plan: ClipPlan, files: ModelFiles, out: Any, told: dict[str, Any]) -> Maker:
    """What generates and corrects clips; the attempts of each are put into ``told`` and printed to ``out``."""
    rows: list[dict[str, Any]] = []
    told["attempts"] = rows

    def maker(
        shots: Sequence[Shot],
        files: ModelFiles,
        means: Means,
        progress: ShotProgress,
        note: Callable[[str], None],
    ) -> Iterator[Made]:
        from tqdm import tqdm

        def heard(shot: Shot, attempt: Attempt) -> None:
            rows.append(_row(shot, attempt))
            if not given.json:
                # A bar may be open, which this removes before the line and draws again.
                tqdm.write(_line(rows[-1]), file=out)

        return make_corrected(
            shots,
            files,
            means,
            progress,
            note,
            aim=_aim(given, plan),
            rounds=given.rounds,
            advise=advisor(find_profile(given.llm), note) if given.llm else None,
            learned=_learned(given, files),
            heard=heard,
        )

    return maker


def _aim(given: Namespace, plan: ClipPlan) -> Aim:
    """The plan's aim; what the person chose by an option stays as it is."""
    motion = plan.motion if given.motion is None else given.motion
    options: dict[Lever, object] = {
        "motion": given.motion if given.fs is None else given.fs,
        "cfg": given.cfg,
        "image_cfg": given.image_cfg,
        "steps": given.steps,
    }
    fixed = frozenset(lever for lever, value in options.items() if value is not None)
    return replace(aim_of(plan.prompt, way_of(motion) if given.fs is None else None), fixed=fixed)


def _learned(given: Namespace, files: ModelFiles) -> Learned:
    """CLIP's agreement, if its complete encoders are here; they know nothing of the built-in model's world."""
    towers = None if files.asked == TINY.name else find_towers(files, given.towers)
    return Learned() if towers is None else Learned(clip_score=load_scorer(towers))


def _row(shot: Shot, attempt: Attempt) -> dict[str, Any]:
    change = attempt.change
    return {
        "clip": shot.title,
        "change": None if change is None else {"setting": change.lever, "value": change.value},
        "why": "" if change is None else change.why,
        "score": round(attempt.score, 1),
        "best": attempt.best,
        "sentence": describe(attempt.figures),
        "figures": attempt.figures,
    }


def _line(row: dict[str, Any]) -> str:
    """One attempt for people."""
    change = row["change"]
    what = "first attempt" if change is None else f"{row['why']}; {change['setting']} {change['value']}"
    kept = "kept" if row["best"] else "not better"
    return f"{what}: score {row['score']:.0f} of 100, {kept}. {row['sentence']}"
