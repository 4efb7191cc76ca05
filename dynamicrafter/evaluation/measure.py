"""Measures clips and summarises the results."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import replacing
from ..errors import ClipError, UsageError
from ..media.pictures import fit_picture, read_picture
from ..settings import Fit
from .distributions import FEWEST, frechet_distance, kernel_distance
from .figures import SMALLEST, WEIGHT_FREE, measure_clip
from .learned import FEWEST_FRAMES, FVD, KVD, LEARNED, Learned, measure_learned

NO_FEATURES = torch.empty(0)


@dataclass(frozen=True)
class Asked:
    """The request behind a clip."""

    prompt: str = ""
    picture: Path | None = None
    end: Path | None = None
    fit: Fit = "crop"
    """How the images were, or would be, resized to the clip's size."""


@dataclass(frozen=True, eq=False)
class MeasuredClip:
    """The metrics of one clip."""

    clip: str
    """Its name."""
    seed: int | None
    """None if unknown."""
    prompt: str
    figures: Mapping[str, float]
    features: Tensor
    """Features for FVD and KVD, ``[d]``; empty if they are not measured."""


@dataclass(frozen=True)
class Summary:
    """One metric over all clips that have it."""

    mean: float
    deviation: float | None
    """Standard deviation between clips; None for a metric of the whole set, or of a single clip."""
    clips: int


def check_frame_size(width: int, height: int, name: str = "") -> None:
    """Raise ClipError for frames too small to be measured; ``name`` is that of the clip."""
    if min(height, width) < SMALLEST:
        raise ClipError(
            f"{name or 'the clip'} has frames of {width}x{height} pixels, but at least {SMALLEST}x{SMALLEST} are needed"
        )


def measure_frames(
    frames: Tensor, asked: Asked, learned: Learned, name: str = "", seed: int | None = None
) -> MeasuredClip:
    """All metrics of a clip, uint8 ``[t, h, w, 3]``.

    Raises ClipError for frames too small to be measured and PictureError for images that cannot be read.
    """
    count, height, width = frames.shape[:3]
    check_frame_size(width, height, name)
    clip = frames.permute(0, 3, 1, 2).float() / 127.5 - 1

    def fitted(path: Path | None) -> Tensor | None:
        return None if path is None else fit_picture(read_picture(path), width, height, asked.fit)

    picture, end = fitted(asked.picture), fitted(asked.end)
    figures = measure_clip(clip, picture, end)
    figures.update(measure_learned(clip, learned, asked.prompt, picture, end))
    video = learned.video is not None and count >= FEWEST_FRAMES
    features = learned.video(clip) if learned.video is not None and video else NO_FEATURES
    return MeasuredClip(name, seed, asked.prompt, figures, features)


def real_features(frames: Tensor, learned: Learned, count: int) -> Tensor:
    """Features ``[d]`` of the first ``count`` frames of a real clip, uint8 ``[t, h, w, 3]``.

    Empty if no video network is available or the clip is too short.
    """
    if learned.video is None or min(count, len(frames)) < FEWEST_FRAMES:
        return NO_FEATURES
    return learned.video(frames[:count].permute(0, 3, 1, 2).float() / 127.5 - 1)


def summarise(rows: Sequence[MeasuredClip], real: Sequence[Tensor] = ()) -> dict[str, Summary]:
    """Every metric over the clips that have it, in table order; FVD and KVD if there are features of real clips."""
    found: dict[str, Summary] = {}
    for figure in (*WEIGHT_FREE, *LEARNED):
        values = [row.figures[figure.name] for row in rows if figure.name in row.figures]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            found[figure.name] = Summary(statistics.fmean(values), deviation, len(values))
    made = [row.features for row in rows if len(row.features)]
    true = [features for features in real if len(features)]
    if min(len(made), len(true)) >= FEWEST:
        one, two = torch.stack(made), torch.stack(true)
        found[FVD.name] = Summary(frechet_distance(one, two), None, len(made))
        found[KVD.name] = Summary(kernel_distance(one, two), None, len(made))
    return found


def distances_missing(rows: Sequence[MeasuredClip], real: Sequence[Tensor], learned: Learned) -> str | None:
    """Why FVD and KVD are not measured although the video network is available; None otherwise."""
    if learned.video is None:
        return None
    made, true = (sum(len(f) > 0 for f in some) for some in ([row.features for row in rows], real))
    if min(made, true) >= FEWEST:
        return None
    return (
        f"FVD and KVD: not measured, needs {FEWEST} generated and {FEWEST} real clips of {FEWEST_FRAMES} frames or "
        f"more, but there are {made} and {true}"
    )


def check_rows_path(path: Path) -> None:
    """Raise UsageError if :func:`write_rows` could not write to ``path``; call this before long work."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path} cannot be a csv file: it is a folder, or its folder does not exist")


def write_rows(path: Path, rows: Sequence[MeasuredClip]) -> None:
    """Write a csv file, atomically, with a row for each clip and a column for each metric that any clip has.

    Raises ClipError if writing fails.
    """
    names = [
        figure.name for figure in (*WEIGHT_FREE, *LEARNED) if any(figure.name in r.figures for r in rows)
    ]
    try:
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["clip", "seed", "prompt", *names])
            for row in rows:
                seed = "" if row.seed is None else row.seed
                writer.writerow([row.clip, seed, row.prompt, *(row.figures.get(name, "") for name in names)])
    except OSError as problem:
        raise ClipError(
            f"{path} could not be written ({problem.strerror or problem}); free some space or choose another path"
        ) from problem
