"""A story as its author writes it: scenes in YAML, or plain text by paragraphs.

A story may come from a stranger. It is data alone: bounded in size, without YAML's tags and aliases, and what it names
are pictures and sounds, never something to run or to write.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..errors import UsageError
from ..forms import Form, shortened
from ..parameters import PARAMETERS
from .plan import LONGEST, SHORTEST

Transition = Literal["cut", "cross-fade", "continue", "interpolate"]
"""How a scene follows the one before: at once, faded into it, from its last picture, or through an interpolation."""
TRANSITIONS: tuple[Transition, ...] = get_args(Transition)

CONTINUE = "continue"
"""The picture of a scene that begins where the one before ends."""
SILENCE = "none"
"""The sound of a scene without one."""
STORY_EXTENSIONS = (".yaml", ".yml", ".txt")

FILM_DEFAULTS: Mapping[str, Any] = {"colour_match": 1.0, "lock_frames": 4, "continue_from": 3}
"""Defaults of a story's settings where they differ from those of single clips."""
_OF_THE_FILM = ("width", "height", "fps")
"""Settings that all scenes share."""
NOT_CHOSEN = ("prompt", "frames", "keys", "cut_still", "denoise", "overlap", "reanchor", "length_method")
"""Settings that follow from what a scene says otherwise, or that its clip does not have."""

_LARGEST = 200_000
"""Maximum bytes of a story."""
MOST_SCENES = 1_000
_BETWEEN = re.compile(r"between\s(.+?)\sand\s(.+)", re.DOTALL)
"""Without repeated spaces, over which it would go back and forth in the story of a stranger."""
_SCENES = re.compile(r"^scenes\s*:", re.MULTILINE)
_MARKED = re.compile(r"\[([^\]\n]+)\]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class StoryScene:
    """One scene."""

    prompt: str = ""
    picture: str = CONTINUE
    """Name of an image file, "continue", or "between A and B" with such names."""
    seconds: float | None = None
    """Duration of its clip; None is that of the model's usual clip."""
    transition: Transition | None = None
    """None is "continue" if its picture is, otherwise "cut"."""
    sound: str | None = None
    """A cue in words, the name of a sound file or "none"; None is that of the story, or else what the prompt says."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings by their names in :data:`~dynamicrafter.parameters.PARAMETERS`."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """The names of its images: one, or the two that it is between."""
        found = _BETWEEN.fullmatch(self.picture.strip())
        return (self.picture.strip(),) if found is None else (found[1].strip(), found[2].strip())

    @property
    def joint(self) -> Transition:
        """How it follows the scene before."""
        begins = self.pictures[0] == CONTINUE
        return self.transition or (CONTINUE if begins else "cut")


@dataclass(frozen=True)
class Story:
    """A film as its author describes it."""

    scenes: tuple[StoryScene, ...]
    style: str = ""
    """Words that are added to every prompt."""
    sound: str | None = None
    """The sound of scenes that name none."""
    fade: float = 0.5
    """Seconds of a cross-fade."""
    original_every: int = 0
    """Every so many continued scenes, the picture that they began with is shown again; 0 is never."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of scenes that do not say otherwise."""

    def __post_init__(self) -> None:
        """Raise UsageError, with the number of the scene, for what does not go together."""
        if not 1 <= len(self.scenes) <= MOST_SCENES:
            raise UsageError(
                f"a story must have 1 to {MOST_SCENES:,} scenes, but {len(self.scenes)} were given; split it"
            )
        if not 0 < self.fade <= 10:
            raise UsageError(f"fade must be more than 0 and at most 10 seconds, but {self.fade:g} was given")
        if not 0 <= self.original_every <= MOST_SCENES:
            raise UsageError(
                f"original_every must be 0 to {MOST_SCENES:,} scenes, but {self.original_every} was given"
            )
        for number, scene in enumerate(self.scenes, 1):
            _check_scene(scene, number)


def _check_scene(scene: StoryScene, number: int) -> None:
    first, *others = scene.pictures
    if number == 1 and scene.joint in ("cross-fade", "interpolate"):
        raise UsageError(
            f"scene 1 has transition {scene.joint}, but nothing is before it; omit the transition"
        )
    if number == 1 and first == CONTINUE:
        raise UsageError("scene 1 has nothing to continue; name the picture that it begins with")
    if CONTINUE in others:
        raise UsageError(
            f"scene {number} can begin with what is before it, but not end with it; name its last picture"
        )
    if (first == CONTINUE) != (scene.joint == CONTINUE):
        wanted = "transition continue" if first == CONTINUE else "picture continue"
        raise UsageError(
            f"scene {number} has picture {shortened(scene.picture)} with transition {scene.joint}; use {wanted}, or "
            f"{'name a picture' if first == CONTINUE else 'another transition'}"
        )
    if scene.seconds is not None and not SHORTEST <= scene.seconds <= LONGEST:
        raise UsageError(
            f"scene {number} must take {SHORTEST:g} to {LONGEST:g} seconds, but {scene.seconds:g} were given; split it "
            f"into several if it is longer"
        )


def read_story(path: Path, picture: str = "") -> Story:
    """The story of a file: YAML, or plain text with a scene in each paragraph.

    A paragraph may begin with the name of its picture in brackets; ``picture`` is that of a text's first one. Raises
    UsageError for a file that is none, naming the scene and what is wrong with it.
    """
    text = read_text(path)
    if path.suffix.lower() == ".txt":
        return story_of_text(text, picture)
    if picture:
        raise UsageError(f"{picture} is for plain text, but {path} names its own pictures; omit it")
    return story_of_yaml(text, str(path))


def story_of(text: str, name: str, picture: str = "") -> Story:
    """The story of a text without a file: YAML if a line begins with ``scenes:``, otherwise plain text.

    ``name`` is that of the story in messages, and ``picture`` the one that a plain text begins with. Raises UsageError
    for a text that is none.
    """
    if len(text.encode()) > _LARGEST:
        raise UsageError(f"{name} has more than {_LARGEST:,} bytes; split the story")
    return story_of_yaml(text, name) if _SCENES.search(text) else story_of_text(text, picture)


def read_text(path: Path) -> str:
    """The text of a story's file; raises UsageError if it cannot be one."""
    if path.suffix.lower() not in STORY_EXTENSIONS:
        raise UsageError(
            f"a story is {', '.join(STORY_EXTENSIONS)}, but {path.name} was given; rename it to what it contains"
        )
    try:
        with path.open("rb") as file:
            found = file.read(_LARGEST + 1)
        text = found.decode("utf-8-sig")
    except OSError as problem:
        raise UsageError(
            f"{path} cannot be read ({problem.strerror or problem}); check its name and folder"
        ) from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path} is not text in UTF-8 ({problem.reason}); save it as such") from problem
    if len(found) > _LARGEST:
        raise UsageError(f"{path} has more than {_LARGEST:,} bytes; split the story")
    return text


def story_of_text(text: str, picture: str = "") -> Story:
    """The story of a plain text: each paragraph is the prompt of a scene, which continues the one before.

    One that begins with the name of a picture in brackets, such as ``[boat.png]``, begins with that picture. Raises
    UsageError if the first one has none.
    """
    scenes: list[StoryScene] = []
    for paragraph in paragraphs_of(text):
        found = _MARKED.fullmatch(paragraph)
        prompt = " ".join((found[2] if found else paragraph).split())
        scenes.append(StoryScene(prompt, found[1].strip() if found else CONTINUE if scenes else picture))
    if not scenes:
        raise UsageError(
            "the text has no paragraphs; write what happens in each scene, with empty lines between"
        )
    if not scenes[0].picture:
        raise UsageError(
            "the text names no picture to begin with; begin its first paragraph with one in brackets, such as "
            "[boat.png]"
        )
    return Story(tuple(scenes))


def paragraphs_of(text: str) -> list[str]:
    """What empty lines separate."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def story_of_yaml(text: str, name: str) -> Story:
    """The story of a YAML text, ``name`` in messages; raises UsageError for one that is none."""
    values = _parse_yaml(text, name)
    if not isinstance(values, dict):
        raise UsageError(
            f"{name} must contain scenes, such as 'scenes: [{{picture: boat.png, prompt: waves}}]'"
        )
    return _story_of(cast(dict[Any, Any], values), name)


def _story_of(values: Mapping[Any, Any], name: str) -> Story:
    own, settings = _parted(values, Story, name, ())
    scenes = own.pop("scenes", None)
    if not isinstance(scenes, list) or not scenes:
        raise UsageError(
            f"scenes in {name} must be a list of at least one scene; write each with a picture and a prompt"
        )
    made: list[StoryScene] = []
    for number, scene in enumerate(cast(list[Any], scenes), 1):
        where = f"scene {number} of {name}"
        if not isinstance(scene, dict):
            raise UsageError(
                f"{where} must have fields such as picture and prompt, but is {shortened(repr(scene))}"
            )
        mine, chosen = _parted(cast(dict[Any, Any], scene), StoryScene, where, _OF_THE_FILM)
        if type(mine.get("picture")) is int:
            mine["picture"] = str(mine["picture"])
        made.append(Form(where, UsageError).read(StoryScene, {**mine, "settings": chosen}))
    # The scenes are made by now; the form checks the rest.
    rest = Form(name, UsageError).read(_Head, own)
    return Story(tuple(made), rest.style, rest.sound, rest.fade, rest.original_every, settings)


@dataclass(frozen=True)
class _Head:
    """What a story says besides scenes and settings, with the defaults of :class:`Story`."""

    style: str = ""
    sound: str | None = None
    fade: float = 0.5
    original_every: int = 0


def _parted(
    values: Mapping[Any, Any], kind: type[StoryScene] | type[Story], where: str, without: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of ``kind`` and the settings among ``values``; null is the same as absent."""
    own = [each.name for each in fields(kind) if each.name != "settings"]
    known = [*own, *(name for name in PARAMETERS if name not in (*NOT_CHOSEN, *without))]
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            advice = (
                f"did you mean {nearest[0]!r}?" if nearest else f"it may have {', '.join(own)} and settings"
            )
            if key in without:
                advice = "say it once for the whole story"
            raise UsageError(f"{where} has the unknown field {shortened(str(key))!r}; {advice}")
    given = {str(key): value for key, value in values.items() if value is not None}
    return (
        {name: value for name, value in given.items() if name in own},
        {name: value for name, value in given.items() if name not in own},
    )


def _parse_yaml(text: str, name: str) -> Any:
    """The plain values of a YAML text without tags, aliases and repeated keys."""
    try:
        yaml: Any = import_module("yaml")
    except ImportError as problem:
        raise UsageError(
            "stories in YAML need pyyaml, which is not installed; install it with "
            "pip install 'dynamicrafter-studio[director]', or write the story as plain text"
        ) from problem

    loader: Any = yaml.SafeLoader

    class Loader(loader):
        """A safe loader that rejects aliases, which can grow without bounds, and keys that are there twice."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.composer.ComposerError(
                    None, None, "aliases are not allowed", self.peek_event().start_mark
                )
            return loader.compose_node(self, parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is there twice", node.start_mark
                    )
                seen.update([key.value] if isinstance(key.value, str) else [])
            return loader.construct_mapping(self, node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a subclass of the safe loader.
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        reason = getattr(problem, "problem", None) or (
            "it is nested too deeply" if isinstance(problem, RecursionError) else problem
        )
        raise UsageError(
            f"{name} is not a story in YAML ({shortened(str(reason))}{place}); correct it"
        ) from problem


def story_sha256(text: str) -> str:
    """SHA-256 of a text, by which it is known again."""
    return hashlib.sha256(text.encode()).hexdigest()
