"""Loads a model from the original's files or from the one file that this program makes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..bounded_json import parse_json
from ..errors import CheckpointError
from ..forms import Form, program_version, to_json
from ..model.autoencoder import Autoencoder
from ..model.operations import Operations
from ..weights.accounting import Stock, account, problems
from ..weights.convert import cast_pieces, check_conversion, stored_dtype
from ..weights.detect import FORMAT, FORMAT_KEY, WRITER_KEY
from ..weights.fill import single_thread, targets
from ..weights.formats.entries import ByteProgress, Entry, Piece, WeightsFile
from ..weights.formats.files import SUFFIXES, open_weights
from ..weights.formats.safetensors_file import write_safetensors
from ..weights.layout import Place
from ..weights.load import allocate, copy_all
from .config import RELEASED_SIZES, PersonConfig
from .embedder import ImageEmbedder
from .layout import PARTS, Part, locate_person
from .pipeline import PersonModel
from .pose_guider import PoseGuider
from .unet import DenoisingUNet, ReferenceUNet

PERSON_KEY = "dynamicrafter.person"
"""Metadata key in files written by this package: the sizes of all networks as JSON."""

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
        kinds = _sorted(place)
        return "all" in kinds or {"reference", "pose_guider"} <= kinds.keys()
    return kind_of(open_weights(place)) == "all"


def check_person(path: Path | str) -> None:
    """Raise what :func:`load_person` raises for a model that is not there or not complete, without reading tensors."""
    _stock(*_open(Path(path)))


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
def person_tensors(config: PersonConfig, part: Part) -> Mapping[str, Entry]:
    """All tensors of a network, by our names."""
    network = build_person_network(config, part, Operations(dtype=torch.float32, device="meta"))
    return {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}


def load_person(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Operations | None = None,
    progress: ByteProgress | None = None,
) -> PersonModel:
    """Load a model from a file that holds all networks, or from a folder with the original's files.

    In a folder, files are told by their contents, and by their names where it holds several of a kind. Every tensor is
    read once, directly into a network of ``dtype`` on ``device``; ``progress`` is called with the bytes read and their
    total. Raises CheckpointError if a network is missing, incomplete or of another architecture, or a tensor unknown.
    """
    kind = replace(operations or Operations(), dtype=dtype, device="meta")
    config, networks = load_person_networks(path, PARTS, device=device, operations=kind, progress=progress)
    return PersonModel(
        config=config,
        reference=cast(ReferenceUNet, networks["reference"]),
        denoising=cast(DenoisingUNet, networks["denoising"]),
        pose_guider=cast(PoseGuider, networks["pose_guider"]),
        vae=cast(Autoencoder, networks["vae"]),
        embedder=cast(ImageEmbedder, networks["embedder"]),
        device=torch.device(device),
        dtype=dtype,
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
    slices: dict[str, Tensor] = {}
    for part in parts:
        kind = operations or Operations(dtype=_stored_dtype(part, sources))
        network = build_person_network(config, part, replace(kind, device="meta")).train(False)
        allocate(network, device)
        networks[part] = network
        slices.update(targets(network, stock.placed[part]))
    found = [
        (
            source.file,
            {
                key: slices[full]
                for key, (part, name) in source.names.items()
                if (full := PERSON_PREFIXES[part] + name) in slices
            },
        )
        for source in sources
    ]
    copy_all(found, {}, progress)
    return config, networks


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
    dtype: torch.dtype | None = None,
    progress: ByteProgress | None = None,
) -> None:
    """Convert a model to one safetensors file that holds all networks, without the tensors that have no effect.

    With ``dtype`` None every tensor keeps its precision. Only a few per cent of the files are in memory at a time, and
    ``target`` is written atomically. Raises what :func:`load_person` raises, and UsageError for a bad ``target``.
    """
    config, sources = _open(Path(source))
    check_conversion(Path(target), [path for one in sources for path in one.file.files])
    stock = _stock(config, sources)
    used = {full for places in stock.placed.values() for full in places}
    entries: dict[str, Entry] = {}
    names: list[tuple[WeightsFile, dict[str, str]]] = []
    for one in sources:
        kept = {key: PERSON_PREFIXES[part] + name for key, (part, name) in one.names.items()}
        kept = {key: full for key, full in kept.items() if full in used}
        names.append((one.file, kept))
        for key, full in kept.items():
            entry = one.file.entries[key]
            entries[full] = Entry(entry.shape, stored_dtype(entry, dtype))
    total = sum(file.entries[key].nbytes for file, kept in names for key in kept)

    def pieces() -> Iterator[Piece]:
        before = 0
        for file, kept in names:
            start = before

            def shown(done: int, _: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + done, total)

            yield from cast_pieces(file, kept, entries, {}, shown)
            before += sum(file.entries[key].nbytes for key in kept)

    metadata = {
        FORMAT_KEY: FORMAT,
        WRITER_KEY: program_version(),
        PERSON_KEY: json.dumps(to_json(config), separators=(",", ":")),
    }
    with single_thread():
        write_safetensors(Path(target), entries, pieces(), metadata)


def _open(path: Path) -> tuple[PersonConfig, list[_Source]]:
    if not path.is_dir():
        file = open_weights(path)
        kind = kind_of(file)
        if kind == "all":
            return _config(file), [_Source(file, _split(file))]
        if kind is not None:
            raise CheckpointError(
                f"{path} holds only {_TITLES[kind]} of AnimateAnyone; name the folder with all of its files"
            )
        raise CheckpointError(f"{path} is not a file of AnimateAnyone; name its folder or a converted file")
    found = _sorted(path)
    if "all" in found:
        file = found["all"]
        return _config(file), [_Source(file, _split(file))]
    absent = [title for kind, title in _TITLES.items() if kind not in found]
    if absent:
        raise CheckpointError(f"{path} lacks {' and '.join(absent)}; put all files of AnimateAnyone there")
    sources: list[_Source] = []
    for kind, file in found.items():
        part = cast(Part, "denoising" if kind == "motion" else kind)
        sources.append(_Source(file, {key: (part, key) for key in file.entries}))
    return RELEASED_SIZES, sources


def _sorted(folder: Path) -> dict[str, WeightsFile]:
    """The file of each kind in a folder and the folders in it."""
    candidates: dict[str, list[WeightsFile]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
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
    form = Form(f"the metadata of {file.path}", CheckpointError, file.metadata.get(WRITER_KEY, "unknown"))
    try:
        values: Any = parse_json(file.metadata[PERSON_KEY])
    except ValueError as problem:
        raise CheckpointError(
            f"{file.path} has damaged metadata; convert the original files again"
        ) from problem
    config = form.read(PersonConfig, values)
    _check(config, file.path)
    return config


def _check(config: PersonConfig, path: Path) -> None:
    """Raise CheckpointError for sizes that no network has, before any is built."""
    pair, posing, embedder = config.pair, config.pose_guider, config.embedder
    numbers = [*pair.widths, pair.blocks, pair.heads, pair.context_dim, pair.norm_groups, *posing.widths]
    numbers += [posing.out_channels, embedder.width, embedder.layers, embedder.heads, embedder.inner]
    numbers += [
        embedder.patch,
        embedder.image_size,
        embedder.out_dim,
        config.vae.channels,
        config.vae.norm_groups,
    ]
    numbers += [*config.vae.channel_mult, config.vae.num_res_blocks, config.vae.latent_channels]
    fits = (
        all(1 <= number <= 2**16 for number in numbers)
        and pair.blocks <= 8
        and embedder.layers <= 64
        and config.vae.num_res_blocks <= 8
        and all(2 <= len(sizes) <= 8 for sizes in (pair.widths, posing.widths, config.vae.channel_mult))
        and all(width % pair.heads == 0 and width % pair.norm_groups == 0 for width in pair.widths)
        and all(width % 32 == 0 for width in pair.widths)
        and embedder.width % embedder.heads == 0
        and posing.out_channels == pair.widths[0]
        and embedder.out_dim == pair.context_dim
    )
    if not fits:
        raise CheckpointError(
            f"{path} names sizes that its networks cannot have; convert the original files again"
        )


def _stock(config: PersonConfig, sources: Sequence[_Source]) -> Stock:
    """The files' contents, checked to be complete."""
    entries: dict[str, Entry] = {}
    for source in sources:
        for key, (part, name) in source.names.items():
            entries[PERSON_PREFIXES[part] + name] = source.file.entries[key]

    def place_of(full: str) -> Place | None:
        part = _part_of(full)
        return None if part is None else locate_person(part, full.removeprefix(PERSON_PREFIXES[part]), config)

    stock = account(
        entries, {part: person_tensors(config, part) for part in PARTS}, place_of, PERSON_PREFIXES
    )
    wrong = problems(stock, PARTS)
    if wrong:
        path = sources[0].file.path if len(sources) == 1 else sources[0].file.path.parent
        raise CheckpointError(
            f"{path} does not contain exactly AnimateAnyone: {', '.join(wrong)}; "
            "its files must be those of one release, complete and not quantised"
        )
    return stock
