"""The command that regenerates a clip from the settings stored in its file: again."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path

from ..animate_anyone.clips import is_person_record
from ..api import ModelFiles, variant_of
from ..backends.choice import TORCH
from ..backends.openvino.manifest import read_manifest
from ..errors import Cancelled, ClipError, UsageError
from ..forecast import amount_of
from ..media.pictures import read_picture
from ..media.video import read_metadata
from ..model.configs import LATENT_FACTOR
from ..model.variants import VARIANTS, Preset, Variant
from ..records import Record, find_camera, find_control, find_model_of, find_more, find_pictures, read_record
from ..settings import Settings
from ..shots import FilmedScene, Means, Shot, check_means
from .clips import make_and_print, model_files, targets_of
from .plan import brief_of
from .streams import Streams

_USUAL = 4
"""How many times the work of a clip with the model's default settings is done without asking."""
_CALLS = 2
"""Evaluations in a usual step: one with the prompt and one without."""


def run(given: Namespace, written: list[str]) -> object:
    """Generate a clip again and return what ``--json`` prints.

    Raises ClipError if the file has no record of how it was made, and if its images or weights are missing or changed;
    UsageError if the clip takes far more than usual, --yes is missing and nobody can be asked; and Cancelled if the
    answer is no.
    """
    with Streams() as streams:
        return _run(given, written, streams)


def _run(given: Namespace, written: list[str], streams: Streams) -> object:
    metadata = read_metadata(given.clip)
    if is_person_record(metadata):
        from . import person

        return person.repeat(given, metadata, written, lambda times: _ask(given.clip, times, given))
    record = read_record(given.clip)
    for option in ("poses", "fit_to"):
        if getattr(given, option) is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} is for clips of a person, but {given.clip} is none; omit it"
            )
    clip: Path = given.clip.resolve()
    pictures = find_pictures(record, given.picture, clip.parent)
    video, mask = find_more(record, clip.parent, given.video, given.mask)
    scene = None if record.camera is None else FilmedScene(*find_camera(record.camera, clip.parent))
    control, hints = find_control(record, clip.parent)
    for picture in (*pictures, *([] if mask is None else [mask])):
        read_picture(picture)
    backend = record.model.backend if given.backend is None else given.backend
    means = Means(
        given.device,
        record.model.dtype if given.dtype == "auto" else given.dtype,
        weights=record.model.stored if given.weights == "auto" and backend == TORCH else given.weights,
        memory=given.memory,
        backend=backend,
        compile=given.compile,
    )
    files = _files(record, given, clip.parent)
    _check_export(record, given, check_means(means, files), backend)
    times = times_usual(record.settings, variant_of(files))
    more = [path for path in (video, mask) if path is not None]
    sources = [*pictures, *more, *(path for path, _ in hints)]
    (target,) = targets_of(given, [given.output or name_again(clip)], sources, streams)
    shots = [Shot(record.settings, pictures, Path(target).name, target, video, mask, scene, control, hints)]
    if not (given.json or given.verbose or given.dry_run):  # Which both say more.
        for line in brief_of(shots, files, streams):
            print(line, file=sys.stderr)
    if not given.dry_run:
        _ask(clip, times, given)
    return make_and_print(shots, files, means, given, written, streams)


def times_usual(settings: Settings, variant: Variant) -> float:
    """How many times the work of a clip with the variant's defaults ``settings`` takes.

    Work is the pixels of all frames that the network sees or, if that is more, those times its evaluations. No
    defaults count for more than those of the largest released model, because weights can come with any.
    """
    usual = min(_cells(variant.preset), max(_cells(known.preset) for known in VARIANTS.values()))
    steps = min(variant.preset.steps, max(known.preset.steps for known in VARIANTS.values()))
    work = amount_of(settings)
    return max(work.cells / usual, work.evaluations / (usual * steps * _CALLS))


def _cells(size: Preset) -> int:
    return size.width * size.height * size.frames // LATENT_FACTOR**2


def _ask(clip: Path, times: float, given: Namespace) -> None:
    """Return if a clip that takes ``times`` the usual work is to be generated."""
    if times <= _USUAL or given.yes:
        return
    told = f"{clip} takes {times:.0f} times the work of a clip with the model's default settings"
    answers = sys.stdin
    if given.json or answers is None or not (answers.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{told}; pass --yes to generate it all the same")
    print(f"{told}. Generate it? [y/N] ", end="", file=sys.stderr, flush=True)
    if answers.readline().strip().lower() not in ("y", "yes"):
        raise Cancelled


def _check_export(record: Record, given: Namespace, folder: Path | None, backend: str) -> None:
    """Raise ClipError if the clip's model is there, but not as it was exported then."""
    if folder is not None and given.model is None and given.backend is None:
        check_stored(record.model.exported, read_manifest(folder).stored, folder, backend)


def check_stored(stored: str, found: str, folder: Path, backend: str) -> None:
    """Raise ClipError unless the weights of the export in ``folder`` are ``stored`` as those of the clip's were."""
    if found != stored:
        raise ClipError(
            f"the clip was made with an export whose weights are {stored}, but those of {folder} are {found}; export "
            f"the model in the same way, or pass --backend {backend} to use it all the same"
        )


def name_again(clip: Path) -> str:
    """What a clip is called that is made again, in the same folder."""
    if clip.is_dir():
        return f"{clip}-again{os.sep}"
    return str(clip.with_name(f"{clip.stem}-again{clip.suffix}"))


def _files(record: Record, given: Namespace, beside: Path) -> ModelFiles:
    """The model a clip was made with, or the one specified instead (which is then not compared)."""
    if given.model is not None:
        return model_files(given)
    if any(more is not None for more in (given.variant, given.text_encoder, given.image_encoder, given.lora)):
        raise UsageError(
            "--variant, --text-encoder, --image-encoder and --lora require --model; specify it as well"
        )
    return find_model_of(record.model, beside)
