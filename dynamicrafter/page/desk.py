"""What the page and its HTTP API both do: take a clip's choices, say how far it is, cancel it, suggest, list models."""

from __future__ import annotations

import random
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..director.ambience import AMBIENCES, RATE
from ..director.loudness import levelled
from ..director.plan import ClipPlan
from ..director.soundtrack import sound_for
from ..director.suggesting import suggested_plans
from ..director.suggestions import Sight
from ..errors import DynamiCrafterError, UsageError
from ..evaluation.clip_score import find_towers, load_scorer
from ..forms import to_json
from ..jobs.lines import Job, ModelChoice
from ..jobs.pool import Take, Worker
from ..jobs.studio import Show
from ..media.pictures import as_picture, read_picture
from ..media.video import Sound
from ..model.variants import TINY, Mode, Variant
from ..records import Record, know_pictures
from ..settings import Settings, clip_length, clip_metadata, make_settings
from ..weights.catalogue import Release
from ..weights.download import status_rows
from .limits import Limits, check_limits
from .line import Line, Ticket
from .shelf import Result, Shelf

_EVERY = 600.0
"""Seconds between two removals of old results."""
_PROMPT = 2_000
"""Maximum characters of a prompt."""
_SEEDS = 2**31
"""Random seeds are below it: browsers round numbers from 2^53 on, and people copy short ones."""
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
    first: ModelChoice, variant_for: Callable[[ModelChoice], Variant]
) -> dict[str, OfferedModel]:
    """The models to choose from by name: ``first``, then those that are downloaded, then the built-in one."""
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
            found[name] = OfferedModel(name, choice, variant_for(choice))
        except DynamiCrafterError:
            # One whose encoders are not downloaded, for example; the model that was asked for must be there.
            if choice is first:
                raise
    return found


def missing_models() -> list[Release]:
    """The models that are not downloaded."""
    return [release for release, path in status_rows() if path is None and release.variant is not None]


class Desk:
    """The page without its looks; every method may be called from any thread."""

    def __init__(
        self,
        models: Mapping[str, OfferedModel],
        crew: Sequence[Callable[[Show], Worker]],
        shelf: Shelf,
        limits: Limits,
    ) -> None:
        self.models, self.shelf, self.limits = models, shelf, limits
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
        self.line.check(visitor.owner)
        pictures = [read_picture(path) for path in wish.pictures]
        settings = self._settings(wish, offered.variant, pictures[0].size)
        job = secrets.token_hex(16)
        place = self.shelf.begin(visitor.identifier, job)
        try:
            paths: list[Path] = []
            for number, picture in enumerate(wish.pictures):
                paths.append(place / f"picture{number}{Path(picture).suffix.lower()[:5]}")
                shutil.copyfile(picture, paths[-1])
            self._count += 1
            made = Job(self._count, job, settings, tuple(paths), offered.choice, "")
            return self.line.join(Ticket(visitor.identifier, visitor.owner, made, sound=wish.sound))
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

    def _keep(self, ticket: Ticket, take: Take) -> None:
        settings, job = ticket.job.settings, ticket.job
        if take.model is None:
            metadata = clip_metadata(settings)
        else:
            metadata = to_json(Record(settings, know_pictures(job.pictures), take.model))
        seconds = clip_length(settings) / settings.fps
        samples = sound_for(ticket.sound, seconds, settings.seed) if ticket.sound else None
        sound = None if samples is None else Sound(levelled(samples), RATE)
        name = Path(job.model.asked).name
        now = time.monotonic()
        result = Result(
            job.output,
            settings.prompt,
            settings.mode,
            name,
            settings.seed,
            settings.width,
            settings.height,
            round(now - ticket.began, 1),
            time.time(),
        )
        self.shelf.finish(ticket.visitor, result, take.frames, settings.fps, metadata, sound)

    def _drop(self, ticket: Ticket) -> None:
        self.shelf.forget(ticket.visitor, [ticket.identifier])

    def _sweep(self) -> None:
        while not self._closing.wait(_EVERY):
            self.shelf.sweep()

    def close(self) -> None:
        """Stop all work; what waits is lost."""
        self._closing.set()
        self.line.close()
