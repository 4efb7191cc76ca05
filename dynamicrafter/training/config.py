"""What to train and how, as one JSON file: a shipped one by name, or one's own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

from ..bounded_json import parse_json
from ..errors import UsageError
from ..forms import fits, in_words, with_tuples
from ..settings import check_seed
from .losses import DROP
from .trainer import TrainerConfig

RELEASED = TrainerConfig(learning_rate=1e-5, accumulate=2)
"""What the released recipe says (TRAINING.md, section 2)."""
_SMALLEST_AREA = 64 * 64

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
        check_seed(self.seed, where=" in samples")


@dataclass(frozen=True)
class FinetuneConfig:
    """Training of a released (or any other) checkpoint on a folder of clips; defaults are the released recipe's."""

    model: str
    """Name or path of the checkpoint to start from."""
    data: str
    """Folder of the clips; a relative one is relative to where the program is started."""
    listing: str | None = None
    """csv or jsonl with the captions, relative to where the program is started as well; None takes captions.csv or
    captions.jsonl of the folder."""
    variant: str | None = None
    """Of the model, where its weights cannot tell, as pruned ones; so ``--variant`` of the other commands."""
    text_encoder: str | None = None
    image_encoder: str | None = None
    """Files of the CLIP towers, where the model comes without."""
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
    trainer: TrainerConfig = field(default_factory=lambda: RELEASED)

    def __post_init__(self) -> None:
        """Check the ranges that no model is needed for; raises UsageError."""
        for name, least in (("frames", 1), ("batch", 1), ("views", 1), ("rank", 1), ("held_out", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, but {getattr(self, name)} was given")
        if not 1 <= self.strides[0] <= self.strides[1]:
            raise UsageError(
                "strides must be the smallest and the largest, from 1 up, "
                f"but {self.strides[0]} and {self.strides[1]} were given; 1 and 6 are usual"
            )
        if self.area is not None and self.area < _SMALLEST_AREA:
            raise UsageError(
                f"area must be at least {_SMALLEST_AREA} pixels (64x64), but {self.area} was given; "
                "null takes the model's own size"
            )
        if not 0 <= self.drop <= 1 / 3:
            raise UsageError(
                f"drop must be 0 to 1/3, the share each of text, both and picture, but {self.drop} was given"
            )
        if self.min_snr is not None and not 0 < self.min_snr < math.inf:
            raise UsageError(
                f"min_snr must be above 0, but {self.min_snr} was given; 5 is usual, and null switches it off"
            )


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
            # Editors of Windows put a mark before the text.
            text = Path(name).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as problem:
            raise UsageError(f"{name} is not a JSON file in UTF-8; save it as one") from problem
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"there is no config {name!r}; give a JSON file, or one of {', '.join(shipped_configs())}"
            ) from problem

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = sorted(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        if twice:
            raise UsageError(
                f"{name} has settings that are given twice: {_short(', '.join(twice))}; keep one of each"
            )
        return dict(pairs)

    try:
        values = parse_json(text, once)
    except ValueError as problem:
        raise UsageError(f"{name} is not JSON ({problem}); correct it there") from problem
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
        raise UsageError(f"{name} must have a recipe, finetune or tiny, not {_short(repr(recipe))}")
    plain = _fitting(FinetuneConfig, rest, name)
    missing = [key for key in ("model", "data") if not plain.get(key)]
    if missing:
        raise UsageError(f"{name} must say {' and '.join(missing)}")
    # What is left out of an inner object is what it is where the whole object is left out.
    for key, usual in (("trainer", RELEASED), ("samples", SampleConfig())):
        if key in plain:
            inner = plain[key]
            if not isinstance(inner, dict):
                raise UsageError(
                    f"{key} in {name} must be an object with settings of its own, not {_short(repr(inner))}"
                )
            plain[key] = replace(usual, **_fitting(type(usual), cast(dict[str, Any], inner), name))
    return FinetuneConfig(**plain)


def _fitting(kind: type, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``values`` with lists as tuples, after their keys and types were compared with the fields of ``kind``."""
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UsageError(f"{name} has unknown settings: {_short(', '.join(unknown))}")
    plain = {key: with_tuples(value) for key, value in values.items()}
    for key, value in plain.items():
        if not is_dataclass(hints[key]) and not fits(hints[key], value):
            raise UsageError(
                f"{key} in {name} must be {in_words(hints[key])}, not {_short(repr(values[key]))}"
            )
    return plain


def _short(text: str) -> str:
    """``text`` for a sentence, whatever a file held."""
    return text if len(text) <= 200 else f"{text[:200]}..."
