"""The commands that make clips: animate, interpolate, loop, and again for a clip that was made before."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ..api import RANDOM, ModelFiles, find_model, load, render
from ..checkpoint import file_sha256 as weights_sha256
from ..clip import count_tokens
from ..download import weights_folder
from ..errors import ClipError, UsageError
from ..hashing import file_sha256, remembered_sha256
from ..pictures import Picture, read_picture
from ..pipeline import Model
from ..settings import Settings, make_settings, settings_from_json, settings_to_json
from ..variants import TEXT_TOKENS, Mode
from ..video import check_clip_path, read_metadata, write_clip
from .progress import Bars

RECORD = "dynamicrafter"
"""Name of the program in the metadata of its clips."""


@dataclass(frozen=True)
class Shot:
    """One clip to make: its pictures, their files and its settings."""

    settings: Settings
    files: tuple[Path, ...]
    pictures: tuple[Picture, ...]
    target: Path


@dataclass(frozen=True)
class Source:
    """The model of a run as a clip remembers it."""

    asked: str
    files: ModelFiles


def run(command: str, arguments: object) -> object:
    """Do what one of the commands asks for and return what ``--json`` prints."""
    given = cast(Namespace, arguments)
    if command == "again":
        return _again(given)
    source = _source(given)
    groups = _picture_groups(given, cast(Mode, command))
    # Everything that can be told to be wrong is told before the weights are read.
    if given.batch < 1:
        raise UsageError(f"batch must be at least 1, but {given.batch} was given")
    targets = _targets(given, command, [files for files, _ in groups])
    model = load(source.files, device=given.device, dtype=given.dtype)
    shots: list[Shot] = []
    for files, pictures in groups:
        settings = _settings(given, model, cast(Mode, command), pictures[0])
        shots += [
            Shot(replace(settings, seed=seed), files, pictures, targets[len(shots) + index])
            for index, seed in enumerate(given.seed)
        ]
    return _make(shots, model, source, given, given.batch)


def _source(given: Namespace) -> Source:
    if given.model is None:
        raise UsageError(
            "no model was given; add --model NAME with a name from 'dynamicrafter models', --model FILE, or "
            f"--model {RANDOM} to try the program with random weights (its clips are noise)"
        )
    files = find_model(
        given.model,
        variant=given.variant,
        text_encoder=given.text_encoder,
        image_encoder=given.image_encoder,
    )
    return Source(given.model, files)


def _picture_groups(given: Namespace, mode: Mode) -> list[tuple[tuple[Path, ...], tuple[Picture, ...]]]:
    groups: list[tuple[Path, ...]] = (
        [(given.first, given.last)] if mode == "interpolate" else [(path,) for path in given.pictures]
    )
    return [(files, tuple(read_picture(file) for file in files)) for files in groups]


def _settings(given: Namespace, model: Model, mode: Mode, picture: Picture) -> Settings:
    return make_settings(
        model.variant,
        mode,
        picture_size=picture.size,
        size=given.size,
        fs=given.fs,
        motion=given.motion,
        prompt=given.prompt,
        negative=given.negative,
        frames=given.frames,
        steps=given.steps,
        cfg=given.cfg,
        image_cfg=given.image_cfg,
        eta=given.eta,
        guidance_rescale=given.rescale,
        spacing=given.spacing,
        seed=given.seed[0],
        fps=given.fps,
        fit=given.fit,
        noise_device=given.noise_device,
    )


def _targets(given: Namespace, command: str, groups: list[tuple[Path, ...]]) -> list[Path]:
    """Where each clip goes: picture by picture, seed by seed; several clips of one name are numbered."""
    targets: list[Path] = []
    for files in groups:
        base: Path = given.output or Path(f"{files[0].stem}-{command}.mp4")
        targets += [base] * len(given.seed)
    if len(targets) > 1 and (given.output is not None or len(set(targets)) < len(targets)):
        targets = [t.with_name(f"{t.stem}-{number}{t.suffix}") for number, t in enumerate(targets, 1)]
    return [check_clip_path(target) for target in targets]


def _make(shots: list[Shot], model: Model, source: Source, given: Namespace, batch: int) -> dict[str, Any]:
    _say_what_is_cut(shots[0].settings, given)
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as reader:
        # Gigabytes are hashed while the networks work.
        hashes = {path: reader.submit(_remembered_hash, path) for path in _weight_files(source.files)}
        try:
            for group in _batches(shots, batch):
                results += _make_batch(group, model, source, hashes, given)
        finally:
            for pending in hashes.values():
                pending.cancel()
    return {"clips": results}


def _batches(shots: list[Shot], batch: int) -> Iterator[list[Shot]]:
    """Shots in order, at most ``batch`` at once, and only those of equal settings together."""
    group: list[Shot] = []
    for shot in shots:
        alike = group and replace(shot.settings, seed=0) == replace(group[0].settings, seed=0)
        if group and (not alike or len(group) == batch):
            yield group
            group = []
        group.append(shot)
    yield group


def _make_batch(
    group: list[Shot], model: Model, source: Source, hashes: dict[Path, Future[str]], given: Namespace
) -> list[dict[str, Any]]:
    started = time.monotonic()
    settings = group[0].settings
    firsts = [shot.pictures[0] for shot in group]
    lasts = [shot.pictures[1] for shot in group] if settings.mode == "interpolate" else None
    names = ", ".join(shot.target.name for shot in group)
    with Bars(names, hidden=given.quiet or given.json) as bars:
        clips = render(
            model, settings, firsts, lasts, [shot.settings.seed for shot in group], progress=bars.stage
        )
    seconds = time.monotonic() - started
    results: list[dict[str, Any]] = []
    for shot, clip in zip(group, clips, strict=True):
        record = _record(shot, model, source, hashes)
        written = write_clip(clip.frames, shot.target, clip.settings.fps, record)
        frames, height, width = clip.frames.shape[:3]
        if not given.json:
            size = f"{width}x{height}, {frames} frames at {clip.settings.fps} fps"
            print(f"{written}: {size}, seed {shot.settings.seed}, {seconds:.1f} s")
        results.append(
            {
                "output": str(written),
                "frames": frames,
                "width": width,
                "height": height,
                "fps": clip.settings.fps,
                "seconds": round(seconds, 3),
                "settings": record["settings"],
            }
        )
    return results


def _record(shot: Shot, model: Model, source: Source, hashes: dict[Path, Future[str]]) -> dict[str, Any]:
    """What a clip's file says of its making; enough for ``again``."""
    from . import program_version

    files = source.files
    return {
        "program": RECORD,
        "version": program_version(),
        "settings": settings_to_json(shot.settings),
        "model": {
            "asked": source.asked,
            "variant": model.variant.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": _known(files.weights, hashes),
            "text_encoder": _known(files.text_encoder, hashes),
            "image_encoder": _known(files.image_encoder, hashes),
        },
        "pictures": [{"file": str(file.resolve()), "sha256": file_sha256(file)} for file in shot.files],
    }


def _known(path: Path | None, hashes: dict[Path, Future[str]]) -> dict[str, str] | None:
    return None if path is None else {"file": str(path.resolve()), "sha256": hashes[path].result()}


def _weight_files(files: ModelFiles) -> list[Path]:
    found = (files.weights, files.text_encoder, files.image_encoder)
    return list(dict.fromkeys(path for path in found if path is not None))


def _remembered_hash(path: Path) -> str:
    return remembered_sha256(path, weights_folder() / "hashes.json", weights_sha256)


def _say_what_is_cut(settings: Settings, given: Namespace) -> None:
    for name, text in (("prompt", settings.prompt), ("negative prompt", settings.negative)):
        count = count_tokens(text)
        if count > TEXT_TOKENS - 2 and not given.json:
            print(
                f"note: the {name} has {count} word pieces; the model reads the first {TEXT_TOKENS - 2}",
                file=sys.stderr,
            )


def _again(given: Namespace) -> dict[str, Any]:
    record = read_metadata(given.clip)
    try:
        if record["program"] != RECORD:
            raise KeyError(record["program"])
        settings = settings_from_json(record["settings"])
        model_record, picture_records = record["model"], record["pictures"]
        files = _again_pictures(picture_records, given)
        source = _again_source(model_record, given)
        dtype = model_record["dtype"] if given.dtype == "auto" else given.dtype
    except KeyError as problem:
        raise ClipError(f"{given.clip} does not say how it was made ({problem} is missing)") from problem
    default = given.clip.with_name(f"{given.clip.stem}-again{given.clip.suffix}")
    target = check_clip_path(given.output or default)
    model = load(source.files, device=given.device, dtype=dtype)
    shot = Shot(settings, files, tuple(read_picture(file) for file in files), target)
    return _make([shot], model, source, given, 1)


def _again_pictures(records: list[dict[str, str]], given: Namespace) -> tuple[Path, ...]:
    chosen: list[Path] | None = given.picture
    if chosen is not None and len(chosen) != len(records):
        raise UsageError(f"the clip was made from {len(records)} picture(s), but {len(chosen)} were given")
    files: list[Path] = []
    for index, record in enumerate(records):
        stored = Path(record["file"])
        beside = given.clip.parent / stored.name
        file = chosen[index] if chosen else stored if stored.exists() else beside
        if not file.exists():
            raise ClipError(f"the clip's picture {stored} is gone; say where it is now with --picture FILE")
        if file_sha256(file) != record["sha256"]:
            raise ClipError(
                f"{file} is not the picture the clip was made from; give that one with --picture FILE"
            )
        files.append(file)
    return tuple(files)


def _again_source(record: dict[str, Any], given: Namespace) -> Source:
    """The model a clip was made with, or the one given in its place (which is then not compared)."""
    if given.model is not None:
        return _source(given)
    paths: dict[str, Path | None] = {}
    for part in ("weights", "text_encoder", "image_encoder"):
        known = record[part]
        paths[part] = None if known is None else Path(known["file"])
        if known is None:
            continue
        if not Path(known["file"]).exists():
            if part == "weights" and record["asked"] == RANDOM:
                find_model(RANDOM)
            else:
                raise ClipError(
                    f"the clip's weights {known['file']} are gone; name them with --model NAME or FILE"
                )
        if _remembered_hash(Path(known["file"])) != known["sha256"]:
            raise ClipError(
                f"{known['file']} is not the file the clip was made with; give the right one with --model"
            )
    weights = cast(Path, paths["weights"])
    files = ModelFiles(weights, record["variant"], paths["text_encoder"], paths["image_encoder"])
    return Source(record["asked"], files)
