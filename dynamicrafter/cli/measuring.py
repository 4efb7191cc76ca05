"""Clips of any pictures and prompts, or ready ones, to a table of figures: ``evaluate`` with a folder or clips."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..api import TINY, ModelFiles, load, pick_device, render, variant_of
from ..errors import ClipError, UsageError
from ..evaluation.folder import LISTS, Item, clip_name, find_clips, match_clips, read_items
from ..evaluation.learned import Learned, load_learned
from ..evaluation.measure import (
    Asked,
    Row,
    Summary,
    check_rows_path,
    distances_missing,
    measure_frames,
    real_features,
    summarise,
    write_rows,
)
from ..media.pictures import read_picture
from ..media.video import check_clip_path, read_frames, read_metadata, write_clip
from ..model.variants import Mode
from ..pipeline import Model
from ..settings import Settings, clip_metadata
from .clips import clip_settings, model_source
from .progress import Bars
from .shots import Source, threads_that_pay, tiny_knows, what_is_cut


@dataclass(frozen=True)
class _Job:
    """The clips of one picture."""

    item: Item
    settings: Settings


def run(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Measure what was asked for and return what ``--json`` prints; ``written`` gets each kept clip."""
    items = [] if given.folder is None else read_items(given.folder)
    clips = [] if given.clips is None else find_clips(given.clips)
    real = [item.real for item in items if item.real is not None]
    if given.real is not None:
        real += find_clips(given.real)
    _check_places(given, items, [*clips, *real])
    # Also where ready clips are compared with them: a broken one must not end hours of measuring.
    sizes = [_size(item) for item in items]
    hidden, notes = given.quiet or given.json, list[str]()
    if given.clips is not None:
        pairs = _paired(clips, items, notes)
        # Of a model only the CLIP towers are of use then.
        files = None if given.model is None else model_source(given).files
        learned, asked = _learned(given, files), None
        rows, longest = _ready(given, pairs, learned, hidden, notes)
    else:
        source = model_source(given)
        asked = source.asked
        jobs = _jobs(given, items, sizes, source)
        notes += what_is_cut("negative prompt", given.negative)
        for item in items:
            notes += [f"{item.name}: {note}" for note in what_is_cut("prompt", item.prompt)]
        untold = sum(not item.prompt for item in items)
        if untold:
            notes.append(
                f"{untold} of {len(items)} picture(s) have no prompt; nothing is said of what happens there"
            )
        if source.asked == TINY:
            notes += dict.fromkeys(tiny_knows(job.settings.mode) for job in jobs)
        learned = _learned(given, source.files)
        rows, longest = _made(given, jobs, source, learned, hidden, written)
    compared = _real(real, learned, longest, hidden, notes)
    summary = summarise(rows, compared)
    too_few = distances_missing(rows, compared, learned) if real else None
    not_measured = [*learned.missing, *([too_few] if too_few else [])]
    if not given.json:
        _print(summary, not_measured, notes)
    if given.csv is not None:  # After the table, which is not lost then where this fails.
        write_rows(given.csv, rows)
    return {
        "model": asked,
        "figures": {name: asdict(value) for name, value in summary.items()},
        "clips": [
            {"clip": row.clip, "seed": row.seed, "prompt": row.prompt, "figures": row.figures} for row in rows
        ],
        "not_measured": not_measured,
        "notes": notes,
        "csv": None if given.csv is None else str(given.csv.resolve()),
        "kept": written,
    }


def _learned(given: Namespace, files: ModelFiles | None) -> Learned:
    if given.plain:
        return Learned()
    device = pick_device(given.device)
    return load_learned(device, model=files, towers=given.towers, i3d=given.i3d, fetch=given.fetch)


def _check_places(given: Namespace, items: Sequence[Item], clips: Sequence[Path]) -> None:
    """Raise UsageError where the table could not be written, or it or a kept clip would take an input's place."""
    read = [file for item in items for file in (item.picture, item.end, item.text) if file is not None]
    for clip in clips:
        read += [clip, *clip.iterdir()] if clip.is_dir() else [clip]
    inputs = _identities(read)
    if given.keep is not None:
        for kept in (_kept(given.keep, item, seed) for item in items for seed in given.seed):
            if _identities([kept]) & inputs:
                raise UsageError(
                    f"{kept} is one of the files to be measured, and a kept clip would replace it; "
                    f"give another folder with --keep"
                )
    if given.csv is None:
        return
    check_rows_path(given.csv)
    lists = [] if given.folder is None else [given.folder, *(given.folder / name for name in LISTS)]
    same = any(given.csv.resolve() == path.resolve() for path in lists)
    if same or _identities([given.csv]) & _identities(lists):
        raise UsageError(
            f"{given.csv} is the list of pictures and prompts; give the table another name with --csv"
        )
    if _identities([given.csv]) & inputs:
        raise UsageError(
            f"{given.csv} is one of the files to be measured, and the table would replace it; "
            f"give the table another name with --csv"
        )
    if given.csv.suffix.lower() != ".csv":
        raise UsageError(
            f"the table is a csv file, but --csv is {given.csv}; give it a name that ends in .csv"
        )


def _identities(files: Iterable[Path]) -> set[tuple[int, int]]:
    """What tells files that are there apart, by whatever names: links, and cases that systems take for the same."""
    known: set[tuple[int, int]] = set()
    for file in files:
        with suppress(OSError, ValueError):
            about = file.stat()
            known.add((about.st_dev, about.st_ino))
    return known


def _size(item: Item) -> tuple[int, int]:
    """Width and height of the picture in pixels; raises PictureError when it, or the end, cannot be read."""
    size, *_ = [read_picture(file).size for file in (item.picture, item.end) if file is not None]
    return size


# Clips to be made


def _jobs(
    given: Namespace, items: Sequence[Item], sizes: Sequence[tuple[int, int]], source: Source
) -> list[_Job]:
    """What is to be made; everything that can be told to be wrong is told before the weights are read."""
    pick_device(given.device)
    variant = variant_of(source.files)
    if given.batch < 1:
        raise UsageError(f"batch must be at least 1, but {given.batch} was given")
    jobs: list[_Job] = []
    for item, size in zip(items, sizes, strict=True):
        mode: Mode = "loop" if given.loop else "animate" if item.end is None else "interpolate"
        asked = Namespace(**{**vars(given), "prompt": item.prompt, "fps": None})
        jobs.append(_Job(item, clip_settings(asked, variant, mode, size)))
    if given.keep is not None:
        try:
            given.keep.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ClipError(
                f"the folder {given.keep} cannot be made ({problem.strerror or problem})"
            ) from problem
        for job in jobs:
            for seed in given.seed:
                check_clip_path(_kept(given.keep, job.item, seed))
    return jobs


def _kept(folder: Path, item: Item, seed: int) -> Path:
    return folder / f"{item.name}-seed{seed}.mp4"


def _made(
    given: Namespace, jobs: Sequence[_Job], source: Source, learned: Learned, hidden: bool, written: list[str]
) -> tuple[list[Row], int]:
    with Bars(source.asked, hidden) as bars:
        model = load(source.files, device=given.device, dtype=given.dtype, progress=bars.loading)
    rows: list[Row] = []
    longest = 0
    for number, job in enumerate(jobs, 1):
        title = f"{job.item.name} ({number} of {len(jobs)})"
        for start in range(0, len(given.seed), given.batch):
            seeds = given.seed[start : start + given.batch]
            for seed, frames in zip(seeds, _frames(model, job, seeds, title, hidden), strict=True):
                name = job.item.name
                if given.keep is not None:
                    path = _kept(given.keep, job.item, seed)
                    record = clip_metadata(replace(job.settings, seed=seed))
                    written.append(str(write_clip(frames, path, job.settings.fps, record)))
                end = job.item.end if job.settings.mode == "interpolate" else None
                asked = Asked(job.item.prompt, job.item.picture, end, job.settings.fit)
                rows.append(measure_frames(frames, asked, learned, name, seed))
                longest = max(longest, len(frames))
    return rows, longest


def _frames(model: Model, job: _Job, seeds: Sequence[int], title: str, hidden: bool) -> list[Tensor]:
    first = read_picture(job.item.picture)
    lasts = None
    if job.settings.mode == "interpolate" and job.item.end is not None:
        lasts = [read_picture(job.item.end)] * len(seeds)
    with Bars(title, hidden) as bars, threads_that_pay(model):
        made = render(model, job.settings, [first] * len(seeds), lasts, seeds, progress=bars.stage)
    return [clip.frames for clip in made]


# Clips that are there


def _paired(
    clips: Sequence[Path], items: Sequence[Item], notes: list[str]
) -> Sequence[tuple[Item | None, Path]]:
    """The ready clips, each with what it was made of, if that is given."""
    if not items:
        return [(None, clip) for clip in clips]
    found, left = match_clips(items, clips)
    notes += left
    return found


def _ready(
    given: Namespace,
    pairs: Sequence[tuple[Item | None, Path]],
    learned: Learned,
    hidden: bool,
    notes: list[str],
) -> tuple[list[Row], int]:
    rows: list[Row] = []
    longest = 0
    with Bars("clips", hidden) as bars:
        for number, (item, clip) in enumerate(pairs, 1):
            try:
                frames = read_frames(clip)
                prompt, seed = _recorded(clip)
                asked = Asked(prompt, fit=given.fit)
                if item is not None:
                    asked = Asked(item.prompt or prompt, item.picture, item.end, given.fit)
                rows.append(measure_frames(frames, asked, learned, clip_name(clip), seed))
                longest = max(longest, len(frames))
            except ClipError as problem:
                notes.append(f"{clip.name} is left out: {problem}")
            bars.figures(number, len(pairs))
    if not rows:
        raise ClipError(f"none of the {len(pairs)} clip(s) can be measured: {notes[-1]}")
    return rows, longest


def _recorded(clip: Path) -> tuple[str, int | None]:
    """The prompt and the seed that a clip of this program tells; nothing for others."""
    with suppress(ClipError):
        settings = cast(Any, read_metadata(clip).get("settings"))
        if isinstance(settings, dict):
            known = cast(dict[str, Any], settings)
            seed = known.get("seed")
            return str(known.get("prompt") or ""), seed if isinstance(seed, int) else None
    return "", None


def _real(
    clips: Sequence[Path], learned: Learned, length: int, hidden: bool, notes: list[str]
) -> list[Tensor]:
    """Features of the real clips, as long as the longest that are measured."""
    if learned.video is None:
        return []
    features: list[Tensor] = []
    with Bars("real clips", hidden) as bars:
        for number, clip in enumerate(clips, 1):
            try:
                features.append(real_features(read_frames(clip), learned, length))
            except ClipError as problem:
                notes.append(f"{clip.name} is left out: {problem}")
            bars.figures(number, len(clips))
    return features


def _print(summary: dict[str, Summary], not_measured: Sequence[str], notes: Sequence[str]) -> None:
    print(f"{'figure':50} {'mean':>9} {'spread':>8} {'clips':>6}")
    for name, value in summary.items():
        spread = "" if value.deviation is None else f"{value.deviation:8.3f}"
        print(f"{name:50} {value.mean:9.3f} {spread:>8} {value.clips:6}")
    for line in (*not_measured, *notes):
        print(line)
