"""Everything that can be chosen for a clip, written once: the command's options, the nodes' inputs, the tables of the
docs and the checks of Settings are made from this table. Free of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from .diffusion.config import SAMPLER_MEANINGS
from .errors import UsageError
from .model.configs import LATENT_FACTOR
from .model.variants import Preset

Group = Literal["content", "shape", "sampling", "output"]
"""What should happen, the clip's size, how it is sampled, and how it is written."""

SIZE_STEP = 8 * LATENT_FACTOR
"""Sizes are multiples of this: the autoencoder halves three times and the network three times more."""


@dataclass(frozen=True)
class Parameter:
    """One thing to choose; its texts begin in lower case and have no full stop, so that each front end can use them."""

    name: str
    """In Python; the same in Settings, in a stored clip and, with hyphens, on the command line."""
    kind: type[str] | type[int] | type[float]
    group: Group
    label: str
    """Two or three words, for a table or a form."""
    meaning: str
    hint: str = ""
    """What helps to choose a value, for a help text and for the error about a wrong one."""
    default: str | int | float | None = None
    """What a form shows at first; None: the choice is left to ``own``."""
    own: str = "the model's own value"
    """What None stands for."""
    preset: bool = False
    """Whether the variant's preset decides where nothing is chosen; otherwise ``default`` does."""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    """Whole numbers must be a multiple of it; of a fraction it is what one press of an arrow changes."""
    unit: str = ""
    choices: Mapping[str, str] = field(default_factory=dict[str, str])
    """Allowed texts, each with what it does."""
    advanced: bool = False
    """Whether forms may fold it away."""

    @property
    def description(self) -> str:
        """The meaning with the unit, what each choice does and the hint."""
        does = ", ".join(f"{name} ({text})" for name, text in self.choices.items())
        parts = (
            self.meaning,
            self.unit and f", in {self.unit}",
            self.multiple and f", a multiple of {self.multiple}",
            does and f": {does}",
            self.hint and f"; {self.hint}",
        )
        return "".join(part for part in parts if part)

    @property
    def multiple(self) -> int:
        """What values must be a multiple of; 0 for no such rule."""
        return int(self.step or 0) if self.kind is int else 0

    @property
    def wanted(self) -> str:
        """The allowed values, for "NAME must be ..."."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is None or self.high is None:
            return "a text"
        multiple = f"a multiple of {self.multiple} from " if self.multiple else ""
        return f"{multiple}{self.low:g} to {_in_words(self.high)}"

    def check(self, value: object, otherwise: str = "") -> None:
        """Raise UsageError unless ``value`` is allowed; ``otherwise`` tells what else the front end takes."""
        if self._allows(value):
            return
        hint = self.hint
        if self.multiple and isinstance(value, int) and self.low and self.high:
            nearest = round(value / self.multiple) * self.multiple
            hint = f"the nearest is {min(max(self.low, nearest), self.high):g}"
        more = f"; {hint}" if hint else ""
        raise UsageError(f"{self.name} must be {self.wanted}{otherwise}, but {value!r} was given{more}")

    def _allows(self, value: object) -> bool:
        if value is None:
            # Finished settings leave one thing open: a scale that follows another one.
            return self.default is None and not self.preset
        if self.kind is str:
            return isinstance(value, str) and (not self.choices or value in self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        if self.multiple and value % self.multiple:
            return False
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def _in_words(number: float) -> str:
    """A number as people write it: the largest seed as a power of two."""
    whole = int(number)
    if whole > 2**31 and (whole + 1) & whole == 0:
        return f"2^{whole.bit_length()} - 1"
    return f"{number:g}"


_TABLE = (
    Parameter("prompt", str, "content", "Prompt", "what should happen, in English", default=""),
    Parameter(
        "negative",
        str,
        "content",
        "Negative prompt",
        "what should not happen; the models were trained with an empty one",
        default="",
    ),
    Parameter(
        "frames",
        int,
        "content",
        "Length",
        "length of the clip",
        hint="the models were trained on 16 and are best at that",
        default=Preset.frames,
        preset=True,
        low=1,
        high=1024,
        unit="frames",
    ),
    Parameter(
        "motion",
        float,
        "content",
        "Motion",
        "how much moves, from still (0) to lively (1)",
        low=0,
        high=1,
        step=0.05,
    ),
    Parameter(
        "fs",
        int,
        "content",
        "Frame stride or rate",
        "the number behind motion: the 256 model takes a frame stride (1 to 6, more is livelier), all others take "
        "frames per second (5 to 30, less is livelier)",
        hint="motion is the simpler choice",
        own="the one that motion gives",
        preset=True,
        low=0,
        high=1000,
        advanced=True,
    ),
    Parameter(
        "width",
        int,
        "shape",
        "Width",
        "width of the clip",
        own="the model's own size, turned upright for an upright picture",
        preset=True,
        low=SIZE_STEP,
        high=4096,
        step=SIZE_STEP,
        unit="pixels",
    ),
    Parameter(
        "height",
        int,
        "shape",
        "Height",
        "height of the clip",
        own="the model's own size, turned upright for an upright picture",
        preset=True,
        low=SIZE_STEP,
        high=4096,
        step=SIZE_STEP,
        unit="pixels",
    ),
    Parameter(
        "fit",
        str,
        "shape",
        "Fit",
        "how a picture of another shape is brought to size",
        default="crop",
        choices={
            "crop": "fills the frame and cuts the rest off",
            "pad": "shows all of it between black bars",
            "stretch": "distorts it",
        },
    ),
    Parameter(
        "seed",
        int,
        "sampling",
        "Seed",
        "which noise the clip starts from: another seed gives another clip",
        default=123,
        low=0,
        high=2**63 - 1,
    ),
    Parameter(
        "steps",
        int,
        "sampling",
        "Steps",
        "number of denoising steps: more is finer and slower",
        hint="25 to 50 are usual for released models",
        preset=True,
        low=1,
        high=1000,
    ),
    Parameter(
        "cfg",
        float,
        "sampling",
        "Guidance",
        "guidance scale, how strongly prompt and picture are followed",
        hint="1 switches guidance off, which halves the time",
        preset=True,
        low=0,
        high=100,
        step=0.1,
    ),
    Parameter(
        "eta",
        float,
        "sampling",
        "Fresh noise",
        "fresh noise in each step, from none (0, deterministic) to as much as in DDPM (1)",
        preset=True,
        low=0,
        high=1,
        step=0.05,
    ),
    Parameter(
        "image_cfg",
        float,
        "sampling",
        "Picture guidance",
        "guidance scale of the picture alone, cfg then being the prompt's; takes half as much time again",
        own="the value of cfg",
        low=0,
        high=100,
        step=0.1,
        advanced=True,
    ),
    Parameter(
        "guidance_rescale",
        float,
        "sampling",
        "Guidance rescale",
        "how far contrast is pulled back against over-exposure by a high cfg; 0 switches it off",
        preset=True,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "spacing",
        str,
        "sampling",
        "Spacing",
        "which of the 1000 noise levels the steps visit",
        preset=True,
        choices={
            "uniform": "from the least noise up",
            "uniform_trailing": "from the most noise down",
            "linspace": "evenly from one end to the other",
        },
        advanced=True,
    ),
    Parameter(
        "sampler",
        str,
        "sampling",
        "Sampler",
        "how noise is turned into latents",
        default="ddim",
        choices=SAMPLER_MEANINGS,
        advanced=True,
    ),
    Parameter(
        "noise_device",
        str,
        "sampling",
        "Noise device",
        "where noise is drawn",
        default="cpu",
        choices={"cpu": "a seed gives the same noise on every device", "device": "where the model is"},
        advanced=True,
    ),
    Parameter(
        "fps",
        int,
        "output",
        "Playback rate",
        "rate at which the clip plays",
        default=Preset.fps,
        preset=True,
        low=1,
        high=240,
        unit="frames per second",
    ),
)

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}
"""By name, in the order in which front ends show them; ``motion`` is another way to say ``fs``."""


def of_group(group: Group) -> Iterator[Parameter]:
    """The parameters of one group, in order."""
    return (parameter for parameter in PARAMETERS.values() if parameter.group == group)
