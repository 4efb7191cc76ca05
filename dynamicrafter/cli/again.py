"""The command that repeats a clip from the settings stored in its file."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from ..api import Lora, ModelFiles, find_model
from ..errors import ClipError, UsageError
from ..hashing import file_sha256
from ..media.pictures import read_picture
from ..media.video import read_metadata
from ..settings import PROGRAM, Settings, settings_from_json
from .clips import clip_target, model_source
from .shots import Shot, Source, make, weights_hash


@dataclass(frozen=True)
class _Known:
    """A file as a clip remembers it."""

    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it was."""
        return Path(self.file)

    @property
    def name(self) -> str:
        """Its name without folders; a clip may come from another system than the one it is repeated on."""
        return PureWindowsPath(self.file).name


@dataclass(frozen=True)
class _Record:
    """How a clip was made."""

    settings: Settings
    pictures: tuple[_Known, ...]
    asked: str
    variant: str
    dtype: str
    weights: _Known
    text_encoder: _Known | None
    image_encoder: _Known | None
    loras: tuple[tuple[_Known, float], ...]


def run(given: Namespace, written: list[str]) -> object:
    """Make a clip once more and return what ``--json`` prints.

    Raises ClipError when the file does not say how it was made, and when its pictures or weights are gone or others.
    """
    clip: Path = given.clip.resolve()
    record = _read(clip)
    pictures = _pictures(record, given, clip)
    for picture in pictures:
        read_picture(picture)
    source = _source(record, given)
    target = clip_target(given.output or _beside(clip), pictures)
    dtype = record.dtype if given.dtype == "auto" else given.dtype
    return make([Shot(record.settings, pictures, target)], source, given, dtype, written)


def _beside(clip: Path) -> str:
    if clip.is_dir():
        return f"{clip}-again{os.sep}"
    return str(clip.with_name(f"{clip.stem}-again{clip.suffix}"))


def _read(clip: Path) -> _Record:
    metadata = read_metadata(clip)
    try:
        if metadata["program"] != PROGRAM:
            raise KeyError(PROGRAM)
        model: dict[str, Any] = metadata["model"]
        return _Record(
            settings=settings_from_json(metadata["settings"], metadata["version"]),
            pictures=tuple(_Known(**known) for known in metadata["pictures"]),
            asked=str(model["asked"]),
            variant=str(model["variant"]),
            dtype=str(model["dtype"]),
            weights=_Known(**model["weights"]),
            text_encoder=_known(model["text_encoder"]),
            image_encoder=_known(model["image_encoder"]),
            loras=tuple(
                (_Known(lora["file"], lora["sha256"]), float(lora["strength"]))
                for lora in model.get("loras", ())
            ),
        )
    except (KeyError, TypeError, AttributeError) as problem:
        raise ClipError(
            f"{clip} does not say how it was made ({problem}); only what this command wrote can be repeated"
        ) from problem


def _known(value: dict[str, str] | None) -> _Known | None:
    return None if value is None else _Known(**value)


def _pictures(record: _Record, given: Namespace, clip: Path) -> tuple[Path, ...]:
    """The clip's pictures: those given, or else where they were, or else beside the clip."""
    chosen: list[Path] | None = given.picture
    if chosen is not None and len(chosen) != len(record.pictures):
        raise UsageError(
            f"the clip was made from {len(record.pictures)} picture(s), but {len(chosen)} were given"
        )
    found: list[Path] = []
    for index, known in enumerate(record.pictures):
        places = [chosen[index]] if chosen is not None else [known.path, clip.parent / known.name]
        there = [place for place in places if place.is_file()]
        right = [place for place in there if file_sha256(place) == known.sha256]
        if right:
            found.append(right[0])
        elif there:
            raise ClipError(
                f"{there[0]} is not the picture the clip was made from; give that one with --picture FILE"
            )
        else:
            raise ClipError(
                f"the clip's picture {places[0]} is gone; say where it is now with --picture FILE"
            )
    return tuple(found)


def _source(record: _Record, given: Namespace) -> Source:
    """The model a clip was made with, or the one given in its place (which is then not compared)."""
    if given.model is not None:
        return model_source(given)
    if any(more is not None for more in (given.variant, given.text_encoder, given.image_encoder, given.lora)):
        raise UsageError(
            "--variant, --text-encoder, --image-encoder and --lora say more about a --model; give it too"
        )
    parts = (record.weights, record.text_encoder, record.image_encoder)
    files = ModelFiles(
        record.weights.path,
        record.variant,
        None if record.text_encoder is None else record.text_encoder.path,
        None if record.image_encoder is None else record.image_encoder.path,
    )
    if not all(known.path.exists() for known in parts if known is not None):
        files = _by_name(record)
    for known, path in zip(parts, (files.weights, files.text_encoder, files.image_encoder), strict=True):
        if known is not None and (path is None or weights_hash(path) != known.sha256):
            raise ClipError(
                f"{path or record.asked} is not what the clip was made with; give the right one with --model"
            )
    for known, _ in record.loras:
        if not known.path.is_file() or weights_hash(known.path) != known.sha256:
            raise ClipError(
                f"{known.file} is gone or not what the clip was made with; give --model and --lora FILE instead"
            )
    return Source(record.asked, replace(files, loras=tuple(Lora(k.path, s) for k, s in record.loras)))


def _by_name(record: _Record) -> ModelFiles:
    """The clip's model where the name it was asked by leads now: another weights folder, or a random one anew."""
    try:
        return find_model(record.asked, variant=record.variant)
    except UsageError as problem:
        raise ClipError(
            f"the clip's weights {record.weights.file} are gone; name them with --model NAME or FILE"
        ) from problem
