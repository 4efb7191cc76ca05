"""What the page's workers do besides single clips: films of stories, and persons moved by poses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..animate_anyone.clips import PersonMeans, PersonShot, fps_of, make_person, plan_person, poses_of
from ..director.film import FilmPlan, join_scenes, make_scenes
from ..jobs.pool import Show, Tell
from ..jobs.studio import show_step
from ..media.video import read_frames, read_metadata, takes_sound
from ..shots import Means, Work
from .limits import check_most
from .shelf import MEDIA_TYPES, write_kinds


@dataclass(frozen=True)
class FilmTask:
    """The film of a story, in every kind."""

    output: str
    plan: FilmPlan
    """Its target, of any kind, is in the folder of the film on the shelf."""

    def run(self, means: Means, tell: Tell, show: Show | None) -> None:
        """Generate what is missing of the film and write it; progress is in steps of all scenes."""
        plan = self.plan
        titles = [plan.shot(piece).title for piece in plan.pieces]
        steps = dict(zip(titles, (piece.settings.steps for piece in plan.pieces), strict=True))
        before = plan.finished()
        done = {titles[place]: steps[titles[place]] for place in before}

        def shown(title: str, work: Work, part: int, whole: int) -> None:
            if work == "sample" and whole:
                done[title] = steps[title] * part // whole
                tell("sample", sum(done.values()), sum(steps.values()))
            elif not any(done.values()):
                tell(work, part, whole)
            else:
                tell(work, 0, 0)

        make_scenes(plan, before, means, progress=shown, callback=partial(show_step, show))
        for kind in MEDIA_TYPES:
            # The folder of the clips is the same for all.
            target = plan.target.with_suffix(f".{kind}")
            heard = plan.sources if takes_sound(target) else (None,) * len(plan.sources)
            join_scenes(replace(plan, target=target, sources=heard), before)


@dataclass(frozen=True)
class PersonTask:
    """A clip of a person, in every kind."""

    output: str
    shot: PersonShot
    """Its target is a folder for the frames in that of the clip on the shelf."""
    most: int
    """Frames that the clip may have."""

    def run(self, means: Means, tell: Tell, show: Show | None) -> None:
        """Generate the clip and write it. What a visitor uploaded is read here, where it can break nothing else."""
        shot = self.shot
        poses = poses_of(shot)
        check_most("frames", shot.settings.length(len(poses)), self.most)
        chosen = PersonMeans(means.device, means.dtype, means.weights, means.memory, means.backend)
        plan = plan_person(shot, poses, chosen)
        make_person(shot, poses, plan, lambda _, work, done, total: tell(work, done, total))
        frames = Path(shot.target)
        write_kinds(frames.parent, read_frames(frames), fps_of(shot, poses), read_metadata(frames))
