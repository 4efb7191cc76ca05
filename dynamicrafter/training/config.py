"""Training configs: what to train and how, as a TOML or JSON file, either shipped with the package or the user's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from ..bounded_json import parse_json
from ..errors import UsageError
from ..forms import Form, shortened
from ..model.configs import QUANTISED, Quantised
from ..settings import check_seed
from ..toml_text import parse_toml
from .lora import USUAL, Adapted, Adapters
from .losses import DROP
from .options import Option, check_options, settings_of
from .trainer import TrainerConfig

RELEASED = TrainerConfig(learning_rate=1e-5, accumulate=2)
"""The released recipe (TRAINING.md, section 2)."""
_SMALLEST_AREA = 64 * 64

Target = Literal["all", "spatial", "temporal", "image_proj", "lora"]
TrainedMode = Literal["animate", "interpolate"]
Timesteps = Literal["uniform", "high"]
Base = Literal["float32", "bf16", Quantised]


@dataclass(frozen=True)
class SampleConfig:
    """Clips generated during training, with the EMA weights if they are kept."""

    every: Annotated[int, Option("steps between samples; 0 disables them", low=0)] = 0
    pictures: Annotated[
        tuple[str, ...],
        Option(
            "image files, two for each clip of an interpolation; if empty, the first clips of the list are used"
        ),
    ] = ()
    prompts: Annotated[
        tuple[str, ...],
        Option(
            "one prompt for each clip; if empty, prompts are empty, or the captions if clips of the list are used"
        ),
    ] = ()
    count: Annotated[int, Option("number of clips of the list to use if there are no pictures", low=1)] = 1
    steps: Annotated[
        int | None, Option("denoising steps; the model's default if absent", low=1, example=50)
    ] = None
    cfg: Annotated[
        float | None, Option("guidance scale; the model's default if absent", low=0, example=7.5)
    ] = None
    fs: Annotated[
        int | None,
        Option(
            "frame stride or rate; that of the clip, or the model's default, if absent", low=0, example=10
        ),
    ] = None
    seed: Annotated[int, Option("seed of the noise")] = 123

    def __post_init__(self) -> None:
        """Check what can be checked without the images; raises UsageError."""
        check_options(self, "samples.")
        check_seed(self.seed, where=" in samples")


@dataclass(frozen=True)
class DataConfig:
    """One of several data folders."""

    folder: Annotated[str, Option("folder of the clips, relative to the working directory")]
    listing: Annotated[str | None, Option("list of the captions", example="clips/some.csv")] = None
    repeats: Annotated[int, Option("how often each clip counts among the clips of all folders", low=1)] = 1

    def __post_init__(self) -> None:
        """Check the ranges; raises UsageError."""
        check_options(self, "data.")


@dataclass(frozen=True)
class FinetuneConfig:
    """Training of a checkpoint, released or not, on a folder of clips; defaults are those of the released recipe."""

    model: Annotated[str, Option("name or path of the checkpoint to start from")]
    data: Annotated[
        str | tuple[DataConfig, ...],
        Option(
            "folder of the clips, relative to the working directory, or a list of folders with repeats, as in "
            '[{ folder = "clips" }, { folder = "more", repeats = 3 }]'
        ),
    ]
    listing: Annotated[
        str | None,
        Option(
            "list of the captions, a csv or jsonl file, relative to the working directory; captions.csv or "
            "captions.jsonl in the folder if absent",
            example="clips/some.csv",
        ),
    ] = None
    cache: Annotated[
        str | None,
        Option(
            "folder for the encoded clips and captions, which all runs can share; cache in the data folder if absent",
            example="clips/cache",
        ),
    ] = None
    variant: Annotated[
        str | None,
        Option(
            "variant of the model, if its weights are ambiguous, as those of pruned checkpoints are",
            example="512",
        ),
    ] = None
    text_encoder: Annotated[
        str | None,
        Option("file of the CLIP text encoder, if the model does not include it", example="text.safetensors"),
    ] = None
    image_encoder: Annotated[
        str | None,
        Option(
            "file of the CLIP image encoder, if the model does not include it", example="image.safetensors"
        ),
    ] = None
    target: Annotated[
        Target,
        Option(
            "what is trained: everything, the spatial layers, the temporal layers, the image conditioning, or adapters"
        ),
    ] = "lora"
    mode: Annotated[TrainedMode, Option("whether one image is given, or the first and the last")] = "animate"
    rank: Annotated[int, Option("rank of the adapters", low=1)] = 16
    alpha: Annotated[
        float | None,
        Option(
            "the change made by an adapter is multiplied by this over the rank; the rank itself if absent",
            low=0,
            above=True,
            hint="the rank, or half of it, is usual",
            example=8.0,
        ),
    ] = None
    layers: Annotated[
        tuple[Adapted, ...],
        Option(
            "layers with adapters: the spatial attention, the temporal attention, the attention to the image, the "
            "feed-forward layers, the convolutions"
        ),
    ] = USUAL
    dropout: Annotated[
        float,
        Option("share of the inputs of the adapters that is dropped in training", low=0, high=1, below=True),
    ] = 0.0
    start_from: Annotated[
        str | None,
        Option("file of a LoRA to start from, of the same rank and layers", example="lora.safetensors"),
    ] = None
    base: Annotated[
        Base,
        Option(
            "precision in which the frozen weights are kept when adapters are trained; bf16 takes half the memory, and "
            "with precision bf16 it changes no result; int8 and fp8_scaled take a quarter, and the adapters are then "
            "trained on the rounded weights"
        ),
    ] = "float32"
    keep_last: Annotated[
        int | None,
        Option(
            "number of LoRA files of earlier steps to keep, of which one is written at every save; all if absent",
            low=1,
            example=5,
        ),
    ] = None
    frames: Annotated[int, Option("number of frames of an excerpt", low=1)] = 16
    shortest: Annotated[
        int | None,
        Option(
            "clips with fewer frames than an excerpt are used whole if they have at least this many; they are skipped "
            "if absent",
            low=1,
            example=8,
        ),
    ] = None
    area: Annotated[
        int | None,
        Option(
            "pixels per frame; clips are resized to the size of about this area, in multiples of 64, that is nearest "
            "to their aspect ratio; the model's default size for all if absent",
            low=_SMALLEST_AREA,
            hint="64x64 is the smallest size",
            example=512 * 320,
        ),
    ] = None
    strides: Annotated[
        tuple[int, int],
        Option(
            "smallest and largest stride between the frames of an excerpt", low=1, hint="1 and 6 are usual"
        ),
    ] = (1, 6)
    views: Annotated[
        int,
        Option(
            "number of excerpts taken from every clip, each with its own stride, start and condition frame",
            low=1,
        ),
    ] = 1
    random_frame: Annotated[
        bool, Option("whether the condition image is a random frame of the excerpt instead of its first")
    ] = True
    motion_captions: Annotated[
        bool, Option("whether to train on the list's motion text instead of the caption, if there is one")
    ] = False
    batch: Annotated[int, Option("number of excerpts in a batch", low=1)] = 1
    drop: Annotated[
        float,
        Option(
            "share of the samples without text, without image, and without both, each",
            low=0,
            high=1 / 3,
            hint="0.05 is usual",
        ),
    ] = DROP
    timesteps: Annotated[
        Timesteps,
        Option(
            "distribution of timesteps: uniform as released, or mostly high ones, which decide the motion"
        ),
    ] = "uniform"
    time_noise: Annotated[
        float,
        Option(
            "largest deviation of the noise on the latents of the condition image, which tends to be large at high "
            "timesteps (TimeNoise), so that motion is not taken from the image; 0 for none",
            low=0,
            hint="100 is the authors' value for DynamiCrafter",
        ),
    ] = 0.0
    min_snr: Annotated[
        float | None,
        Option(
            "limit of the signal-to-noise ratio in the weights of the loss; no weights if absent",
            low=0,
            above=True,
            hint="5 is usual",
            example=5.0,
        ),
    ] = None
    checkpointing: Annotated[
        bool, Option("recompute activations in the backward pass instead of keeping them")
    ] = True
    block_swap: Annotated[
        int,
        Option(
            "number of blocks of the network, those with the most frozen weights, that keep these in system RAM and "
            "copy them to the device for their forward and their backward pass; needs checkpointing and one process",
            low=0,
        ),
    ] = 0
    held_out: Annotated[
        int,
        Option(
            "number of clips at the end of the list that are kept for validation, at the start and at every save",
            low=0,
        ),
    ] = 0
    trainer: Annotated[TrainerConfig, Option("the optimizer and the training loop")] = field(
        default_factory=lambda: RELEASED
    )
    samples: Annotated[SampleConfig, Option("clips generated during training")] = field(
        default_factory=SampleConfig
    )

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the model; raises UsageError."""
        check_options(self)
        if self.strides[0] > self.strides[1]:
            raise UsageError(
                "strides must be a minimum and a maximum, "
                f"but {self.strides[0]} and {self.strides[1]} were given; 1 and 6 are usual"
            )
        if self.shortest is not None and self.shortest > self.frames:
            raise UsageError(
                f"shortest must be at most frames, {self.frames}, but {self.shortest} was given; use a smaller one"
            )
        if not self.data:
            raise UsageError(
                "data must name a folder, but it is empty; use the folder that contains the clips"
            )
        if self.listing is not None and not isinstance(self.data, str):
            raise UsageError("listing is given for several folders; give each folder in data its own")

        if not self.layers:
            raise UsageError(
                f"layers must name at least one of {', '.join(get_args(Adapted))}, but it is empty"
                "; omit it to train adapters of all attention layers"
            )
        if self.start_from is not None and self.target != "lora":
            raise UsageError(
                f"start_from needs target lora, but it is {self.target}; change it, or leave start_from out"
            )
        if self.base in QUANTISED and self.target != "lora":
            raise UsageError(
                f"base {self.base} needs target lora, but it is {self.target}; change it, or use base float32"
            )
        if self.block_swap and (not self.checkpointing or self.trainer.compile):
            raise UsageError(
                "block_swap needs checkpointing and a network that is not compiled, but checkpointing is "
                f"{str(self.checkpointing).lower()} and compile is {str(self.trainer.compile).lower()}; change them, "
                "or set block_swap to 0"
            )
        if self.block_swap and self.target == "all":
            raise UsageError(
                "block_swap needs frozen weights, but target all trains every weight; change the target, or set "
                "block_swap to 0"
            )
        if self.base == "bf16" and (self.target != "lora" or self.trainer.precision != "bf16"):
            raise UsageError(
                f"base bf16 needs target lora and precision bf16, but they are {self.target} and "
                f"{self.trainer.precision}; change them, or use base float32"
            )

    @property
    def adapters(self) -> Adapters:
        """The adapters of target "lora"."""
        # An alpha that is the rank is the same as none.
        alpha = None if self.alpha == self.rank else self.alpha
        return Adapters(self.rank, alpha, self.layers, self.dropout)

    @property
    def folders(self) -> tuple[DataConfig, ...]:
        """The data folders."""
        return (DataConfig(self.data, self.listing),) if isinstance(self.data, str) else self.data


@dataclass(frozen=True)
class TinyConfig:
    """The recipe of the built-in model, which has no options."""


@dataclass(frozen=True)
class TinyPersonConfig:
    """The recipe of the built-in model of persons, which has no options."""


Config = FinetuneConfig | TinyConfig | TinyPersonConfig
BUILT_IN_RECIPES: dict[str, type[TinyConfig | TinyPersonConfig]] = {
    "tiny": TinyConfig,
    "tiny_person": TinyPersonConfig,
}
"""Recipes without settings by name."""

_RENAMED = {"clip": "max_grad_norm"}
"""New names of settings that were renamed since version 0.1."""


def shipped_configs() -> tuple[str, ...]:
    """Names of the configs shipped with the package."""
    folder = resources.files(__package__ or "") / "configs"
    return tuple(
        sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    )


def load_config(name: str, changes: Sequence[str] = ()) -> Config:
    """Load a shipped config by name, or a TOML or JSON file; raises UsageError that names the problem.

    ``changes`` are settings of the form ``trainer.steps=200``, which replace those of the file.
    """
    if name in shipped_configs():
        text = (resources.files(__package__ or "") / "configs" / f"{name}.json").read_text(encoding="utf-8")
    else:
        try:
            # Windows editors may write a byte order mark.
            text = Path(name).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as problem:
            raise UsageError(f"{name} is not a TOML or JSON file in UTF-8; save it as one") from problem
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"there is no config {name!r}; use a TOML or JSON file, or one of {', '.join(shipped_configs())}"
            ) from problem
    values = _toml(text, name) if Path(name).suffix.lower() == ".toml" else _json(text, name)
    for change in changes:
        _change(values, change)
    return config_from(values, name)


def _json(text: str, name: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = sorted(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        if twice:
            raise UsageError(
                f"{name} has duplicate settings: {shortened(', '.join(twice))}; keep one of each"
            )
        return dict(pairs)

    try:
        values = parse_json(text, once)
    except ValueError as problem:
        raise UsageError(f"{name} is not JSON ({problem}); correct it there") from problem
    if not isinstance(values, dict):
        raise UsageError(f"{name} must contain one JSON object")
    return cast(dict[str, Any], values)


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as problem:
        raise UsageError(
            f"{name} is not TOML ({shortened(str(problem).lower())}); correct it there"
        ) from problem


def _change(values: dict[str, Any], change: str) -> None:
    """Set one value from ``name=value``; a value that is not a string is written as in TOML."""
    name, equals, text = (part.strip() for part in change.partition("="))
    if not (name and equals):
        raise UsageError(
            f"a setting to change must be NAME=VALUE, but {change!r} was given; an example is trainer.steps=200"
        )
    hints = {setting.name: setting.hint for setting in settings_of(FinetuneConfig)}
    hint = hints.get(name, Any)
    *outer, last = name.split(".")
    for key in outer:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{name} cannot be set, since {key} contains no settings; use another name")
        values = cast(dict[str, Any], inner)
    values[last] = _parsed(text, str in (hint, *get_args(hint)) or get_origin(hint) is Literal)


def _parsed(text: str, is_string: bool) -> Any:
    """A value of the command line; as a string unless it can be something else."""
    if text == "null":
        return None
    if is_string and text[:1] not in ('"', "'", "[", "{"):
        return text
    try:
        return _toml(f"value = {text}", "it")["value"]
    except UsageError:
        return text


def config_from(values: Mapping[str, Any], name: str) -> Config:
    """The config described by ``values``; ``name`` is its name in errors."""
    form, rest = Form(name, UsageError), {**values}
    recipe = rest.pop("recipe", None)
    if isinstance(recipe, str) and recipe in BUILT_IN_RECIPES:
        return form.read(BUILT_IN_RECIPES[recipe], rest)
    if recipe != "finetune":
        raise UsageError(
            f"{name} must have a recipe, finetune, tiny or tiny_person, not {shortened(repr(recipe))}"
        )
    for key in ("model", "data"):
        if rest.get(key) == "":
            del rest[key]
    if isinstance(rest.get("trainer"), Mapping):
        rest["trainer"] = _with_new_names(cast(Mapping[str, Any], rest["trainer"]), name)
    return form.read(FinetuneConfig, rest)


def _with_new_names(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``values`` with renamed settings under their current names."""
    for old, new in _RENAMED.items():
        if old in values and new in values:
            raise UsageError(f"{old} in {name} is the former name of {new}, which is also given; keep {new}")
    return {_RENAMED.get(key, key): value for key, value in values.items()}
