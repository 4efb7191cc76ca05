"""Training configs: what to train and how, as a JSON file, either shipped with the package or the user's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from ..bounded_json import parse_json
from ..errors import UsageError
from ..forms import Form, shortened
from ..settings import check_seed
from .losses import DROP
from .trainer import TrainerConfig

RELEASED = TrainerConfig(learning_rate=1e-5, accumulate=2)
"""The released recipe (TRAINING.md, section 2)."""
_SMALLEST_AREA = 64 * 64

Target = Literal["all", "spatial", "temporal", "image_proj", "lora"]
TrainedMode = Literal["animate", "interpolate"]
Timesteps = Literal["uniform", "high"]


@dataclass(frozen=True)
class SampleConfig:
    """Clips generated during training, with the EMA weights if they are kept."""

    every: int = 0
    """Steps between samples; 0 disables them."""
    pictures: tuple[str, ...] = ()
    """Image files; two for each clip of an interpolation. If empty, the first clips of the list are used."""
    prompts: tuple[str, ...] = ()
    """One for each clip; if empty, prompts are empty, or the captions if clips of the list are used."""
    count: int = 1
    """Number of clips of the list to use if no ``pictures`` are given."""
    steps: int | None = None
    """Denoising steps; None uses the model's default, here and for the guidance scale and fs."""
    cfg: float | None = None
    fs: int | None = None
    seed: int = 123

    def __post_init__(self) -> None:
        """Check what can be checked without the images; raises UsageError."""
        if self.every < 0 or self.count < 1:
            raise UsageError(
                f"samples need every at least 0 (none) and count at least 1, not {self.every} and {self.count}"
            )
        check_seed(self.seed, where=" in samples")


@dataclass(frozen=True)
class FinetuneConfig:
    """Training of a checkpoint, released or not, on a folder of clips; defaults are those of the released recipe."""

    model: str
    """Name or path of the checkpoint to start from."""
    data: str
    """Folder of the clips, relative to the working directory."""
    listing: str | None = None
    """csv or jsonl file with the captions, relative to the working directory; None uses captions.csv or captions.jsonl
    in the folder."""
    variant: str | None = None
    """Variant of the model, if its weights are ambiguous, as those of pruned checkpoints are."""
    text_encoder: str | None = None
    image_encoder: str | None = None
    """Files of the CLIP encoders, if the model does not include them."""
    target: Target = "lora"
    """What is trained: everything, the spatial layers, the temporal layers, the image conditioning, or adapters."""
    mode: TrainedMode = "animate"
    rank: int = 16
    """Rank of the adapters."""
    frames: int = 16
    area: int | None = None
    """Pixels per frame; clips are resized to the size of about this area, in multiples of 64, that is nearest to their
    aspect ratio. None uses the model's default size for all."""
    strides: tuple[int, int] = (1, 6)
    views: int = 1
    """Number of excerpts taken from every clip, each with its own stride, start and condition frame."""
    random_frame: bool = True
    """Whether the condition image is a random frame of the excerpt instead of its first."""
    motion_captions: bool = False
    """Whether to train on the list's ``motion`` text instead of the caption, if there is one."""
    batch: int = 1
    drop: float = DROP
    timesteps: Timesteps = "uniform"
    """Distribution of timesteps: uniform as released, or mostly high ones, which decide the motion."""
    min_snr: float | None = None
    checkpointing: bool = True
    """Recompute activations in the backward pass instead of keeping them."""
    held_out: int = 0
    """Number of clips at the end of the list that are kept for validation at every save."""
    samples: SampleConfig = field(default_factory=SampleConfig)
    trainer: TrainerConfig = field(default_factory=lambda: RELEASED)

    def __post_init__(self) -> None:
        """Check the ranges that do not depend on the model; raises UsageError."""
        for name, least in (("frames", 1), ("batch", 1), ("views", 1), ("rank", 1), ("held_out", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, but {getattr(self, name)} was given")
        if not 1 <= self.strides[0] <= self.strides[1]:
            raise UsageError(
                "strides must be a minimum and a maximum, each at least 1, "
                f"but {self.strides[0]} and {self.strides[1]} were given; 1 and 6 are usual"
            )
        if self.area is not None and self.area < _SMALLEST_AREA:
            raise UsageError(
                f"area must be at least {_SMALLEST_AREA} pixels (64x64), but {self.area} was given; "
                "null uses the model's default size"
            )
        if not 0 <= self.drop <= 1 / 3:
            raise UsageError(
                f"drop must be 0 to 1/3, the share of each of text, both and image, but {self.drop} was given"
            )
        if self.min_snr is not None and not 0 < self.min_snr < math.inf:
            raise UsageError(
                f"min_snr must be above 0, but {self.min_snr} was given; 5 is usual, and null switches it off"
            )


@dataclass(frozen=True)
class TinyConfig:
    """The recipe of the built-in model, which has no options."""


Config = FinetuneConfig | TinyConfig

_RENAMED = {"clip": "max_grad_norm"}
"""New names of settings that were renamed since version 0.1."""


def shipped_configs() -> tuple[str, ...]:
    """Names of the configs shipped with the package."""
    folder = resources.files(__package__ or "") / "configs"
    return tuple(
        sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    )


def load_config(name: str) -> Config:
    """Load a shipped config by name, or a JSON file; raises UsageError that names the problem."""
    if name in shipped_configs():
        text = (resources.files(__package__ or "") / "configs" / f"{name}.json").read_text(encoding="utf-8")
    else:
        try:
            # Windows editors may write a byte order mark.
            text = Path(name).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as problem:
            raise UsageError(f"{name} is not a JSON file in UTF-8; save it as one") from problem
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"there is no config {name!r}; use a JSON file, or one of {', '.join(shipped_configs())}"
            ) from problem

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
    return config_from(cast(dict[str, Any], values), name)


def config_from(values: Mapping[str, Any], name: str) -> Config:
    """The config described by ``values``; ``name`` is its name in errors."""
    form, rest = Form(name, UsageError), {**values}
    recipe = rest.pop("recipe", None)
    if recipe == "tiny":
        return form.read(TinyConfig, rest)
    if recipe != "finetune":
        raise UsageError(f"{name} must have a recipe, finetune or tiny, not {shortened(repr(recipe))}")
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
