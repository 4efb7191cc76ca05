"""Clips of any pictures and prompts, or ready ones, to a table of figures: ``evaluate`` with a folder or clips."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..api import TINY, ModelFiles, load, pick_device, provide, variant_of
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
from ..settings import clip_metadata
from ..shots import Means, Shot, batches, render_batch, tiny_knows, what_is_cut
from .clips import clip_settings, model_files
from .progress import Bars


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
        files = None if given.model is None else provide(model_files(given))
        learned, asked = _learned(given, files), None
        rows, longest = _ready(given, pairs, learned, hidden, notes)
    else:
        files = model_files(given)
        asked = files.asked
        means, jobs = _jobs(given, items, sizes, files)
        notes += what_is_cut("negative prompt", given.negative)
        for item in items:
            notes += [f"{item.name}: {note}" for note in what_is_cut("prompt", item.prompt)]
        untold = sum(not item.prompt for item in items)
        if untold:
            notes.append(
                f"{untold} of {len(items)} picture(s) have no prompt; nothing is said of what happens there"
            )
        if asked == TINY:
            notes += dict.fromkeys(tiny_knows(shot.settings.mode) for _, shot in jobs)
        learned = _learned(given, files)
        rows, longest = _made(jobs, files, means, learned, hidden, written)
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
    given: Namespace, items: Sequence[Item], sizes: Sequence[tuple[int, int]], files: ModelFiles
) -> tuple[Means, list[tuple[Item, Shot]]]:
    """What is to be made and of which item; everything that can be wrong is told before the weights are read."""
    pick_device(given.device)
    variant = variant_of(files)
    means = Means(given.device, given.dtype, given.batch)
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
                f"the folder {given.keep} cannot be made ({problem.strerror or problem})"
            ) from problem
        for _, shot in jobs:
            check_clip_path(shot.target)
    return means, jobs


def _kept(folder: Path, item: Item, seed: int) -> Path:
    return folder / f"{item.name}-seed{seed}.mp4"


def _made(
    jobs: Sequence[tuple[Item, Shot]],
    files: ModelFiles,
    means: Means,
    learned: Learned,
    hidden: bool,
    written: list[str],
) -> tuple[list[Row], int]:
    rows: list[Row] = []
    longest = 0
    items = iter(item for item, _ in jobs)
    with Bars(files.asked, hidden) as bars:
        model = load(files, device=means.device, dtype=means.dtype, progress=bars.loading)
        for batch in batches([shot for _, shot in jobs], means.batch):
            finished = render_batch(model, batch, bars.clip)
            bars.close()
            for made in finished:
                item, settings, frames = next(items), made.shot.settings, made.clip.frames
                if made.shot.target:
                    path = write_clip(frames, made.shot.target, settings.fps, clip_metadata(settings))
                    written.append(str(path))
                end = item.end if settings.mode == "interpolate" else None
                asked = Asked(item.prompt, item.picture, end, settings.fit)
                rows.append(measure_frames(frames, asked, learned, item.name, settings.seed))
                longest = max(longest, len(frames))
    return rows, longest


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
