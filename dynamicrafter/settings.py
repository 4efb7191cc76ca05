"""Everything that can be set for a clip, as one serialisable value with the variant's good defaults."""

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
    """Raise UsageError for a seed that is negative or not below 2 to the ``power``; ``where`` says what it is of."""
    replace(PARAMETERS["seed"], high=2**power - 1).check(seed, where)


@dataclass(frozen=True)
class Settings:
    """All choices behind one clip; two equal settings on the same model and pictures give the same clip.

    Meaning, unit and range of each are in :data:`dynamicrafter.parameters.PARAMETERS`.
    """

    mode: Mode
    width: int
    height: int
    frames: int
    """Frames that the network makes; a loop shows one less (its last frame repeats the first)."""
    fs: int
    steps: int
    cfg: float
    image_cfg: float | None
    """None ties it to ``cfg``; a scale of its own takes a third evaluation in each step."""
    eta: float
    guidance_rescale: float
    """How far the guided output's contrast is pulled back to the conditional one's (arXiv 2305.08891)."""
    spacing: Spacing
    seed: int
    fps: int
    fit: Fit
    prompt: str = ""
    negative: str = ""
    noise_device: NoiseDevice = "cpu"
    """Where noise is drawn; on the CPU a seed gives the same clip on every device."""
    sampler: str = "ddim"
    """Name of one of :data:`~dynamicrafter.diffusion.config.SAMPLER_MEANINGS`."""

    def __post_init__(self) -> None:
        """Check every field; raises UsageError with what was wanted, what came and what to do."""
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode must be one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        for name, parameter in PARAMETERS.items():
            if hasattr(self, name):
                parameter.check(getattr(self, name))
        fewest = _FEWEST_FRAMES[self.mode]
        if self.frames < fewest:
            raise UsageError(f"{self.mode} needs at least {fewest} frames, but {self.frames} were asked for")


def default_size(variant: Variant, picture_size: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height) of the variant, turned upright when the picture (width, height) is taller than wide."""
    width, height = variant.preset.width, variant.preset.height
    if picture_size is not None and picture_size[1] > picture_size[0]:
        return height, width
    return width, height


def motion_to_fs(variant: Variant, motion: float) -> int:
    """The fs for a motion of 0 (still) to 1 (lively), within the range recommended for the variant.

    256 counts a frame stride, so more is livelier; all others count frames per second, so less is livelier.
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
    """Settings for ``variant``: what is given, and the variant's presets for all that is None or absent.

    ``picture_size`` and ``size`` are (width, height) in pixels; ``motion`` is an alternative to ``fs``.
    Raises UsageError when both fs and motion are given, when the variant was not trained for the mode, or when a
    value is out of range.
    """
    if mode not in variant.modes:
        raise UsageError(
            f"{variant.name} was trained to {' and '.join(variant.modes)}, not to {mode}",
            Remedy("choose_model"),
        )
    if fs is not None and motion is not None:
        raise UsageError("fs and motion set the same thing; give one of them")
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
    """What every clip says of its making: the program, its version and the settings."""
    return {"program": PROGRAM, "version": program_version(), "settings": settings_to_json(settings)}


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """Plain values that :func:`settings_from_json` reads back."""
    return to_json(settings)


def settings_from_json(values: Mapping[str, Any], writer: str = "unknown") -> Settings:
    """Settings from the values of :func:`settings_to_json`, which version ``writer`` of the program wrote.

    Fields that are absent take their defaults. Raises UsageError that names unknown fields, absent ones without a
    default and values that are no good.
    """
    return Form("the stored settings", UsageError, writer).read(Settings, values)
