"""The Python API: load a model, then animate, interpolate or loop images."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, overload

import torch
from torch import Tensor

from .backends.choice import TORCH, parse_backend
from .backends.openvino.calibration import Shown, calibration_settings
from .backends.openvino.compiled import check_device
from .backends.openvino.export import ExportProgress, check_target, write_export
from .backends.openvino.library import nncf
from .backends.openvino.manifest import (
    Manifest,
    Role,
    Source,
    exports_folder,
    identity,
    is_export,
    read_manifest,
    variant_in,
)
from .backends.openvino.running import load_export
from .control.hints import Control, ControlNet, Hints
from .diffusion.samplers import Callback
from .diffusion.schedule import TRAIN_STEPS
from .errors import CheckpointError, Remedy, UsageError
from .media.examples import read_examples
from .media.pictures import Picture, PictureLike, as_picture, fit_picture
from .media.video import EXTENSIONS, open_clip, read_frames, write_clip
from .model.compilation import check_compile, compile_blocks
from .model.configs import TEXT_TOKENS, Compile, Memory, Quantised, Weights
from .model.controlnet import SKETCH_CHANNELS
from .model.encoders import CLIPImageEncoder, CLIPTextEncoder, count_tokens
from .model.placement import Placement
from .model.switching import NetworkPair, ResamplerPair
from .model.variants import SMALL, TINY, VIEWS_PROMPT, Mode, Variant, nameless
from .pipeline import KeyPictures, Model, Progress, TorchModel, generate_each
from .process_memory import free_memory
from .settings import (
    Choices,
    Settings,
    clip_metadata,
    key_frames,
    make_settings,
    prompt_parts,
    sampled_frames,
    spread_keys,
    unusual_fs,
)
from .weights.accounting import stored_kind
from .weights.catalogue import find, with_requirements
from .weights.controlnet import load_controlnet
from .weights.detect import VARIANT_KEY, choose, detect, variant_metadata
from .weights.download import local_path, weights_folder
from .weights.footprint import ClipSize, footprint, network_bytes, pick_residence, tiles_for
from .weights.formats.entries import ByteProgress
from .weights.formats.files import open_weights
from .weights.identity import remembered_hash
from .weights.load import load_components
from .weights.lora import merge_adapters, read_adapters
from .weights.random_model import write_random_checkpoint

if TYPE_CHECKING:
    from typing_extensions import Unpack

RANDOM = "random"
"""Name of the built-in model with random weights; its clips are noise."""
BUILT_IN = (TINY.name, RANDOM)
"""Names of the models that need no download."""


_CALIBRATION_CLIPS = 8
"""At most, because each is sampled and the network evaluated on its steps several times."""
_CALIBRATION_COPIES = 5
"""Of the denoising network in float32 at the peak of quantising it."""
_TINY_WEIGHTS = Path(__file__).parent / "weights" / "built_in" / "tiny.safetensors"


ClipLike: TypeAlias = "str | PathLike[str] | Tensor"
"""A clip to start from: a path of a clip, or frames, uint8 ``[t, h, w, 3]``."""

HintsLike: TypeAlias = "ClipLike | PictureLike | Mapping[int, PictureLike]"
"""What a ControlNet is shown: a clip with one image for each frame, one image for all frames, or images of chosen
frames by their indices, from 0."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A finished clip and its settings."""

    frames: Tensor
    """uint8 ``[t, h, w, 3]`` RGB on the CPU."""
    settings: Settings


@dataclass(frozen=True)
class Lora:
    """A LoRA file and its strength; 1 is as trained."""

    path: Path
    strength: float = 1.0


@dataclass(frozen=True)
class ModelFiles:
    """Paths of a model's weights; the encoders are None if the weights file contains them."""

    weights: Path
    """A weights file, or the folder of an export."""
    variant: str | None = None
    text_encoder: Path | None = None
    image_encoder: Path | None = None
    loras: tuple[Lora, ...] = ()
    """Adapters that are merged into the network, in this order."""
    asked: str = ""
    """The name or path that was requested."""


def find_model(
    model: str | Path,
    *,
    variant: str | None = None,
    text_encoder: str | Path | None = None,
    image_encoder: str | Path | None = None,
) -> ModelFiles:
    """The files of a model's name or path.

    A name is one from the catalogue whose files were downloaded, or a built-in one; use ``./NAME`` for a file or folder
    of the same name. Raises UsageError for an unknown name (with the nearest known one), for a name whose files are not
    downloaded and for a path that does not exist.
    """
    text = Path(text_encoder) if text_encoder is not None else None
    image = Path(image_encoder) if image_encoder is not None else None
    place = Path(model)

    def found(weights: Path) -> ModelFiles:
        return ModelFiles(weights, variant, text, image, asked=str(model))

    # A folder of clips called "512" must not hide the model, so a bare name is a path only if no model has it.
    if isinstance(model, Path) or place.suffix or model != place.name:
        if not place.exists():
            raise UsageError(f"there is no weights file {place}", Remedy("check_model"))
        return found(place)
    if model == TINY.name:
        return found(_TINY_WEIGHTS)
    if model == RANDOM:
        return found(_random_weights())
    try:
        release = find(model)
    except UsageError as problem:
        if place.exists():
            return found(place)
        nearest = difflib.get_close_matches(model.lower(), BUILT_IN, n=1, cutoff=0.7)
        if nearest:
            raise UsageError(f"there is no model {model!r}; did you mean {nearest[0]!r}?") from problem
        raise
    if release.variant is None:
        raise UsageError(f"{release.name} contains only the {release.purpose}", Remedy("choose_model"))
    paths: dict[str, Path] = {}
    for needed in with_requirements(release):
        path = local_path(needed)
        if path is None:
            if needed.kind == "towers" and text is not None and image is not None:
                continue
            raise UsageError(
                f"the files of {release.name} are not downloaded", Remedy("download", (release.name,))
            )
        paths[needed.kind] = path
    towers = paths.get("towers")
    return replace(
        found(paths["model"]),
        variant=variant or release.variant,
        text_encoder=text or towers,
        image_encoder=image or towers,
    )


def variant_of(files: ModelFiles) -> Variant:
    """The variant that :func:`load` would detect, from the list of tensors alone.

    Raises CheckpointError and UsageError as :func:`load` does.
    """
    if is_export(files.weights):
        return variant_in(files.weights, read_manifest(files.weights))
    opened = open_weights(provide(files).weights)
    return choose(detect(opened), files.variant, opened)


def provide(files: ModelFiles) -> ModelFiles:
    """``files`` unchanged, after writing the random model's file if that is the requested one and does not exist yet.

    Raises CheckpointError if it cannot be written.
    """
    made = files.weights
    if made == _random_weights() and not made.exists():
        try:
            made.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise CheckpointError(
                f"the weights folder {made.parent} cannot be created ({problem.strerror or problem}); "
                f"set DYNAMICRAFTER_HOME to a writable folder"
            ) from problem
        write_random_checkpoint(made)
    return files


def _random_weights() -> Path:
    """Path of the random model's file; it depends on the architecture, so that versions of the package can differ."""
    kind = hashlib.sha256(variant_metadata(SMALL)[VARIANT_KEY].encode()).hexdigest()[:8]
    return weights_folder() / f"random-{kind}.safetensors"


def stored_as(files: ModelFiles, weights: Weights) -> Quantised | None:
    """How the weights of the denoising network's layers will be quantised, if they are kept as ``weights``."""
    if weights == "auto":
        return stored_kind(open_weights(files.weights).entries)
    return None if weights == "full" else weights


def pick_device(device: str = "auto", backend: str = TORCH) -> torch.device:
    """The device of a name; "auto" selects a CUDA GPU if available, then an Apple GPU, then the CPU.

    Backends other than PyTorch name their own device and exchange tensors on the CPU. Raises UsageError for a device
    that is not available, and if there is no such backend.
    """
    chosen = parse_backend(backend)
    if chosen.name == "openvino":
        if device not in ("auto", "cpu"):
            raise UsageError(
                f"{device!r} is a device of PyTorch, but the networks are to run on {chosen}; omit the device, and "
                f"choose one with openvino:CPU, openvino:GPU or openvino:NPU"
            )
        check_device(chosen.device)
        return torch.device("cpu")
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        # Reading a value back also rejects devices that compute nothing, such as "meta".
        torch.zeros(1, device=place).item()
    # Each kind of missing device raises a different exception.
    except Exception as problem:
        raise UsageError(
            f"the device {device!r} is not available; use cpu, cuda, cuda:1, mps or auto"
        ) from problem
    return place


def find_place(
    files: ModelFiles,
    device: str = "auto",
    backend: str = TORCH,
    weights: Weights = "auto",
    memory: Memory = "auto",
    compile: Compile = "off",
) -> tuple[torch.device, Path | None]:
    """Where :func:`load` would run a model with these choices: :func:`pick_device` and :func:`export_of`.

    Raises what they raise, and UsageError for choices that the backend or the machine does not have.
    """
    place = pick_device(device, backend)
    check_backend_options(backend, weights, memory, compile)
    if backend == TORCH:
        check_compile(compile, memory, place)
    return place, export_of(files, backend)


def check_backend_options(backend: str, weights: Weights, memory: Memory, compile: Compile) -> None:
    """Raise UsageError for options of PyTorch with another backend."""
    if backend != TORCH and (weights, memory, compile) != ("auto", "auto", "off"):
        raise UsageError(
            f"{backend} keeps weights and memory its own way and compiles its own, but weights {weights}, memory "
            f"{memory} and compile {compile} were given; omit all three"
        )


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" is float32 on the CPU, bfloat16 on GPUs that compute in it, and float16 on others."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float16
    if dtype not in known:
        raise UsageError(f"dtype must be auto, {', '.join(known)}, not {dtype!r}")
    return known[dtype]


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 in hardware; where it is emulated, float16 is several times as fast."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # PyTorch answers for the current device.
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _sources(files: ModelFiles, progress: ByteProgress | None = None) -> list[Source]:
    """What a model is made of; ``progress`` is called with the bytes hashed and their total, for each file."""
    encoders: list[tuple[Role, Path | None]] = [
        ("text_encoder", files.text_encoder),
        ("image_encoder", files.image_encoder),
    ]
    loras: list[tuple[Role, Path, float]] = [("lora", lora.path, lora.strength) for lora in files.loras]
    parts: list[tuple[Role, Path, float]] = [
        ("weights", provide(files).weights, 1.0),
        *((role, path, 1.0) for role, path in encoders if path is not None),
        *loras,
    ]
    return [
        Source(role, path.resolve().name, remembered_hash(path, progress=progress), strength)
        for role, path, strength in parts
    ]


def exported_files() -> dict[str, Path]:
    """Exports in the weights folder by the name of the weights file, whatever encoders they were made with.

    Damaged exports are skipped, and those with adapters, which are not the file's alone.
    """
    found: dict[str, Path] = {}
    for path in sorted((weights_folder() / "openvino").glob("*")):
        with suppress(CheckpointError):
            if is_export(path):
                sources = read_manifest(path).sources
                if all(source.role != "lora" for source in sources):
                    found[sources[0].file] = path
    return found


def export_with(weights: Path) -> Path:
    """The export of a weights file in :func:`exported_files`; raises UsageError if it was not exported or changed."""
    folder = exported_files().get(weights.resolve().name)
    if folder is None or read_manifest(folder).sources[0].sha256 != remembered_hash(weights):
        raise UsageError(f"{weights} has not been exported for OpenVINO", Remedy("export", (str(weights),)))
    return folder


def export_of(files: ModelFiles, backend: str) -> Path | None:
    """The export that ``backend`` runs a model from, or None if it needs none.

    Raises UsageError if the model was not exported, or is an export but cannot be run as requested; CheckpointError if
    the export is damaged or of another model.
    """
    chosen, given = parse_backend(backend), is_export(files.weights)
    if chosen.name == TORCH:
        if given:
            raise UsageError(f"{files.weights} is an export for OpenVINO", Remedy("name_backend"))
        return None
    if given:
        if files.loras or files.text_encoder or files.image_encoder or files.variant:
            raise UsageError(
                f"{files.weights} is an export, which contains its encoders, adapters and variant; export the model "
                f"with the ones to use"
            )
        return files.weights
    sources = _sources(files)
    folder = exports_folder(sources)
    if not is_export(folder):
        given = " and ".join(
            [
                *(["adapters"] if files.loras else []),
                *(["encoders"] if files.text_encoder or files.image_encoder else []),
            ]
        )
        how = f" with its {given}, which exporting takes in the same way" if given else ""
        raise UsageError(
            f"{files.asked} has not been exported for OpenVINO{how}", Remedy("export", (files.asked,))
        )
    manifest = read_manifest(folder)
    # Files of several variants can have the same tensors.
    if manifest.model_sha256 != identity(sources) or variant_in(folder, manifest) != variant_of(files):
        raise CheckpointError(f"{folder} is the export of another model", Remedy("export", (files.asked,)))
    return folder


def export_model(
    model: str | Path | ModelFiles,
    target: str | Path | None = None,
    *,
    stored: Literal["fp16", "int8"] = "fp16",
    calibrate: str | Path | None = None,
    loading: ByteProgress | None = None,
    progress: ExportProgress | None = None,
) -> tuple[Path, Manifest]:
    """Export a model for OpenVINO; returns the folder and its manifest.

    Without ``target`` it goes to the weights folder, where ``load(model, backend="openvino")`` finds it, and replaces
    an earlier export of the same model; elsewhere it is loaded by its path. ``stored`` is the precision of the weights:
    "fp16", or "int8" for half the size. With "int8" and ``calibrate``, a folder of images and clips like those to
    generate (prompts in .txt files of their names), the denoising network also computes in 8 bits, but for layers that
    lose too much; this needs :func:`calibration_bytes` of memory. ``loading`` is called with the bytes read and their
    total, ``progress`` with what is being done, how much is done and the total. Raises what :func:`load` raises,
    PictureError and ClipError for files to calibrate on, UsageError for a folder without any or too little memory, and
    CheckpointError if the export cannot be written.
    """
    files = model if isinstance(model, ModelFiles) else find_model(model)
    if is_export(files.weights):
        raise UsageError(f"{files.weights} is an export already; pass the weights that it was made of")
    if target is not None:
        check_target(Path(target))
    shown = [] if calibrate is None else _calibration(files, stored, Path(calibrate))
    sources = _sources(files)
    folder = exports_folder(sources) if target is None else Path(target)
    # The export has a precision of its own: layers in 8 bits would be traced as they are.
    loaded = load(files, device="cpu", dtype="float32", weights="full", progress=loading)
    kind = "int8_full" if shown else stored
    return folder, write_export(loaded, folder, files.asked, sources, kind, shown=shown, progress=progress)


def calibration_bytes(variant: Variant) -> int:
    """Main memory that exporting a model with a calibration takes: about five times the denoising network in float32,
    besides the other networks and the activations."""
    usual = calibration_settings(variant)
    size = ClipSize(1, usual.frames, usual.width, usual.height)
    needed = footprint(variant, size, torch.float32, None, "high")
    return round(needed.total) + (_CALIBRATION_COPIES - 1) * network_bytes(variant, "unet", torch.float32)


def _calibration(files: ModelFiles, stored: str, folder: Path) -> list[Shown]:
    """What to calibrate on; raises UsageError if that cannot be done with these choices or here."""
    if stored != "int8":
        raise UsageError(
            f"a calibration is for weights in int8, but {stored} was requested; use int8 or omit {folder}"
        )
    nncf()
    needed, free = calibration_bytes(variant_of(files)), free_memory()
    if needed > free:
        raise UsageError(
            f"quantising {files.asked} completely needs about {needed / 1e9:.1f} GB of main memory, but "
            f"{free / 1e9:.1f} GB are free; close other programs, or quantise the weights alone, without a calibration"
        )
    one = calibration_settings(variant_of(files))
    shown: list[Shown] = []
    for example in read_examples(folder, _CALIBRATION_CLIPS):
        first, last = (
            fit_picture(picture, one.width, one.height, one.fit)[None]
            for picture in (example.first, example.last)
        )
        pictures = KeyPictures(first, last if one.mode == "interpolate" else None)
        shown.append(Shown(pictures, example.prompt))
    return shown


@overload
def load(
    model: str | Path | ModelFiles,
    *,
    variant: str | None = None,
    text_encoder: str | Path | None = None,
    image_encoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "auto",
    memory: Memory = "auto",
    compile: Compile = "off",
    backend: Literal["torch"] = "torch",
    progress: Callable[[int, int], None] | None = None,
) -> TorchModel: ...


@overload
def load(
    model: str | Path | ModelFiles,
    *,
    variant: str | None = None,
    text_encoder: str | Path | None = None,
    image_encoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "auto",
    memory: Memory = "auto",
    compile: Compile = "off",
    backend: str,
    progress: Callable[[int, int], None] | None = None,
) -> Model: ...


def load(
    model: str | Path | ModelFiles,
    *,
    variant: str | None = None,
    text_encoder: str | Path | None = None,
    image_encoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "auto",
    memory: Memory = "auto",
    compile: Compile = "off",
    backend: str = TORCH,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Load a model by name or path.

    ``variant`` is needed only if the weights are ambiguous (pruned 512 and 512 interpolation files are alike);
    ``text_encoder`` and ``image_encoder`` only if the file lacks its CLIP encoders; a ModelFiles contains all three.
    ``device`` and ``dtype`` are as in :func:`pick_device` and :func:`pick_dtype`. ``weights`` is how the weights of the
    denoising network's layers are kept: "int8" or "fp8_scaled" (one byte each), "full", or "auto", as in the file.
    ``memory`` is how the networks use that of the device: "high", all of them stay there; "low", each only while it
    works; "min", layer by layer; "auto", the first that fits into what is free for a clip of the default size. Results
    are the same. ``compile`` is a mode of :func:`torch.compile` for the denoising network's blocks, "default" or
    "reduce-overhead" (with CUDA graphs), or "off"; results differ by rounding. ``backend`` is "torch", or "openvino"
    with an optional device ("openvino:GPU"), which needs the model's :func:`export_model` or the path of one, keeps
    weights and memory its own way and compiles its own. ``progress`` is called with the bytes read and their total, and
    may raise. Raises UsageError for names and choices, CheckpointError for files.
    """
    if not isinstance(model, ModelFiles):
        model = find_model(model, variant=variant, text_encoder=text_encoder, image_encoder=image_encoder)
    place, folder = find_place(model, device, backend, weights, memory, compile)
    precision = pick_dtype(dtype, place)
    if folder is not None:
        return load_export(folder, parse_backend(backend).device, precision, progress)
    provide(model)
    kind = stored_as(model, weights)
    known = variant_of(model)
    usual = ClipSize(1, known.preset.frames, known.preset.width, known.preset.height)
    residence = pick_residence(memory, known, [usual], place, precision, kind)
    check_compile(compile, residence, place)
    adapters = [(lora, read_adapters(lora.path)) for lora in model.loras]
    parts = load_components(
        model.weights,
        variant=model.variant,
        text_encoder=model.text_encoder,
        image_encoder=model.image_encoder,
        device=place if residence == "high" else "cpu",
        dtype=precision,
        weights=weights,
        progress=progress,
    )
    for lora, changes in adapters:
        merge_adapters(parts.unet, changes, lora.strength, str(lora.path))
    compile_blocks(parts.unet, compile)
    text, vision = cast(CLIPTextEncoder, parts.text), cast(CLIPImageEncoder, parts.vision)
    placement = None
    if residence != "high":
        networks = (text, vision, parts.resampler, parts.unet, parts.vae)
        placement = Placement(networks, place, streamed=residence == "min")
        parts.vae.tiles = tiles_for(known, residence)
    return TorchModel(
        variant=parts.variant,
        unet=parts.unet,
        vae=parts.vae,
        resampler=parts.resampler,
        text=text,
        vision=vision,
        device=place,
        dtype=precision,
        quantised=parts.quantised,
        placement=placement,
        preview=parts.preview,
    )


def switch(early: Model, late: Model, timestep: int = 500) -> Model:
    """A model of two: ``early`` computes the steps above ``timestep``, which decide the motion, and ``late`` the rest.

    Timesteps go from 999, noise, to 0; 500 is EDG's value (arXiv 2503.00948), for the models that
    :func:`~dynamicrafter.weights.merge.merge` writes. Each has its own image tokens; encoders and autoencoder are those
    of ``early``, and those of ``late`` are not used. STG, PAG and ControlNets, which need one network, are refused.
    Raises UsageError for models of different variants, devices or dtypes, for ones that are not on their device all the
    time or are two models already, and for a timestep outside 0 to 999.
    """
    if not 0 <= timestep < TRAIN_STEPS:
        raise UsageError(
            f"the timestep to switch at must be 0 to {TRAIN_STEPS - 1}, but {timestep} was given"
        )
    if early.placement is not None or late.placement is not None:
        raise UsageError(
            "two models can be switched only if both stay on the device; load both with memory high"
        )
    if isinstance(early.unet, NetworkPair) or isinstance(late.unet, NetworkPair):
        raise UsageError("one of the two models is itself switched between two; switch between single models")
    for what, ours, theirs in (
        ("networks", nameless(early.variant), nameless(late.variant)),
        ("device", early.device, late.device),
        ("dtype", early.dtype, late.dtype),
    ):
        if ours != theirs:
            raise UsageError(
                f"the two models must have the same {what}, but they are {early.variant.name} on {early.device} in "
                f"{early.dtype} and {late.variant.name} on {late.device} in {late.dtype}; load them alike"
            )
    return Model(
        variant=early.variant,
        unet=NetworkPair(early.unet, late.unet, timestep),
        vae=early.vae,
        resampler=ResamplerPair(early.resampler, late.resampler, early.variant.resampler.frames),
        text=early.text,
        vision=early.vision,
        device=early.device,
        dtype=early.dtype,
        quantised=early.quantised,
    )


def load_control(
    path: str | Path, model: Model, progress: Callable[[int, int], None] | None = None
) -> ControlNet:
    """Load a ControlNet for Stable Diffusion 2.1 or ToonCrafter's sketch encoder, to be used with ``model``.

    It computes where and in the precision in which the model does, and uses the device's memory in the same way.
    ``progress`` is called with the bytes read and their total. Raises CheckpointError as
    :func:`~dynamicrafter.weights.controlnet.load_controlnet` does.
    """
    placement = model.placement
    network = load_controlnet(
        path,
        model.variant.unet,
        device=model.device if placement is None else "cpu",
        dtype=model.dtype,
        progress=progress,
    )
    if placement is None:
        return ControlNet(network)
    # A placement of its own, because it works in turn with the denoising network, evaluation by evaluation.
    return ControlNet(network, Placement([network], model.device, streamed=placement.streamed))


def read_hints(hints: HintsLike, settings: Settings, channels: int) -> Hints:
    """Hints as a ControlNet with ``channels`` is shown them, fitted to a clip like its images.

    For ToonCrafter's sketch encoder, with one channel, they are made grey and inverted: drawings are dark lines on
    light paper. Raises UsageError for hints of frames that the clip does not have and for fewer than its frames, and
    what reading them raises.
    """
    frames = None
    if isinstance(hints, Mapping):
        frames, pictures = tuple(hints), [as_picture(hints[frame]) for frame in hints]
        if not frames:
            raise UsageError("there are no hints; pass at least one, or no ControlNet")
    elif isinstance(hints, Tensor) and hints.ndim == 4:
        pictures = [as_picture(frame) for frame in hints]
    elif isinstance(hints, (str, PathLike)) and is_clip_path(Path(hints)):
        pictures = [as_picture(frame) for frame in read_frames(hints)]
    else:
        pictures = [as_picture(hints)]
    # Before a long clip is fitted, and no more of it than is used.
    found = Hints(torch.empty(len(pictures), 0), frames)
    found.check(sampled_frames(settings))
    if frames is None and len(pictures) > 1:
        pictures = pictures[: settings.frames]
    return replace(found, images=torch.stack([_fitted_hint(each, settings, channels) for each in pictures]))


def is_clip_path(path: Path) -> bool:
    """Whether a path is that of a clip rather than of an image."""
    return path.is_dir() or path.suffix.lower() in EXTENSIONS


_LUMA = (0.299, 0.587, 0.114)
"""Weights of RGB in grey (ITU-R BT.601), as in most programs that read drawings."""


def _fitted_hint(picture: Picture, settings: Settings, channels: int) -> Tensor:
    """uint8 ``[c, H, W]``."""
    if channels == SKETCH_CHANNELS:
        # Before it is fitted, so that bars are blank paper.
        picture = Picture(255 - picture.pixels)
    fitted = (fit_picture(picture, settings.width, settings.height, settings.fit) + 1) * 127.5
    if channels == SKETCH_CHANNELS:
        fitted = torch.einsum("c,chw->hw", torch.tensor(_LUMA), fitted)[None]
    return fitted.round().to(torch.uint8)


def render(
    model: Model,
    settings: Settings,
    firsts: Sequence[PictureLike],
    lasts: Sequence[PictureLike] | None,
    seeds: Sequence[int],
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
) -> list[Clip]:
    """One clip for each image (pair) and seed, generated as one batch; ``lasts`` is for interpolation only.

    Each clip is the same, up to rounding, as if generated alone. Raises UsageError if the lists are empty or differ in
    length, and if there are last images without interpolation or vice versa.
    """
    if len(firsts) != len(seeds):
        raise UsageError(
            f"a batch needs as many seeds as images, but {len(firsts)} images and {len(seeds)} seeds were given"
        )
    each = [replace(settings, seed=seed) for seed in seeds]
    return render_each(model, each, firsts, lasts, progress=progress, callback=callback)


def render_each(
    model: Model,
    settings: Sequence[Settings],
    firsts: Sequence[PictureLike],
    lasts: Sequence[PictureLike] | None,
    *,
    betweens: Sequence[Sequence[PictureLike]] | None = None,
    videos: Sequence[ClipLike] | None = None,
    masks: Sequence[PictureLike] | None = None,
    control: Control | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
) -> list[Clip]:
    """:func:`render` with separate settings for each clip, which may differ in seed, prompts and fs."""
    streamed = stream_each(
        model,
        settings,
        firsts,
        lasts,
        betweens=betweens,
        videos=videos,
        masks=masks,
        control=control,
        progress=progress,
        callback=callback,
    )
    with closing(streamed) as clips:
        return [Clip(torch.cat(list(parts)), chosen) for parts, chosen in zip(clips, settings, strict=True)]


def stream_each(
    model: Model,
    settings: Sequence[Settings],
    firsts: Sequence[PictureLike],
    lasts: Sequence[PictureLike] | None,
    *,
    betweens: Sequence[Sequence[PictureLike]] | None = None,
    videos: Sequence[ClipLike] | None = None,
    masks: Sequence[PictureLike] | None = None,
    control: Control | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
) -> Generator[Iterator[Tensor]]:
    """:func:`render_each` as it goes: for each clip, an iterator over its frames, uint8 ``[n, h, w, 3]``.

    ``betweens`` are the keyframes of each interpolation between its first and its last image. ``videos`` and ``masks``
    are as in :func:`animate`, one for each clip; in mode views, ``videos`` are the guide clips. All clips follow the
    hints of ``control``.

    A clip's frames are decoded while they are read, so that memory does not grow with their number, and must be read
    before the next clip is requested. Close the generator, as that of
    :func:`~dynamicrafter.pipeline.generate_each`.
    """
    _require_loaded(model)
    if not firsts:
        raise UsageError("there is no image to generate a clip from; pass at least one")
    if len(settings) != len(firsts):
        raise UsageError(
            f"a batch needs settings for each image, but {len(firsts)} images and {len(settings)} settings were given"
        )
    common = settings[0]
    if (lasts is not None) != (common.mode == "interpolate"):
        wanted = "needs last images" if lasts is None else "takes no last images"
        raise UsageError(f"{common.mode} {wanted}; pass them for interpolation only")
    if common.mode == "views" and (videos is None or masks is not None):
        raise UsageError("views need a guide clip for each image, and take no masks; pass the guides alone")
    if lasts is not None and len(firsts) != len(lasts):
        raise UsageError(
            f"an interpolation needs as many last images as first ones, but {len(firsts)} first and {len(lasts)} last "
            f"images were given"
        )
    inner: Sequence[Sequence[PictureLike]] = [()] * len(firsts) if betweens is None else betweens
    wanted = max(0, len(key_frames(common)) - 2)
    if len(inner) != len(firsts) or any(len(each) != wanted for each in inner):
        raise UsageError(
            f"keys {common.keys!r} need {wanted} images between the first and the last one of each clip, but "
            f"{', '.join(str(len(each)) for each in inner)} were given"
        )
    pictures = KeyPictures(
        _fitted(firsts, common),
        None if lasts is None else _fitted(lasts, common),
        torch.stack([_fitted(each, common) for each in inner]) if wanted else None,
        None if videos is None else torch.stack([_fitted_clip(video, common) for video in videos]),
        None
        if masks is None
        else torch.stack([_fitted_mask(*each, common) for each in zip(masks, firsts, strict=True)]),
    )
    return generate_each(model, pictures, settings, progress, callback, control=control)


def animate(
    model: Model,
    image: PictureLike,
    prompt: str = "",
    *,
    video: ClipLike | None = None,
    mask: PictureLike | None = None,
    control: ControlNet | None = None,
    hints: HintsLike | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **choices: Unpack[Choices],
) -> Clip:
    """Animate an image.

    ``video`` is a clip to start from, whose first frames are used, if ``denoise`` is below 1 or there is a mask. It is
    a path or uint8 ``[t, h, w, 3]``. ``mask`` is an image of the size of ``image``: white may move, black stays as it
    is, grey becomes free later and is blended. Without a video, what stays is the image.
    ``control`` is a ControlNet of :func:`load_control`, which is shown ``hints``.
    ``choices`` are those of :class:`dynamicrafter.settings.Choices`; the variant's preset is used for the rest. Each of
    the notes of :func:`notes_on` is a warning. Raises UsageError for a choice that does not exist, has the wrong type
    or is out of range.
    """
    return _make(model, "animate", [image], prompt, choices, video, mask, progress, callback, control, hints)


def interpolate(
    model: Model,
    first: PictureLike,
    last: PictureLike,
    prompt: str = "",
    *,
    video: ClipLike | None = None,
    mask: PictureLike | None = None,
    control: ControlNet | None = None,
    hints: HintsLike | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **choices: Unpack[Choices],
) -> Clip:
    """Interpolate between two images; everything else as in :func:`animate`, but a mask needs a video."""
    return _make(
        model, "interpolate", [first, last], prompt, choices, video, mask, progress, callback, control, hints
    )


def keyframes(
    model: Model,
    images: Sequence[PictureLike],
    prompt: str = "",
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **choices: Unpack[Choices],
) -> Clip:
    """A clip through two or more images; ``choices`` as in :func:`animate`.

    The images stand at the frames ``keys``, by default evenly spaced, and appear once each. ``prompt`` may be one for
    each gap, separated by ``|``. Raises UsageError for images of different sizes and fewer prompts than gaps.
    """
    return _make(model, "interpolate", images, prompt, choices, None, None, progress, callback)


def place_keys(choices: Choices, sizes: Sequence[tuple[int, int]]) -> Choices:
    """``choices`` for an interpolation through images of these sizes, with their keys and the length of the clip.

    Raises UsageError for fewer than two images, for more whose sizes differ, and for another number of keys.
    """
    count, keys = len(sizes), choices.get("keys")
    if count < 2:
        raise UsageError(f"an interpolation needs at least 2 images, but {count} was given; add the last one")
    if keys and keys.count(",") + 1 != count:
        raise UsageError(f"keys must name a frame for each of the {count} images, but {keys!r} was given")
    if count == 2:
        return choices
    different = next((size for size in sizes if size != sizes[0]), None)
    if different is not None:
        raise UsageError(
            f"keyframes must have the same size, but {sizes[0][0]}x{sizes[0][1]} and {different[0]}x{different[1]} "
            f"were given; resize them to one size"
        )
    frames = choices.get("frames")
    if not keys:
        keys, frames = spread_keys(count, frames, choices.get("cut_still"))
    elif frames is None and (last := keys.rpartition(",")[2].strip()).isdecimal():
        frames = int(last) + 1
    return {**choices, "keys": keys, "frames": frames}


def loop(
    model: Model,
    image: PictureLike,
    prompt: str = "",
    *,
    video: ClipLike | None = None,
    mask: PictureLike | None = None,
    control: ControlNet | None = None,
    hints: HintsLike | None = None,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **choices: Unpack[Choices],
) -> Clip:
    """Generate a seamless loop, one frame shorter than ``frames``; everything else as in :func:`animate`."""
    return _make(model, "loop", [image], prompt, choices, video, mask, progress, callback, control, hints)


def views(
    model: Model,
    image: PictureLike,
    guide: ClipLike,
    prompt: str = VIEWS_PROMPT,
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
    **choices: Unpack[Choices],
) -> Clip:
    """Views of the scene of an image, as a guide clip shows it, with ViewCrafter's models.

    ``guide`` is a path or uint8 ``[t, h, w, 3]``, such as :func:`dynamicrafter.camera.guide.render_guide` returns; its
    first frame is replaced by ``image``. Everything else is as in :func:`animate`.
    """
    return _make(model, "views", [image], prompt, choices, guide, None, progress, callback)


def _make(
    model: Model,
    mode: Mode,
    images: Sequence[PictureLike],
    prompt: str,
    choices: Choices,
    video: ClipLike | None,
    mask: PictureLike | None,
    progress: Progress | None,
    callback: Callback | None,
    control: ControlNet | None = None,
    hints: HintsLike | None = None,
) -> Clip:
    """A single clip, after a warning for each note on its settings."""
    _require_loaded(model)
    check_has_hints(control is not None, hints is not None)
    pictures = [as_picture(image) for image in images]
    if mode == "interpolate":
        choices = place_keys(choices, [picture.size for picture in pictures])
    settings = make_settings(model.variant, mode, picture_size=pictures[0].size, prompt=prompt, **choices)
    for note in notes_on(model.variant, settings):
        warnings.warn(note, stacklevel=3)
    return render_each(
        model,
        [settings],
        pictures[:1],
        pictures[-1:] if mode == "interpolate" else None,
        betweens=[pictures[1:-1]],
        videos=None if video is None else [video],
        masks=None if mask is None else [mask],
        control=_control(control, hints, settings),
        progress=progress,
        callback=callback,
    )[0]


def _control(control: ControlNet | None, hints: HintsLike | None, settings: Settings) -> Control | None:
    if control is None or hints is None:
        return None
    return Control(control, read_hints(hints, settings, control.network.hint_channels))


def check_has_hints(control: bool, hints: bool) -> None:
    """Raise UsageError if there is a ControlNet without hints, or hints without one."""
    if control and not hints:
        raise UsageError(
            "a ControlNet needs hints, but none were given; pass a clip of them, or images of chosen frames"
        )
    if hints and not control:
        raise UsageError("hints are for a ControlNet, but none was given; pass one, or omit the hints")


def _require_loaded(model: object) -> None:
    """Raise UsageError if ``model`` is only the name or path of one."""
    if isinstance(model, (str, Path)):
        raise UsageError(
            f"the model must be loaded first, but {str(model)!r} was given; pass load({str(model)!r})"
        )


def notes_on(variant: Variant, settings: Settings) -> list[str]:
    """What a person should know before a clip is generated: a prompt that is truncated, an unusual ``fs``."""
    parts = prompt_parts(settings)
    names = ["prompt"] if len(parts) == 1 else [f"prompt from frame {part.start}" for part in parts]
    return [
        *(text for name, part in zip(names, parts, strict=True) for text in what_is_cut(name, part.text)),
        *what_is_cut("negative prompt", settings.negative),
        *unusual_fs(variant, settings.fs),
        *_without_signal(variant, settings),
    ]


def _without_signal(variant: Variant, settings: Settings) -> list[str]:
    """A note if Analytic-Init changes nothing, because sampling starts from pure noise."""
    if settings.analytic_init and settings.start_time == TRAIN_STEPS and variant.diffusion.zero_snr:
        return [
            f"analytic_init has no effect with start_time {TRAIN_STEPS}, at which {variant.name} has no signal"
        ]
    return []


def what_is_cut(name: str, prompt: str) -> list[str]:
    """A note if ``prompt``, called ``name``, is longer than the model's context."""
    most = TEXT_TOKENS - 2  # All but the start and the end.
    count = count_tokens(prompt)
    if count <= most:
        return []
    return [f"the {name} has {count} tokens and is truncated to the first {most}"]


def save(clip: Clip, path: str | Path) -> Path:
    """Write a clip with its settings; the extension selects the format (.mp4, .webm, .gif, .webp; none: a PNG folder).

    Raises ClipError if that is not possible; no partially written file is left.
    """
    return write_clip(clip.frames, path, clip.settings.fps, clip_metadata(clip.settings))


def _fitted_clip(video: ClipLike, settings: Settings) -> Tensor:
    """The first frames of a clip at the settings' size and length, ``[3, t, H, W]`` in [-1, 1]."""
    if isinstance(video, Tensor):
        check_video_length(len(video), settings)
        frames = iter(video[: settings.frames])
    else:
        source = open_clip(video)
        check_video_length(source.count, settings)
        frames = source.frames(count=settings.frames)
    return _fitted(list(frames), settings).transpose(0, 1)


def check_video_length(frames: int, settings: Settings) -> None:
    """Raise UsageError if a clip to start from, or a guide, is shorter than the one that is generated."""
    if frames < settings.frames:
        what = "guide clip" if settings.mode == "views" else "clip to start from"
        raise UsageError(
            f"the {what} has {frames} frames, but {settings.frames} are generated; use a longer clip, or "
            f"fewer frames"
        )


def check_mask_size(mask: tuple[int, int], image: tuple[int, int]) -> None:
    """Raise UsageError unless both sizes, (width, height) in pixels, are the same."""
    if mask != image:
        raise UsageError(
            f"the mask has {mask[0]}x{mask[1]} pixels, but the image has {image[0]}x{image[1]}; use a mask of the "
            f"image's size"
        )


def _fitted_mask(mask: PictureLike, image: PictureLike, settings: Settings) -> Tensor:
    """A mask at the settings' size, ``[1, H, W]`` from 0 to 1; raises UsageError unless it has the image's size."""
    found = as_picture(mask)
    check_mask_size(found.size, as_picture(image).size)
    return (fit_picture(found, settings.width, settings.height, settings.fit).mean(0, keepdim=True) + 1) / 2


def _fitted(images: Sequence[PictureLike], settings: Settings) -> Tensor:
    """Images at the settings' size, ``[b, 3, H, W]`` in [-1, 1]."""
    return torch.stack(
        [fit_picture(as_picture(image), settings.width, settings.height, settings.fit) for image in images]
    )
