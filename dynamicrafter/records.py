"""The record of how a clip was made: written with its frames, and read to generate the clip again."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Literal

from .api import BUILT_IN, Lora, ModelFiles, export_of, find_model, provide
from .backends.choice import TORCH, parse_backend
from .backends.openvino.manifest import Manifest, Role, Source, read_manifest
from .camera.choices import GuideCamera
from .errors import CheckpointError, ClipError, Remedy, UsageError
from .forms import Form, program_version, shortened
from .hashing import file_sha256
from .media.video import read_metadata
from .model.configs import Quantised
from .pipeline import Model
from .settings import PROGRAM, Settings, key_frames
from .weights.catalogue import find
from .weights.download import weights_folder
from .weights.formats.entries import ByteProgress
from .weights.formats.files import tensors_sha256, weights_sha256
from .weights.identity import remembered_hash

_PREDECESSORS = {
    # tiny
    "f084685614e795a076472c03f5596dc7b29b629c652c9173e6d1898af1296ba2": (
        "4f3ee3d35b0e35ad1f6655f1a747079b0385f885c05c8f546058432805dc86ee"
    ),
    # random
    "b5eef6b0dff52dc16c6a7156e9e5195ece589253aee7706060bf2455878d68d0": (
        "6f57e38a1bfffba3936cddf88a2f49ec4f5ebaaef8c1ad646e20e9d15fbe89ec"
    ),
}
"""The built-in models of 0.1.0: the hash of the whole file, as stored in their clips, and the hash of the tensors."""


@dataclass(frozen=True)
class KnownFile:
    """A file as recorded in a clip."""

    file: str
    """Its name; in clips of version 0.1.0 its path."""
    sha256: str
    hashed: Literal["bytes", "tensors"] = "bytes"
    """What was hashed: the whole file, or only the tensors of a weights file, without its metadata."""

    def places(self, folders: Sequence[Path]) -> list[Path]:
        """Where it may be: in ``folders``, or at its recorded path if that is absolute and not on a server."""
        places = self.named(folders)
        recorded = Path(self.file)
        # Windows sends the user's credentials to the server that a path beginning with two backslashes names.
        if recorded.is_absolute() and not PureWindowsPath(self.file).drive.startswith("\\\\"):
            places.append(recorded)
        return places

    def named(self, folders: Sequence[Path]) -> list[Path]:
        """Where a file of its name may be in ``folders``."""
        # The clip may come from another operating system.
        names = dict.fromkeys((Path(self.file).name, PureWindowsPath(self.file).name))
        return [folder / name for folder in folders for name in names if name not in ("", ".", "..")]

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` contains the same weights."""
        if self.hashed == "tensors":
            return remembered_hash(path, tensors_sha256) == self.sha256
        if (
            self.sha256 in _PREDECESSORS
            and remembered_hash(path, tensors_sha256) == _PREDECESSORS[self.sha256]
        ):
            return True
        return remembered_hash(path, weights_sha256) == self.sha256


@dataclass(frozen=True)
class KnownLora(KnownFile):
    """A LoRA file and its strength."""

    strength: float = 1.0


@dataclass(frozen=True)
class KnownHint(KnownFile):
    """A hint for a ControlNet."""

    frame: int | None = None
    """Its frame; None for a clip, or an image for all frames."""


@dataclass(frozen=True)
class KnownModel:
    """The model of a clip."""

    asked: str
    """The name by which it was requested; if that was a path, the name of its file."""
    variant: str
    dtype: str
    weights: KnownFile
    text_encoder: KnownFile | None = None
    image_encoder: KnownFile | None = None
    loras: tuple[KnownLora, ...] = ()
    stored: Literal["full", Quantised] = "full"
    """How the weights of its denoising network's layers were kept; "full" is in ``dtype``."""
    backend: str = TORCH
    """What computed the networks, such as ``openvino:CPU``."""
    exported: str = ""
    """How an export stored the weights; empty for PyTorch."""


@dataclass(frozen=True)
class KnownCamera:
    """The camera of a guide clip."""

    camera: GuideCamera
    """If its path is a file, with the name of that alone."""
    depth: KnownFile
    """The depth map."""
    path: KnownFile | None = None
    """The file of its path."""


@dataclass(frozen=True)
class Record:
    """How a clip was made."""

    settings: Settings
    pictures: tuple[KnownFile, ...]
    model: KnownModel
    program: str = PROGRAM
    video: KnownFile | None = field(default=None, kw_only=True)
    """The clip to start from."""
    mask: KnownFile | None = field(default=None, kw_only=True)
    """What may move."""
    camera: KnownCamera | None = field(default=None, kw_only=True)
    """What makes the guide clip of views, and the last image of an interpolation."""
    control: KnownFile | None = field(default=None, kw_only=True)
    """The ControlNet."""
    hints: tuple[KnownHint, ...] = field(default=(), kw_only=True)
    """What it was shown."""
    version: str = field(default_factory=program_version)


def know_pictures(pictures: Sequence[Path]) -> tuple[KnownFile, ...]:
    """Names of image files, with the hashes of their bytes."""
    return tuple(KnownFile(path.name, file_sha256(path)) for path in pictures)


def know_control(
    path: Path, hints: Sequence[tuple[Path, int | None]], progress: ByteProgress | None = None
) -> tuple[KnownFile, tuple[KnownHint, ...]]:
    """A ControlNet by the hash of its tensors, and its hints, each with its frame, by those of their bytes."""
    known = KnownFile(path.resolve().name, remembered_hash(path, tensors_sha256, progress), "tensors")
    return known, tuple(KnownHint(hint.name, file_sha256(hint), frame=frame) for hint, frame in hints)


def know_model(
    model: Model, files: ModelFiles, progress: ByteProgress | None = None, backend: str = TORCH
) -> KnownModel:
    """The model that was loaded from ``files``: names, and hashes of the tensors.

    For an export, they are those of the files that it was made of.

    Hashing gigabytes takes a while, but only once: the hashes are cached. ``progress`` is called with the bytes read.
    """
    folder = export_of(files, backend)
    if folder is not None:
        return _know_export(model, read_manifest(folder), backend)

    def known(path: Path) -> KnownFile:
        return KnownFile(path.resolve().name, remembered_hash(path, tensors_sha256, progress), "tensors")

    def tower(path: Path | None) -> KnownFile | None:
        return None if path is None else known(path)

    weights = known(files.weights)
    return KnownModel(
        asked=files.asked if _is_model_name(files.asked) else weights.file,
        variant=model.variant.name,
        dtype=str(model.dtype).removeprefix("torch."),
        weights=weights,
        text_encoder=tower(files.text_encoder),
        image_encoder=tower(files.image_encoder),
        loras=tuple(KnownLora(**vars(known(lora.path)), strength=lora.strength) for lora in files.loras),
        stored=model.quantised or "full",
    )


def has_names_of(known: KnownModel, files: ModelFiles, backend: str = TORCH) -> bool:
    """Whether a clip's model was run by ``backend`` and has the names of ``files``, whose contents are not compared."""
    folder = export_of(files, backend)
    if folder is None:
        paths = (files.weights, files.text_encoder, files.image_encoder)
        named = [(path.resolve().name, 1.0) for path in paths if path is not None]
        named += [(lora.path.resolve().name, lora.strength) for lora in files.loras]
    else:
        named = [(source.file, source.strength) for source in read_manifest(folder).sources]
    parts = (known.weights, known.text_encoder, known.image_encoder, *known.loras)
    found = [
        (one.file, one.strength if isinstance(one, KnownLora) else 1.0) for one in parts if one is not None
    ]
    return (known.backend, found) == (str(parse_backend(backend)), named)


def _know_export(model: Model, manifest: Manifest, backend: str) -> KnownModel:
    def known(role: Role) -> list[Source]:
        return [source for source in manifest.sources if source.role == role]

    def file(source: Source) -> KnownFile:
        return KnownFile(source.file, source.sha256, "tensors")

    def encoder(role: Role) -> KnownFile | None:
        return next(map(file, known(role)), None)

    weights = file(manifest.sources[0])
    return KnownModel(
        asked=manifest.asked if _is_model_name(manifest.asked) else weights.file,
        variant=model.variant.name,
        dtype=str(model.dtype).removeprefix("torch."),
        weights=weights,
        text_encoder=encoder("text_encoder"),
        image_encoder=encoder("image_encoder"),
        loras=tuple(KnownLora(**vars(file(lora)), strength=lora.strength) for lora in known("lora")),
        backend=str(parse_backend(backend)),
        exported=manifest.stored,
    )


def _is_model_name(asked: str) -> bool:
    """Whether a model was requested by a name that :func:`~dynamicrafter.api.find_model` knows, not by a path."""
    if asked in BUILT_IN:
        return True
    try:
        find(asked)
    except UsageError:
        return False
    return True


def read_record(clip: Path) -> Record:
    """The record of a clip: its settings, :func:`know_pictures` and :func:`know_model` when it was written.

    Raises ClipError for a file without a record, for one written by a later version, and for a record that does not
    describe a clip.
    """
    metadata = read_metadata(clip)
    if metadata.get("program") == PROGRAM and "film" in metadata:
        raise ClipError(
            f"{clip} is a film of several scenes; generate it from its story, or choose one of the clips beside it"
        )
    if metadata.get("program") != PROGRAM or "model" not in metadata:
        raise ClipError(
            f"{clip} has no record of how it was made; choose a clip that the dynamicrafter command has written"
        )
    writer = shortened(str(metadata.get("version", "unknown")))
    try:
        record = Form(f"the record in {clip}", ClipError, writer).read(Record, metadata)
    except UsageError as problem:
        raise ClipError(f"the record in {clip} cannot be used: {problem.facts}") from problem
    mode, count = record.settings.mode, len(record.pictures)
    wanted = len(key_frames(record.settings)) or 1 if record.camera is None else 1
    if count != wanted:
        raise ClipError(
            f"pictures in the record in {clip} must be a list of {wanted} to {mode}, not of {count}; it is damaged, "
            f"write it again"
        )
    return record


def find_pictures(record: Record, given: Sequence[Path] | None, beside: Path) -> tuple[Path, ...]:
    """The clip's images: those given, or else those of the same names in the folder ``beside`` the clip or in the
    current one. Among several files of one name, the hash decides.

    Raises UsageError for another number of images, and ClipError if one is missing or has changed.
    """
    remedy = Remedy("name_picture")
    if given is not None and len(given) != len(record.pictures):
        raise UsageError(
            f"the clip was made from {len(record.pictures)} image(s), but {len(given)} were given", remedy
        )
    found: list[Path] = []
    for index, known in enumerate(record.pictures):
        places = known.places((beside, Path.cwd())) if given is None else [given[index]]
        if given is not None and not _mode(given[index]):
            raise ClipError(f"there is no image {given[index]}", remedy)
        found.append(find_recorded(known, "image", places, has_bytes, remedy))
    return tuple(found)


def find_more(
    record: Record, beside: Path, video: Path | None = None, mask: Path | None = None
) -> tuple[Path | None, Path | None]:
    """The clip to start from and the mask, at the paths given or else as :func:`find_pictures` finds images.

    Raises UsageError if one is given that the clip was made without, and ClipError if one is missing or has changed.
    """

    def found(known: KnownFile | None, what: str, given: Path | None, remedy: Remedy) -> Path | None:
        if known is None:
            if given is not None:
                raise UsageError(f"the clip was made without a {what}, but {given} was given; omit it")
            return None
        places = known.places((beside, Path.cwd())) if given is None else [given]
        return find_recorded(known, what, places, has_bytes, remedy)

    return (
        found(record.video, "source clip", video, Remedy("name_video")),
        found(record.mask, "mask", mask, Remedy("name_mask")),
    )


def find_camera(known: KnownCamera, beside: Path) -> tuple[Path, GuideCamera]:
    """The depth map and the camera of a clip, as :func:`find_pictures` without paths given."""

    def found(file: KnownFile, what: str) -> Path:
        return find_recorded(
            file, what, file.places((beside, Path.cwd())), has_bytes, Remedy("place_beside", (what,))
        )

    depth = found(known.depth, "depth map")
    if known.path is None:
        return depth, known.camera
    return depth, replace(known.camera, path=str(found(known.path, "camera path")))


def find_control(record: Record, beside: Path) -> tuple[Path | None, tuple[tuple[Path, int | None], ...]]:
    """The ControlNet and its hints with their frames, from the folder ``beside`` the clip, from the current one or, for
    the network, from the weights folder. Raises ClipError if one is missing or has changed."""
    if record.control is None:
        return None, ()
    folders = (beside, Path.cwd())
    what = "ControlNet"
    path = find_recorded(
        record.control,
        what,
        record.control.places((*folders, weights_folder())),
        KnownFile.is_at,
        Remedy("place_beside", (what,)),
    )
    return path, tuple(
        (find_recorded(h, "hint", h.places(folders), has_bytes, Remedy("place_beside", ("hint",))), h.frame)
        for h in record.hints
    )


def find_model_of(model: KnownModel, beside: Path) -> ModelFiles:
    """The files a clip was made with: those of the model's name, or else files of the same names in the folder
    ``beside`` the clip, in the current one or in the weights folder.

    Raises ClipError if one is missing or has changed.
    """
    named, problem = _by_name(model)
    folders = (beside, Path.cwd(), weights_folder())

    def found(known: KnownFile | None, path: Path | None) -> Path | None:
        if known is None:
            return None
        places = ([] if path is None else [path]) + known.places(folders)
        path = _find(known, "weights file", places, KnownFile.is_at, Remedy("name_model"))
        if path is None and problem is not None:
            raise ClipError(problem.facts, problem.remedy) from problem
        if path is None:
            raise _missing(known, "weights file", places, Remedy("name_model"))
        return path

    def lora(known: KnownLora) -> Lora:
        path = find_recorded(known, "LoRA file", known.places(folders), KnownFile.is_at, Remedy("name_lora"))
        return Lora(path, known.strength)

    weights = found(model.weights, named.weights if named else None)
    assert weights is not None
    return ModelFiles(
        weights,
        model.variant,
        found(model.text_encoder, named.text_encoder if named else None),
        found(model.image_encoder, named.image_encoder if named else None),
        tuple(map(lora, model.loras)),
        asked=model.asked,
    )


def _by_name(model: KnownModel) -> tuple[ModelFiles | None, UsageError | None]:
    """The files of the name by which the clip's model was requested, or why they are not here."""
    # Anything else would be a path, and only files of the recorded names are looked for.
    if not _is_model_name(model.asked):
        return None, None
    try:
        return provide(find_model(model.asked, variant=model.variant)), None
    except UsageError as problem:
        return None, problem


def find_recorded(
    known: KnownFile,
    what: str,
    places: Sequence[Path],
    fits: Callable[[KnownFile, Path], bool],
    remedy: Remedy,
) -> Path:
    """The first of ``places`` with the recorded contents; raises ClipError if there is none."""
    path = _find(known, what, places, fits, remedy)
    if path is None:
        raise _missing(known, what, places, remedy)
    return path


def _find(
    known: KnownFile,
    what: str,
    places: Sequence[Path],
    fits: Callable[[KnownFile, Path], bool],
    remedy: Remedy,
) -> Path | None:
    """The first of ``places`` with the recorded contents, or None if all are empty; otherwise raises ClipError."""
    wrong: list[str] = []
    for place in dict.fromkeys(places):
        mode = _mode(place)
        if not mode:
            continue
        shown = shortened(str(place))
        # Opening a pipe or a device may never end, or do something.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            wrong.append(f"{shown} is not a regular file")
            continue
        try:
            if fits(known, place):
                return place
            wrong.append(f"{shown} is not the clip's {what} (its contents differ)")
        except CheckpointError:
            wrong.append(f"{shown} is not the clip's {what} (it cannot be read as weights)")
        except OSError as problem:
            wrong.append(f"{shown} cannot be read ({problem.strerror or problem})")
    if wrong:
        raise ClipError(wrong[0], remedy)
    return None


def _missing(known: KnownFile, what: str, places: Sequence[Path], remedy: Remedy) -> ClipError:
    folders = ", ".join(dict.fromkeys(shortened(str(place.parent)) for place in places))
    return ClipError(
        f"the clip's {what} {shortened(known.file)} was not found in {folders or 'any folder'}", remedy
    )


def has_bytes(known: KnownFile, path: Path) -> bool:
    """Whether ``path`` is a file with the recorded bytes."""
    return file_sha256(path) == known.sha256


def _mode(path: Path) -> int:
    """Type and permissions of what is at ``path``; 0 if there is nothing, or if nothing can have this name."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0
