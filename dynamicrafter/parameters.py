"""All parameters of a clip, defined once: the command's options, the nodes' inputs, the tables in the docs and the
checks of Settings are generated from this table. Does not import PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, TypeGuard

from .diffusion.config import SAMPLER_MEANINGS
from .errors import UsageError
from .model.configs import LATENT_FACTOR
from .model.variants import Preset

Group = Literal["content", "length", "shape", "sampling", "techniques", "control", "faithfulness", "output"]
"""What happens in the clip, how it gets its length, its size, how it is sampled, with which additions to that, how it
follows the hints of a ControlNet, how true it stays to its images, and how it is written."""

SIZE_STEP = 8 * LATENT_FACTOR
"""Sizes are multiples of this: the autoencoder downsamples by 8 and the network by another 8."""


TRAINED_FRAMES = Preset.frames
"""Length of the clips that the models were trained on, and of a window."""


@dataclass(frozen=True)
class Parameter:
    """One parameter; its texts start in lower case and have no full stop, so that every front end can embed them."""

    name: str
    """As in Settings, in the metadata of a clip and, with hyphens, on the command line."""
    kind: type[str] | type[int] | type[float]
    group: Group
    label: str
    """Two or three words, for a table or a form."""
    meaning: str
    hint: str = ""
    """Advice on choosing a value, for help texts and for the error about an invalid one."""
    default: str | int | float | None = None
    """Initial value in a form; None means ``own``."""
    own: str = "the model's default"
    """Description of what None selects."""
    preset: bool = False
    """Whether an unset value comes from the variant's preset; otherwise it is ``default``."""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    """Integers must be a multiple of it; for floats it is the increment of a form's arrow buttons."""
    unit: str = ""
    choices: Mapping[str, str] = field(default_factory=dict[str, str])
    """Allowed strings, each with what it does."""
    numbers: tuple[int, int] | None = None
    """If the string is a list of numbers separated by commas: how few and how many of them. The range, if any, is that
    of each number; ``default`` and ``choices`` are allowed as well."""
    advanced: bool = False
    """Whether forms may hide it by default."""

    @property
    def description(self) -> str:
        """The meaning, followed by the unit, the choices and the hint."""
        does = ", ".join(f"{name} ({text})" for name, text in self.choices.items())
        parts = (
            self.meaning,
            self.unit and self.unit not in self.meaning and f", in {self.unit}",
            self.multiple and f", a multiple of {self.multiple}",
            does and f": {does}",
            self.hint and f"; {self.hint}",
        )
        return "".join(part for part in parts if part)

    @property
    def multiple(self) -> int:
        """The number that values must be a multiple of; 0 if there is none."""
        return int(self.step or 0) if self.kind is int else 0

    @property
    def wanted(self) -> str:
        """The allowed values, for "NAME must be ..."."""
        if self.numbers:
            few, many = self.numbers
            count = f"{few}" if few == many else f"{few} to {many}"
            span = "" if self.low is None or self.high is None else f" from {self.low:g} to {self.high:g}"
            words = "".join(f"{name} or " for name in self.choices)
            return f"{words}{count} numbers{span}, separated by commas"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is None or self.high is None:
            return "a string"
        multiple = f"a multiple of {self.multiple} from " if self.multiple else ""
        return f"{multiple}{self.low:g} to {_in_words(self.high)}"

    def check(self, value: object, otherwise: str = "") -> str | int | float | None:
        """``value``, as a plain Python number if it is one of another library, such as ``numpy.int64``.

        Raises UsageError unless it is allowed; ``otherwise`` names what else the front end accepts.
        """
        value = _plain(value)
        if self._fits(value) and self._allows(value):
            return value
        hint = self.hint
        if self.multiple and isinstance(value, int) and self.low and self.high:
            hint = f"the nearest valid value is {self.nearest(value)}"
        more = f"; {hint}" if hint else ""
        # A value of another type may be within the range, so the range alone would not say what is wrong.
        kind = "" if self._fits(value) or self.kind is str or self.multiple else f"{_KINDS[self.kind]} from "
        raise UsageError(f"{self.name} must be {kind}{self.wanted}{otherwise}, but {value!r} was given{more}")

    def nearest(self, value: float) -> int:
        """The valid integer nearest to ``value``."""
        step = self.multiple or 1
        low, high = self.low or 0, self.high or 0
        return int(min(max(low, round(value / step) * step), high))

    def _fits(self, value: object) -> TypeGuard[str | int | float | None]:
        """Whether ``value`` has the right type."""
        if value is None:
            # In complete settings, only a scale that follows another one may be None.
            return self.default is None and not self.preset
        if isinstance(value, bool):
            return False
        return isinstance(value, (int, float) if self.kind is float else self.kind)

    def _allows(self, value: str | int | float | None) -> bool:
        """Whether ``value``, which has the right type, is a choice or within the range."""
        if value is None:
            return True
        if isinstance(value, str):
            if self.numbers and value != self.default and value not in self.choices:
                return self._lists(value, *self.numbers)
            return not self.choices or value in self.choices or bool(self.numbers)
        if self.multiple and value % self.multiple:
            return False
        return self.low is not None and self.high is not None and self.low <= value <= self.high

    def _lists(self, text: str, few: int, many: int) -> bool:
        """Whether ``text`` is a list of ``few`` to ``many`` finite numbers, each within the range."""
        try:
            values = numbers_in(text)
        except ValueError:
            return False
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return few <= len(values) <= many and all(
            low <= value <= high and math.isfinite(value) for value in values
        )


def numbers_in(text: str) -> list[float]:
    """The numbers of a list separated by commas; raises ValueError if one is none."""
    return [float(part) for part in text.split(",")]


_KINDS: dict[type, str] = {int: "an integer", float: "a number"}


def _plain(value: object) -> object:
    """A number of any library as an int or a float; everything else unchanged."""
    if isinstance(value, (bool, int, float)):
        # numpy.float64 is a float, but is not shown as one.
        return float(value) if isinstance(value, float) else value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _in_words(number: float) -> str:
    """A readable number: the largest seed is written as a power of two."""
    whole = int(number)
    if whole > 2**31 and (whole + 1) & whole == 0:
        return f"2^{whole.bit_length()} - 1"
    return f"{number:g}"


def _size(name: Literal["width", "height"]) -> Parameter:
    return Parameter(
        name,
        int,
        "shape",
        name.capitalize(),
        f"{name} of the clip",
        own="the model's default size, swapped for portrait images",
        preset=True,
        low=SIZE_STEP,
        high=4096,
        step=SIZE_STEP,
        unit="pixels",
    )


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
        hint="the models were trained on 16 and work best at that length",
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
        "amount of motion, from 0 (still) to 1 (lively)",
        low=0,
        high=1,
        step=0.05,
    ),
    Parameter(
        "fs",
        int,
        "content",
        "Frame stride or rate",
        "the value the network is conditioned on: a frame stride for the 256 model (1 to 6, higher is livelier), "
        "frames per second for all others (5 to 30, lower is livelier)",
        hint="motion is simpler to use",
        own="the value set by motion",
        preset=True,
        low=0,
        high=1000,
        advanced=True,
    ),
    Parameter(
        "length_method",
        str,
        "length",
        "Length method",
        "how a length is reached for which the models were not trained",
        default="native",
        choices={
            "native": "all frames at once",
            "continue": "clips of 16 frames, each continuing from the end of the one before",
            "windows": "overlapping windows of 16 frames, blended at every step, each beginning with the image",
            "pick": "16 frames, of which fewer are picked evenly",
        },
        hint="continue is for motion that travels, windows for loops and motion that returns",
        advanced=True,
    ),
    Parameter(
        "overlap",
        int,
        "length",
        "Overlap",
        "number of frames that neighbouring windows share, or over which a continued clip is cross-faded",
        hint="a window has 16 frames, of which at least one must be its own",
        own="4 with windows, 0 with continue",
        low=0,
        high=TRAINED_FRAMES - 1,
        unit="frames",
        advanced=True,
    ),
    Parameter(
        "continue_from",
        int,
        "length",
        "Continue from",
        "continue from the sharpest of this many last frames; 1 is the last frame",
        default=1,
        low=1,
        high=TRAINED_FRAMES // 2,
        unit="frames",
        advanced=True,
    ),
    Parameter(
        "reanchor",
        int,
        "length",
        "Re-anchor",
        "every how many continued clips the network sees the first image again, through the image encoder; 0 is never",
        default=0,
        low=0,
        high=64,
        unit="clips",
        advanced=True,
    ),
    Parameter(
        "keys",
        str,
        "length",
        "Keyframes",
        "the frames at which the images of an interpolation stand, from 0 to the last one, such as 0,15,40",
        hint="empty spaces them evenly",
        default="",
        advanced=True,
    ),
    Parameter(
        "cut_still",
        int,
        "length",
        "Cut still frames",
        "number of nearly still frames that are cut on each side of a keyframe between others",
        default=0,
        low=0,
        high=6,
        unit="frames",
        advanced=True,
    ),
    _size("width"),
    _size("height"),
    Parameter(
        "fit",
        str,
        "shape",
        "Fit",
        "how an image with a different aspect ratio is resized",
        default="crop",
        choices={
            "crop": "fills the frame and cuts off the rest",
            "pad": "adds black bars",
            "stretch": "changes the aspect ratio",
        },
    ),
    Parameter(
        "seed",
        int,
        "sampling",
        "Seed",
        "seed of the noise; a different seed gives a different clip",
        default=123,
        low=0,
        high=2**63 - 1,
    ),
    Parameter(
        "steps",
        int,
        "sampling",
        "Steps",
        "number of denoising steps; more steps give finer detail and take longer",
        hint="25 to 50 are typical for released models",
        preset=True,
        low=1,
        high=1000,
    ),
    Parameter(
        "cfg",
        float,
        "sampling",
        "Guidance",
        "guidance scale for prompt and image",
        hint="1 disables guidance and is twice as fast",
        preset=True,
        low=0,
        high=100,
        step=0.1,
    ),
    Parameter(
        "eta",
        float,
        "sampling",
        "Added noise",
        "noise added at each step, from 0 (none, deterministic) to 1 (as in DDPM)",
        hint="for ddim and dpmpp_2m_sde; 0 with all other samplers",
        preset=True,
        low=0,
        high=1,
        step=0.05,
    ),
    Parameter(
        "image_cfg",
        float,
        "sampling",
        "Image guidance",
        "separate guidance scale for the image; cfg then applies to the prompt; takes 1.5 times as long",
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
        "how strongly contrast is reduced to counter over-exposure from a high cfg; 0 disables it",
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
        "which of the 1000 noise levels are visited",
        preset=True,
        choices={
            "uniform": "counts up from the lowest level",
            "uniform_trailing": "counts down from the highest level",
            "linspace": "spans the full range evenly",
        },
        advanced=True,
    ),
    Parameter(
        "sampler",
        str,
        "sampling",
        "Sampler",
        "sampling algorithm",
        default="ddim",
        choices=SAMPLER_MEANINGS,
        advanced=True,
    ),
    Parameter(
        "noise_device",
        str,
        "sampling",
        "Noise device",
        "where noise is generated",
        default="cpu",
        choices={"cpu": "a seed gives the same noise on every device", "device": "the model's device"},
        advanced=True,
    ),
    Parameter(
        "guidance_start",
        float,
        "sampling",
        "Guidance start",
        "fraction of the steps before guidance begins; steps outside its interval take one evaluation",
        default=0.0,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "guidance_end",
        float,
        "sampling",
        "Guidance end",
        "fraction of the steps after which guidance ends",
        default=1.0,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "colour_match",
        float,
        "faithfulness",
        "Colour match",
        "how strongly colours and brightness are matched to the image and kept from drifting, from 0 (not at all) to 1",
        default=0.0,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "lock_frames",
        int,
        "faithfulness",
        "First-frame lock",
        "number of frames over which the clip departs from the image itself, its first frame; 0 keeps the first frame "
        "as generated",
        default=0,
        low=0,
        high=TRAINED_FRAMES,
        unit="frames",
        advanced=True,
    ),
    Parameter(
        "denoise",
        float,
        "techniques",
        "Denoise",
        "fraction of the steps that is run, starting from the source clip with noise added; without a source clip, "
        "from the image held still",
        hint="1 starts from noise alone",
        default=1.0,
        low=0.01,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "cfg_steps",
        str,
        "techniques",
        "Guidance over steps",
        "guidance over the steps as factors of its strength (scale - 1), evenly spaced from the first step to the "
        "last",
        hint="0 is no guidance; such steps take one evaluation, besides those of STG and PAG",
        default="1",
        low=0,
        high=4,
        numbers=(1, 64),
        advanced=True,
    ),
    Parameter(
        "cfg_frames",
        str,
        "techniques",
        "Guidance over frames",
        "the same over the frames, from the first to the last; both factors are multiplied",
        default="1",
        low=0,
        high=4,
        numbers=(1, 64),
        advanced=True,
    ),
    Parameter(
        "apg_eta",
        float,
        "techniques",
        "APG, parallel part",
        "part of guidance parallel to the conditional estimate that is kept (adaptive projected guidance)",
        hint="0 prevents over-saturation, 1 is plain guidance",
        default=1.0,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "apg_norm",
        float,
        "techniques",
        "APG, norm",
        "upper limit of the norm of guidance in a frame of 512x320; 0 for no limit",
        default=0.0,
        low=0,
        high=1000,
        step=0.5,
        advanced=True,
    ),
    Parameter(
        "apg_momentum",
        float,
        "techniques",
        "APG, momentum",
        "factor of the previous steps' guidance that is added; negative values push away from it",
        default=0.0,
        low=-0.95,
        high=0.95,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "start_time",
        int,
        "techniques",
        "Start time",
        "noise levels that sampling uses, of 1000; fewer start below pure noise, which gives more motion",
        hint="940 was published for the 512 model",
        default=1000,
        low=1,
        high=1000,
        advanced=True,
    ),
    Parameter(
        "analytic_init",
        str,
        "techniques",
        "Analytic-Init",
        "mean of each of the four latent channels and their variance, which the start noise gets if start_time is "
        "below 1000",
        hint="docs/techniques says how to measure them; empty for none",
        default="",
        choices={"model": "those measured for the model, which only tiny has"},
        numbers=(5, 5),
        advanced=True,
    ),
    Parameter(
        "analytic_form",
        str,
        "techniques",
        "Analytic-Init, form",
        "form of Analytic-Init",
        default="corrected",
        choices={"corrected": "with the dynamic rescale", "published": "without it"},
        advanced=True,
    ),
    Parameter(
        "stg_scale",
        float,
        "techniques",
        "STG",
        "scale of spatiotemporal skip guidance, away from a network with weakened attention over space and time; one "
        "more evaluation",
        hint="0 is off, 1 to 2 is typical",
        default=0.0,
        low=0,
        high=20,
        step=0.1,
        advanced=True,
    ),
    Parameter(
        "pag_scale",
        float,
        "techniques",
        "PAG",
        "scale of perturbed-attention guidance, away from a network with weakened attention over space; one more "
        "evaluation",
        hint="0 is off, 3 is typical",
        default=0.0,
        low=0,
        high=20,
        step=0.1,
        advanced=True,
    ),
    Parameter(
        "alg_ratio",
        float,
        "techniques",
        "ALG",
        "size to which the image latents are reduced in the first steps (adaptive low-pass guidance); one more "
        "evaluation in these steps",
        hint="1 is off, 0.4 is a start",
        default=1.0,
        low=0.05,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "alg_end",
        float,
        "techniques",
        "ALG, end",
        "fraction of the steps up to which the image latents are reduced",
        default=0.06,
        low=0,
        high=1,
        step=0.01,
        advanced=True,
    ),
    Parameter(
        "image_noise",
        float,
        "techniques",
        "Image noise",
        "standard deviation of the noise added to the image latents that the network is conditioned on, the same in "
        "every frame",
        hint="up to 0.1 for models that were not trained with it",
        default=0.0,
        low=0,
        high=100,
        step=0.01,
        advanced=True,
    ),
    Parameter(
        "contrast",
        str,
        "techniques",
        "Final contrast",
        "contrast of the result of ddim",
        default="released",
        choices={
            "released": "reduced by the last step, as released",
            "restored": "divided by what the last step takes",
        },
        advanced=True,
    ),
    Parameter(
        "control_scale",
        float,
        "control",
        "ControlNet, scale",
        "how strongly the clip follows the hints of a ControlNet",
        hint="0 is off, 0.6 is usual for ToonCrafter's sketch encoder",
        default=1.0,
        low=0,
        high=10,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "control_start",
        float,
        "control",
        "ControlNet, start",
        "fraction of the noise levels, from the highest on, before a ControlNet is used",
        default=0.0,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "control_end",
        float,
        "control",
        "ControlNet, end",
        "fraction of the noise levels after which a ControlNet is not used any more",
        default=1.0,
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ),
    Parameter(
        "control_gaps",
        str,
        "control",
        "Frames without a hint",
        "what happens to frames without a hint, if hints are of chosen frames",
        default="blank",
        choices={"blank": "the ControlNet is shown nothing, a blank sheet", "none": "it does not touch them"},
        advanced=True,
    ),
    Parameter(
        "fps",
        float,
        "output",
        "Playback rate",
        "playback rate of the clip",
        default=Preset.fps,
        preset=True,
        low=1,
        high=240,
        step=0.5,
        unit="frames per second",
    ),
)

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}
"""By name, in the order in which front ends show them; ``motion`` is an alternative to ``fs``."""


def of_group(group: Group) -> Iterator[Parameter]:
    """The parameters of one group, in order."""
    return (parameter for parameter in PARAMETERS.values() if parameter.group == group)
