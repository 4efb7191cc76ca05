"""Two ways of generating the same clip, side by side: what each takes, and how much their results differ."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..api import ModelFiles, export_of, render_each
from ..backends.choice import TORCH, parse_backend
from ..diffusion.samplers import Step
from ..errors import UsageError
from ..media.pictures import Picture, PictureLike, as_picture
from ..own_process import Failed, run_apart
from ..pipeline import Model, Stage
from ..process_memory import peak_resident
from ..settings import Settings
from ..shots import Means, Shot, ShotProgress, Work, load_with, means_for, threads_that_pay
from ..weights.formats.files import open_weights
from .figures import psnr, ssim


@dataclass(frozen=True)
class Way:
    """One way of generating a clip."""

    name: str
    """Its name in reports."""
    files: ModelFiles
    settings: Settings
    means: Means = Means()


@dataclass(frozen=True)
class Cost:
    """What a way took."""

    load: float
    """Seconds to load the model; the other times are seconds as well."""
    encode: float
    sample: float
    """All steps."""
    step: float
    """The median step."""
    decode: float
    disk: int
    """Bytes of the model's files."""
    memory_before: int
    """Peak bytes of the process before the model was loaded: Python, PyTorch and this package."""
    memory: int
    """Peak bytes of the process in main memory, :attr:`memory_before` included."""
    device_memory: int | None
    """Peak bytes that PyTorch allocated on a CUDA GPU; None on other devices."""
    device: str
    dtype: str

    @property
    def seconds(self) -> float:
        """Loading, encoding, sampling and decoding together."""
        return self.load + self.encode + self.sample + self.decode


@dataclass(frozen=True, eq=False)
class Outcome:
    """A clip, and what it took."""

    cost: Cost
    latents: Tensor
    """float32 ``[4, t, h, w]``."""
    frames: Tensor
    """uint8 ``[t, h, w, 3]`` RGB."""


@dataclass(frozen=True)
class Likeness:
    """How much a clip resembles another, which is the reference.

    PSNR is in dB, over all frames together, and 126 for equal clips; SSIM is the mean over the frames, 1 for equal
    ones. Latents are measured in units of the range of the reference's.
    """

    latents_psnr: float
    latents_ssim: float
    frames_psnr: float
    frames_ssim: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """The results of two ways."""

    a: Outcome | Failed
    b: Outcome | Failed
    likeness: Likeness | None
    """Of B to A; None if one of them failed."""


def compare(
    a: Way,
    b: Way,
    image: PictureLike,
    last: PictureLike | None = None,
    *,
    progress: ShotProgress | None = None,
) -> Comparison:
    """Generate a clip from ``image`` in two ways, each in a process of its own; ``last`` is for interpolation only.

    A runs first. If one of them fails, the other one's result is still returned. ``progress`` is called with a way's
    name; any exception it raises stops the work. Raises UsageError if the clips would differ in mode, size or length,
    and PictureError for images that cannot be read.
    """
    check_comparable(a, b)
    pictures = [as_picture(picture) for picture in (image, last) if picture is not None]
    one, other = (_run_apart(way, pictures, progress) for way in (a, b))
    if isinstance(one, Failed) or isinstance(other, Failed):
        return Comparison(one, other, None)
    return Comparison(one, other, likeness(one, other))


def check_comparable(a: Way, b: Way) -> None:
    """Raise UsageError if the clips of two ways would differ in mode, size or length."""
    ours, theirs = (_shape(way.settings) for way in (a, b))
    if ours != theirs:
        raise UsageError(
            f"A and B must generate clips of one mode, size and length, but A is to {ours} and B to {theirs}; "
            f"pass the same values for both"
        )


def likeness(a: Outcome, b: Outcome) -> Likeness:
    """How much ``b`` resembles ``a``."""
    low, high = a.latents.min(), a.latents.max()
    # Equal latents have no range.
    span = (high - low).clamp(min=torch.finfo(high.dtype).eps)
    latents = [(each.latents - low).transpose(0, 1) / span * 2 - 1 for each in (a, b)]
    frames = [each.frames.permute(0, 3, 1, 2).float() / 127.5 - 1 for each in (a, b)]
    return Likeness(*_alike(*latents), *_alike(*frames))


def _alike(x: Tensor, y: Tensor) -> tuple[float, float]:
    """PSNR and SSIM of clips ``[t, c, h, w]``; frame by frame, because SSIM takes many times a frame's memory."""
    each = [float(ssim(one[None], other[None])) for one, other in zip(x, y, strict=True)]
    return float(psnr(x[None], y[None])), statistics.fmean(each)


def _shape(settings: Settings) -> str:
    return f"{settings.mode} {settings.width}x{settings.height} with {settings.frames} frames"


def _run_apart(way: Way, pictures: list[Picture], progress: ShotProgress | None) -> Outcome | Failed:
    def report(work: Work, done: int, total: int) -> None:
        if progress is not None:
            progress(way.name, work, done, total)

    result = run_apart(_measured, way, pictures, report=report)
    if isinstance(result, Failed):
        return result
    cost, latents, frames = result
    return Outcome(cost, torch.as_tensor(latents), torch.as_tensor(frames))


def _measured(report: Callable[..., None], way: Way, pictures: list[Picture]) -> object:
    """What :class:`Outcome` holds, with arrays, because tensors would be shared with a process that ends."""
    before = peak_resident()
    watch = _Watch()
    means = means_for([Shot(way.settings, (), way.name)], way.files, way.means)
    model = load_with(means, way.files, lambda done, total: report("load", done, total))
    watch.lap("load")
    watch.model = model
    latents: list[Tensor] = []

    def reported(stage: Stage, done: int, total: int) -> None:
        watch.lap(stage)
        report(stage, done, total)

    def stepped(step: Step) -> None:
        latents[:] = [step.x]

    with threads_that_pay(model):
        (clip,) = render_each(
            model, [way.settings], pictures[:1], pictures[1:] or None, progress=reported, callback=stepped
        )
    watch.lap("decode")
    cuda = model.device.type == "cuda"
    cost = Cost(
        load=sum(watch.laps["load"]),
        encode=sum(watch.laps["encode"]),
        sample=sum(watch.laps["sample"]),
        step=statistics.median(watch.laps["sample"][1:]),
        decode=sum(watch.laps["decode"]),
        disk=disk_bytes(way.files, means.backend),
        memory_before=before,
        memory=peak_resident(),
        device_memory=torch.cuda.max_memory_allocated(model.device) if cuda else None,
        device=str(model.device if means.backend == TORCH else parse_backend(means.backend)),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    return cost, latents[0][0].float().cpu().numpy(), np.asarray(clip.frames)


def disk_bytes(files: ModelFiles, backend: str = TORCH) -> int:
    """Size of all files that a model is loaded from; a file that contains several of its parts counts once."""
    paths = [files.weights, files.text_encoder, files.image_encoder, *(lora.path for lora in files.loras)]
    folder = export_of(files, backend)
    if folder is not None:
        paths = [folder]
    found: set[Path] = set()
    for path in filter(None, paths):
        parts = path.rglob("*") if path.is_dir() else open_weights(path).files
        found.update(part.resolve() for part in parts if part.is_file())
    return sum(path.stat().st_size for path in found)


class _Watch:
    """The time between reports, which counts for the stage that is reported."""

    def __init__(self) -> None:
        self.model: Model | None = None
        self.laps: dict[str, list[float]] = {"load": [], "encode": [], "sample": [], "decode": []}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last call for ``stage``, with the work that the device has yet to do."""
        if self.model is not None and self.model.device.type != "cpu":
            torch.accelerator.synchronize(self.model.device)
        now = time.perf_counter()
        self.laps[stage].append(now - self._last)
        self._last = now
