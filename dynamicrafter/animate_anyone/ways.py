"""Ways of generating a clip of a person, which can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..diffusion.samplers import Callback
from ..pipeline import Progress
from ..weights.formats.entries import ByteProgress
from .api import stream_person
from .clips import PersonMeans, PersonPlan, PersonShot, load_planned, plan_person, poses_of
from .pipeline import PersonModel
from .pose_clips import Finder, PoseClip
from .weights import person_files


@dataclass(frozen=True)
class PersonWay:
    """A way of generating a clip of a person, as :class:`dynamicrafter.evaluation.comparison.Way`."""

    name: str
    shot: PersonShot
    poses: PoseClip
    plan: PersonPlan

    @property
    def shape(self) -> str:
        """As the protocol."""
        chosen, poses = self.shot.settings, len(self.poses)
        length = f"{chosen.length(poses)} frames from {poses} poses"
        return f"move a person at {chosen.width}x{chosen.height} with {length}"

    @property
    def backend(self) -> str:
        """As the protocol."""
        return self.plan.backend

    def paths(self) -> list[Path]:
        """As the protocol."""
        return person_files(self.shot.model, self.backend)

    def load(self, progress: ByteProgress) -> PersonModel:
        """As the protocol."""
        return load_planned(self.shot, self.plan, progress)

    def render(self, model: PersonModel, progress: Progress, callback: Callback) -> Tensor:
        """As the protocol; the clip's picture and poses side by side are not part of it."""
        stream = stream_person(
            model, self.shot.picture, self.poses, self.shot.settings, progress=progress, callback=callback
        )
        return torch.cat(list(stream.parts))


def person_way(
    name: str, shot: PersonShot, means: PersonMeans | None = None, find: Finder | None = None
) -> PersonWay:
    """The way ``name`` of generating ``shot``, whose poses are read and whose memory is planned.

    ``find`` is needed for a shot with ``detect``. Raises what :func:`~.clips.poses_of` and :func:`~.clips.plan_person`
    raise.
    """
    poses = poses_of(shot, find)
    return PersonWay(name, shot, poses, plan_person(shot, poses, means or PersonMeans()))
