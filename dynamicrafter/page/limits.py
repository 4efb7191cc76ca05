"""What a visitor of the page may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..errors import UsageError
from ..parameters import TRAINED_FRAMES
from ..settings import Settings


@dataclass(frozen=True)
class Limits:
    """Limits of the page; those of a visitor hold for a login, or else for an address."""

    upload: int = 20
    """Megabytes of an uploaded image."""
    pixels: int = 1024 * 576
    """Width times height of a clip."""
    frames: int = 64
    steps: int = 60
    film: int = 256
    """Frames of all clips of a film."""
    queued: int = 3
    """Clips of one visitor that wait or are being generated."""
    queue: int = 50
    """The same of all visitors."""
    daily: int = 100
    """Clips of one visitor in 24 hours."""
    hours: float = 24.0
    """How long results are kept."""

    def __post_init__(self) -> None:
        """Raise UsageError for a limit that allows nothing."""
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise UsageError(
                    f"{field.name} must be more than 0, but {getattr(self, field.name)} was given"
                )


def check_limits(settings: Settings, limits: Limits) -> None:
    """Raise UsageError for a clip that is larger, longer or of more steps than the page allows."""
    pixels = settings.width * settings.height
    if pixels > limits.pixels:
        raise UsageError(
            f"clips of at most {limits.pixels} pixels are allowed here, but {settings.width}x{settings.height} was "
            f"asked for; choose another model"
        )
    check_most("frames", settings.frames, limits.frames)
    check_most("steps", settings.steps, limits.steps)


def check_most(name: str, asked: int, most: int) -> None:
    """Raise UsageError for more frames or steps than ``most``."""
    if asked > most:
        raise UsageError(f"at most {most} {name} are allowed here, but {asked} were asked for; use fewer")


def check_film(clips: Sequence[Settings], limits: Limits) -> None:
    """Raise UsageError for a film with a clip that the page does not allow, or with too many.

    One of less than the trained number of frames counts as that many, because they are generated.
    """
    for settings in clips:
        check_limits(settings, limits)
    frames = sum(max(TRAINED_FRAMES, settings.frames) for settings in clips)
    if frames > limits.film:
        raise UsageError(
            f"films of at most {limits.film} frames are allowed here, but the clips of this one have {frames}; use "
            f"fewer or shorter scenes"
        )
