"""Generates jobs on one device of this machine, keeping the model of the last one."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange

from ..api import pick_device
from ..backends.choice import TORCH
from ..diffusion.samplers import Step
from ..forecast import memory_of
from ..model.configs import Residence
from ..pipeline import Model, TorchModel
from ..records import KnownModel, know_model
from ..settings import Settings
from ..shots import Means, Shot, load_with, render_batch, residence_for
from ..weights.footprint import free_bytes
from .lines import Job, ModelChoice
from .pool import Show, Take, Task, Tell


@dataclass(frozen=True)
class _Loaded:
    """The model of the last job."""

    choice: ModelChoice
    model: Model
    known: KnownModel
    residence: Residence
    room: float
    """Bytes on the device that were enough for the model and the clip that it was loaded for; infinite where no clip
    would be generated in another way."""

    def fits(self, settings: Settings) -> bool:
        """Whether a clip needs no more memory than the one that the model was loaded for."""
        # What is needed is counted only where it matters: the first time, all networks are built for it.
        return self.room == math.inf or _needed(self.model, settings, self.residence) <= self.room


class Studio:
    """A worker in this process; ``show`` is not called for models without colours for previews."""

    def __init__(self, means: Means, name: str = "", show: Show | None = None) -> None:
        self.name = name or means.device
        self._means = means
        self._show = show
        self._last: _Loaded | None = None

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job; its model is loaded if it is another one than that of the last job, or if this one needs
        more memory."""
        shot = Shot(job.settings, job.pictures, job.output)
        last = self._loaded(job.model, shot, tell)
        (clip,) = render_batch(
            last.model,
            [shot],
            lambda _, work, done, total: tell(work, done, total),
            lambda step: show_step(self._show, last.model, step),
        )
        return Take(clip.frames.numpy(), last.known)

    def do(self, task: Task, tell: Tell) -> None:
        """Do a task, which loads what it needs; the model of the last job might leave it no room."""
        self.close()
        task.run(self._means, tell, self._show)

    def close(self) -> None:
        """Forget the model."""
        self._last = None

    def _loaded(self, choice: ModelChoice, shot: Shot, tell: Tell) -> _Loaded:
        last = self._last
        if last is None or last.choice != choice or not last.fits(shot.settings):
            # Two models at once might not fit.
            last = None
            self.close()
            self._last = last = self._load(choice, shot, tell)
        return last

    def _load(self, choice: ModelChoice, shot: Shot, tell: Tell) -> _Loaded:
        files, backend = choice.files(), self._means.backend
        device = pick_device(self._means.device, backend)
        _give_back(device)
        residence = residence_for([shot], files, self._means)
        means = replace(self._means, memory=residence) if backend == TORCH else self._means
        model = load_with(means, files, lambda done, total: tell("load", done, total))
        known = know_model(model, files, lambda done, total: tell("hash", done, total), backend)
        bounded = residence != "min" and free_bytes(device) != math.inf
        room = _needed(model, shot.settings, residence) if bounded else math.inf
        return _Loaded(choice, model, known, residence, room)


def show_step(show: Show | None, model: Model, step: Step) -> None:
    """Call ``show``, if there is one, with a preview of a clip after a step, if its model has colours for it."""
    colours = model.preview if isinstance(model, TorchModel) else None
    if show is not None and colours is not None:
        drawn = colours.draw(rearrange(step.x0[0].cpu(), "c t h w -> t c h w"))
        levels = ((drawn + 1) * 127.5).round().to(torch.uint8)
        show(rearrange(levels, "t c h w -> t h w c").numpy())


def _needed(model: Model, settings: Settings, residence: Residence) -> float:
    return memory_of(model.variant, [settings], model.dtype, model.quantised, residence).total


def _give_back(device: torch.device) -> None:
    """Return what the last model took to the device, so that it counts as free."""
    gc.collect()
    backend: Any = getattr(torch, device.type, None)
    if hasattr(backend, "empty_cache"):
        backend.empty_cache()
