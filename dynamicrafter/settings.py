"""All settings of a clip as one serialisable value, with the variant's recommended defaults."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from .diffusion.config import WITHOUT_ETA, Spacing
from .errors import Remedy, UsageError
from .forms import Form, program_version, to_json
from .model.variants import LATENT_STATISTICS, Mode, Variant
from .parameters import PARAMETERS, TRAINED_FRAMES, numbers_in

if TYPE_CHECKING:
    from typing_extensions import Unpack

Fit = Literal["crop", "pad", "stretch"]
NoiseDevice = Literal["cpu", "device"]
LengthMethod = Literal["native", "continue", "windows", "pick"]
AnalyticForm = Literal["corrected", "published"]
Contrast = Literal["released", "restored"]
ControlGaps = Literal["blank", "none"]

_FEWEST_FRAMES: dict[Mode, int] = {"animate": 1, "interpolate": 2, "loop": 3, "views": 2}
_DOING: dict[Mode, str] = {
    "animate": "animate",
    "interpolate": "interpolate",
    "loop": "loop",
    "views": "follow guide clips",
}
"""What a model is trained to do in each mode."""
PROGRAM = "dynamicrafter"
"""Name of the program in the metadata of its clips."""


def check_seed(seed: int, power: int = 63, where: str = "") -> None:
    """Raise UsageError for a seed that is negative or not below 2 to the ``power``; ``where`` qualifies the limit."""
    replace(PARAMETERS["seed"], high=2**power - 1).check(seed, where)


class Choices(TypedDict, total=False):
    """What can be chosen for a clip besides its images and prompt, each with its type; None is the same as absent.

    Meaning, unit and range of each are in :data:`dynamicrafter.parameters.PARAMETERS`.
    """

    negative: str | None
    frames: int | None
    length_method: LengthMethod | None
    overlap: int | None
    continue_from: int | None
    reanchor: int | None
    keys: str | None
    cut_still: int | None
    colour_match: float | None
    lock_frames: int | None
    motion: float | None
    """An alternative to ``fs``."""
    fs: int | None
    size: tuple[int, int] | None
    """(width, height) in pixels."""
    fit: Fit | None
    seed: int | None
    steps: int | None
    cfg: float | None
    eta: float | None
    image_cfg: float | None
    guidance_rescale: float | None
    guidance_start: float | None
    guidance_end: float | None
    spacing: Spacing | None
    sampler: str | None
    noise_device: NoiseDevice | None
    denoise: float | None
    cfg_steps: str | None
    cfg_frames: str | None
    apg_eta: float | None
    apg_norm: float | None
    apg_momentum: float | None
    start_time: int | None
    analytic_init: str | None
    analytic_form: AnalyticForm | None
    stg_scale: float | None
    pag_scale: float | None
    alg_ratio: float | None
    alg_end: float | None
    image_noise: float | None
    contrast: Contrast | None
    control_scale: float | None
    control_start: float | None
    control_end: float | None
    control_gaps: ControlGaps | None
    fps: float | None


class PromptAndChoices(Choices, total=False):
    """What can be chosen for a clip besides its images."""

    prompt: str | None


@dataclass(frozen=True)
class Settings:
    """All settings of one clip; equal settings with the same model and images give the same clip.

    Meaning, unit and range of each are in :data:`dynamicrafter.parameters.PARAMETERS`.
    """

    mode: Mode
    width: int
    height: int
    frames: int
    """Frames that the network generates; a loop has one fewer (its last frame repeats the first)."""
    fs: int
    steps: int
    cfg: float
    image_cfg: float | None
    """None follows ``cfg``; a separate scale takes a third evaluation in each step."""
    eta: float
    guidance_rescale: float
    """How far the guided output is rescaled to the conditional one's standard deviation (arXiv 2305.08891)."""
    spacing: Spacing
    seed: int
    fps: float
    fit: Fit
    prompt: str = ""
    negative: str = ""
    noise_device: NoiseDevice = "cpu"
    """Where noise is generated; on the CPU, a seed gives the same noise on every device."""
    sampler: str = "ddim"
    """Name of one of :data:`~dynamicrafter.diffusion.config.SAMPLER_MEANINGS`."""
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    """Guidance applies from one fraction of the steps to the other; steps outside evaluate one branch."""
    length_method: LengthMethod = "native"
    """With "continue", "windows" and keyframes, the prompt may have parts, :func:`prompt_parts`."""
    overlap: int | None = None
    """None is 4 with windows, and 0 otherwise."""
    continue_from: int = 1
    reanchor: int = 0
    keys: str = ""
    """Frames at which the images of an interpolation stand, :func:`key_frames`; empty for two images at its ends."""
    cut_still: int = 0
    colour_match: float = 0.0
    lock_frames: int = 0
    denoise: float = 1.0
    cfg_steps: str = "1"
    """Numbers separated by commas, as ``cfg_frames``."""
    cfg_frames: str = "1"
    apg_eta: float = 1.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0
    start_time: int = 1000
    analytic_init: str = ""
    """Five numbers separated by commas, or empty; "model" has become the model's by now."""
    analytic_form: AnalyticForm = "corrected"
    stg_scale: float = 0.0
    pag_scale: float = 0.0
    alg_ratio: float = 1.0
    alg_end: float = 0.06
    image_noise: float = 0.0
    contrast: Contrast = "released"
    control_scale: float = 1.0
    """This and the rest of the group apply to clips with a ControlNet only."""
    control_start: float = 0.0
    control_end: float = 1.0
    control_gaps: ControlGaps = "blank"

    def __post_init__(self) -> None:
        """Check every field and convert the numbers of other libraries to plain ones.

        Raises UsageError with what was expected, what was given and what to do.
        """
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode must be one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        for name, parameter in PARAMETERS.items():
            if hasattr(self, name):
                object.__setattr__(self, name, parameter.check(getattr(self, name)))
        fewest = _FEWEST_FRAMES[self.mode]
        if self.frames < fewest:
            raise UsageError(f"frames must be at least {fewest} to {self.mode}, but {self.frames} was given")
        if self.guidance_start >= self.guidance_end:
            raise UsageError(
                f"guidance_start must be less than guidance_end, but {self.guidance_start:g} and "
                f"{self.guidance_end:g} were given; use cfg 1 for no guidance"
            )
        if self.control_start >= self.control_end:
            raise UsageError(
                f"control_start must be less than control_end, but {self.control_start:g} and {self.control_end:g} "
                f"were given; use control_scale 0 for no control"
            )
        if self.apg and self.image_cfg is not None:
            raise UsageError(
                "apg_eta, apg_norm and apg_momentum work on guidance with one scale, but image_cfg adds a second; omit "
                "image_cfg or all three"
            )
        if self.steps > self.start_time:
            raise UsageError(
                f"steps must be at most start_time, but {self.steps} and {self.start_time} were given; use fewer steps"
            )
        if self.analytic_init and self.denoise < 1:
            raise UsageError(
                f"analytic_init is for clips that start from noise, but denoise {self.denoise:g} starts from a clip; "
                f"use one of them"
            )
        if self.contrast == "restored" and self.sampler != "ddim":
            raise UsageError(
                f"contrast is lost by ddim only, but sampler {self.sampler} was given; use contrast released"
            )
        if self.eta and self.sampler in WITHOUT_ETA:
            raise UsageError(
                f"eta must be 0 with sampler {self.sampler}, which adds no noise, but {self.eta:g} was given; use 0, "
                "or sampler ddim or dpmpp_2m_sde"
            )
        self._check_length()

    @property
    def apg(self) -> bool:
        """Whether guidance is projected, limited or given momentum."""
        return (self.apg_eta, self.apg_norm, self.apg_momentum) != (1, 0, 0)

    def _check_length(self) -> None:
        """Raise UsageError unless mode, length and the way to it go together."""
        method = self.length_method
        if self.mode == "views" and (method != "native" or self.denoise < 1):
            raise UsageError(
                f"a guide clip needs length_method native and denoise 1, but {method} and {self.denoise:g} were given; "
                f"omit both"
            )
        if self.denoise < 1 and (method != "native" or self.keys):
            raise UsageError(
                f"denoise must be 1 for clips of several parts, but {self.denoise:g} was given with "
                f"{'keys' if self.keys else f'length_method {method}'}; omit one of them"
            )
        if len(set(numbers_in(self.cfg_frames))) > 1 and (method == "continue" or self.keys):
            raise UsageError(
                f"cfg_frames are for clips that are sampled as a whole, but {self.cfg_frames} was given with "
                f"{'keys' if self.keys else 'length_method continue'}; omit one of them"
            )
        if method == "continue" and self.mode != "loop" and overlap_of(self) > TRAINED_FRAMES - 2:
            raise UsageError(
                f"overlap must be at most {TRAINED_FRAMES - 2} with length_method continue, but {self.overlap} was "
                f"given; use a smaller one"
            )
        if self.mode == "interpolate":
            if method in ("continue", "windows"):
                raise UsageError(
                    f"length_method must be native or pick to interpolate, but {method} was given; for a long "
                    f"interpolation, pass more images as keyframes"
                )
            joined = "keys" if self.keys else "colour_match" if self.colour_match else "lock_frames"
            if method == "pick" and (self.keys or self.colour_match or self.lock_frames):
                raise UsageError(
                    f"length_method must be native with {joined} in an interpolation, but pick was given; omit one of "
                    f"them"
                )
            gaps = len(key_frames(self)) - 1
        else:
            if self.keys:
                raise UsageError(
                    f"keys are for interpolation, but {self.keys} was given to {self.mode}; omit them"
                )
            gaps = 0
        if method == "pick" and self.frames > TRAINED_FRAMES:
            raise UsageError(
                f"frames must be at most {TRAINED_FRAMES} with length_method pick, but {self.frames} was given; "
                f"use continue or windows for longer clips"
            )
        if method == "continue" and self.mode == "loop" and self.frames % (TRAINED_FRAMES - 1) != 1:
            raise UsageError(
                f"frames must be a multiple of {TRAINED_FRAMES - 1} and 1 more to loop with length_method continue, "
                f"but {self.frames} was given; use {round(self.frames / 15) * 15 + 1}"
            )
        if method == "windows" and self.mode == "loop" and self.frames <= TRAINED_FRAMES:
            raise UsageError(
                f"frames must be at least {TRAINED_FRAMES + 1} to loop with length_method windows, but {self.frames} "
                f"was given; use native for shorter loops"
            )
        parts = len(prompt_parts(self))
        if gaps > 1 and parts not in (1, gaps):
            raise UsageError(
                f"{gaps + 1} images have {gaps} gaps, which need {gaps} prompts separated by |, but {parts} were "
                f"given; pass one for each gap, or one for all"
            )


@dataclass(frozen=True)
class PromptPart:
    """A prompt and the frame from which it applies."""

    start: int
    text: str


def prompt_parts(settings: Settings) -> tuple[PromptPart, ...]:
    """The prompts of a clip and where they begin: one, unless the clip has keyframes, windows or is continued.

    Then ``|`` separates prompts, evenly spread over the frames unless they begin with a frame: ``a | 24: b``. Between
    keyframes they are those of the gaps. Raises UsageError for frames that do not ascend within the clip.
    """
    if len(keys := key_frames(settings)) <= 2 and settings.length_method not in ("continue", "windows"):
        return (PromptPart(0, settings.prompt),)
    texts = settings.prompt.split("|")
    if len(texts) == 1:
        return (PromptPart(0, settings.prompt),)
    parts: list[PromptPart] = []
    for index, text in enumerate(texts):
        found = None if keys else re.fullmatch(r"\s*(\d+)\s*:(.*)", text, re.DOTALL)
        if keys:
            start = keys[min(index, len(keys) - 1)]
        else:
            start = int(found[1]) if found else round(index * settings.frames / len(texts))
        parts.append(PromptPart(start, (found[2] if found else text).strip()))
    starts = [part.start for part in parts]
    if not keys and (starts != sorted(set(starts)) or starts[0] != 0 or starts[-1] >= settings.frames):
        raise UsageError(
            f"the prompts of a clip must begin at ascending frames, from 0 to below {settings.frames}, but "
            f"{', '.join(map(str, starts))} were given; correct the frames before the colons"
        )
    return tuple(parts)


def key_frames(settings: Settings) -> tuple[int, ...]:
    """The frames at which the images of an interpolation stand; empty in other modes.

    Raises UsageError unless they ascend from 0 to the last frame.
    """
    if settings.mode != "interpolate":
        return ()
    last = settings.frames - 1
    if not settings.keys:
        return (0, last)
    try:
        keys = tuple(int(part) for part in settings.keys.split(","))
    except ValueError:
        keys = ()
    if (
        len(keys) < 2
        or keys[0] != 0
        or keys[-1] != last
        or any(a >= b for a, b in zip(keys, keys[1:], strict=False))
    ):
        raise UsageError(
            f"keys must be ascending frames from 0 to the last one, which is {last}, separated by commas, but "
            f"{settings.keys!r} was given"
        )
    return keys


def spread_keys(images: int, frames: int | None, cut_still: int | None = None) -> tuple[str, int]:
    """:attr:`Settings.keys` for at least two images, and the length of the clip.

    They are evenly spaced; if ``frames`` is None, each gap is generated with the length of the models' training, before
    still frames are cut. Raises UsageError for fewer frames than images.
    """
    gaps = images - 1
    if frames is None:
        sides = (2 - (gap == 0) - (gap == gaps - 1) for gap in range(gaps))
        keys = list(accumulate((TRAINED_FRAMES - 1 - (cut_still or 0) * side for side in sides), initial=0))
    elif frames < images:
        raise UsageError(f"frames must be at least {images} for {images} images, but {frames} was given")
    else:
        keys = [round(gap * (frames - 1) / gaps) for gap in range(images)]
    return ",".join(map(str, keys)), keys[-1] + 1


def overlap_of(settings: Settings) -> int:
    """The overlap of windows or continued clips."""
    if settings.overlap is not None:
        return settings.overlap
    return 4 if settings.length_method == "windows" else 0


def sampled_frames(settings: Settings) -> int:
    """Number of frames whose latents are sampled together.

    A continued clip, and each gap between keyframes, are of several such pieces.
    """
    if settings.length_method == "pick":
        return TRAINED_FRAMES
    if settings.length_method == "continue":
        return min(settings.frames, TRAINED_FRAMES)
    if settings.length_method == "windows" and settings.mode == "loop":
        # No frame repeats the first one, because the windows themselves go round.
        return settings.frames - 1
    return settings.frames


def clip_length(settings: Settings) -> int:
    """Number of frames of the finished clip; a loop is without its last one, which repeats the first."""
    return settings.frames - (settings.mode == "loop")


def default_size(variant: Variant, picture_size: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height) of the variant, swapped if the image (width, height) is taller than wide."""
    width, height = variant.preset.width, variant.preset.height
    if picture_size is not None and picture_size[1] > picture_size[0]:
        return height, width
    return width, height


def motion_to_fs(variant: Variant, motion: float) -> int:
    """The fs for a motion of 0 (still) to 1 (lively), within the range recommended for the variant.

    For 256, fs is a frame stride, so higher is livelier; for all others it is frames per second, so lower is livelier.
    """
    PARAMETERS["motion"].check(motion)
    still, lively = variant.preset.fs_still, variant.preset.fs_lively
    return round(still + float(motion) * (lively - still))


def unusual_fs(variant: Variant, fs: int) -> list[str]:
    """A note if ``fs`` is outside the range recommended for the variant."""
    low, high = sorted((variant.preset.fs_still, variant.preset.fs_lively))
    if low <= fs <= high:
        return []
    return [f"fs is {fs}, but {low} to {high} is recommended for {variant.name}"]


def make_settings(
    variant: Variant,
    mode: Mode,
    *,
    picture_size: tuple[int, int] | None = None,
    **choices: Unpack[PromptAndChoices],
) -> Settings:
    """Settings for ``variant``: the given values, and the variant's presets for those that are None or absent.

    eta is 0 by default with a sampler that adds no noise.

    ``picture_size`` is (width, height) in pixels. Raises UsageError if there is no setting of a name, if both fs and
    motion are given, if the variant was not trained for the mode, or if a value is of the wrong type or out of range.
    """
    # Windows over a loop are animated one by one.
    needed: Mode = "animate" if mode == "loop" and choices.get("length_method") == "windows" else mode
    if needed not in variant.modes:
        raise UsageError(
            f"{variant.name} was trained to {' and '.join(_DOING[mode] for mode in variant.modes)}, not to "
            f"{_DOING[needed]}",
            Remedy("choose_model"),
        )
    given: dict[str, Any] = dict(choices)
    _check_names(given)
    size, fs, motion = given.pop("size", None), given.get("fs"), given.pop("motion", None)
    if fs is not None and motion is not None:
        raise UsageError("fs and motion set the same value; use only one of them")
    if motion is not None:
        given["fs"] = motion_to_fs(variant, motion)
    given["width"], given["height"] = (
        default_size(variant, picture_size) if size is None else _width_and_height(size)
    )
    names = {field.name for field in fields(Settings)}
    values: dict[str, Any] = {
        name: getattr(variant.preset, name) if parameter.preset else parameter.default
        for name, parameter in PARAMETERS.items()
        if name in names
    }
    values.update({name: value for name, value in given.items() if value is not None})
    if values["analytic_init"] == "model":
        if variant.name not in LATENT_STATISTICS:
            raise UsageError(f"there are no latent statistics of {variant.name}", Remedy("measure_latents"))
        values["analytic_init"] = LATENT_STATISTICS[variant.name]
    if given.get("eta") is None and values["sampler"] in WITHOUT_ETA:
        values["eta"] = 0.0
    return Settings(mode=mode, **values)


def _check_names(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a name that is not a setting; width and height are given together, as ``size``."""
    known = [*(name for name in PARAMETERS if name not in ("width", "height")), "size"]
    for name in given:
        if name in known:
            continue
        if name in PARAMETERS:
            advice = "use size=(width, height)"
        else:
            nearest = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"the settings are {', '.join(known)}"
        raise UsageError(f"there is no setting {name!r}; {advice}")


def _width_and_height(size: Any) -> tuple[Any, Any]:
    try:
        pair = () if isinstance(size, str) else tuple(size)
    except TypeError:
        pair = ()
    if len(pair) != 2:
        raise UsageError(
            f"size must be (width, height) in pixels, but {size!r} was given; use a tuple such as (512, 320)"
        )
    return pair


def clip_metadata(settings: Settings) -> dict[str, Any]:
    """The metadata of every clip: the program, its version and the settings."""
    return {"program": PROGRAM, "version": program_version(), "settings": settings_to_json(settings)}


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """Plain values that :func:`settings_from_json` reads back."""
    return to_json(settings)


def settings_from_json(values: Mapping[str, Any], writer: str = "unknown") -> Settings:
    """Settings from the values of :func:`settings_to_json`, written by version ``writer`` of the program.

    Absent fields take their defaults. Raises UsageError that names unknown fields, absent ones without a default and
    invalid values.
    """
    return Form("the stored settings", UsageError, writer).read(Settings, values)
