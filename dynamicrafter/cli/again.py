"""The command that regenerates a clip from the settings stored in its file: again."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from ..api import ModelFiles
from ..errors import UsageError
from ..media.pictures import read_picture
from ..records import Record, find_model_of, find_pictures, read_record
from ..shots import Means, Shot
from .clips import make_and_print, model_files, targets_of
from .streams import Streams


def run(given: Namespace, written: list[str]) -> object:
    """Generate a clip again and return what ``--json`` prints.

    Raises ClipError if the file has no record of how it was made, and if its images or weights are missing or changed.
    """
    with Streams() as streams:
        return _run(given, written, streams)


def _run(given: Namespace, written: list[str], streams: Streams) -> object:
    clip: Path = given.clip.resolve()
    record = read_record(clip)
    pictures = find_pictures(record, given.picture, clip.parent)
    for picture in pictures:
        read_picture(picture)
    files = _files(record, given)
    (target,) = targets_of(given, [given.output or _beside(clip)], pictures, streams)
    means = Means(given.device, record.model.dtype if given.dtype == "auto" else given.dtype)
    shot = Shot(record.settings, pictures, Path(target).name, target)
    return make_and_print([shot], files, means, given, written, streams)


def _beside(clip: Path) -> str:
    if clip.is_dir():
        return f"{clip}-again{os.sep}"
    return str(clip.with_name(f"{clip.stem}-again{clip.suffix}"))


def _files(record: Record, given: Namespace) -> ModelFiles:
    """The model a clip was made with, or the one specified instead (which is then not compared)."""
    if given.model is not None:
        return model_files(given)
    if any(more is not None for more in (given.variant, given.text_encoder, given.image_encoder, given.lora)):
        raise UsageError(
            "--variant, --text-encoder, --image-encoder and --lora require --model; specify it as well"
        )
    return find_model_of(record.model)
