"""All settings of a clip as one serialisable value, with the variant's recommended defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from .diffusion.config import Spacing
from .errors import Remedy, UsageError
from .forms import Form, program_version, to_json
from .model.variants import Mode, Variant
from .parameters import PARAMETERS

Fit = Literal["crop", "pad", "stretch"]
NoiseDevice = Literal["cpu", "device"]

_FEWEST_FRAMES: dict[Mode, int] = {"animate": 1, "interpolate": 2, "loop": 3}
PROGRAM = "dynamicrafter"
"""Name of the program in the metadata of its clips."""


def check_seed(seed: int, power: int = 63, where: str = "") -> None:
    """Raise UsageError for a seed that is negative or not below 2 to the ``power``; ``where`` qualifies the limit."""
    replace(PARAMETERS["seed"], high=2**power - 1).check(seed, where)


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
    fps: int
    fit: Fit
    prompt: str = ""
    negative: str = ""
    noise_device: NoiseDevice = "cpu"
    """Where noise is generated; on the CPU, a seed gives the same noise on every device."""
    sampler: str = "ddim"
    """Name of one of :data:`~dynamicrafter.diffusion.config.SAMPLER_MEANINGS`."""

    def __post_init__(self) -> None:
        """Check every field; raises UsageError with what was expected, what was given and what to do."""
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode must be one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        for name, parameter in PARAMETERS.items():
            if hasattr(self, name):
                parameter.check(getattr(self, name))
        fewest = _FEWEST_FRAMES[self.mode]
        if self.frames < fewest:
            raise UsageError(f"frames must be at least {fewest} to {self.mode}, but {self.frames} was given")


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
    return round(still + motion * (lively - still))


def make_settings(
    variant: Variant,
    mode: Mode,
    *,
    picture_size: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    fs: int | None = None,
    motion: float | None = None,
    **chosen: Any,
) -> Settings:
    """Settings for ``variant``: the given values, and the variant's presets for those that are None or absent.

    ``picture_size`` and ``size`` are (width, height) in pixels; ``motion`` is an alternative to ``fs``.
    Raises UsageError if both fs and motion are given, if the variant was not trained for the mode, or if a value is
    out of range.
    """
    if mode not in variant.modes:
        raise UsageError(
            f"{variant.name} was trained to {' and '.join(variant.modes)}, not to {mode}",
            Remedy("choose_model"),
        )
    if fs is not None and motion is not None:
        raise UsageError("fs and motion set the same value; use only one of them")
    if motion is not None:
        fs = motion_to_fs(variant, motion)
    width, height = size or default_size(variant, picture_size)
    given = {**chosen, "width": width, "height": height, "fs": fs}
    names = {field.name for field in fields(Settings)}
    values: dict[str, Any] = {
        name: getattr(variant.preset, name) if parameter.preset else parameter.default
        for name, parameter in PARAMETERS.items()
        if name in names
    }
    values.update({name: value for name, value in given.items() if value is not None})
    return Settings(mode=mode, **values)


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
