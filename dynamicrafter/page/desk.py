"""What the page and its HTTP API both do: take a clip's choices, say how far it is, cancel it, suggest, list models."""

from __future__ import annotations

import random
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..animate_anyone.api import PersonSettings, person_settings
from ..animate_anyone.clips import PersonShot
from ..animate_anyone.config import BUILT_IN_PERSON, PersonPreset
from ..animate_anyone.pose_clips import PoseChoices
from ..animate_anyone.weights import check_person, person_export_of
from ..api import ModelFiles, export_of
from ..backends.choice import TORCH
from ..director.ambience import AMBIENCES, RATE
from ..director.film import Models, plan_film
from ..director.loudness import levelled
from ..director.plan import ClipPlan
from ..director.scenes import story_of
from ..director.soundtrack import sound_for
from ..director.suggesting import suggested_plans
from ..director.suggestions import Sight
from ..errors import DynamiCrafterError, UsageError
from ..evaluation.clip_score import find_towers, load_scorer
from ..forms import shortened, to_json
from ..jobs.lines import Job, ModelChoice, local_variant
from ..jobs.pool import Show, Take, Worker
from ..media.pictures import as_picture, read_picture
from ..media.video import Sound
from ..model.variants import TINY, Mode, Variant
from ..records import Record, know_pictures
from ..sampling import check_layers
from ..settings import Fit, Settings, clip_length, clip_metadata, make_settings, settings_to_json
from ..weights.catalogue import PERSON, Release
from ..weights.download import status_rows
from .limits import Limits, check_film, check_limits, check_most
from .line import Line, Ticket
from .shelf import Result, Shelf, write_kinds
from .tasks import FilmTask, PersonTask

_EVERY = 600.0
"""Seconds between two removals of old results."""
_PROMPT = 2_000
"""Maximum characters of a prompt."""
_SEEDS = 2**31
"""Random seeds are below it: browsers round numbers from 2^53 on, and people copy short ones."""
MOST_TEXT = 10_000
"""Maximum characters of a story."""
_PICTURES = 32
"""Maximum images of a story."""
POSE_FILES = (".json", ".mp4", ".webm", ".gif", ".webp")
_MODES: tuple[Mode, ...] = ("animate", "interpolate", "loop")


@dataclass(frozen=True)
class Visitor:
    """Who asks."""

    identifier: str
    """Secret of a browser or a client, 32 hexadecimal digits; its clips are seen by nobody else."""
    owner: str
    """Login or address; limits hold for it."""


@dataclass(frozen=True)
class Wish:
    """A clip as a visitor asks for it; None is the model's default."""

    mode: Mode
    pictures: tuple[str, ...]
    """Paths of uploads."""
    model: str
    prompt: str = ""
    negative: str = ""
    motion: float | None = None
    seed: int | None = None
    """None for a random one."""
    frames: int | None = None
    steps: int | None = None
    cfg: float | None = None
    sound: str = ""
    """Name of an ambience."""


@dataclass(frozen=True)
class StoryWish:
    """A film as a visitor asks for it; None is the story's or the model's."""

    text: str
    """Plain text, or YAML."""
    pictures: tuple[str, ...]
    """Paths of uploads, under whose names the story knows them; plain text begins with the first one."""
    model: str
    seed: int | None = None
    """None for that of the story, or a random one."""
    steps: int | None = None
    cfg: float | None = None


@dataclass(frozen=True)
class PersonWish:
    """A clip of a person as a visitor asks for it; None is the model's default."""

    picture: str
    """Path of an upload."""
    poses: str
    """Path of an upload or of an example: keypoints, or a clip of drawings."""
    model: str
    seed: int | None = None
    """None for a random one."""
    frames: int | None = None
    """Poses that are used; None for all."""
    steps: int | None = None
    cfg: float | None = None
    fit: Fit = "pad"


@dataclass(frozen=True)
class OfferedModel:
    """A model that visitors can choose."""

    name: str
    choice: ModelChoice
    variant: Variant


@dataclass
class _Memory:
    """Both CLIP encoders, which remember the prompts that they have read: those of the bank are always the same."""

    sight: Sight
    known: dict[tuple[str, ...], Tensor] = field(default_factory=dict[tuple[str, ...], Tensor])

    def see(self, frames: Tensor) -> Tensor:
        """As the encoders'."""
        return self.sight.see(frames)

    def read(self, prompts: Sequence[str]) -> Tensor:
        """As the encoders'."""
        key = tuple(prompts)
        if key not in self.known:
            self.known[key] = self.sight.read(prompts)
        return self.known[key]


def offered_models(
    first: ModelChoice, backend: str, refused: dict[str, DynamiCrafterError]
) -> dict[str, OfferedModel]:
    """The models to choose from by name: ``first``, then those that are downloaded, then the built-in one.

    One that ``backend`` cannot run, or whose encoders are not here, is added to ``refused`` with the reason, which is
    raised if it is ``first``.
    """
    choices = [
        first,
        *(ModelChoice(release.name) for release, path in status_rows() if path and release.variant),
    ]
    found: dict[str, OfferedModel] = {}
    for choice in (*choices, ModelChoice(TINY.name)):
        name = Path(choice.asked).name
        if name in found:
            continue
        try:
            variant = local_variant(choice)
            export_of(choice.files(), backend)
        except DynamiCrafterError as problem:
            if choice is first:
                raise
            refused[name] = problem
        else:
            found[name] = OfferedModel(name, choice, variant)
    return found


def offered_persons(backend: str, refused: dict[str, DynamiCrafterError]) -> dict[str, PersonPreset]:
    """The models of persons to choose from by name: the released one if it is downloaded, then the built-in one.

    One that ``backend`` cannot run is added to ``refused`` with the reason.
    """
    here = [release.name for release, path in status_rows() if path and release.name == PERSON]
    found: dict[str, PersonPreset] = {}
    for name in (*here, BUILT_IN_PERSON):
        try:
            person_export_of(name, backend)
            found[name] = check_person(name).preset
        except DynamiCrafterError as problem:
            refused[name] = problem
    return found


def missing_models() -> list[Release]:
    """The models that are not downloaded."""
    wanted = [row for row in status_rows() if row[0].variant is not None or row[0].name == PERSON]
    return [release for release, path in wanted if path is None]


class Desk:
    """The page without its looks; every method may be called from any thread."""

    def __init__(
        self,
        models: Mapping[str, OfferedModel],
        crew: Sequence[Callable[[Show], Worker]],
        shelf: Shelf,
        limits: Limits,
        persons: Mapping[str, PersonPreset] | None = None,
        backend: str = TORCH,
    ) -> None:
        self.models, self.shelf, self.limits, self.persons = models, shelf, limits, persons or {}
        self._backend = backend
        self._count = 0
        self._seeing = threading.Lock()
        self._sight: _Memory | None = None
        self._closing = threading.Event()
        shelf.clear_unfinished()
        shelf.sweep()
        self.line = Line(crew, self._keep, self._drop, limits)
        threading.Thread(target=self._sweep, daemon=True, name="sweep").start()

    def submit(self, visitor: Visitor, wish: Wish) -> Ticket:
        """Queue a clip. Raises UsageError and PictureError for what is wrong with it or too much."""
        offered = self._model(wish.model)
        wanted = 2 if wish.mode == "interpolate" else 1
        if wish.mode not in _MODES or len(wish.pictures) != wanted:
            raise UsageError(
                f"the mode must be one of {', '.join(_MODES)}, with two images to interpolate and one otherwise, but "
                f"{wish.mode} with {len(wish.pictures)} was given"
            )
        with self._begun(visitor) as (job, place):
            paths = [_copied(path, place / f"picture{number}") for number, path in enumerate(wish.pictures)]
            settings = self._settings(wish, offered.variant, read_picture(paths[0]).size)
            for path in paths[1:]:
                read_picture(path)
            self._count += 1
            made = Job(self._count, job, settings, tuple(paths), offered.choice, "")
            about = _about(job, settings, settings.prompt, settings.mode, wish.model)
            told = settings_to_json(settings)
            return self.line.join(
                Ticket(visitor.identifier, visitor.owner, made, about, told, sound=wish.sound)
            )

    def submit_story(self, visitor: Visitor, wish: StoryWish) -> Ticket:
        """Queue a film. Raises UsageError and PictureError for what is wrong with it or too much."""
        main = self._model(wish.model)
        if len(wish.text) > MOST_TEXT:
            raise UsageError(
                f"a story may have {MOST_TEXT:,} characters, but {len(wish.text):,} were given; shorten it"
            )
        if not 1 <= len(wish.pictures) <= _PICTURES:
            raise UsageError(
                f"a story needs 1 to {_PICTURES} images, but {len(wish.pictures)} were given; upload them"
            )
        first = Path(wish.pictures[0]).name
        story = story_of(wish.text, "the story", first)
        with self._begun(visitor) as (job, place):
            found = {
                _plain(Path(path).name): _copied(path, place / f"picture{number}")
                for number, path in enumerate(wish.pictures)
            }
            seed = story.settings.get("seed", random.randrange(_SEEDS)) if wish.seed is None else wish.seed
            plan = plan_film(
                story,
                partial(_uploaded, found),
                place / "clip.mp4",
                Models(main.choice.files(), self._between(main)),
                {"seed": seed, "steps": wish.steps, "cfg": wish.cfg},
                backend=self._backend,
            )
            clips = [piece.settings for piece in plan.pieces]
            check_film(clips, self.limits)
            for settings in clips:
                check_layers(settings, self._backend == TORCH)
            prompt = " / ".join(scene.prompt for scene in story.scenes)[:_PROMPT]
            about = _about(job, clips[0], prompt, "story", wish.model)
            told = {"clips": [settings_to_json(settings) for settings in clips]}
            task = FilmTask(job, plan)
            return self.line.join(
                Ticket(visitor.identifier, visitor.owner, task, about, told, clips=len(clips))
            )

    def _between(self, main: OfferedModel) -> ModelFiles | None:
        """The model that interpolates in the film of another one, if that one does not and there is any."""
        if "interpolate" in main.variant.modes:
            return None
        able = (one for one in self.models.values() if "interpolate" in one.variant.modes)
        return next((one.choice.files() for one in able), None)

    def submit_person(self, visitor: Visitor, wish: PersonWish) -> Ticket:
        """Queue a clip of a person. Raises UsageError and PictureError for what is wrong with it or too much."""
        if wish.model not in self.persons:
            raise UsageError(
                f"there is no model of persons {wish.model[:80]!r} here; they are {', '.join(self.persons)}"
            )
        if Path(wish.poses).suffix.lower() not in POSE_FILES:
            raise UsageError(
                f"poses are {', '.join(POSE_FILES)}, but {Path(wish.poses).name[:80]!r} was given; choose a motion, or "
                f"upload keypoints or a clip of drawn poses"
            )
        seed = random.randrange(_SEEDS) if wish.seed is None else wish.seed
        settings = person_settings(
            self.persons[wish.model], seed=seed, steps=wish.steps, cfg=wish.cfg, fit=wish.fit
        )
        check_most("steps", settings.steps, self.limits.steps)
        check_most("frames", wish.frames or 1, self.limits.frames)
        with self._begun(visitor) as (job, place):
            picture = _copied(wish.picture, place / "picture0")
            read_picture(picture)
            shot = PersonShot(
                settings,
                PoseChoices(frames=wish.frames),
                picture=picture,
                poses=_copied(wish.poses, place / "poses"),
                model=Path(wish.model),
                target=f"{place / 'frames'}/",
            )
            about = _about(job, settings, "", "person", wish.model)
            task = PersonTask(job, shot, self.limits.frames)
            told = {**asdict(settings), "frames": wish.frames}
            return self.line.join(Ticket(visitor.identifier, visitor.owner, task, about, told))

    @contextmanager
    def _begun(self, visitor: Visitor) -> Generator[tuple[str, Path]]:
        """Name and folder of a new clip; the folder is removed if the clip does not get into the queue."""
        self.line.check(visitor.owner)
        job = secrets.token_hex(16)
        place = self.shelf.begin(visitor.identifier, job)
        try:
            yield job, place
        except OSError as problem:
            self.shelf.forget(visitor.identifier, [job])
            raise UsageError(
                f"the image could not be stored ({problem.strerror or problem}); try again later"
            ) from problem
        except DynamiCrafterError:
            self.shelf.forget(visitor.identifier, [job])
            raise

    def _model(self, name: str) -> OfferedModel:
        if name not in self.models:
            raise UsageError(f"there is no model {name[:80]!r} here; the models are {', '.join(self.models)}")
        return self.models[name]

    def _settings(self, wish: Wish, variant: Variant, size: tuple[int, int]) -> Settings:
        if wish.sound and wish.sound not in AMBIENCES:
            raise UsageError(f"there is no sound {wish.sound[:80]!r}; the sounds are {', '.join(AMBIENCES)}")
        for text in (wish.prompt, wish.negative):
            if len(text) > _PROMPT:
                raise UsageError(
                    f"a prompt may have {_PROMPT} characters, but {len(text)} were given; shorten it"
                )
        chosen: dict[str, Any] = {
            "prompt": wish.prompt,
            "negative": wish.negative or None,
            "motion": wish.motion,
            "frames": wish.frames,
            "steps": wish.steps,
            "cfg": wish.cfg,
            "seed": random.randrange(_SEEDS) if wish.seed is None else wish.seed,
        }
        settings = make_settings(variant, wish.mode, picture_size=size, **chosen)
        check_limits(settings, self.limits)
        return settings

    def files(self, ticket: Ticket) -> dict[str, Path]:
        """The files of a finished clip by kind."""
        found = {
            kind: self.shelf.find(ticket.visitor, ticket.identifier, kind) for kind in ("mp4", "gif", "webp")
        }
        return {kind: path for kind, path in found.items() if path is not None}

    def cancel(self, visitor: Visitor, identifier: str) -> bool:
        """Cancel a clip of this visitor; False if there is none that waits or is being generated."""
        ticket = self.line.find(visitor.identifier, identifier)
        if ticket is None or ticket.ended:
            return False
        self.line.cancel(ticket)
        return True

    def forget_all(self, visitor: Visitor) -> None:
        """Delete all finished clips of this visitor."""
        done = [result.job for result in self.shelf.history(visitor.identifier)]
        self.shelf.forget(visitor.identifier, done)

    def suggest(self, picture: str, model: str) -> list[ClipPlan]:
        """What could move in an upload, or nothing if that cannot be told here. Raises PictureError."""
        files = self._model(model).choice.files()
        shown = as_picture(picture)
        try:
            sight = None if files.asked == TINY.name else self._encoders()
            return suggested_plans(files, shown, sight=sight)
        except UsageError:
            return []

    def _encoders(self) -> Sight | None:
        with self._seeing:
            if self._sight is None:
                towers = find_towers(None)
                self._sight = None if towers is None else _Memory(load_scorer(towers))
            return self._sight

    def _keep(self, ticket: Ticket, take: Take | None) -> None:
        if take is not None:
            self._write(ticket, take)
        seconds = round(time.monotonic() - ticket.began, 1)
        self.shelf.finish(ticket.visitor, replace(ticket.about, seconds=seconds, made=time.time()))

    def _write(self, ticket: Ticket, take: Take) -> None:
        job = ticket.job
        assert isinstance(job, Job)
        settings = job.settings
        if take.model is None:
            metadata = clip_metadata(settings)
        else:
            metadata = to_json(Record(settings, know_pictures(job.pictures), take.model))
        seconds = clip_length(settings) / settings.fps
        samples = sound_for(ticket.sound, seconds, settings.seed) if ticket.sound else None
        sound = None if samples is None else Sound(levelled(samples), RATE)
        place = self.shelf.folder_of(ticket.visitor, job.output)
        write_kinds(place, take.frames, settings.fps, metadata, sound)

    def _drop(self, ticket: Ticket) -> None:
        self.shelf.forget(ticket.visitor, [ticket.identifier])

    def _sweep(self) -> None:
        while not self._closing.wait(_EVERY):
            self.shelf.sweep()

    def close(self) -> None:
        """Stop all work; what waits is lost."""
        self._closing.set()
        self.line.close()


def _copied(upload: str, target: Path) -> Path:
    """A copy of an upload as ``target`` with the ending of its name."""
    path = target.with_suffix(Path(upload).suffix.lower()[:5])
    shutil.copyfile(upload, path)
    return path


def _plain(name: str) -> str:
    """The name of a file as that of its upload is, which has lost unusual signs, in small letters."""
    return "".join(sign for sign in name if sign.isalnum() or sign in "._-, ").casefold()


def _uploaded(found: Mapping[str, Path], name: str) -> Path:
    """The upload that a story means; nothing else can be named in it."""
    path = found.get(_plain(name))
    if path is None:
        raise UsageError(
            f"there is no file {shortened(repr(name))} among the uploaded images, which are {', '.join(found)}"
        )
    return path


def _about(job: str, settings: Settings | PersonSettings, prompt: str, mode: str, model: str) -> Result:
    """What is listed of a clip, before it is generated."""
    return Result(job, prompt, mode, model, settings.seed, settings.width, settings.height, 0.0, 0.0)
