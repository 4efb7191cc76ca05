"""A person moved by poses, from settings to a finished clip: what the command and Python call."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..diffusion.samplers import Callback, Step
from ..diffusion.windows import Window, plain_windows, wrapping_windows
from ..errors import UsageError
from ..media.pictures import PictureLike, as_picture
from ..media.video import FrameStream
from ..settings import Fit
from .config import MAX_WINDOW, PersonPreset
from .framing import FITS, framed
from .pipeline import PersonModel, Poses, condition_person, person_frames, sample_person

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..pipeline import Progress

MOST_FRAMES = 2000
_MOST_BETWEEN = 8
_PRESET = PersonPreset()


@dataclass(frozen=True)
class PersonSettings:
    """The choices behind one clip; defaults are those of the original's demo, whose sizes are multiples of 64.

    Raises UsageError for a value out of range, naming it.
    """

    width: int = _PRESET.width
    height: int = _PRESET.height
    steps: int = _PRESET.steps
    cfg: float = _PRESET.cfg
    eta: float = 0.0
    seed: int = 42
    window: int = _PRESET.window
    overlap: int = _PRESET.overlap
    exact: bool = False
    """Whether windows wrap around and have flat weights, as the original's."""
    noise_dtype: Literal["float32", "float16"] = "float32"
    """Precision in which the noise is drawn; float16 gives the noise of clips that the original made in it."""
    fit: Fit = "stretch"
    """How an image with a different aspect ratio is resized; the original stretches it."""
    interpolate: int = 1
    """Frames of the clip for each pose: from 2 on, the latents between each two are interpolated."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("width", "height", "steps", "seed", "window", "overlap", "interpolate"):
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
        _within("interpolate", self.interpolate, 1, _MOST_BETWEEN)
        if self.fit not in FITS:
            raise UsageError(f"fit must be {', '.join(FITS)}, but {self.fit!r} was given")
        if self.noise_dtype not in ("float32", "float16"):
            raise UsageError(f"noise_dtype must be float32 or float16, but {self.noise_dtype!r} was given")

    def windows(self, frames: int) -> list[Window]:
        """The windows of a clip."""
        plan = wrapping_windows if self.exact else plain_windows
        return plan(frames, self.window, self.overlap)

    def length(self, poses: int) -> int:
        """Frames of a clip of that many poses."""
        return (poses - 1) * self.interpolate + 1


def person_settings(preset: PersonPreset, **chosen: Any) -> PersonSettings:
    """The settings of a model with this preset; values of None are the preset's.

    Raises UsageError as :class:`PersonSettings` does.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    return PersonSettings(**{**asdict(preset), **given})


def _within(name: str, value: float, low: float, high: float, multiple: int = 1) -> None:
    if isinstance(value, bool) or not low <= value <= high or value % multiple and multiple > 1:
        of = f"a multiple of {multiple} from " if multiple > 1 else ""
        raise UsageError(f"{name} must be {of}{low:g} to {high:g}, but {value!r} was given")


def person(
    model: PersonModel,
    picture: PictureLike,
    poses: Poses,
    settings: PersonSettings | None = None,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """A clip of the character in ``picture`` in the poses of ``poses``, one frame each, uint8 ``[t, h, w, 3]``.

    ``picture`` is a path, a Pillow image, a numpy array or a tensor; ``poses`` are drawings as
    :func:`~.drawing.draw` or :func:`~.pose_clips.read_poses` make them, read once, which are stretched to the clip's
    size. Without ``settings``, the model's own are used. ``progress`` is called with "encode", "sample" or "decode",
    the steps done and their total, and may raise. Raises UsageError for a clip of more than 2000 poses or of none, and
    DynamiCrafterError if the networks' output is not finite.
    """
    stream = stream_person(model, picture, poses, settings, progress=progress)
    frames = torch.empty((stream.count, stream.height, stream.width, 3), dtype=torch.uint8)
    for place, part in zip(frames, stream.parts, strict=True):
        place.copy_(part[0])
    return frames


def stream_person(
    model: PersonModel,
    picture: PictureLike,
    poses: Poses,
    settings: PersonSettings | None = None,
    *,
    progress: Progress | None = None,
    callback: Callback | None = None,
) -> FrameStream:
    """:func:`person` as it goes: the frames are sampled when the first is read, and decoded while they are read.

    ``callback`` is called after each step, with latents of one frame for each pose. While it samples, the device
    has no more of a clip than a window of its latents; while frames are read, all latents and a frame.
    """
    chosen = settings or person_settings(model.config.preset)
    if not 1 <= len(poses) <= MOST_FRAMES:
        raise UsageError(f"a clip must have 1 to {MOST_FRAMES} poses, but {len(poses)} were given")
    image = framed(as_picture(picture), chosen.width, chosen.height, chosen.fit)
    return FrameStream(
        _frames(model, image, poses, chosen, progress or _silent, callback or _silent),
        chosen.length(len(poses)),
        chosen.width,
        chosen.height,
    )


def _frames(
    model: PersonModel,
    picture: Image,
    poses: Poses,
    chosen: PersonSettings,
    tell: Progress,
    callback: Callback,
) -> Generator[Tensor]:
    """Frames, uint8 ``[1, h, w, 3]`` each."""
    try:
        latents = _latents(model, picture, poses, chosen, tell, callback)
        total = chosen.length(len(poses))
        decoded = person_frames(model, latents, chosen.interpolate)
        for done in range(1, total + 1):
            # Not around the loop, in which whoever reads the frames may record gradients.
            with torch.inference_mode():
                # Truncated, as the original writes its clips.
                pixels = (next(decoded) * 255).to(torch.uint8).movedim(0, -1)[None].cpu()
            tell("decode", done, total)
            yield pixels
    finally:
        if model.placement is not None:
            model.placement.leave()


@torch.inference_mode()
def _latents(
    model: PersonModel,
    picture: Image,
    poses: Poses,
    chosen: PersonSettings,
    tell: Progress,
    callback: Callback,
) -> Tensor:
    """Latents ``[1, 4, f, h, w]`` on the CPU, which has the room for any clip."""
    tell("encode", 0, 1)
    conditioning = condition_person(model, picture, poses, chosen.width, chosen.height)
    tell("encode", 1, 1)
    generator = torch.Generator().manual_seed(chosen.seed)

    def draw() -> Tensor:
        precision = getattr(torch, chosen.noise_dtype)
        return torch.randn(conditioning.latent_shape, generator=generator, dtype=precision).float()

    def stepped(step: Step) -> None:
        tell("sample", step.index + 1, step.total)
        callback(step)

    tell("sample", 0, chosen.steps)
    return sample_person(
        model,
        conditioning,
        chosen.windows(len(poses)),
        draw(),
        draw,
        steps=chosen.steps,
        cfg=chosen.cfg,
        eta=chosen.eta,
        callback=stepped,
    )


def _silent(*_: object) -> None:
    """Ignore the arguments."""
