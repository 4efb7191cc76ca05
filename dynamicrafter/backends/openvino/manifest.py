"""What an export contains: the model it was made of, and the size and hash of every file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ...bounded_json import parse_json
from ...errors import CheckpointError
from ...forms import Form, program_version, shortened, to_json
from ...hashing import file_sha256, remembered_sha256
from ...model.variants import Variant
from ...weights.detect import VARIANT_KEY, read_variant
from ...weights.download import weights_folder

MANIFEST = "dynamicrafter_export.json"
"""Name of the manifest, which makes a folder an export."""

Graph = Literal["unet", "vae_encoder", "vae_decoder", "resampler", "text", "vision"]
GRAPHS: tuple[Graph, ...] = get_args(Graph)
"""The networks of an export of DynamiCrafter."""
StoredAs = Literal["fp16", "int8", "int8_full"]
"""How weights are stored: in half precision, or as 8-bit integers with a scale for each output channel; int8_full is
int8 with which the denoising network also computes in 8 bits."""
Role = Literal["weights", "text_encoder", "image_encoder", "lora"]


@dataclass(frozen=True)
class Family:
    """Models of one architecture, and what an export of one contains."""

    name: str
    key: str
    """Key of the description of its sizes in a manifest."""
    graphs: tuple[str, ...]
    """The networks, each of which is two files of its name."""

    @property
    def files(self) -> list[str]:
        """Names of all files but the manifest."""
        return [f"{graph}{suffix}" for graph in self.graphs for suffix in (".xml", ".bin")]


DYNAMICRAFTER = Family("DynamiCrafter", VARIANT_KEY, GRAPHS)

_FORMAT = 1
_MANIFEST_BYTES = 1 << 20
_GRAPH_BYTES = 64 << 20
_HASHES = "openvino_hashes.json"
"""Remembered hashes of the files of exports, in the weights folder."""


@dataclass(frozen=True)
class Source:
    """A file of the model that was exported."""

    role: Role
    file: str
    """Its name."""
    sha256: str
    """Hash of its tensors."""
    strength: float = 1.0
    """Of a LoRA."""


@dataclass(frozen=True)
class StoredFile:
    """One file of an export."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Accuracy:
    """Signal-to-noise ratio of the evaluations of a network, compared with PyTorch in float32, in dB."""

    lowest: float
    mean: float


@dataclass(frozen=True)
class Calibration:
    """How the denoising network was quantised completely."""

    clips: int
    """Images and clips it was calibrated on."""
    calls: int
    """Evaluations of the network."""
    size: tuple[int, int, int]
    """Width, height and frames of the clips."""
    before: Accuracy
    """With all layers in 8 bits."""
    after: Accuracy
    """With the layers ``kept`` in floating point."""
    kept: tuple[str, ...]
    kept_work: float
    """Their share of the multiply-adds of all layers with weights."""


@dataclass(frozen=True)
class Manifest:
    """What an export contains."""

    asked: str
    """The name by which the model was requested, or the name of its file."""
    sources: tuple[Source, ...]
    variant: Mapping[str, Any]
    """The metadata of the model's variant, or what describes a model of another family."""
    stored: StoredAs
    openvino: str
    """Version of OpenVINO that wrote the files."""
    torch: str
    files: tuple[StoredFile, ...]
    nncf: str = ""
    """Version of nncf, if it quantised the weights."""
    calibration: Calibration | None = None
    """Of int8_full alone."""
    format: int = _FORMAT
    writer: str = field(default_factory=program_version)

    @property
    def model_sha256(self) -> str:
        """Identifies the model: the hash of its tensors' hashes."""
        return identity(self.sources)

    def bytes_of(self, graph: str) -> int:
        """Size of a network's weights on disk."""
        return next(file.bytes for file in self.files if file.name == f"{graph}.bin")

    def resident_bytes(self, graphs: Sequence[str], itemsize: int) -> int:
        """Bytes of the weights of networks in main memory when they compute in a dtype of ``itemsize`` bytes.

        Weights of 8 bits are expanded, but for those of a network that computes in 8 bits.
        """
        stored = 2 if self.stored == "fp16" else 1
        return sum(
            self.bytes_of(graph)
            if graph == "unet" and self.stored == "int8_full"
            else self.bytes_of(graph) * itemsize // stored
            for graph in graphs
        )


def identity(sources: Sequence[Source]) -> str:
    """A hash that differs between models, whatever their files are called."""
    parts = [[source.role, source.sha256, source.strength] for source in sources]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def exports_folder(sources: Sequence[Source]) -> Path:
    """Where the export of a model is found by its sources."""
    return weights_folder() / "openvino" / identity(sources)[:16]


def is_export(path: Path) -> bool:
    """Whether a path is a folder with a manifest."""
    return (path / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: Manifest, family: Family) -> Manifest:
    """Complete an export: write its manifest with the sizes and hashes of the files that are there, and return that."""
    files = tuple(
        StoredFile(path.name, path.stat().st_size, file_sha256(path))
        for path in (folder / name for name in family.files)
    )
    manifest = replace(manifest, files=files)
    (folder / MANIFEST).write_text(json.dumps(to_json(manifest), indent=1), encoding="utf-8")
    return manifest


def read_manifest(folder: Path, family: Family = DYNAMICRAFTER) -> Manifest:
    """The manifest of an export; nothing else is opened.

    Raises CheckpointError for a folder that is no export, for one of a later version or of another family, and for a
    damaged manifest.
    """
    path = folder / MANIFEST
    name = f"the manifest of {shortened(str(folder))}"
    try:
        if _size(path) > _MANIFEST_BYTES:
            raise ValueError(f"it is larger than {_MANIFEST_BYTES >> 20} MiB")
        values = parse_json(path.read_bytes())
        found = values.get("format") if isinstance(values, dict) else None  # pyright: ignore
        if type(found) is not int:  # pyright: ignore[reportUnknownArgumentType]
            raise ValueError("it states no format")
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{name} cannot be read ({problem}); export the model again") from problem
    if found != _FORMAT:
        raise CheckpointError(
            f"{shortened(str(folder))} is an export in format {found}, but this version reads format {_FORMAT}; export "
            f"the model again, or use the version that wrote it"
        )
    manifest = Form(name, CheckpointError, shortened(str(values.get("writer")))).read(Manifest, values)  # pyright: ignore
    if family.key not in manifest.variant:
        raise CheckpointError(
            f"{shortened(str(folder))} is not an export of {family.name}; use one, or export such a model"
        )
    names = family.files
    wrong = sorted(set(names).symmetric_difference(file.name for file in manifest.files))
    if wrong or len(manifest.files) != len(names) or not manifest.sources:
        raise CheckpointError(
            f"{name} must list {', '.join(names)} and the sources of the model; export it again"
        )
    if not all(isinstance(value, str) for value in manifest.variant.values()):
        raise CheckpointError(f"{name} has an invalid description of its variant; export the model again")
    return manifest


def variant_in(folder: Path, manifest: Manifest) -> Variant:
    """The variant of an exported model; raises CheckpointError if the manifest's is none."""
    return read_variant(folder, manifest.variant)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare all files of an export with its manifest: first kinds and sizes, then hashes, which are remembered.

    Raises CheckpointError for a file that is missing, is a link or differs.
    """
    for file in manifest.files:
        path = folder / file.name
        try:
            size = _size(path)
        except OSError as problem:
            raise CheckpointError(
                f"{shortened(str(path))} of the export cannot be used ({problem.strerror}); export the model again"
            ) from problem
        if size != file.bytes or (path.suffix == ".xml" and size > _GRAPH_BYTES):
            raise CheckpointError(
                f"{shortened(str(path))} has {size} bytes, but the manifest says {file.bytes} and a graph has at most "
                f"{_GRAPH_BYTES}; export the model again"
            )
    for file in manifest.files:
        path = folder / file.name
        if remembered_sha256(path, weights_folder() / _HASHES) != file.sha256:
            raise CheckpointError(
                f"{shortened(str(path))} is not the file that was exported (its contents differ); export the model "
                f"again"
            )


def _size(path: Path) -> int:
    """Size of a regular file; raises OSError for links, which could lead out of the folder, and anything else."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is a link or not a regular file", str(path))
    return status.st_size
