"""Generates jobs on one device of this machine, keeping the model of the last one."""

from __future__ import annotations

from ..pipeline import Model
from ..records import KnownModel, know_model
from ..shots import Means, Shot, load_with, render_batch
from .lines import Job, ModelChoice
from .pool import Take, Tell


class Studio:
    """A worker in this process."""

    def __init__(self, means: Means, name: str = "") -> None:
        self.name = name or means.device
        self._means = means
        self._choice: ModelChoice | None = None
        self._model: tuple[Model, KnownModel] | None = None

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job; its model is loaded if it is another one than that of the last job."""
        model, known = self._loaded(job.model, tell)
        shot = Shot(job.settings, job.pictures, job.output)
        (clip,) = render_batch(model, [shot], lambda _, work, done, total: tell(work, done, total))
        return Take(clip.frames.numpy(), known)

    def close(self) -> None:
        """Forget the model."""
        self._choice = self._model = None

    def _loaded(self, choice: ModelChoice, tell: Tell) -> tuple[Model, KnownModel]:
        if self._model is None or self._choice != choice:
            # Two models at once might not fit.
            self.close()
            files = choice.files()
            model = load_with(self._means, files, lambda done, total: tell("load", done, total))
            known = know_model(model, files, lambda done, total: tell("hash", done, total))
            self._choice, self._model = choice, (model, known)
        return self._model
