"""The record of how a clip was made: written with its frames, and read to generate the clip again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Literal

from .api import Lora, ModelFiles, find_model, provide
from .errors import ClipError, Remedy, UsageError
from .forms import Form, program_version
from .hashing import file_sha256, remembered_sha256
from .media.video import read_metadata
from .pipeline import Model
from .settings import PROGRAM, Settings
from .weights.download import weights_folder
from .weights.formats.entries import ByteProgress
from .weights.formats.files import open_weights, tensors_sha256, weights_sha256

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
    """Its path at the time."""
    sha256: str
    hashed: Literal["bytes", "tensors"] = "bytes"
    """What was hashed: the whole file, or only the tensors of a weights file, without its metadata."""

    @property
    def path(self) -> Path:
        """Its path at the time."""
        return Path(self.file)

    @property
    def name(self) -> str:
        """Its name without folders; the clip may come from another operating system."""
        return PureWindowsPath(self.file).name

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` contains the same weights."""
        if self.hashed == "tensors":
            return _remembered(path, tensors_sha256) == self.sha256
        if self.sha256 in _PREDECESSORS and _remembered(path, tensors_sha256) == _PREDECESSORS[self.sha256]:
            return True
        return _remembered(path, weights_sha256) == self.sha256


@dataclass(frozen=True)
class KnownLora(KnownFile):
    """A LoRA file and its strength."""

    strength: float = 1.0


@dataclass(frozen=True)
class KnownModel:
    """The model of a clip."""

    asked: str
    variant: str
    dtype: str
    weights: KnownFile
    text_encoder: KnownFile | None = None
    image_encoder: KnownFile | None = None
    loras: tuple[KnownLora, ...] = ()


@dataclass(frozen=True)
class Record:
    """How a clip was made."""

    settings: Settings
    pictures: tuple[KnownFile, ...]
    model: KnownModel
    program: str = PROGRAM
    version: str = field(default_factory=program_version)


def know_pictures(pictures: Sequence[Path]) -> tuple[KnownFile, ...]:
    """Image files, with the hashes of their bytes."""
    return tuple(KnownFile(str(path.resolve()), file_sha256(path)) for path in pictures)


def know_model(model: Model, files: ModelFiles, progress: ByteProgress | None = None) -> KnownModel:
    """The model that was loaded from ``files``, with the hashes of their tensors.

    Hashing gigabytes takes a while, but only once: the hashes are cached. ``progress`` is called with the bytes read.
    """

    def known(path: Path) -> KnownFile:
        return KnownFile(str(path.resolve()), _remembered(path, tensors_sha256, progress), "tensors")

    def tower(path: Path | None) -> KnownFile | None:
        return None if path is None else known(path)

    return KnownModel(
        asked=files.asked,
        variant=model.variant.name,
        dtype=str(model.dtype).removeprefix("torch."),
        weights=known(files.weights),
        text_encoder=tower(files.text_encoder),
        image_encoder=tower(files.image_encoder),
        loras=tuple(KnownLora(**vars(known(lora.path)), strength=lora.strength) for lora in files.loras),
    )


def _remembered(
    path: Path, compute: Callable[[Path, ByteProgress | None], str], progress: ByteProgress | None = None
) -> str:
    """A hash of a weights file or of all its shards; each kind is cached in a separate file."""
    name = "tensor_hashes.json" if compute is tensors_sha256 else "hashes.json"
    parts = open_weights(path).files
    return remembered_sha256(path, weights_folder() / name, lambda file: compute(file, progress), parts)


def read_record(clip: Path) -> Record:
    """The record of a clip: its settings, :func:`know_pictures` and :func:`know_model` when it was written.

    Raises ClipError for a file without a record, and for one written by a later version.
    """
    metadata = read_metadata(clip)
    if metadata.get("program") != PROGRAM or "model" not in metadata:
        raise ClipError(
            f"{clip} has no record of how it was made; choose a clip that the dynamicrafter command has written"
        )
    writer = str(metadata.get("version", "unknown"))
    return Form(f"the record in {clip}", ClipError, writer).read(Record, metadata)


def find_pictures(record: Record, given: Sequence[Path] | None, beside: Path) -> tuple[Path, ...]:
    """The clip's images: those given, or else those at their recorded paths or in the folder ``beside`` the clip.

    Raises UsageError for another number of images, and ClipError if one is missing or has changed.
    """
    if given is not None and len(given) != len(record.pictures):
        raise UsageError(
            f"the clip was made from {len(record.pictures)} image(s), but {len(given)} were given",
            Remedy("name_picture"),
        )
    found: list[Path] = []
    for index, known in enumerate(record.pictures):
        places = [given[index]] if given is not None else [known.path, beside / known.name]
        there = [place for place in places if place.is_file()]
        right = [place for place in there if file_sha256(place) == known.sha256]
        if right:
            found.append(right[0])
        elif there:
            raise ClipError(f"{there[0]} is not the image the clip was made from", Remedy("name_picture"))
        else:
            raise ClipError(f"the clip's image {places[0]} does not exist", Remedy("name_picture"))
    return tuple(found)


def find_model_of(model: KnownModel) -> ModelFiles:
    """The files a clip was made with; raises ClipError if one is missing or has changed."""
    parts = (model.weights, model.text_encoder, model.image_encoder)
    weights, text, image = (None if known is None else known.path for known in parts)
    if weights is not None and all(path is None or path.exists() for path in (weights, text, image)):
        files = ModelFiles(weights, model.variant, text, image, asked=model.asked)
    else:
        files = _by_name(model)
    for known, path in zip(parts, (files.weights, files.text_encoder, files.image_encoder), strict=True):
        if known is not None and (path is None or not known.is_at(path)):
            raise ClipError(
                f"{path or model.asked} is not the file the clip was made with", Remedy("name_model")
            )
    for known in model.loras:
        if not known.path.is_file() or not known.is_at(known.path):
            raise ClipError(
                f"{known.file} is missing or not the file the clip was made with", Remedy("name_lora")
            )
    return replace(files, loras=tuple(Lora(known.path, known.strength) for known in model.loras))


def _by_name(model: KnownModel) -> ModelFiles:
    """The clip's model, found by the name it was requested by: in another weights folder, or a new random one."""
    try:
        return provide(find_model(model.asked, variant=model.variant))
    except UsageError as problem:
        raise ClipError(
            f"the clip's weights {model.weights.file} do not exist", Remedy("name_model")
        ) from problem
