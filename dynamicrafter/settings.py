"""Everything that can be set for a clip, as one serialisable value with the variant's good defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .diffusion.config import Spacing
from .errors import UsageError
from .forms import Form, program_version, to_json
from .model.configs import LATENT_FACTOR
from .model.variants import Mode, Variant

Fit = Literal["crop", "pad", "stretch"]
NoiseDevice = Literal["cpu", "device"]

PROGRAM = "dynamicrafter"
"""Name of the program in the metadata of its clips."""
SIZE_STEP = 8 * LATENT_FACTOR
"""Sizes are multiples of 64 pixels: the VAE halves three times and the network three times more."""
MAX_STEPS = 1000
"""The schedule has 1000 noise levels."""


def check_seed(seed: int, power: int = 63, where: str = "") -> None:
    """Raise UsageError for a seed that is negative or not below 2 to the ``power``; ``where`` says what it is of."""
    if not 0 <= seed < 2**power:
        raise UsageError(f"seed must be 0 to 2^{power} - 1{where}, but {seed} was given")


@dataclass(frozen=True)
class Settings:
    """All choices behind one clip; two equal settings on the same model and pictures give the same clip."""

    mode: Mode
    width: int
    """Pixels, a multiple of 64."""
    height: int
    """Pixels, a multiple of 64."""
    frames: int
    """Frames that the network makes; a loop shows one less (its last frame repeats the first)."""
    fs: int
    """Frame stride (256 variant) or frames per second (others) the network is conditioned on."""
    steps: int
    """Denoising steps, 1 to 1000."""
    cfg: float
    """Guidance scale of the prompt; 1 switches guidance off."""
    image_cfg: float | None
    """Separate guidance scale of the picture (three evaluations a step); None ties it to ``cfg``."""
    eta: float
    """0 (deterministic steps) to 1 (as much fresh noise as DDPM)."""
    guidance_rescale: float
    """0 to 1; how far the guided output's contrast is pulled back to the conditional one's (arXiv 2305.08891)."""
    spacing: Spacing
    seed: int
    fps: int
    """Playback rate of the clip."""
    fit: Fit
    """How a picture of another shape is brought to size: crop, pad with black bars, or stretch."""
    prompt: str = ""
    negative: str = ""
    noise_device: NoiseDevice = "cpu"
    """Where noise is drawn; on the CPU a seed gives the same clip on every device."""

    def __post_init__(self) -> None:
        """Check every field's range; raises UsageError with what was wanted, what came and what to do."""
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode must be one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < SIZE_STEP or value % SIZE_STEP:
                nearest = max(SIZE_STEP, round(value / SIZE_STEP) * SIZE_STEP)
                raise UsageError(
                    f"{name} must be a multiple of {SIZE_STEP}, but {value} was given; the nearest is {nearest}"
                )
        least = {"animate": 1, "interpolate": 2, "loop": 3}[self.mode]
        if self.frames < least:
            raise UsageError(f"{self.mode} needs at least {least} frame(s), but {self.frames} were asked for")
        if not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(
                f"steps must be 1 to {MAX_STEPS}, but {self.steps} was given; 25 to 50 are usual"
            )
        for name in ("cfg", "image_cfg"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name} must be a number, but {value} was given; 1 switches guidance off")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta must be 0 to 1, but {self.eta} was given")
        if not 0 <= self.guidance_rescale <= 1:
            raise UsageError(f"rescale must be 0 to 1, but {self.guidance_rescale} was given")
        if self.spacing not in get_args(Spacing):
            raise UsageError(f"spacing must be one of {', '.join(get_args(Spacing))}, not {self.spacing!r}")
        if self.fit not in get_args(Fit):
            raise UsageError(f"fit must be one of {', '.join(get_args(Fit))}, not {self.fit!r}")
        if self.noise_device not in get_args(NoiseDevice):
            raise UsageError(f"noise_device must be cpu or device, not {self.noise_device!r}")
        if not 0 <= self.fs <= 1000:
            raise UsageError(
                f"fs must be 0 to 1000, but {self.fs} was given; see --motion for a simpler dial"
            )
        if not 1 <= self.fps <= 240:
            raise UsageError(f"fps must be 1 to 240, but {self.fps} was given")
        check_seed(self.seed)


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
    if not 0 <= motion <= 1:
        raise UsageError(f"motion must be 0 (still) to 1 (lively), but {motion} was given")
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
            f"{variant.name} was trained to {' and '.join(variant.modes)}, not to {mode}; "
            f"choose a model for it with 'dynamicrafter models'"
        )
    if fs is not None and motion is not None:
        raise UsageError("fs and motion set the same thing; give one of them")
    if motion is not None:
        fs = motion_to_fs(variant, motion)
    preset = variant.preset
    width, height = size or default_size(variant, picture_size)
    values: dict[str, Any] = {
        "frames": preset.frames,
        "steps": preset.steps,
        "cfg": preset.cfg,
        "image_cfg": None,
        "eta": preset.eta,
        "guidance_rescale": preset.guidance_rescale,
        "spacing": preset.spacing,
        "seed": 123,
        "fps": preset.fps,
        "fit": "crop",
    }
    values.update({key: value for key, value in chosen.items() if value is not None})
    return Settings(mode=mode, width=width, height=height, fs=preset.fs if fs is None else fs, **values)


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
