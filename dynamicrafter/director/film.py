"""A film of several clips: what is generated for a story, what is there already, and how it is joined with sound.

Every clip is kept as a folder of frames beside the film, lossless, so that the next one continues from exactly what the
film shows, and so that only what has changed is generated again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..api import ModelFiles, find_model, notes_on, variant_of
from ..atomic import replacing
from ..backends.choice import TORCH
from ..diffusion.samplers import Step
from ..errors import ClipError, DynamiCrafterError, Remedy, UsageError
from ..forms import program_version
from ..hashing import file_sha256
from ..media.pictures import read_picture
from ..media.video import FrameStream, check_clip_path, open_clip, takes_sound, write_clip
from ..model.configs import Compile, Memory, Weights
from ..model.variants import TINY, Mode, Variant
from ..pipeline import Model
from ..records import has_names_of, read_record
from ..settings import PROGRAM, clip_length
from ..shots import Means, Shot, ShotProgress, check_means, make
from .cutting import Cutting, beginning, cut, sharpest_of, tail_start
from .scenes import NOT_CHOSEN, Story, read_story
from .shot_list import FileFinder, FilmClip, clips_of_story, ends_among, sources_of
from .soundtrack import SoundSource, film_sound


@dataclass(frozen=True)
class Models:
    """The models of a film."""

    main: ModelFiles
    between: ModelFiles | None = None
    """For interpolations, if it is another one."""

    def files(self, mode: Mode) -> ModelFiles:
        """The model that generates clips of ``mode``."""
        return self.main if mode != "interpolate" or self.between is None else self.between


@dataclass(frozen=True)
class FilmPlan:
    """Everything that is decided before the first clip is generated."""

    story: Story
    target: Path
    """The film."""
    pieces: tuple[FilmClip[Path], ...]
    sources: tuple[SoundSource | None, ...]
    """The sound of each scene."""
    models: Models
    backend: str
    notes: tuple[str, ...]
    """What a person should know."""

    @property
    def folder(self) -> Path:
        """Where the clips are kept."""
        return self.target.with_name(f"{self.target.stem}-scenes")

    def clip(self, piece: FilmClip[Path]) -> Path:
        """The folder with the frames of a piece."""
        return self.folder / piece.name

    def shot(self, piece: FilmClip[Path]) -> Shot:
        """What is generated for a piece; the image that it continues from is there when the one before is finished."""
        pictures = tuple(self._start(piece) if path is None else path for path in piece.pictures)
        leading = "" if piece.name.isdecimal() else "bridge to "
        title = f"{leading}scene {piece.scene} of {len(self.story.scenes)}"
        return Shot(piece.settings, pictures, title, f"{self.clip(piece)}/")

    def _start(self, piece: FilmClip[Path]) -> Path:
        return self.folder / f"{piece.name}.png"

    def keep_start(self, place: int) -> None:
        """Write the image that a piece continues from, if it does; the one before is finished."""
        piece = self.pieces[place]
        if piece.continues:
            png = _as_png(self._end_frame(place - 1))
            with _writing(self.folder), replacing(self._start(piece)) as part:
                part.write_bytes(png)

    def finished(self) -> set[int]:
        """The places of the pieces whose clips are there and were generated from the same settings and images."""
        done: set[int] = set()
        for place, piece in enumerate(self.pieces):
            if piece.continues and place - 1 not in done:
                continue
            try:
                record = read_record(self.clip(piece))
                hashes = [
                    hashlib.sha256(_as_png(self._end_frame(place - 1))).hexdigest()
                    if path is None
                    else file_sha256(path)
                    for path in piece.pictures
                ]
            except (OSError, DynamiCrafterError):
                continue
            same_model = has_names_of(record.model, self.models.files(piece.settings.mode), self.backend)
            if (
                record.settings == piece.settings
                and [one.sha256 for one in record.pictures] == hashes
                and same_model
            ):
                done.add(place)
        return done

    def end_of(self, place: int) -> int:
        """The last frame of a finished piece that the film shows.

        A piece that another one continues ends with the sharpest of its last frames.
        """
        clip = open_clip(self.clip(self.pieces[place]))
        start = tail_start(clip.count, ends_among(self.pieces, place))
        return start + sharpest_of(torch.stack(list(clip.frames(start))))

    def _end_frame(self, place: int) -> Tensor:
        (frame,) = open_clip(self.clip(self.pieces[place])).frames(self.end_of(place), count=1)
        return frame


def plan_film(
    story: Story,
    find: FileFinder,
    target: str | Path,
    models: Models,
    choices: Mapping[str, Any],
    *,
    backend: str = TORCH,
    sounds: Path | None = None,
    mute: bool = False,
) -> FilmPlan:
    """What is generated for a story, checked as far as that is possible without its models.

    ``choices`` are settings of all scenes, with precedence over the story's, but not over a scene's own. ``sounds`` is
    a folder in which sounds are looked for by the words of a cue. Raises UsageError, PictureError or ClipError with the
    number of the scene for what cannot be made.
    """
    path = check_clip_path(target)
    wrong = next((name for name in NOT_CHOSEN if choices.get(name) is not None), None)
    if wrong is not None:
        raise UsageError(
            f"{wrong} follows from the scenes of a story, but {choices[wrong]!r} was given; omit it"
        )
    notes: list[str] = []
    sources: list[SoundSource | None] = [None] * len(story.scenes)
    if not mute and takes_sound(path):
        sources = sources_of(story, find, sounds, notes)
    elif not mute:
        notes.append(
            f"the film has no sound, because {path.suffix or 'a folder'} has none; .mp4 and .webm have"
        )

    @cache
    def variant(mode: Mode) -> Variant:
        return variant_of(models.files(mode))

    pieces = clips_of_story(story, find, lambda path: read_picture(path).size, variant, choices)
    if any(
        path == picture.resolve() for piece in pieces for picture in piece.pictures if picture is not None
    ):
        raise UsageError(f"{path} is an image of the story", Remedy("name_output"))
    told = [note for piece in pieces for note in notes_on(variant(piece.settings.mode), piece.settings)]
    return FilmPlan(
        story, path, tuple(pieces), tuple(sources), models, backend, tuple(dict.fromkeys((*told, *notes)))
    )


@dataclass(frozen=True)
class MadeScene:
    """A scene of a finished film."""

    number: int
    start: float
    """Seconds from the beginning of the film."""
    seconds: float
    clip: Path
    """The folder with its frames."""
    generated: bool
    """Whether its clip was generated now, not in an earlier run."""
    sound: str
    """The ambience or the name of the file; empty for none."""


@dataclass(frozen=True)
class Film:
    """A finished film."""

    path: Path
    frames: int
    fps: float
    scenes: tuple[MadeScene, ...]
    has_sound: bool


def make_film(
    plan: FilmPlan,
    means: Means,
    *,
    progress: ShotProgress | None = None,
    finished: Callable[[int, int], None] | None = None,
    callback: Callable[[Model, Step], None] | None = None,
) -> Film:
    """Generate the clips of a film that are missing and join all of them, by :func:`make_scenes` and
    :func:`join_scenes`.

    ``finished`` is called with the number of clips that are there and of all. Raises what they raise.
    """
    before = plan.finished()
    make_scenes(plan, before, means, progress=progress, finished=finished, callback=callback)
    return join_scenes(plan, before)


def make_scenes(
    plan: FilmPlan,
    before: set[int],
    means: Means,
    *,
    progress: ShotProgress | None = None,
    finished: Callable[[int, int], None] | None = None,
    callback: Callable[[Model, Step], None] | None = None,
) -> None:
    """Generate all clips of a film but the finished ones, whose places are ``before``.

    ``progress`` and ``callback`` are as in :func:`~dynamicrafter.shots.make`; ``finished`` is as in :func:`make_film`.
    Raises what they raise, and ClipError if an image cannot be written; what is finished stays.
    """
    with _writing(plan.folder):
        plan.folder.mkdir(exist_ok=True)
    done = set(before)
    while left := [place for place in range(len(plan.pieces)) if place not in done]:
        files, ready = _next_round(plan, left, done)
        for place in ready:
            if place - 1 in done:
                plan.keep_start(place)
        shots = [plan.shot(plan.pieces[place]) for place in ready]
        made = make(shots, files, replace(means, batch=1), progress, callback=callback)
        for place, _ in zip(ready, made, strict=True):
            done.add(place)
            if place + 1 < len(plan.pieces):
                plan.keep_start(place + 1)
            if finished is not None:
                finished(len(done), len(plan.pieces))


@contextmanager
def _writing(folder: Path) -> Generator[None]:
    """Turn errors of the disk into a ClipError."""
    try:
        yield
    except OSError as problem:
        raise ClipError(
            f"{folder} could not be written ({problem.strerror or problem}); free some space or choose another folder"
        ) from problem


def _next_round(plan: FilmPlan, left: Sequence[int], done: set[int]) -> tuple[ModelFiles, list[int]]:
    """A model, and the pieces that it can generate one after the other, so that models are loaded seldom."""

    def files_of(place: int) -> ModelFiles:
        return plan.models.files(plan.pieces[place].settings.mode)

    def can(place: int, ready: Sequence[int]) -> bool:
        return not plan.pieces[place].continues or place - 1 in done or place - 1 in ready

    files = next(files_of(place) for place in left if can(place, ()))
    ready: list[int] = []
    for place in left:
        if files_of(place) == files and can(place, ready):
            ready.append(place)
    return files, ready


def _cutting(plan: FilmPlan, counts: Sequence[int]) -> Cutting:
    """How the pieces are joined, with the frames that are there of each."""
    fade = round(plan.story.fade * plan.pieces[0].settings.fps)
    return cut([piece.joint for piece in plan.pieces], counts, fade)


def join_scenes(plan: FilmPlan, before: set[int]) -> Film:
    """Write the film of clips that are all there; those at the places ``before`` were not generated now.

    Raises ClipError if it cannot be written.
    """
    cutting = _cutting(plan, [plan.end_of(place) + 1 for place in range(len(plan.pieces))])
    settings = plan.pieces[0].settings
    fps = settings.fps
    spans = [frames / fps for frames in cutting.spans]
    scenes: list[MadeScene] = []
    for number, source in enumerate(plan.sources, 1):
        places = [place for place, piece in enumerate(plan.pieces) if piece.scene == number]
        scenes.append(
            MadeScene(
                number,
                round(sum(spans[: places[0]]), 4),
                round(sum(spans[place] for place in places), 4),
                plan.clip(plan.pieces[places[-1]]),
                not before.issuperset(places),
                source.name if isinstance(source, Path) else source or "",
            )
        )
    sound = film_sound(
        [(source, scene.seconds) for source, scene in zip(plan.sources, scenes, strict=True)], settings.seed
    )

    def read(place: int, first: int, count: int) -> Iterator[Tensor]:
        return open_clip(plan.clip(plan.pieces[place])).frames(first, count=count)

    stream = FrameStream(cutting.frames(read), cutting.total, settings.width, settings.height)
    write_clip(
        stream,
        plan.target,
        fps,
        {"program": PROGRAM, "version": program_version(), "film": _about(plan, scenes)},
        sound=sound,
    )
    return Film(plan.target, cutting.total, fps, tuple(scenes), sound is not None)


def _about(plan: FilmPlan, scenes: Sequence[MadeScene]) -> list[dict[str, Any]]:
    """What a film says of its scenes, without the folders of this machine."""
    return [
        {
            "prompt": scene.prompt,
            "pictures": [Path(name).name for name in scene.pictures],
            "transition": scene.joint,
            "start": made.start,
            "seconds": made.seconds,
            "sound": made.sound,
            "clip": made.clip.name,
        }
        for scene, made in zip(plan.story.scenes, scenes, strict=True)
    ]


def _as_png(frame: Tensor) -> bytes:
    """A frame, uint8 ``[h, w, 3]``, as the image that a clip begins with."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(beginning(frame).numpy()).save(file, "PNG", compress_level=3)
    return file.getvalue()


def story(
    source: str | Path | Story,
    out: str | Path,
    *,
    model: str | Path | ModelFiles = TINY.name,
    between_model: str | Path | ModelFiles | None = None,
    picture: str = "",
    sounds: str | Path | None = None,
    mute: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "auto",
    memory: Memory = "auto",
    compile: Compile = "off",
    backend: str = TORCH,
    progress: ShotProgress | None = None,
    **choices: Any,
) -> Film:
    """Generate the film of a story, a file or a :class:`~dynamicrafter.director.scenes.Story`, and write it to ``out``.

    Names in a file are relative to it, those in a ``Story`` to the current folder. ``picture`` is the path of the image
    that a plain text begins with. ``between_model`` is for interpolations if ``model`` has not learnt them. ``sounds``
    is a folder of sounds; ``mute`` leaves them out. ``choices`` are settings of all scenes, as
    :class:`~dynamicrafter.settings.Choices`. The rest is as in :func:`~dynamicrafter.api.load` and :func:`make_film`.
    Clips that are there from an earlier run are used if nothing they are made from has changed. Raises UsageError for a
    story that cannot be made, before anything is generated.
    """
    told = (
        source
        if isinstance(source, Story)
        else read_story(Path(source), str(Path(picture).absolute()) if picture else "")
    )
    beside = Path.cwd() if isinstance(source, Story) else Path(source).parent
    files, between = (
        each if each is None or isinstance(each, ModelFiles) else find_model(each)
        for each in (model, between_model)
    )
    assert files is not None
    means = Means(device, dtype, weights=weights, memory=memory, backend=backend, compile=compile)
    for each in (files, between):
        if each is not None:
            check_means(means, each)
    plan = plan_film(
        told,
        lambda name: beside / name,
        out,
        Models(files, between),
        choices,
        backend=backend,
        sounds=None if sounds is None else Path(sounds),
        mute=mute,
    )
    return make_film(plan, means, progress=progress)


def film_seconds(plan: FilmPlan) -> float:
    """Duration of a film in seconds, at most."""
    # A sharper end can be a few frames earlier.
    cutting = _cutting(plan, [clip_length(piece.settings) for piece in plan.pieces])
    return cutting.total / plan.pieces[0].settings.fps
