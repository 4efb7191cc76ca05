"""Loads a model from the original's files or from the one file that this program makes of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, cast, overload

import torch
from torch import Tensor, nn

from ..api import check_backend_options, pick_device
from ..backends.choice import TORCH, parse_backend
from ..backends.openvino.manifest import Source, exports_folder, identity, is_export
from ..errors import CheckpointError, Remedy, UsageError
from ..forms import program_version, to_json
from ..model.autoencoder import Autoencoder
from ..model.configs import WEIGHTS, Memory, Quantised, Weights
from ..model.operations import Operations
from ..model.placement import Placement
from ..model.quantised import SCALE, quantised
from ..weights.accounting import Stock, account, problems, stored_kind
from ..weights.architectures import recognise
from ..weights.catalogue import PERSON, find, with_requirements
from ..weights.convert import cast_pieces, check_conversion, target_entries
from ..weights.detect import FORMAT, FORMAT_KEY, WRITER_KEY
from ..weights.download import local_path, weights_folder
from ..weights.fill import single_thread, targets
from ..weights.footprint import fitting_residence
from ..weights.formats.entries import ByteProgress, Entry, Piece, WeightsFile
from ..weights.formats.files import SUFFIXES, open_weights, tensors_sha256
from ..weights.formats.safetensors_file import write_safetensors
from ..weights.identity import remembered_hash
from ..weights.layout import Place
from ..weights.load import allocate, copy_all, keep_otherwise, quantising
from .config import BUILT_IN_PERSON, PERSON_KEY, RELEASED_SIZES, PersonConfig, parse_config
from .embedder import ImageEmbedder
from .exported import load_person_export, read_person_export
from .layout import PARTS, Part, locate_person, released_name
from .memory import USUAL_WINDOW, person_footprint
from .pipeline import PersonModel, TorchPersonModel
from .pose_guider import PoseGuider
from .unet import DenoisingUNet, ReferenceUNet

BUILT_IN_FILE = Path(__file__).parent.parent / "weights" / "built_in" / f"{BUILT_IN_PERSON}.safetensors"

PERSON_PREFIXES: Mapping[str, str] = {
    "reference": "reference_unet.",
    "denoising": "denoising_unet.",
    "pose_guider": "pose_guider.",
    "vae": "vae.",
    "embedder": "image_encoder.",
}
"""Name prefix of each network in one file that holds all; the released names follow."""

_TITLES: dict[str, str] = {
    "reference": "the reference network (reference_unet.pth)",
    "denoising": "the denoising network (denoising_unet.pth)",
    "motion": "the motion modules (motion_module.pth)",
    "pose_guider": "the pose guider (pose_guider.pth)",
    "vae": "the autoencoder (sd-vae-ft-mse)",
    "embedder": "the CLIP image encoder (image_encoder)",
}
_SIGNS: tuple[tuple[str, str], ...] = (
    ("embedder", "vision_model.embeddings.class_embedding"),
    ("pose_guider", "blocks.0.weight"),
    ("vae", "encoder.conv_in.weight"),
    ("denoising", "conv_norm_out.weight"),
    ("reference", "time_embedding.linear_1.weight"),
    ("motion", "mid_block.motion_modules.0.temporal_transformer.norm.weight"),
)
"""Tensors that tell the original's files from each other; the first match wins."""
_NAMES = {
    "reference": "reference_unet",
    "denoising": "denoising_unet",
    "motion": "motion_module",
    "pose_guider": "pose_guider",
}
"""Names of the original's files, for folders that hold other files of the same kind."""


@dataclass(frozen=True)
class _Source:
    """Where tensors come from: a file, and the networks and released names of what it holds."""

    file: WeightsFile
    names: Mapping[str, tuple[Part, str]]
    """By name in the file."""


def kind_of(file: WeightsFile) -> str | None:
    """What a file is of AnimateAnyone: a network's name, "motion", "all", or None for something else."""
    if PERSON_KEY in file.metadata or all(
        any(key.startswith(prefix) for key in file.entries) for prefix in PERSON_PREFIXES.values()
    ):
        return "all"
    return next((kind for kind, sign in _SIGNS if sign in file.entries), None)


def holds_person(path: Path | str) -> bool:
    """Whether a file holds all of a model, or a folder the reference network and others of the original's files."""
    place = Path(path)
    if place.is_dir():
        kinds = _sorted(_files(place), place)
        return "all" in kinds or {"reference", "pose_guider"} <= kinds.keys()
    return kind_of(open_weights(place)) == "all"


def is_person(model: Path | str) -> bool:
    """Whether a name or path is that of weights of AnimateAnyone; False for exports and for what is not there."""
    place = Path(model)
    if not place.exists():
        return str(model) == PERSON
    return not is_export(place) and holds_person(place)


def check_person(path: Path | str) -> PersonConfig:
    """The sizes of a model's networks, without reading tensors.

    Raises what :func:`load_person` raises for a model that is not there or not complete.
    """
    if is_export(Path(path)):
        return read_person_export(Path(path))[0]
    config, sources = _open(Path(path))
    _stock(config, sources)
    return config


def person_stored(path: Path | str, weights: Weights) -> Quantised | None:
    """How the weights of the denoising network's layers are kept if a model is loaded with ``weights``."""
    if weights == "auto":
        return _stock(*_open(Path(path))).quantised
    return None if weights == "full" else weights


def person_sha256(path: Path | str, progress: ByteProgress | None = None) -> str:
    """By which a model is known: a hash of its files' tensors, or of those that an export was made of."""
    place = Path(path)
    sources = read_person_export(place)[1].sources if is_export(place) else person_sources(place, progress)
    hashes = sorted(source.sha256 for source in sources)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def person_files(path: Path | str, backend: str) -> list[Path]:
    """Files and folders that a model is loaded from; raises what :func:`person_export_of` raises."""
    folder = person_export_of(path, backend)
    return [source.file.path for source in _open(Path(path))[1]] if folder is None else [folder]


def person_sources(path: Path | str, progress: ByteProgress | None = None) -> list[Source]:
    """A model's files with the hashes of their tensors, which are remembered, in the order of the hashes."""
    files = [source.file.path for source in _open(Path(path))[1]]
    hashed = [Source("weights", file.name, remembered_hash(file, tensors_sha256, progress)) for file in files]
    return sorted(hashed, key=lambda source: source.sha256)


def person_export_of(path: Path | str, backend: str) -> Path | None:
    """The export that ``backend`` runs a model from, or None if it needs none.

    Raises UsageError if the model was not exported or is an export that ``backend`` cannot run, and CheckpointError if
    the export is damaged or of another model.
    """
    place = Path(path)
    if parse_backend(backend).name == TORCH:
        if is_export(place):
            raise UsageError(f"{path} is an export for OpenVINO", Remedy("name_backend"))
        return None
    if is_export(place):
        return place
    sources = person_sources(path)
    folder = exports_folder(sources)
    if not is_export(folder):
        raise UsageError(f"{path} has not been exported for OpenVINO", Remedy("export_person", (str(path),)))
    config, manifest = read_person_export(folder)
    if manifest.model_sha256 != identity(sources) or config != check_person(path):
        raise CheckpointError(
            f"{folder} is the export of another model", Remedy("export_person", (str(path),))
        )
    return folder


def build_person_network(config: PersonConfig, part: Part, operations: Operations) -> nn.Module:
    """Build one network with the layers, dtype and device of ``operations``, and their initial weights."""
    if part == "reference":
        return ReferenceUNet(config.pair, operations)
    if part == "denoising":
        return DenoisingUNet(config.pair, operations)
    if part == "pose_guider":
        return PoseGuider(config.pose_guider, operations)
    if part == "vae":
        return Autoencoder(config.vae, operations)
    return ImageEmbedder(config.embedder, operations)


@cache
def person_tensors(config: PersonConfig, part: Part, kind: Quantised | None = None) -> Mapping[str, Entry]:
    """All tensors of a network, by our names; ``kind``: how the layers of the denoising one are quantised."""
    operations = Operations(dtype=torch.float32, device="meta")
    if kind is not None and part == "denoising":
        operations = quantised(operations, kind)
    network = build_person_network(config, part, operations)
    return {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}


@overload
def load_person(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations | None = None,
    weights: Weights = "auto",
    memory: Memory = "auto",
    backend: Literal["torch"] = "torch",
    progress: ByteProgress | None = None,
) -> TorchPersonModel: ...


@overload
def load_person(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations | None = None,
    weights: Weights = "auto",
    memory: Memory = "auto",
    backend: str,
    progress: ByteProgress | None = None,
) -> PersonModel: ...


def load_person(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations | None = None,
    weights: Weights = "auto",
    memory: Memory = "auto",
    backend: str = TORCH,
    progress: ByteProgress | None = None,
) -> PersonModel:
    """Load a model from a file that holds all networks, or from a folder with the original's files.

    "animate_anyone" is the release of that name, if downloaded. In a folder, files are told by their contents, and
    by their names where it holds several of a kind. Every tensor is read once, directly into a network of ``dtype``;
    ``progress`` is called with the bytes read and their total. ``weights`` is how the weights of the denoising
    network's layers are kept, and ``memory`` how the networks use that of ``device``, both as in
    :func:`dynamicrafter.api.load`: with "low", the reference network and the encoders are there only until the clip is
    conditioned. ``backend`` is "torch", or "openvino" with an optional device, which needs the model's
    :func:`~.exporting.export_person_model` or the path of one, keeps weights and memory its own way and takes no
    ``operations``. Raises CheckpointError if a network is missing, incomplete or of another architecture, or a tensor
    unknown, and UsageError for an unknown way to keep weights or to use memory.
    """
    if weights not in WEIGHTS:
        raise UsageError(f"weights must be {', '.join(WEIGHTS)}, not {weights!r}")
    if backend != TORCH:
        pick_device(str(device), backend)
        check_backend_options(backend, weights, memory, "off")
    folder = person_export_of(path, backend)
    if folder is not None:
        return load_person_export(folder, parse_backend(backend).device, dtype, progress)
    config, sources = _open(Path(path))
    stock = _stock(config, sources)
    wanted = stock.quantised if weights == "auto" else None if weights == "full" else weights
    place = torch.device(device)
    residence = fitting_residence(
        memory, lambda way: person_footprint(config, USUAL_WINDOW, dtype, wanted, way).total, place
    )
    plain = replace(operations or Operations(), dtype=dtype, device="meta")
    networks: dict[Part, nn.Module] = {}
    complete: dict[str, Callable[[], object]] = {}
    for part in PARTS:
        stored = part == "denoising" and stock.quantised
        network = build_person_network(config, part, quantised(plain, stored) if stored else plain)
        network.train(False)
        if part == "denoising" and stock.quantised is None and wanted is not None:
            complete = quantising(network, stock.placed[part], wanted)
        allocate(network, place if residence == "high" else "cpu")
        networks[part] = network
    _fill(networks, stock, sources, complete, progress)
    if stock.quantised is not None and stock.quantised != wanted:
        keep_otherwise(networks["denoising"], wanted, dtype)
    placement = None
    if residence != "high":
        # The two that work in turn, window by window, are one.
        together = nn.ModuleList([networks["pose_guider"], networks["denoising"]])
        others = [networks["embedder"], networks["vae"], networks["reference"]]
        placement = Placement([*others, together], place, streamed=residence == "min")
    return TorchPersonModel(
        config=config,
        reference=cast(ReferenceUNet, networks["reference"]),
        denoising=cast(DenoisingUNet, networks["denoising"]),
        pose_guider=cast(PoseGuider, networks["pose_guider"]),
        vae=cast(Autoencoder, networks["vae"]),
        embedder=cast(ImageEmbedder, networks["embedder"]),
        device=place,
        dtype=dtype,
        quantised=wanted,
        placement=placement,
    )


def load_person_networks(
    path: Path | str,
    parts: Sequence[Part],
    *,
    device: torch.device | str = "cpu",
    operations: Operations | None = None,
    progress: ByteProgress | None = None,
) -> tuple[PersonConfig, dict[Part, nn.Module]]:
    """Some networks of a model, as :func:`load_person` loads all of them, and the sizes of all.

    ``operations`` supplies their layers and dtype; without it, each is of the dtype that most of its values are stored
    in. The whole model is checked, whatever is read of it.
    """
    config, sources = _open(Path(path))
    stock = _stock(config, sources)
    networks: dict[Part, nn.Module] = {}
    for part in parts:
        kind = replace(operations or Operations(dtype=_stored_dtype(part, sources)), device="meta")
        stored = stock.quantised if part == "denoising" else None
        network = build_person_network(config, part, quantised(kind, stored) if stored else kind).train(False)
        allocate(network, device)
        networks[part] = network
    _fill(networks, stock, sources, {}, progress)
    if stock.quantised is not None and "denoising" in networks:
        keep_otherwise(networks["denoising"], None, next(networks["denoising"].parameters()).dtype)
    return config, networks


def _fill(
    networks: Mapping[Part, nn.Module],
    stock: Stock,
    sources: Sequence[_Source],
    complete: Mapping[str, Callable[[], object]],
    progress: ByteProgress | None,
) -> None:
    """Read the tensors of ``networks``; ``complete`` is called for those named in it when they are there."""
    slices: dict[str, Tensor] = {}
    for part, network in networks.items():
        slices.update(targets(network, stock.placed[part]))
    found: list[tuple[WeightsFile, dict[str, Tensor], Mapping[str, Callable[[], object]]]] = []
    for source in sources:
        # Different networks' tensors can have the same name in different files.
        full = {key: PERSON_PREFIXES[part] + name for key, (part, name) in source.names.items()}
        stretches = {key: slices.pop(name) for key, name in full.items() if name in slices}
        found.append((source.file, stretches, {key: complete[n] for key, n in full.items() if n in complete}))
    copy_all(found, progress)


def _stored_dtype(part: Part, sources: Sequence[_Source]) -> torch.dtype:
    """The dtype of most of a network's values in its files."""
    sizes: Counter[torch.dtype] = Counter()
    for source in sources:
        for key, (owner, _) in source.names.items():
            if owner == part:
                sizes[source.file.entries[key].dtype] += source.file.entries[key].numel
    return sizes.most_common(1)[0][0]


def convert_person(
    source: Path | str,
    target: Path | str,
    *,
    dtype: torch.dtype | Quantised | None = None,
    progress: ByteProgress | None = None,
) -> None:
    """Convert a model to one safetensors file that holds all networks, without the tensors that have no effect.

    ``dtype`` is as in :func:`dynamicrafter.weights.convert.convert`: with None every tensor keeps its precision, and
    "int8" and "fp8_scaled" quantise the layers of the denoising network alone. Only a few per cent of the files are in
    memory at a time, and ``target`` is written atomically. Raises what :func:`load_person` raises, and UsageError for a
    bad ``target``.
    """
    config, sources = _open(Path(source))
    check_conversion(Path(target), [path for one in sources for path in one.file.files])
    stock = _stock(config, sources)
    used = {full for places in stock.placed.values() for full in places}
    wanted = stock.quantised if dtype is None else dtype if isinstance(dtype, str) else None
    layers: dict[str, Quantised | None] = {}
    if wanted != stock.quantised:
        scaled = {name for name in person_tensors(config, "denoising", "int8") if name.endswith(SCALE)}
        places = stock.placed["denoising"].items()
        layers = {full: wanted for full, place in places if f"{place.name}_scale" in scaled}
    entries: dict[str, Entry] = {}
    names: list[tuple[WeightsFile, dict[str, str]]] = []
    for one in sources:
        kept = {key: PERSON_PREFIXES[part] + name for key, (part, name) in one.names.items()}
        kept = {key: full for key, full in kept.items() if full in used}
        names.append((one.file, kept))
        entries.update(target_entries(one.file, kept, dtype, layers))
    total = sum(file.entries[key].nbytes for file, kept in names for key in kept)

    def pieces() -> Iterator[Piece]:
        before = 0
        for file, kept in names:
            start = before

            def shown(done: int, _: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + done, total)

            yield from cast_pieces(file, kept, entries, layers, shown)
            before += sum(file.entries[key].nbytes for key in kept)

    with single_thread():
        write_safetensors(Path(target), entries, pieces(), _metadata(config))


def save_person(
    config: PersonConfig, weights: Mapping[Part, Mapping[str, Tensor]], path: Path, dtype: torch.dtype
) -> None:
    """Write one file that holds all networks, whose ``weights`` have our names; ``path`` is written atomically."""
    named = {
        PERSON_PREFIXES[part] + released_name(part, name): value.to(dtype).contiguous()
        for part, values in weights.items()
        for name, value in values.items()
    }
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in named.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in named.items())
    write_safetensors(path, entries, pieces, _metadata(config))


def _metadata(config: PersonConfig) -> dict[str, str]:
    return {
        FORMAT_KEY: FORMAT,
        WRITER_KEY: program_version(),
        PERSON_KEY: json.dumps(to_json(config), separators=(",", ":")),
    }


def _open(path: Path) -> tuple[PersonConfig, list[_Source]]:
    if str(path) == BUILT_IN_PERSON and not path.exists():
        path = BUILT_IN_FILE
    if str(path) == PERSON and not path.exists():
        return RELEASED_SIZES, _sources(_sorted(_downloaded(), weights_folder()), weights_folder())
    if not path.is_dir():
        file = open_weights(path)
        kind = kind_of(file)
        if kind == "all":
            return _config(file), [_Source(file, _split(file))]
        if kind is not None:
            raise CheckpointError(
                f"{path} holds only {_TITLES[kind]} of AnimateAnyone; name the folder with all of its files"
            )
        raise CheckpointError(
            f"{path} is not a file of AnimateAnyone but {recognise(file.entries)}; name its folder or a converted file"
        )
    found = _sorted(_files(path), path)
    if "all" in found:
        file = found["all"]
        return _config(file), [_Source(file, _split(file))]
    return RELEASED_SIZES, _sources(found, path)


def _downloaded() -> list[Path]:
    """The files of the catalogue's release; raises UsageError if one is not downloaded."""
    paths = [local_path(release) for release in with_requirements(find(PERSON))]
    here = [path for path in paths if path is not None]
    if len(here) < len(paths):
        raise UsageError(f"the files of {PERSON} are not downloaded", Remedy("download", (PERSON,)))
    return here


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def _sources(found: Mapping[str, WeightsFile], path: Path) -> list[_Source]:
    absent = [title for kind, title in _TITLES.items() if kind not in found]
    if absent:
        raise CheckpointError(f"{path} lacks {' and '.join(absent)}; put all files of AnimateAnyone there")
    sources: list[_Source] = []
    for kind, file in found.items():
        part = cast(Part, "denoising" if kind == "motion" else kind)
        sources.append(_Source(file, {key: (part, key) for key in file.entries}))
    return sources


def _sorted(paths: Sequence[Path], folder: Path) -> dict[str, WeightsFile]:
    """The file of each kind among those in a folder."""
    candidates: dict[str, list[WeightsFile]] = {}
    for path in paths:
        try:
            file = open_weights(path)
        except CheckpointError:
            # Any other file that happens to have a suffix of weights.
            continue
        kind = kind_of(file)
        if kind is not None:
            candidates.setdefault(kind, []).append(file)
    return {kind: _one(kind, files, folder) for kind, files in candidates.items()}


def _one(kind: str, files: Sequence[WeightsFile], folder: Path) -> WeightsFile:
    named = [file for file in files if kind in _NAMES and _NAMES[kind] in file.path.name] or list(files)
    # The same weights often come in both formats.
    named = [file for file in named if file.path.suffix == ".safetensors"] or named
    if len(named) > 1:
        paths = " and ".join(str(file.path.relative_to(folder)) for file in named[:2])
        raise CheckpointError(
            f"{folder} holds {_TITLES.get(kind, 'a whole model')} twice, in {paths}; keep one"
        )
    return named[0]


def _part_of(key: str) -> Part | None:
    parts: tuple[Part, ...] = PARTS
    for part in parts:
        if key.startswith(PERSON_PREFIXES[part]):
            return part
    return None


def _split(file: WeightsFile) -> dict[str, tuple[Part, str]]:
    """Networks and released names of the tensors in one file that holds all."""
    found: dict[str, tuple[Part, str]] = {}
    for key in file.entries:
        part = _part_of(key)
        if part is None:
            raise CheckpointError(
                f"{file.path} has an unknown tensor, {key}; convert the original files again"
            )
        found[key] = (part, key.removeprefix(PERSON_PREFIXES[part]))
    return found


def _config(file: WeightsFile) -> PersonConfig:
    if PERSON_KEY not in file.metadata:
        return RELEASED_SIZES
    return parse_config(file.metadata[PERSON_KEY], file.path, file.metadata.get(WRITER_KEY, "unknown"))


def _stock(config: PersonConfig, sources: Sequence[_Source]) -> Stock:
    """The files' contents, checked to be complete."""
    entries: dict[str, Entry] = {}
    for source in sources:
        for key, (part, name) in source.names.items():
            entries[PERSON_PREFIXES[part] + name] = source.file.entries[key]

    def place_of(full: str) -> Place | None:
        part = _part_of(full)
        return None if part is None else locate_person(part, full.removeprefix(PERSON_PREFIXES[part]), config)

    kind = stored_kind(entries, lambda key: _part_of(key) == "denoising")
    wanted = {part: person_tensors(config, part, kind) for part in PARTS}
    stock = account(entries, wanted, place_of, PERSON_PREFIXES, kind)
    wrong = problems(stock, PARTS)
    if wrong:
        path = sources[0].file.path if len(sources) == 1 else sources[0].file.path.parent
        raise CheckpointError(
            f"{path} does not contain exactly AnimateAnyone: {', '.join(wrong)}; "
            "its files must be those of one release, complete and not quantised"
        )
    return stock
