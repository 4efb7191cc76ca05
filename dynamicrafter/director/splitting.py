"""A language model splits a text into scenes.

It is sent the text alone, and what it answers are prompts, durations, words for sounds and numbers of pictures, which
the text names. It names no file itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ..atomic import replacing
from ..bounded_json import parse_json
from ..errors import ClipError, UsageError
from ..forms import Form, to_json
from .chat import Message
from .plan import LONGEST, PROMPT_WORDS, SHORTEST, PlanError, motion_prompt_of, objects_in
from .profiles import Profile
from .proposing import ask_for
from .scenes import CONTINUE, SILENCE, Story, StoryScene, story_of_text, story_sha256

MOST_SPLIT = 60
"""Maximum scenes that a language model may make."""
MOST_QUESTIONS = 2
"""How often a language model is asked about a story at most: once, and once more if the answer is wrong."""
_TEXT = 20_000
"""Maximum characters of a text that is sent."""
_SOUND_WORDS = 4

SPLIT_INSTRUCTIONS = f"""\
You split a text into the scenes of a film, for a model that animates still pictures into clips of about two seconds. \
Marks such as [picture 1] say which picture the film shows from there on. Answer with one JSON object and nothing \
else: {{"scenes": [...]}}, at most {MOST_SPLIT} in order, each with these fields:
prompt: what is seen and moves, in English, present tense, at most {PROMPT_WORDS} words. Name the subject each time.
seconds: duration, a number; 2 unless the text asks for more.
sound: a fitting sound in one to three words, such as wind, rain, sea, fire, crickets or room; an empty string for none.
picture: the number of the picture that the scene begins with, or 0 if it goes on from the end of the scene before.
"""

_SCENE: dict[str, Any] = {
    "prompt": {"type": "string"},
    "seconds": {"type": "number"},
    "sound": {"type": "string"},
    "picture": {"type": "integer"},
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "scenes": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": _SCENE,
                "required": list(_SCENE),
                "additionalProperties": False,
            },
        }
    },
    "required": ["scenes"],
    "additionalProperties": False,
}


async def split_story(profile: Profile, text: str, picture: str = "", seconds: float = 180.0) -> Story:
    """The story that a language model makes of a plain text, with the pictures of its paragraphs.

    Raises UsageError for a text that :func:`~dynamicrafter.director.scenes.story_of_text` rejects or that is too long,
    and LanguageModelError if there is no story after ``seconds`` for each of the two questions.
    """
    given = story_of_text(text, picture)
    pictures = [scene.picture for scene in given.scenes if scene.picture != CONTINUE]
    numbers = iter(range(1, len(pictures) + 1))
    marked = "\n\n".join(
        scene.prompt if scene.picture == CONTINUE else f"[picture {next(numbers)}] {scene.prompt}"
        for scene in given.scenes
    )
    if len(marked) > _TEXT:
        raise UsageError(
            f"the text has {len(marked):,} characters, more than the {_TEXT:,} that are sent to a language model; "
            f"split it, or make scenes of its paragraphs without one"
        )
    messages: list[Message] = [
        {"role": "system", "content": SPLIT_INSTRUCTIONS},
        {"role": "user", "content": marked},
    ]
    return await ask_for(profile, messages, _SCHEMA, lambda answer: read_split(answer, pictures), seconds)


def read_split(answer: str, pictures: list[str]) -> Story:
    """The first story in an answer; raises PlanError if there is none."""
    found = next((each["scenes"] for each in objects_in(answer) if "scenes" in each), None)
    if not isinstance(found, list) or not found:
        raise PlanError("scenes: a list of at least one scene is needed")
    scenes: list[StoryScene] = []
    for number, values in enumerate(cast(list[Any], found)[:MOST_SPLIT], 1):
        try:
            scenes.append(_scene_of(values, pictures))
        except PlanError as problem:
            raise PlanError(f"scene {number}: {problem}") from problem
    if scenes[0].picture == CONTINUE:
        scenes[0] = replace(scenes[0], picture=pictures[0])
    return Story(tuple(scenes))


def _scene_of(values: Any, pictures: list[str]) -> StoryScene:
    if not isinstance(values, dict):
        raise PlanError("an object is needed")
    given = cast(dict[str, Any], values)
    prompt, sound = given.get("prompt"), given.get("sound", "")
    if not isinstance(prompt, str) or not (shown := motion_prompt_of(prompt)):
        raise PlanError("prompt: it must say what is seen and moves")
    if not isinstance(sound, str):
        raise PlanError("sound: a string is needed")
    # Words alone, so that no cue is taken for the name of a file.
    cue = " ".join(re.findall(r"[^\W_]+", sound)[:_SOUND_WORDS])
    seconds, picture = given.get("seconds"), given.get("picture")
    lasts = None
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
        # Not a number is less than nothing, too.
        lasts = min(max(float(seconds), SHORTEST), LONGEST) if seconds == seconds else None
    named = isinstance(picture, int) and 1 <= picture <= len(pictures)
    return StoryScene(
        shown, pictures[cast(int, picture) - 1] if named else CONTINUE, lasts, sound=cue or SILENCE
    )


@dataclass(frozen=True)
class _Kept:
    """A story that was made of a text, so that the text is not split differently in the next run."""

    made_of: str
    story: Story


_KEPT = "split.json"


def keep_split(folder: Path, profile: Profile, text: str, picture: str, story: Story) -> None:
    """Remember in a folder what a language model made of a text; raises ClipError if that is not possible."""
    try:
        folder.mkdir(exist_ok=True)
        with replacing(folder / _KEPT) as part:
            part.write_text(
                json.dumps(to_json(_Kept(_made_of(profile, text, picture), story)), indent=1), "utf-8"
            )
    except OSError as problem:
        raise ClipError(
            f"{folder / _KEPT} cannot be written ({problem.strerror or problem}); free some space, or make the folder "
            f"writable"
        ) from problem


def kept_split(folder: Path, profile: Profile, text: str, picture: str) -> Story | None:
    """What the same language model made of the same text; None if nothing is remembered."""
    try:
        kept = Form(_KEPT, ClipError, "unknown").read(_Kept, parse_json((folder / _KEPT).read_bytes()))
    except (OSError, ValueError, ClipError, UsageError):
        return None
    return kept.story if kept.made_of == _made_of(profile, text, picture) else None


def _made_of(profile: Profile, text: str, picture: str) -> str:
    return story_sha256("\0".join((profile.url, profile.model, picture, text)))
