"""Two ways of generating the same clip, side by side: what each takes, and how much their results differ."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..api import ModelFiles, export_of, render_each
from ..backends.choice import TORCH, parse_backend
from ..diffusion.samplers import Callback, Step
from ..errors import UsageError
from ..media.pictures import PictureLike
from ..own_process import Failed, run_apart
from ..pipeline import Model, Progress, Stage
from ..process_memory import peak_resident
from ..settings import Settings
from ..shots import Means, Shot, ShotProgress, Work, load_with, means_for, threads_that_pay
from ..weights.formats.entries import ByteProgress
from ..weights.formats.files import open_weights
from .figures import psnr, ssim


class Loaded(Protocol):
    """A model, whatever it generates."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """In which its networks compute."""
        ...


class Way(Protocol):
    """One way of generating a clip, which is pickled for the process that it runs in."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def shape(self) -> str:
        """Mode, size and length of the clip in words; two ways of one clip have the same."""
        ...

    @property
    def backend(self) -> str:
        """What computes the networks, :func:`dynamicrafter.backends.choice.parse_backend`."""
        ...

    def paths(self) -> list[Path]:
        """Files and folders that the model is loaded from."""
        ...

    def load(self, progress: ByteProgress) -> Loaded:
        """Load the model."""
        ...

    def render(self, model: Any, progress: Progress, callback: Callback) -> Tensor:
        """Frames of the clip, uint8 ``[t, h, w, 3]``, by the loaded ``model``; ``callback`` is called after a step."""
        ...


@dataclass(frozen=True)
class ClipWay:
    """A way of generating one of DynamiCrafter's clips, as :class:`Way`."""

    name: str
    files: ModelFiles
    settings: Settings
    pictures: tuple[PictureLike, ...]
    """The image, or the two of an interpolation."""
    means: Means = Means()

    @property
    def shape(self) -> str:
        """As the protocol."""
        chosen = self.settings
        return f"{chosen.mode} {chosen.width}x{chosen.height} with {chosen.frames} frames"

    @property
    def backend(self) -> str:
        """As the protocol."""
        return self.means.backend

    def paths(self) -> list[Path]:
        """As the protocol."""
        files, folder = self.files, export_of(self.files, self.backend)
        if folder is not None:
            return [folder]
        found = [files.weights, files.text_encoder, files.image_encoder, *(lora.path for lora in files.loras)]
        return [path for path in found if path is not None]

    def load(self, progress: ByteProgress) -> Model:
        """As the protocol."""
        means = means_for([Shot(self.settings, (), self.name)], self.files, self.means)
        return load_with(means, self.files, progress)

    def render(self, model: Model, progress: Progress, callback: Callback) -> Tensor:
        """As the protocol."""
        first, *last = self.pictures
        with threads_that_pay(model):
            (clip,) = render_each(
                model, [self.settings], [first], last or None, progress=progress, callback=callback
            )
        return clip.frames


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


def compare(a: Way, b: Way, *, progress: ShotProgress | None = None) -> Comparison:
    """Generate a clip in two ways, each in a process of its own.

    A runs first. If one of them fails, the other one's result is still returned. ``progress`` is called with a way's
    name; any exception it raises stops the work. Raises UsageError if the clips would differ in mode, size or length.
    """
    check_comparable(a, b)
    one, other = (_run_apart(way, progress) for way in (a, b))
    if isinstance(one, Failed) or isinstance(other, Failed):
        return Comparison(one, other, None)
    return Comparison(one, other, likeness(one, other))


def check_comparable(a: Way, b: Way) -> None:
    """Raise UsageError if the clips of two ways would differ in mode, size or length."""
    if a.shape != b.shape:
        raise UsageError(
            f"A and B must generate clips of one mode, size and length, but A is to {a.shape} and B to {b.shape}; "
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


def _run_apart(way: Way, progress: ShotProgress | None) -> Outcome | Failed:
    def report(work: Work, done: int, total: int) -> None:
        if progress is not None:
            progress(way.name, work, done, total)

    result = run_apart(_measured, way, report=report)
    if isinstance(result, Failed):
        return result
    cost, latents, frames = result
    return Outcome(cost, torch.as_tensor(latents), torch.as_tensor(frames))


def _measured(report: Callable[..., None], way: Way) -> object:
    """What :class:`Outcome` holds, with arrays, because tensors would be shared with a process that ends."""
    before = peak_resident()
    watch = _Watch()
    model = way.load(lambda done, total: report("load", done, total))
    watch.lap("load")
    watch.device = model.device
    latents: list[Tensor] = []

    def reported(stage: Stage, done: int, total: int) -> None:
        watch.lap(stage)
        report(stage, done, total)

    def stepped(step: Step) -> None:
        latents[:] = [step.x]

    frames = way.render(model, reported, stepped)
    watch.lap("decode")
    cuda = model.device.type == "cuda"
    cost = Cost(
        load=sum(watch.laps["load"]),
        encode=sum(watch.laps["encode"]),
        sample=sum(watch.laps["sample"]),
        step=statistics.median(watch.laps["sample"][1:]),
        decode=sum(watch.laps["decode"]),
        disk=disk_bytes(way.paths()),
        memory_before=before,
        memory=peak_resident(),
        device_memory=torch.cuda.max_memory_allocated(model.device) if cuda else None,
        device=str(model.device if way.backend == TORCH else parse_backend(way.backend)),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    return cost, latents[0][0].float().cpu().numpy(), np.asarray(frames)


def disk_bytes(paths: Iterable[Path]) -> int:
    """Size of all files of models and in folders; a file that contains several parts of a model counts once."""
    found: set[Path] = set()
    for path in paths:
        parts = path.rglob("*") if path.is_dir() else open_weights(path).files
        found.update(part.resolve() for part in parts if part.is_file())
    return sum(path.stat().st_size for path in found)


class _Watch:
    """The time between reports, which counts for the stage that is reported."""

    def __init__(self) -> None:
        self.device: torch.device | None = None
        self.laps: dict[str, list[float]] = {"load": [], "encode": [], "sample": [], "decode": []}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last call for ``stage``, with the work that the device has yet to do."""
        if self.device is not None and self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        now = time.perf_counter()
        self.laps[stage].append(now - self._last)
        self._last = now
