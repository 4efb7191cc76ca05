"""From images and prompts, or existing clips, to a table of metrics: ``evaluate folder`` and ``evaluate videos``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..api import ModelFiles, pick_device, variant_of, what_is_cut
from ..errors import ClipError, UsageError
from ..evaluation.folder import PROMPT_LISTS, Item, clip_name, find_clips, match_clips, read_items
from ..evaluation.learned import Learned, load_learned
from ..evaluation.measure import (
    Asked,
    MeasuredClip,
    Summary,
    check_rows_path,
    distances_missing,
    measure_frames,
    real_features,
    summarise,
    write_rows,
)
from ..evaluation.sentence import describe
from ..media.pictures import read_picture
from ..media.video import check_clip_path, read_frames, read_metadata, write_clip
from ..model.variants import TINY, Mode
from ..settings import clip_metadata, unusual_fs
from ..shots import Means, Shot, batches, check_means, check_settings, load_with, means_for, render_batch
from .clips import clip_settings, means_of, model_files
from .progress import Bars
from .words import WORDS, tiny_knows


def measure_folder(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Generate clips from a folder of images and prompts and measure them; returns what ``--json`` prints.

    Kept clips are appended to ``written``.
    """
    items = read_items(given.folder)
    real = _real_clips(given, items)
    _check_csv(given.csv, given.folder, items, real)
    if given.keep is not None:
        _check_kept(given, items, real)
    sizes = [_size(item) for item in items]
    files = model_files(given)
    means, jobs = _jobs(given, items, sizes, files)
    notes = what_is_cut("negative prompt", given.negative)
    for item in items:
        notes += [f"{item.name}: {note}" for note in what_is_cut("prompt", item.prompt)]
    notes += unusual_fs(variant_of(files), jobs[0][1].settings.fs)
    untold = sum(not item.prompt for item in items)
    if untold:
        notes.append(
            f"{untold} of {len(items)} image(s) have no prompt; their clips are generated with an empty one"
        )
    if files.asked == TINY.name:
        notes += dict.fromkeys(tiny_knows(shot.settings.mode) for _, shot in jobs)
    learned = _learned(given, files)
    rows, longest = _made(jobs, files, means, learned, _hidden(given), written)
    return {"model": files.asked, **_told(given, rows, longest, real, learned, notes), "kept": written}


def measure_videos(given: Namespace) -> dict[str, Any]:
    """Measure existing clips; returns what ``--json`` prints."""
    items = [] if given.prompts is None else read_items(given.prompts)
    videos = find_clips(given.videos)
    real = _real_clips(given, items)
    _check_csv(given.csv, given.prompts, items, [*videos, *real])
    for item in items:  # An unreadable image must not end hours of measuring.
        _size(item)
    notes: list[str] = []
    pairs = _paired(videos, items, notes)
    learned = _learned(given, None)
    rows, longest = _ready(given, pairs, learned, notes)
    return {"model": None, **_told(given, rows, longest, real, learned, notes), "kept": []}


def _told(
    given: Namespace,
    rows: Sequence[MeasuredClip],
    longest: int,
    real: Sequence[Path],
    learned: Learned,
    notes: list[str],
) -> dict[str, Any]:
    """Compare ``rows`` with the real clips, print and write the table; returns the part of ``--json`` about it."""
    compared = _real_features(given, real, learned, longest, notes)
    summary = summarise(rows, compared)
    too_few = distances_missing(rows, compared, learned) if real else None
    not_measured = [*(problem.said(WORDS) for problem in learned.missing), *([too_few] if too_few else [])]
    if not given.json:
        sentence = [describe(row.figures) for row in rows] if len(rows) == 1 else []
        _print(summary, [*sentence, *not_measured], notes)
    if given.csv is not None:  # After the table, so that the table is not lost if this fails.
        write_rows(given.csv, rows)
    return {
        "figures": {name: asdict(value) for name, value in summary.items()},
        "clips": [
            {
                "clip": row.clip,
                "seed": row.seed,
                "prompt": row.prompt,
                "figures": row.figures,
                "sentence": describe(row.figures),
            }
            for row in rows
        ],
        "not_measured": not_measured,
        "notes": notes,
        "csv": None if given.csv is None else str(given.csv.resolve()),
    }


def _learned(given: Namespace, files: ModelFiles | None) -> Learned:
    if not given.plain:
        device = pick_device(given.device)
        return load_learned(device, model=files, towers=given.towers, i3d=given.i3d, fetch=given.fetch)
    return Learned()


def _real_clips(given: Namespace, items: Sequence[Item]) -> list[Path]:
    """The clips to compare with; raises UsageError if an option of learned metrics is combined with ``--plain``."""
    for name in ("towers", "i3d", "fetch", "real"):
        if given.plain and getattr(given, name):
            raise UsageError(
                f"--{name} is for learned metrics, but --plain skips them; use only one of the two"
            )
    listed = [item.real for item in items if item.real is not None]
    return listed if given.real is None else [*listed, *find_clips(given.real)]


def _check_kept(given: Namespace, items: Sequence[Item], real: Sequence[Path]) -> None:
    """Raise UsageError if a kept clip would overwrite an input."""
    inputs = _inputs(items, real)
    for kept in (_kept(given.keep, item, seed) for item in items for seed in given.seed):
        if _identities([kept]) & inputs:
            raise UsageError(
                f"{kept} is one of the input files, and a kept clip would overwrite it; "
                f"choose another folder with --keep"
            )


def _check_csv(csv: Path | None, folder: Path | None, items: Sequence[Item], clips: Sequence[Path]) -> None:
    """Raise UsageError if the table could not be written, or would overwrite an input."""
    if csv is None:
        return
    check_rows_path(csv)
    lists = [] if folder is None else [folder, *(folder / name for name in PROMPT_LISTS)]
    if any(csv.resolve() == path.resolve() for path in lists) or _identities([csv]) & _identities(lists):
        raise UsageError(
            f"{csv} is the list of images and prompts; choose another name for the table with --csv"
        )
    if _identities([csv]) & _inputs(items, clips):
        raise UsageError(
            f"{csv} is one of the input files, and the table would overwrite it; "
            f"choose another name for the table with --csv"
        )
    if csv.suffix.lower() != ".csv":
        raise UsageError(f"the table is a CSV file, but --csv is {csv}; use a name that ends in .csv")


def _inputs(items: Sequence[Item], clips: Sequence[Path]) -> set[tuple[int, int]]:
    """Identities of all files that are read."""
    read = [file for item in items for file in (item.picture, item.end, item.text) if file is not None]
    for clip in clips:
        read += [clip, *clip.iterdir()] if clip.is_dir() else [clip]
    return _identities(read)


def _identities(files: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and inode of the files that exist, which are the same for links and for case-insensitive names."""
    known: set[tuple[int, int]] = set()
    for file in files:
        with suppress(OSError, ValueError):
            about = file.stat()
            known.add((about.st_dev, about.st_ino))
    return known


def _size(item: Item) -> tuple[int, int]:
    """Width and height of the image in pixels; raises PictureError if it or the end image cannot be read."""
    size, *_ = [read_picture(file).size for file in (item.picture, item.end) if file is not None]
    return size


# Clips to be generated


def _jobs(
    given: Namespace, items: Sequence[Item], sizes: Sequence[tuple[int, int]], files: ModelFiles
) -> tuple[Means, list[tuple[Item, Shot]]]:
    """The clips to generate and their items; everything possible is checked before the weights are loaded."""
    means = means_of(given)
    check_means(means, files)
    variant = variant_of(files)
    jobs: list[tuple[Item, Shot]] = []
    for number, (item, size) in enumerate(zip(items, sizes, strict=True), 1):
        mode: Mode = "loop" if given.loop else "animate" if item.end is None else "interpolate"
        asked = Namespace(**{**vars(given), "prompt": item.prompt, "fps": None})
        settings = clip_settings(asked, variant, mode, size)
        pictures = (item.picture, item.end) if mode == "interpolate" and item.end else (item.picture,)
        title = f"{item.name} ({number} of {len(items)})"
        for seed in given.seed:
            target = "" if given.keep is None else str(_kept(given.keep, item, seed))
            jobs.append((item, Shot(replace(settings, seed=seed), pictures, title, target)))
    if given.keep is not None:
        try:
            given.keep.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ClipError(
                f"the folder {given.keep} cannot be created ({problem.strerror or problem}); "
                f"choose another one with --keep"
            ) from problem
        for _, shot in jobs:
            check_clip_path(shot.target)
    check_settings((shot.settings for _, shot in jobs), means)
    return means, jobs


def _kept(folder: Path, item: Item, seed: int) -> Path:
    return folder / f"{item.name}-seed{seed}.mp4"


def _hidden(given: Namespace) -> bool:
    return given.quiet or given.json


def _made(
    jobs: Sequence[tuple[Item, Shot]],
    files: ModelFiles,
    means: Means,
    learned: Learned,
    hidden: bool,
    written: list[str],
) -> tuple[list[MeasuredClip], int]:
    rows: list[MeasuredClip] = []
    longest = 0
    items = iter(item for item, _ in jobs)
    with Bars(files.asked, hidden, clips=len(jobs)) as bars:
        shots = [shot for _, shot in jobs]
        model = load_with(means_for(shots, files, means), files, bars.loading)
        for batch in batches(shots, means.batch):
            finished = render_batch(model, batch, bars.clip)
            bars.close()
            for shot, clip in zip(batch, finished, strict=True):
                item, settings, frames = next(items), shot.settings, clip.frames
                if shot.target:
                    path = write_clip(frames, shot.target, settings.fps, clip_metadata(settings))
                    written.append(str(path))
                end = item.end if settings.mode == "interpolate" else None
                asked = Asked(item.prompt, item.picture, end, settings.fit)
                rows.append(measure_frames(frames, asked, learned, item.name, settings.seed))
                bars.finished(len(rows))
                longest = max(longest, len(frames))
    return rows, longest


# Existing clips


def _paired(
    clips: Sequence[Path], items: Sequence[Item], notes: list[str]
) -> Sequence[tuple[Item | None, Path]]:
    """The existing clips, each with the item it was made from, if specified."""
    if not items:
        return [(None, clip) for clip in clips]
    found, left = match_clips(items, clips)
    notes += left
    return found


def _ready(
    given: Namespace,
    pairs: Sequence[tuple[Item | None, Path]],
    learned: Learned,
    notes: list[str],
) -> tuple[list[MeasuredClip], int]:
    rows: list[MeasuredClip] = []
    longest = 0
    with Bars("videos", _hidden(given)) as bars:
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
                notes.append(f"{clip.name} is skipped: {problem}")
            bars.figures(number, len(pairs))
    if not rows:
        raise ClipError(f"none of the {len(pairs)} clip(s) can be measured: {notes[-1]}")
    return rows, longest


def _recorded(clip: Path) -> tuple[str, int | None]:
    """The prompt and the seed stored in a clip of this program; empty for others."""
    with suppress(ClipError):
        settings = cast(Any, read_metadata(clip).get("settings"))
        if isinstance(settings, dict):
            known = cast(dict[str, Any], settings)
            seed = known.get("seed")
            return str(known.get("prompt") or ""), seed if isinstance(seed, int) else None
    return "", None


def _real_features(
    given: Namespace, clips: Sequence[Path], learned: Learned, length: int, notes: list[str]
) -> list[Tensor]:
    """Features of the real clips, from as many frames as the longest measured clip has."""
    if learned.video is None:
        return []
    features: list[Tensor] = []
    with Bars("real clips", _hidden(given)) as bars:
        for number, clip in enumerate(clips, 1):
            try:
                features.append(real_features(read_frames(clip), learned, length))
            except ClipError as problem:
                notes.append(f"{clip.name} is skipped: {problem}")
            bars.figures(number, len(clips))
    return features


def _print(summary: dict[str, Summary], not_measured: Sequence[str], notes: Sequence[str]) -> None:
    print(f"{'metric':50} {'mean':>9} {'std':>8} {'clips':>6}")
    for name, value in summary.items():
        deviation = "" if value.deviation is None else f"{value.deviation:8.3f}"
        print(f"{name:50} {value.mean:9.3f} {deviation:>8} {value.clips:6}")
    for line in (*not_measured, *notes):
        print(line)
