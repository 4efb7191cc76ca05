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
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

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
from ..motion.joints import cross_fade, sharpest
from ..parameters import PARAMETERS, TRAINED_FRAMES
from ..pipeline import Model
from ..records import has_names_of, read_record
from ..settings import PROGRAM, LengthMethod, Settings, clip_length, default_size, make_settings
from ..shots import Means, Shot, ShotProgress, check_means, make
from .scenes import CONTINUE, FILM_DEFAULTS, NOT_CHOSEN, SILENCE, Story, StoryScene, read_story
from .soundtrack import SOUND_EXTENSIONS, SoundSource, film_sound, source_for

Joint = Literal["cut", "cross-fade", "shared"]
"""How a clip follows the one before; with "shared", its first frame is the other's last one, and is shown once."""
FileFinder = Callable[[str], Path]
"""From the name of a picture or a sound in a story to its file; raises UsageError for one that may not be used."""


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
class FilmClip:
    """One clip of a film: a scene, or the interpolation that leads to it."""

    name: str
    """Of its folder among the clips."""
    scene: int
    """Number of its scene, from 1."""
    settings: Settings
    pictures: tuple[Path | None, ...]
    """Images that it begins with and, if it interpolates, ends with; None is the end of the piece before."""
    joint: Joint

    @property
    def continues(self) -> bool:
        """Whether it begins with the end of the piece before."""
        return self.pictures[0] is None


@dataclass(frozen=True)
class FilmPlan:
    """Everything that is decided before the first clip is generated."""

    story: Story
    target: Path
    """The film."""
    pieces: tuple[FilmClip, ...]
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

    def clip(self, piece: FilmClip) -> Path:
        """The folder with the frames of a piece."""
        return self.folder / piece.name

    def shot(self, piece: FilmClip) -> Shot:
        """What is generated for a piece; the image that it continues from is there when the one before is finished."""
        pictures = tuple(self._start(piece) if path is None else path for path in piece.pictures)
        leading = "" if piece.name.isdecimal() else "bridge to "
        title = f"{leading}scene {piece.scene} of {len(self.story.scenes)}"
        return Shot(piece.settings, pictures, title, f"{self.clip(piece)}/")

    def _start(self, piece: FilmClip) -> Path:
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
        settings = self.pieces[place].settings
        following = self.pieces[place + 1] if place + 1 < len(self.pieces) else None
        if following is None or not following.continues or settings.mode == "interpolate":
            return clip.count - 1
        some = min(settings.continue_from, clip.count - 1)
        start = clip.count - some
        return start + sharpest(_floats(torch.stack(list(clip.frames(start)))))

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
        sources = [
            _in_scene(i, _source_of, story, scene, find, sounds, i, notes)
            for i, scene in enumerate(story.scenes, 1)
        ]
    elif not mute:
        notes.append(
            f"the film has no sound, because {path.suffix or 'a folder'} has none; .mp4 and .webm have"
        )
    maker = _Maker(story, find, models, choices)
    pieces: list[FilmClip] = []
    for number, scene in enumerate(story.scenes, 1):
        pieces += _in_scene(number, maker.pieces, scene, number)
    if any(
        path == picture.resolve() for piece in pieces for picture in piece.pictures if picture is not None
    ):
        raise UsageError(f"{path} is an image of the story", Remedy("name_output"))
    told = [note for piece in pieces for note in notes_on(maker.variant(piece.settings.mode), piece.settings)]
    return FilmPlan(
        story, path, tuple(pieces), tuple(sources), models, backend, tuple(dict.fromkeys((*told, *notes)))
    )


def _in_scene(number: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``work``; what it raises names the scene."""
    try:
        return work(*arguments)
    except DynamiCrafterError as problem:
        raise type(problem)(f"scene {number}: {problem.facts}", problem.remedy) from problem


def _source_of(
    story: Story, scene: StoryScene, find: FileFinder, folder: Path | None, number: int, notes: list[str]
) -> SoundSource | None:
    """The sound of a scene."""
    cue = scene.sound if scene.sound is not None else story.sound
    if cue is None:
        # What happens may be heard, but need not be.
        return source_for(scene.prompt, folder)
    if cue.strip().lower() in ("", SILENCE):
        return None
    if Path(cue).suffix.lower() in SOUND_EXTENSIONS:
        path = find(cue)
        if not path.is_file():
            raise ClipError(f"there is no sound {path}; check its name and folder")
        return path
    source = source_for(cue, folder)
    if source is None:
        notes.append(f"scene {number} has no sound, because none fits {cue!r}")
    return source


class _Maker:
    """Makes pieces of scenes, one after the other."""

    def __init__(self, story: Story, find: FileFinder, models: Models, choices: Mapping[str, Any]) -> None:
        self._story = story
        self._find = find
        self._choices = _merged(_merged(FILM_DEFAULTS, story.settings), choices)
        self._models = models
        self._variants: dict[Mode, Variant] = {}
        self._digits = max(2, len(str(len(story.scenes))))
        first = self._picture(story.scenes[0].pictures[0])
        main = self.variant("animate")
        given: Any = self._choices.get("size") or tuple(map(self._choices.get, ("width", "height")))
        self._size: tuple[int, int] = given if all(given) else default_size(main, read_picture(first).size)
        self._fps = self._choices.get("fps") or main.preset.fps
        self._depth = 0
        """How many scenes have continued since a picture of its own was shown."""
        self._origin = first
        """That picture."""

    def variant(self, mode: Mode) -> Variant:
        """That of the model for a mode."""
        if mode not in self._variants:
            self._variants[mode] = variant_of(self._models.files(mode))
        return self._variants[mode]

    def pieces(self, scene: StoryScene, number: int) -> list[FilmClip]:
        """The clip of a scene, after the interpolation that leads to it, if any."""
        name = f"{number:0{self._digits}d}"
        begins, *ends = (
            None if picture == CONTINUE else self._picture(picture) for picture in scene.pictures
        )
        joint: Joint = "shared" if begins is None else "cross-fade" if scene.joint == "cross-fade" else "cut"
        self._depth = self._depth + 1 if begins is None else 0
        every = self._story.original_every
        if begins is None and not ends and every and self._depth % every == 0:
            begins, joint = self._origin, "cross-fade"
        elif begins is not None:
            self._origin = begins
        made: list[FilmClip] = []
        if scene.joint == "interpolate":
            bridge = self._settings("interpolate", replace(scene, seconds=None), 0)
            made.append(FilmClip(f"{name}-bridge", number, bridge, (None, begins), "shared"))
            joint = "shared"
        settings = self._settings("interpolate" if ends else "animate", scene, self._depth)
        made.append(FilmClip(name, number, settings, (begins, *ends), joint))
        if ends:
            self._origin, self._depth = cast(Path, ends[0]), 0
        return made

    def _picture(self, name: str) -> Path:
        path = self._find(name)
        read_picture(path)
        return path

    def _settings(self, mode: Mode, scene: StoryScene, depth: int) -> Settings:
        if mode == "interpolate" and mode not in self.variant(mode).modes:
            raise UsageError(
                f"it interpolates between two images, which {self.variant(mode).name} does not",
                Remedy("name_between"),
            )
        chosen = _merged(self._choices, scene.settings)
        for name in ("size", "width", "height", "fps"):
            chosen.pop(name, None)
        # Every scene of a chain gets other noise; a scene in front of the chain changes nothing.
        chosen["seed"] = chosen.get("seed", PARAMETERS["seed"].default) + depth
        frames, method = TRAINED_FRAMES, "native"
        if scene.seconds is not None:
            frames, method = length_for(mode, round(scene.seconds * self._fps), self.variant(mode))
        chosen["length_method"] = method
        if mode == "interpolate":
            chosen.pop("continue_from", None)
        prompt = _styled(scene.prompt, self._story.style)
        return make_settings(
            self.variant(mode), mode, prompt=prompt, frames=frames, size=self._size, fps=self._fps, **chosen
        )


def length_for(mode: Mode, frames: int, variant: Variant) -> tuple[int, LengthMethod]:
    """The setting for a clip that shows about ``frames`` frames, and how that length is reached."""
    if mode == "loop":
        # Its last frame, which repeats the first, is not shown.
        frames = max(3, frames + 1)
        if frames <= TRAINED_FRAMES:
            return frames, "native"
        if "animate" in variant.modes:
            return frames, "windows"
        return round(frames / (TRAINED_FRAMES - 1)) * (TRAINED_FRAMES - 1) + 1, "continue"
    frames = max(2, frames)
    if mode == "interpolate" or frames == TRAINED_FRAMES:
        return frames, "native"
    return frames, "continue" if frames > TRAINED_FRAMES else "pick"


_MOTION = frozenset({"fs", "motion"})


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``under`` where ``over`` does not say otherwise; fs and motion are two words for one thing."""
    chosen = {name: value for name, value in over.items() if value is not None}
    replaced = _MOTION if _MOTION & chosen.keys() else frozenset[str]()
    kept = {name: value for name, value in under.items() if name not in replaced}
    return {**kept, **chosen}


def _styled(prompt: str, style: str) -> str:
    """A prompt, each of its parts if there are several, with the words of the style."""
    if not style.strip():
        return prompt
    return "|".join(
        f"{part.rstrip()}, {style.strip()}" if part.strip() else style.strip() for part in prompt.split("|")
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
    """Generate the clips of a film that are missing and join all of them.

    ``progress`` and ``callback`` are as in :func:`~dynamicrafter.shots.make`; ``finished`` is called with the number of
    clips that are there and of all. Raises what they raise, and ClipError if the film cannot be written; what is
    finished stays.
    """
    with _writing(plan.folder):
        plan.folder.mkdir(exist_ok=True)
    done = plan.finished()
    before = set(done)
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
    return _joined(plan, before)


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


def fades_of(plan: FilmPlan, lengths: Sequence[int]) -> list[int]:
    """The frames over which each piece is faded into the one before; ``lengths`` are those that are shown of each."""
    fps = plan.pieces[0].settings.fps
    return [
        min(max(1, round(plan.story.fade * fps)), lengths[place] // 2, lengths[place - 1] // 2)
        if piece.joint == "cross-fade"
        else 0
        for place, piece in enumerate(plan.pieces)
    ]


def longest_lengths(plan: FilmPlan) -> list[int]:
    """The frames that are shown of each piece at most, faded ones included; a sharper end can be a few less."""
    return [clip_length(piece.settings) - (piece.joint == "shared") for piece in plan.pieces]


def _joined(plan: FilmPlan, before: set[int]) -> Film:
    """Write the film of pieces that are all there."""
    ends = [plan.end_of(place) for place in range(len(plan.pieces))]
    firsts = [int(piece.joint == "shared") for piece in plan.pieces]
    lengths = [end + 1 - first for end, first in zip(ends, firsts, strict=True)]
    fades = [*fades_of(plan, lengths), 0]
    settings = plan.pieces[0].settings
    fps = settings.fps
    # Half of what is faded belongs to either side.
    spans = [(length - (fades[place] + fades[place + 1]) / 2) / fps for place, length in enumerate(lengths)]
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
    total = sum(lengths) - sum(fades)
    stream = FrameStream(_frames(plan, firsts, lengths, fades), total, settings.width, settings.height)
    write_clip(
        stream,
        plan.target,
        fps,
        {"program": PROGRAM, "version": program_version(), "film": _about(plan, scenes)},
        sound=sound,
    )
    return Film(plan.target, total, fps, tuple(scenes), sound is not None)


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


def _frames(
    plan: FilmPlan, firsts: Sequence[int], lengths: Sequence[int], fades: Sequence[int]
) -> Iterator[Tensor]:
    """The frames of a film, uint8 ``[n, h, w, 3]``, of which no more than those of a cross-fade are in memory."""
    fading: Tensor | None = None
    for place, piece in enumerate(plan.pieces):
        frames = open_clip(plan.clip(piece)).frames(firsts[place], count=lengths[place])
        if fading is not None:
            begin = torch.stack(list(islice(frames, fades[place])))
            yield _eight_bits(cross_fade(_floats(fading), _floats(begin)))
        for frame in islice(frames, lengths[place] - fades[place] - fades[place + 1]):
            yield frame[None]
        rest = list(frames)
        fading = torch.stack(rest) if rest else None


def _floats(frames: Tensor) -> Tensor:
    """uint8 ``[n, h, w, 3]`` as ``[n, 3, h, w]`` in [-1, 1]."""
    return frames.movedim(-1, 1).float() / 127.5 - 1


def _eight_bits(frames: Tensor) -> Tensor:
    """The inverse of :func:`_floats`, to the nearest level."""
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1)


def _as_png(frame: Tensor) -> bytes:
    """A frame, uint8 ``[h, w, 3]``, as the image that a clip begins with.

    Frames are truncated to 8 bits, half a level on average. That would add up from clip to clip, so every second pixel,
    as on a chessboard, is a level brighter, which no network can see.
    """
    from PIL import Image

    height, width, _ = frame.shape
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    pixels = (frame.int() + board[:, :, None]).clamp(max=255).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", compress_level=3)
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
    lengths = longest_lengths(plan)
    return (sum(lengths) - sum(fades_of(plan, lengths))) / plan.pieces[0].settings.fps
