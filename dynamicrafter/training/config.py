"""What to train and how, as one JSON file: a shipped one by name, or one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..errors import UsageError
from .losses import DROP
from .trainer import TrainerConfig

Target = Literal["all", "spatial", "temporal", "image_proj", "lora"]
TrainedMode = Literal["animate", "interpolate"]
Timesteps = Literal["uniform", "high"]


@dataclass(frozen=True)
class SampleConfig:
    """Clips that are made during training, with the running mean of the weights if one is kept."""

    every: int = 0
    """Steps between them; 0 makes none."""
    pictures: tuple[str, ...] = ()
    """Picture files; two for each clip of an interpolation. None takes the first clips of the list."""
    prompts: tuple[str, ...] = ()
    """One for each clip; none leaves them empty, or takes the captions of the list's clips."""
    count: int = 1
    """How many clips of the list are taken where no pictures are given."""
    steps: int | None = None
    """Denoising steps; None takes the model's own number, as do the guidance scale and fs."""
    cfg: float | None = None
    fs: int | None = None
    seed: int = 123

    def __post_init__(self) -> None:
        """Check what can be told without the pictures; raises UsageError."""
        if self.every < 0 or self.count < 1:
            raise UsageError(
                f"samples need every at least 0 (none) and count at least 1, not {self.every} and {self.count}"
            )


@dataclass(frozen=True)
class FinetuneConfig:
    """Training of a released (or any other) checkpoint on a folder of clips; defaults are the released recipe's."""

    model: str
    """Name or path of the checkpoint to start from."""
    data: str
    """Folder of the clips; a relative one is relative to where the program is started."""
    listing: str | None = None
    """csv or jsonl with the captions; None takes captions.csv or captions.jsonl of the folder."""
    target: Target = "lora"
    """What is trained: everything, the layers over space, those over time, the picture's path, or adapters."""
    mode: TrainedMode = "animate"
    rank: int = 16
    """Of the adapters."""
    frames: int = 16
    area: int | None = None
    """Pixels of a frame; clips go to the multiple of 64 of that area that is nearest to their shape. None takes the
    model's own size for all."""
    strides: tuple[int, int] = (1, 6)
    views: int = 1
    """Stretches that are taken of every clip, each with its own stride, start and condition frame."""
    random_frame: bool = True
    """Whether the picture condition is a random frame of the stretch, or its first."""
    motion_captions: bool = False
    """Whether to train on the list's ``motion`` wording where there is one."""
    batch: int = 1
    drop: float = DROP
    timesteps: Timesteps = "uniform"
    """How noisy samples are: every level alike as released, or mostly high, where it is decided what will happen."""
    min_snr: float | None = None
    checkpointing: bool = True
    """Recompute activations in the backward pass instead of keeping them."""
    held_out: int = 0
    """Clips at the end of the list that are not trained on, but measured at every save."""
    samples: SampleConfig = field(default_factory=SampleConfig)
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(learning_rate=1e-5, accumulate=2))


@dataclass(frozen=True)
class TinyConfig:
    """The recipe of the built-in model, which has no choices."""


Config = FinetuneConfig | TinyConfig


def shipped_configs() -> tuple[str, ...]:
    """Names of the configs that come with the package."""
    folder = resources.files(__package__ or "") / "configs"
    return tuple(
        sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    )


def load_config(name: str) -> Config:
    """The config of a shipped name or of a JSON file; raises UsageError that names what is wrong with it."""
    if name in shipped_configs():
        text = (resources.files(__package__ or "") / "configs" / f"{name}.json").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise UsageError(
                f"there is no config {name!r}; give a JSON file, or one of {', '.join(shipped_configs())}"
            ) from problem
    try:
        values = json.loads(text)
    except json.JSONDecodeError as problem:
        raise UsageError(f"{name} is not JSON ({problem})") from problem
    if not isinstance(values, dict):
        raise UsageError(f"{name} must hold one JSON object")
    return config_from(cast(dict[str, Any], values), name)


def config_from(values: Mapping[str, Any], name: str) -> Config:
    """The config that ``values`` describe; ``name`` is what errors call it."""
    rest = {key: value for key, value in values.items() if key != "recipe"}
    recipe = values.get("recipe")
    if recipe == "tiny":
        return TinyConfig(**_fitting(TinyConfig, rest, name))
    if recipe != "finetune":
        raise UsageError(f"{name} must have a recipe, finetune or tiny, not {recipe!r}")
    plain = _fitting(FinetuneConfig, rest, name)
    missing = [key for key in ("model", "data") if not plain.get(key)]
    if missing:
        raise UsageError(f"{name} must say {' and '.join(missing)}")
    for key, choices in (
        ("target", get_args(Target)),
        ("mode", get_args(TrainedMode)),
        ("timesteps", get_args(Timesteps)),
    ):
        if key in plain and plain[key] not in choices:
            raise UsageError(f"{key} in {name} must be one of {', '.join(choices)}, not {plain[key]!r}")
    for key, kind in (("trainer", TrainerConfig), ("samples", SampleConfig)):
        if key in plain:
            inner = plain[key]
            if not isinstance(inner, dict):
                raise UsageError(f"{key} in {name} must be an object with settings of its own, not {inner!r}")
            plain[key] = kind(**_fitting(kind, cast(dict[str, Any], inner), name))
    return FinetuneConfig(**plain)


def _fitting(kind: type, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``values`` with lists as tuples, after their keys were compared with the fields of ``kind``."""
    unknown = sorted(set(values) - {item.name for item in fields(kind)})
    if unknown:
        raise UsageError(f"{name} has unknown settings: {', '.join(unknown)}")
    return {key: tuple(cast(list[Any], v)) if isinstance(v, list) else v for key, v in values.items()}
