"""Clips of a person to be generated: what each is made from, what it takes, and the record in its file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from ..api import check_backend_options, pick_device, pick_dtype
from ..backends.choice import TORCH, parse_backend
from ..errors import ClipError, PictureError, Remedy, UsageError
from ..forecast import Amount, Stopwatch, speed_of
from ..forms import Form, program_version, shortened, to_json
from ..hashing import file_sha256
from ..media.pictures import as_picture, read_picture
from ..media.video import FASTEST, FrameStream, read_sound, takes_sound, write_clip
from ..model.configs import LATENT_FACTOR, Memory, Quantised, Residence, Weights
from ..records import KnownFile, find_recorded, has_bytes, know_pictures
from ..settings import PROGRAM
from ..weights.catalogue import PERSON
from ..weights.download import weights_folder
from ..weights.footprint import Footprint, fitting_residence
from ..weights.formats.entries import ByteProgress
from .api import PersonSettings, stream_person
from .config import BUILT_IN_PERSON
from .exported import read_person_export, stage_weights
from .framing import framed, placed
from .keypoints import Person
from .memory import WindowSize, person_footprint
from .pipeline import PersonModel
from .pose_clips import Finder, PoseChoices, PoseClip, keypoints_of, read_poses
from .weights import check_person, load_person, person_export_of, person_sha256, person_stored

if TYPE_CHECKING:
    from ..shots import ShotProgress

MODEL = "AnimateAnyone"
"""Under which the speed of its runs is remembered."""
_SUFFIX = ".json"


@dataclass(frozen=True)
class PersonShot:
    """One clip to generate."""

    settings: PersonSettings
    choices: PoseChoices
    picture: Path
    poses: Path
    """Keypoints, a clip or folder of drawings, or with ``detect`` a clip of a person."""
    model: Path
    target: str = ""
    """Absolute path to write to."""
    reference: Path | None = None
    """What the poses are fitted to: keypoints of the person in the picture, or with ``detect`` the picture itself."""
    detect: bool = False
    fps: float | None = None
    """Frames per second; None for those of the poses."""
    side_by_side: bool = False


@dataclass(frozen=True)
class PersonMeans:
    """How a clip is computed."""

    device: str = "auto"
    dtype: str = "auto"
    weights: Weights = "auto"
    memory: Memory = "auto"
    backend: str = TORCH


@dataclass(frozen=True)
class PersonPlan:
    """What a clip takes."""

    device: torch.device
    dtype: torch.dtype
    residence: Residence | None
    """How the networks use the device's memory; None for OpenVINO, which does not let them choose."""
    stored: Quantised | None
    """How the weights of the denoising network's layers are kept by PyTorch."""
    memory: Footprint
    seconds: float | None
    """None if no clip was generated in this way on this machine."""
    backend: str = TORCH
    exported: str = ""
    """How an export stores the weights; empty for PyTorch."""

    @property
    def computed_on(self) -> str:
        """The device's name, or the backend's with its device."""
        return str(self.device) if self.backend == TORCH else str(parse_backend(self.backend))

    @property
    def kept(self) -> str:
        """How the weights are kept."""
        return self.exported or self.stored or "full"


@dataclass(frozen=True)
class KnownPerson:
    """The model of a clip."""

    file: str
    """Name of its file or folder."""
    sha256: str
    """:func:`~.weights.person_sha256`."""
    dtype: str
    stored: Literal["full", Quantised] = "full"
    backend: str = TORCH
    """What computed the networks, such as ``openvino:CPU``."""
    exported: str = ""
    """How an export stored the weights; empty for PyTorch."""


@dataclass(frozen=True)
class PersonRecord:
    """How a clip was made."""

    settings: PersonSettings
    choices: PoseChoices
    picture: KnownFile
    poses: KnownFile
    model: KnownPerson
    reference: KnownFile | None = None
    detect: bool = False
    fps: float | None = None
    side_by_side: bool = False
    program: str = PROGRAM
    version: str = field(default_factory=program_version)


def poses_of(shot: PersonShot, find: Finder | None = None) -> PoseClip:
    """The poses of a clip; ``find`` is needed for one with ``detect``. Raises what reading them raises."""
    chosen = shot.settings
    reference = None if shot.reference is None else _reference(shot, shot.reference, find)
    return read_poses(
        shot.poses,
        chosen.width,
        chosen.height,
        shot.choices,
        fit=chosen.fit,
        reference=reference,
        find=find if shot.detect else None,
    )


def _reference(shot: PersonShot, path: Path, find: Finder | None) -> Person:
    """Keypoints of the person in the picture, as fractions of the clip's frame."""
    if path.suffix.lower() == _SUFFIX:
        person, canvas = keypoints_of(path)
    elif find is None:
        raise UsageError(
            f"fitting needs keypoints of the image, but {path} is no JSON file", Remedy("find_poses")
        )
    else:
        picture = read_picture(path)
        ((person,), _) = find(iter([picture.pixels]))
        canvas = (float(picture.width), float(picture.height))
        if not any(person.body):
            raise PictureError(f"there is no person in {path}; use another image, or keypoints of it")
    chosen = shot.settings
    if canvas is None:
        shown = read_picture(shot.picture)
        canvas = (float(shown.width), float(shown.height))
    return placed(person, canvas, chosen.width, chosen.height, chosen.fit)


def fps_of(shot: PersonShot, poses: PoseClip) -> float:
    """Frames per second of a clip; by default it takes as long as its poses. Raises UsageError out of range."""
    fps = min(float(FASTEST), poses.fps * shot.settings.interpolate) if shot.fps is None else shot.fps
    if not 1 <= fps <= FASTEST:
        raise UsageError(f"fps must be 1 to {FASTEST}, but {fps:g} was given")
    return fps


def plan_person(shot: PersonShot, poses: PoseClip, means: PersonMeans) -> PersonPlan:
    """What a clip takes on this machine; raises what :func:`make_person` would for wrong ``means`` or model."""
    device = pick_device(means.device, means.backend)
    check_backend_options(means.backend, means.weights, means.memory, "off")
    dtype = pick_dtype(means.dtype, device)
    config = check_person(shot.model)
    folder = person_export_of(shot.model, means.backend)
    stored = person_stored(shot.model, means.weights) if folder is None else None
    chosen = shot.settings
    size = WindowSize(min(chosen.window, len(poses)), chosen.width, chosen.height)

    def needed(residence: Residence) -> Footprint:
        return person_footprint(config, size, dtype, stored, residence)

    if folder is None:
        residence = fitting_residence(means.memory, lambda way: needed(way).total, device)
        plan = PersonPlan(device, dtype, residence, stored, needed(residence), None)
    else:
        _, manifest = read_person_export(folder)
        memory = Footprint(stage_weights(manifest, dtype.itemsize), needed("low").activations)
        plan = PersonPlan(device, dtype, None, None, memory, None, means.backend, manifest.stored)
    speed = speed_of(MODEL, device, dtype, plan.backend, plan.kept, plan.residence or "high")
    seconds = None if speed is None else round(speed.seconds([amount(chosen, len(poses))]), 1)
    return replace(plan, seconds=seconds)


def amount(settings: PersonSettings, poses: int) -> Amount:
    """The work of a clip of so many poses."""
    plane = (settings.width // LATENT_FACTOR) * (settings.height // LATENT_FACTOR)
    seen = sum(len(window.frames) for window in settings.windows(poses))
    branches = 2 if settings.cfg != 1 else 1
    return Amount(settings.steps * branches * seen * plane, settings.length(poses) * plane)


def load_planned(shot: PersonShot, plan: PersonPlan, progress: ByteProgress | None = None) -> PersonModel:
    """The model of a clip as planned; raises what :func:`~.weights.load_person` raises."""
    return load_person(
        shot.model,
        device=plan.device,
        dtype=plan.dtype,
        weights="auto" if plan.exported else plan.stored or "full",
        memory=plan.residence or "auto",
        backend=plan.backend,
        progress=progress,
    )


def make_person(
    shot: PersonShot,
    poses: PoseClip,
    plan: PersonPlan,
    progress: ShotProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> float:
    """Generate a clip and write it while its frames are decoded; returns the seconds that took without loading.

    ``note`` is called with what a person should know. Raises what loading, rendering and writing raise.
    """
    watch, title = Stopwatch(), Path(shot.target).name

    def shown(work: Any, done: int, total: int) -> None:
        watch.report(work)
        if progress is not None:
            progress(MODEL if work in ("load", "hash") else title, work, done, total)

    fps = fps_of(shot, poses)
    sound = None
    if takes_sound(shot.target) and shot.poses.suffix.lower() != _SUFFIX:
        sound = read_sound(shot.poses, poses.start, shot.settings.length(len(poses)) / fps)
        if sound is not None and abs(fps / (poses.fps * shot.settings.interpolate) - 1) >= 1e-6:
            sound = None
            if note is not None:
                note("the sound of the poses is left out, because the clip has another speed")
    model = load_planned(shot, plan, lambda done, total: shown("load", done, total))
    # Before the clip, so that interrupting a long hash does not lose it.
    record = _record(shot, plan, lambda done, total: shown("hash", done, total))
    started = time.monotonic()
    picture = read_picture(shot.picture)
    stream = stream_person(model, picture, poses, shot.settings, progress=shown)
    with closing(cast(Any, stream.parts)):
        if shot.side_by_side:
            chosen = shot.settings
            image = framed(picture, chosen.width, chosen.height, chosen.fit)
            stream = beside(_pixels(image, chosen.width, chosen.height), poses, stream, chosen.interpolate)
        write_clip(stream, shot.target, fps, to_json(record), sound=sound)
    done = [amount(shot.settings, len(poses))]
    watch.remember(done, MODEL, plan.device, plan.dtype, plan.backend, plan.kept, plan.residence or "high")
    return round(time.monotonic() - started, 3)


def preview_poses(shot: PersonShot, poses: PoseClip, target: str | Path) -> None:
    """Write the poses over the darkened image, so that their size and place can be judged before the long work."""
    chosen = shot.settings
    size = (chosen.width, chosen.height)
    image = framed(read_picture(shot.picture), *size, chosen.fit)
    dark = _pixels(image, *size) // 2
    rows = (torch.maximum(dark, _pixels(pose, *size))[None] for pose in poses)
    write_clip(FrameStream(rows, len(poses), *size), target, min(float(FASTEST), max(1.0, poses.fps)), {})


def beside(picture: Tensor, poses: PoseClip, result: FrameStream, interpolate: int = 1) -> FrameStream:
    """Reference, poses and result in one clip; ``picture`` has the size of ``result``."""

    def rows() -> Iterator[Tensor]:
        shown: Tensor | None = None
        drawn = iter(poses)
        for index, part in enumerate(result.parts):
            if shown is None or index % interpolate == 0:
                shown = _pixels(next(drawn), result.width, result.height)
            yield torch.cat([picture, shown, part[0]], dim=1)[None]

    return FrameStream(rows(), result.count, 3 * result.width, result.height)


def _pixels(image: Any, width: int, height: int) -> Tensor:
    """A Pillow image at a size, uint8 ``[h, w, 3]``."""
    from PIL.Image import Resampling

    return as_picture(image.convert("RGB").resize((width, height), Resampling.LANCZOS)).pixels


# Records


def _record(shot: PersonShot, plan: PersonPlan, progress: Callable[[int, int], None]) -> PersonRecord:
    return PersonRecord(
        settings=shot.settings,
        choices=shot.choices,
        picture=know_pictures([shot.picture])[0],
        poses=KnownFile(shot.poses.resolve().name, _sha256(shot.poses)),
        model=KnownPerson(
            Path(shot.model).resolve().name,
            person_sha256(shot.model, progress),
            str(plan.dtype).removeprefix("torch."),
            plan.stored or "full",
            plan.computed_on if plan.exported else TORCH,
            plan.exported,
        ),
        reference=None if shot.reference is None else know_pictures([shot.reference])[0],
        detect=shot.detect,
        fps=shot.fps,
        side_by_side=shot.side_by_side,
    )


def is_person_record(metadata: dict[str, Any]) -> bool:
    """Whether the metadata of a clip are a :class:`PersonRecord`."""
    return metadata.get("program") == PROGRAM and "poses" in metadata


def read_person_record(metadata: dict[str, Any], clip: Path) -> PersonRecord:
    """The record in the metadata of a clip; raises ClipError for one that no version wrote."""
    writer = shortened(str(metadata.get("version", "unknown")))
    try:
        return Form(f"the record in {clip}", ClipError, writer).read(PersonRecord, metadata)
    except UsageError as problem:
        raise ClipError(f"the record in {clip} cannot be used: {problem.facts}") from problem


def find_shot(
    record: PersonRecord,
    beside: Path,
    *,
    picture: Path | None = None,
    poses: Path | None = None,
    reference: Path | None = None,
    model: Path | None = None,
) -> PersonShot:
    """What a clip was made from: what is given, or else files of the same names in the folder ``beside`` the clip, in
    the current one or, for the model, in the weights folder.

    Raises ClipError if one is missing or has changed; a model that is given is not compared.
    """
    folders = (beside, Path.cwd())

    def found(known: KnownFile, what: str, given: Path | None, remedy: Remedy) -> Path:
        places = known.named(folders) if given is None else [given]
        return find_recorded(known, what, places, _has_contents, remedy)

    named = Remedy("name_picture")
    if (
        reference is None
        and record.reference is not None
        and record.reference.sha256 == record.picture.sha256
    ):
        # With detect, the image itself may be what the keypoints were found in.
        reference = picture
    if model is None:
        model = _find_model(record.model, (*folders, weights_folder()))
    return PersonShot(
        settings=record.settings,
        choices=record.choices,
        picture=found(record.picture, "image", picture, named),
        poses=found(record.poses, "poses", poses, Remedy("name_poses")),
        model=model,
        reference=None
        if record.reference is None
        else found(record.reference, "keypoints of the image", reference, Remedy("name_reference")),
        detect=record.detect,
        fps=record.fps,
        side_by_side=record.side_by_side,
    )


def _find_model(model: KnownPerson, folders: Sequence[Path]) -> Path:
    remedy = Remedy("name_model")
    if model.file in (PERSON, BUILT_IN_PERSON):
        # The catalogue's release, which is files in several folders, or what is built in.
        if person_sha256(model.file) != model.sha256:
            raise ClipError(f"{model.file} is not the clip's weights (its contents differ)", remedy)
        return Path(model.file)
    known = KnownFile(model.file, model.sha256, "tensors")
    return find_recorded(known, "weights", known.named(folders), _is_model, remedy)


def _is_model(known: KnownFile, path: Path) -> bool:
    return person_sha256(path) == known.sha256


def _has_contents(known: KnownFile, path: Path) -> bool:
    return _sha256(path) == known.sha256 if path.is_dir() else has_bytes(known, path)


def _sha256(path: Path) -> str:
    """Of a file, or of the names and contents of the files in a folder."""
    if not path.is_dir():
        return file_sha256(path)
    whole = hashlib.sha256()
    for each in sorted(path.iterdir()):
        if each.is_file():
            whole.update(f"{each.name} {file_sha256(each)}\n".encode())
    return whole.hexdigest()
