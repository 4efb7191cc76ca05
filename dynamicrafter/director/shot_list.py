"""What a story needs: its clips, one for each scene or the interpolation that leads to it, and its sounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ..errors import ClipError, DynamiCrafterError, Remedy, UsageError
from ..model.variants import Mode, Variant
from ..parameters import PARAMETERS, TRAINED_FRAMES
from ..settings import LengthMethod, Settings, default_size, make_settings
from .cutting import Joint
from .scenes import CONTINUE, FILM_DEFAULTS, SILENCE, Story, StoryScene
from .soundtrack import SOUND_EXTENSIONS, SoundSource, sound_of, source_for

P = TypeVar("P")
"""A picture of the story, such as its path."""
FileFinder = Callable[[str], Path]
"""From the name of a picture or a sound in a story to its file; raises UsageError for one that may not be used."""


@dataclass(frozen=True)
class FilmClip(Generic[P]):
    """One clip of a film: a scene, or the interpolation that leads to it."""

    name: str
    """Of its folder among the clips."""
    scene: int
    """Number of its scene, from 1."""
    settings: Settings
    pictures: tuple[P | None, ...]
    """Images that it begins with and, if it interpolates, ends with; None is the end of the piece before."""
    joint: Joint

    @property
    def continues(self) -> bool:
        """Whether it begins with the end of the piece before."""
        return self.pictures[0] is None


def sources_of(
    story: Story, find: FileFinder, folder: Path | None, notes: list[str]
) -> list[SoundSource | None]:
    """The sound of each scene.

    ``find`` is asked for those that are named as files, and ``folder`` searched for words. What a person should know is
    added to ``notes``. Raises UsageError or ClipError with the number of the scene.
    """
    return [
        _in_scene(number, _source_of, story, scene, find, folder, number, notes)
        for number, scene in enumerate(story.scenes, 1)
    ]


def clips_of_story(
    story: Story,
    find: Callable[[str], P],
    size_of: Callable[[P], tuple[int, int]],
    variant: Callable[[Mode], Variant],
    choices: Mapping[str, Any],
) -> list[FilmClip[P]]:
    """The clips of a story in order.

    ``find`` returns the picture of a name, ``size_of`` its width and height, and ``variant`` that of the model for a
    mode; each raises an error for what cannot be used. ``choices`` are settings of all scenes, with precedence over the
    story's, but not over a scene's own. Raises UsageError and what the functions raise, with the number of the scene.
    """
    maker = _Maker(story, find, size_of, variant, choices)
    clips: list[FilmClip[P]] = []
    for number, scene in enumerate(story.scenes, 1):
        clips += _in_scene(number, maker.pieces, scene, number)
    return clips


def ends_among(clips: Sequence[FilmClip[P]], place: int) -> int:
    """Of how many of its last frames the sharpest is the end of a clip; 1 unless the next one continues it."""
    settings = clips[place].settings
    continued = place + 1 < len(clips) and clips[place + 1].continues
    return settings.continue_from if continued and settings.mode != "interpolate" else 1


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
        return _heard(source_for(scene.prompt, folder))
    if cue.strip().lower() in ("", SILENCE):
        return None
    if Path(cue).suffix.lower() in SOUND_EXTENSIONS:
        path = find(cue)
        if not path.is_file():
            raise ClipError(f"there is no sound {path}; check its name and folder")
        return _heard(path)
    source = source_for(cue, folder)
    if source is None:
        notes.append(f"scene {number} has no sound, because none fits {cue!r}")
    return _heard(source)


def _heard(source: SoundSource | None) -> SoundSource | None:
    """The same, after the beginning of a file was read; raises ClipError if it has no sound."""
    if isinstance(source, Path):
        sound_of(source, _GLANCE)
    return source


class _Maker(Generic[P]):
    """Makes pieces of scenes, one after the other."""

    def __init__(
        self,
        story: Story,
        find: Callable[[str], P],
        size_of: Callable[[P], tuple[int, int]],
        variant: Callable[[Mode], Variant],
        choices: Mapping[str, Any],
    ) -> None:
        self._story = story
        self._find = find
        self._size_of = size_of
        self._variant = variant
        self._choices = _merged(_merged(FILM_DEFAULTS, story.settings), choices)
        self._digits = max(2, len(str(len(story.scenes))))
        first = self._picture(story.scenes[0].pictures[0])
        main = variant("animate")
        self._size = self._chosen_size() or default_size(main, size_of(first))
        self._fps = _number("fps", self._choices, main.preset.fps)
        self._depth = 0
        """How many scenes have continued since a picture of its own was shown."""
        self._origin = first
        """That picture."""

    def _chosen_size(self) -> tuple[int, int] | None:
        """Width and height in pixels as the choices have them, which :func:`make_settings` checks."""
        if self._choices.get("size") is not None:
            return self._choices["size"]
        given = [name for name in ("width", "height") if self._choices.get(name) is not None]
        if len(given) == 1:
            raise UsageError(f"the story has a {given[0]} alone; give both width and height, or neither")
        return (self._choices["width"], self._choices["height"]) if given else None

    def pieces(self, scene: StoryScene, number: int) -> list[FilmClip[P]]:
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
        made: list[FilmClip[P]] = []
        if scene.joint == "interpolate":
            bridge = self._settings("interpolate", replace(scene, seconds=None), 0)
            made.append(FilmClip(f"{name}-bridge", number, bridge, (None, begins), "shared"))
            joint = "shared"
        settings = self._settings("interpolate" if ends else "animate", scene, self._depth)
        made.append(FilmClip(name, number, settings, (begins, *ends), joint))
        if ends:
            self._origin, self._depth = cast(P, ends[0]), 0
        return made

    def _picture(self, name: str) -> P:
        picture = self._find(name)
        self._size_of(picture)
        return picture

    def _settings(self, mode: Mode, scene: StoryScene, depth: int) -> Settings:
        variant = self._variant(mode)
        if mode == "interpolate" and mode not in variant.modes:
            raise UsageError(
                f"it interpolates between two images, which {variant.name} does not",
                Remedy("name_between"),
            )
        chosen = _merged(self._choices, scene.settings)
        for name in ("size", "width", "height", "fps"):
            chosen.pop(name, None)
        # Every scene of a chain gets other noise; a scene in front of the chain changes nothing.
        chosen["seed"] = _number("seed", chosen, PARAMETERS["seed"].default) + depth
        frames, method = TRAINED_FRAMES, "native"
        if scene.seconds is not None:
            frames, method = length_for(mode, round(scene.seconds * self._fps), variant)
        chosen["length_method"] = method
        if mode == "interpolate":
            chosen.pop("continue_from", None)
        prompt = _styled(scene.prompt, self._story.style)
        return make_settings(
            variant, mode, prompt=prompt, frames=frames, size=self._size, fps=self._fps, **chosen
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


_GLANCE = 0.1
"""Seconds of a sound file that are read before the long work."""
_MOTION = frozenset({"fs", "motion"})


def _number(name: str, choices: Mapping[str, Any], default: Any) -> Any:
    """A setting that is calculated with before the settings are made; raises UsageError for no valid value."""
    given = choices.get(name)
    return default if given is None else PARAMETERS[name].check(given)


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
