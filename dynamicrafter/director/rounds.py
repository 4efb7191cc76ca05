"""Clips that are corrected while they are generated, :mod:`.correcting`, and written like others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..api import ModelFiles, notes_on, variant_of
from ..evaluation.figures import measure_clip
from ..evaluation.learned import Learned, measure_learned
from ..media.pictures import fit_picture, read_picture
from ..media.video import write_clip
from ..motion.colour import Drift
from ..records import know_model
from ..settings import Settings
from ..shots import Made, Means, Shot, ShotProgress, load_with, means_for, record_of, render_batch
from .correcting import MOST_ROUNDS, Advise, Aim, Attempt, correct


def make_corrected(
    shots: Sequence[Shot],
    files: ModelFiles,
    means: Means,
    progress: ShotProgress,
    note: Callable[[str], None],
    *,
    aim: Aim,
    rounds: int = MOST_ROUNDS,
    advise: Advise | None = None,
    learned: Learned | None = None,
    heard: Callable[[Shot, Attempt], None] | None = None,
) -> Iterator[Made]:
    """As :func:`~dynamicrafter.shots.make`, with up to ``rounds`` corrections of each clip towards ``aim``.

    ``heard`` is called with each attempt. The best so far is always at the clip's target: if a later attempt fails or
    is cancelled, the clip is yielded before the error is raised. ``learned`` adds metrics to those that need no
    weights.
    """
    for text in notes_on(variant_of(files), shots[0].settings):
        note(text)
    means = means_for(shots, files, means)
    model = load_with(means, files, lambda done, total: progress(files.asked, "load", done, total))
    known = know_model(
        model, files, lambda done, total: progress(files.asked, "hash", done, total), means.backend
    )
    for shot in shots:
        started = time.monotonic()
        picture = fit_picture(
            read_picture(shot.pictures[0]), shot.settings.width, shot.settings.height, shot.settings.fit
        )

        def make(settings: Settings, shot: Shot = shot) -> Tensor:
            (clip,) = render_batch(model, [replace(shot, settings=settings)], progress)
            return clip.frames

        def measure(frames: Tensor, settings: Settings, picture: Tensor = picture) -> Mapping[str, float]:
            clip = frames.movedim(-1, 1).float() / 127.5 - 1
            figures = measure_clip(clip, picture)
            figures.update(measure_learned(clip, learned or Learned(), aim.prompt, picture))
            return figures

        best: Attempt | None = None
        try:
            for attempt in correct(
                make, measure, shot.settings, aim, model.variant, rounds=rounds, advise=advise
            ):
                if attempt.best:
                    chosen = replace(shot, settings=attempt.settings)
                    write_clip(
                        attempt.frames,
                        shot.target,
                        chosen.settings.fps,
                        record_of(chosen, known),
                        sound=shot.sound,
                    )
                    best = attempt
                if heard is not None:
                    heard(shot, attempt)
        except (Exception, KeyboardInterrupt):
            if best is not None:
                yield _made(shot, best, started)
            raise
        if best is not None:
            yield _made(shot, best, started)


def _made(shot: Shot, best: Attempt, started: float) -> Made:
    drift = Drift()
    drift.add(best.frames)
    return Made(replace(shot, settings=best.settings), round(time.monotonic() - started, 3), drift)
