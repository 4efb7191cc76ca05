"""What a visitor of the page may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import UsageError
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
    for name, most in (("frames", limits.frames), ("steps", limits.steps)):
        if getattr(settings, name) > most:
            raise UsageError(
                f"at most {most} {name} are allowed here, but {getattr(settings, name)} were asked for; use fewer"
            )
