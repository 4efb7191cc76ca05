"""The commands that make clips: animate, interpolate and loop."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import cast

from ..api import Lora, find_model, pick_device, variant_of
from ..errors import UsageError
from ..media.pictures import read_picture
from ..media.video import check_clip_path
from ..model.variants import TINY, Mode, Variant
from ..parameters import PARAMETERS
from ..settings import Settings, make_settings
from .shots import Shot, Source, make

_Files = tuple[Path, ...]


def run(command: str, given: Namespace, written: list[str]) -> object:
    """Do what one of the commands asks for and return what ``--json`` prints."""
    mode = cast(Mode, command)
    # Everything that can be told to be wrong is told before the weights are read.
    source = model_source(given)
    pick_device(given.device)
    variant = variant_of(source.files)
    if given.batch < 1:
        raise UsageError(f"batch must be at least 1, but {given.batch} was given")
    groups: list[_Files] = (
        [(given.first, given.last)] if mode == "interpolate" else [(path,) for path in given.pictures]
    )
    targets = iter(_targets(given, command, groups))
    shots: list[Shot] = []
    for files in groups:
        size, *_ = [read_picture(file).size for file in files]
        settings = clip_settings(given, variant, mode, size)
        shots += [Shot(replace(settings, seed=seed), files, next(targets)) for seed in given.seed]
    return make(shots, source, given, given.dtype, written)


def model_source(given: Namespace) -> Source:
    """The model that the arguments name, or the built-in one; raises UsageError where they name none that is here."""
    asked = TINY.name if given.model is None else given.model
    files = find_model(
        asked,
        variant=given.variant,
        text_encoder=given.text_encoder,
        image_encoder=given.image_encoder,
    )
    loras = tuple(Lora(path, strength) for path, strength in given.lora or ())
    return Source(asked, replace(files, loras=loras))


def clip_target(name: str, pictures: _Files) -> str:
    """Where a clip goes, absolute; raises UsageError or ClipError where it cannot be written.

    A slash at the end stays: it makes a folder out of a name that looks like a file's.
    """
    target = check_clip_path(name)
    if any(target == picture.resolve() for picture in pictures):
        raise UsageError(f"{target} is the picture itself; give the clip another name with --output")
    return str(target) + (os.sep if _is_folder(name) else "")


def clip_settings(given: Namespace, variant: Variant, mode: Mode, picture_size: tuple[int, int]) -> Settings:
    """The settings that the arguments ask for; raises UsageError for a value out of range."""
    names = PARAMETERS.keys() - {"width", "height", "seed"}
    return make_settings(
        variant,
        mode,
        picture_size=picture_size,
        size=given.size,
        seed=given.seed[0],
        **{name: getattr(given, name) for name in names},
    )


def _targets(given: Namespace, command: str, groups: list[_Files]) -> list[str]:
    """Where each clip goes: picture by picture, seed by seed; several clips of one name are numbered."""
    names = [
        given.output or f"{files[0].stem}-{command}.mp4" for files in groups for _ in range(len(given.seed))
    ]
    # Some systems take names that differ only in case for the same.
    if len({name.casefold() for name in names}) < len(names):
        names = [_numbered(name, number) for number, name in enumerate(names, start=1)]
    pictures = tuple(file for files in groups for file in files)
    return [clip_target(name, pictures) for name in names]


def _numbered(name: str, number: int) -> str:
    path = Path(name)
    if not path.name:
        raise UsageError(f"{name} is no name that several clips could be numbered by; add one to it")
    if _is_folder(name):
        return str(path.with_name(f"{path.name}-{number}")) + os.sep
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep))
