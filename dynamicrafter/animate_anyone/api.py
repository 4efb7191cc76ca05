"""A person moved by poses, from settings to a finished clip: what the command and Python call."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..diffusion.windows import Window, plain_windows, wrapping_windows
from ..errors import UsageError
from .config import MAX_WINDOW
from .pipeline import PersonModel, Poses, condition_person, person_frames, sample_person

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..pipeline import Progress

MOST_FRAMES = 2000


@dataclass(frozen=True)
class PersonSettings:
    """The choices behind one clip; defaults are those of the original's demo, whose sizes are multiples of 64.

    Raises UsageError for a value out of range, naming it.
    """

    width: int = 512
    height: int = 768
    steps: int = 25
    cfg: float = 3.5
    """Guidance scale; 1 switches it off."""
    eta: float = 0.0
    seed: int = 42
    window: int = 24
    """Frames that the network sees together."""
    overlap: int = 4
    """Frames that neighbouring windows share."""
    exact: bool = False
    """Whether windows wrap around and have flat weights, as the original's."""
    noise_dtype: Literal["float32", "float16"] = "float32"
    """Precision in which the noise is drawn; float16 gives the noise of clips that the original made in it."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("width", "height", "steps", "seed", "window", "overlap"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise UsageError(f"{name} must be a whole number, but {value!r} was given")
        for side in ("width", "height"):
            _within(side, getattr(self, side), 64, 2048, multiple=8)
        _within("steps", self.steps, 1, 1000)
        _within("cfg", self.cfg, 1, 30)
        _within("eta", self.eta, 0, 1)
        _within("seed", self.seed, 0, 2**63 - 1)
        _within("window", self.window, 2, MAX_WINDOW)
        if not 0 <= self.overlap < self.window:
            raise UsageError(
                f"overlap must be 0 to {self.window - 1}, less than the window, but {self.overlap} was given"
            )
        if self.noise_dtype not in ("float32", "float16"):
            raise UsageError(f"noise_dtype must be float32 or float16, but {self.noise_dtype!r} was given")

    def windows(self, frames: int) -> list[Window]:
        """The windows of a clip."""
        plan = wrapping_windows if self.exact else plain_windows
        return plan(frames, self.window, self.overlap)


def _within(name: str, value: float, low: float, high: float, multiple: int = 1) -> None:
    if isinstance(value, bool) or not low <= value <= high or value % multiple and multiple > 1:
        of = f"a multiple of {multiple} from " if multiple > 1 else ""
        raise UsageError(f"{name} must be {of}{low:g} to {high:g}, but {value!r} was given")


def person(
    model: PersonModel,
    picture: Image,
    poses: Poses,
    settings: PersonSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """A clip of the character in ``picture`` in the poses of ``poses``, one frame each, uint8 ``[t, h, w, 3]``.

    ``poses`` are drawings as :func:`~.drawing.draw` makes them, read once. Image and poses are stretched to the clip's
    size, as in the original. ``progress`` is called with "encode", "sample" or "decode", the steps done and their
    total, and may raise. Raises UsageError for a clip of more than 2000 frames or of none.
    """
    chosen = settings or PersonSettings()
    if not 1 <= len(poses) <= MOST_FRAMES:
        raise UsageError(f"a clip must have 1 to {MOST_FRAMES} poses, but {len(poses)} were given")
    tell = progress or _silent
    with torch.inference_mode():
        tell("encode", 0, 1)
        conditioning = condition_person(model, picture, poses, chosen.width, chosen.height)
        tell("encode", 1, 1)
        generator = torch.Generator().manual_seed(chosen.seed)

        def draw() -> Tensor:
            precision = getattr(torch, chosen.noise_dtype)
            noise = torch.randn(conditioning.latent_shape, generator=generator, dtype=precision)
            return noise.float().to(model.device)

        latents = sample_person(
            model,
            conditioning,
            chosen.windows(len(poses)),
            draw(),
            draw,
            steps=chosen.steps,
            cfg=chosen.cfg,
            eta=chosen.eta,
            callback=lambda step: tell("sample", step.index + 1, step.total),
        )
        frames: list[Tensor] = []
        for frame in person_frames(model, latents):
            # Truncated, as the original writes its clips.
            frames.append((frame * 255).to(torch.uint8).movedim(0, -1).cpu())
            tell("decode", len(frames), len(poses))
    return torch.stack(frames)


def _silent(*_: object) -> None:
    """Ignore the arguments."""
