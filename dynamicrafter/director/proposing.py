"""A language model looks at a picture and proposes a plan."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import LanguageModelError, UsageError
from ..media.pictures import Picture
from .chat import Message, ask
from .plan import CAMERAS, PROMPT_WORDS, ClipPlan, PlanError, plan_schema, read_plan
from .profiles import Profile

_Read = TypeVar("_Read")

LONGEST_SIDE = 1_024
"""Maximum pixels of the side of a picture that is sent."""
_QUALITY = 85
_IDEA = 2_000
"""Maximum characters of a person's idea."""
_REPEATED = 4_000
"""Maximum characters of a wrong answer that is sent back for repair."""

INSTRUCTIONS = f"""\
You direct a model that animates one still picture into a short clip of 16 frames without sound. Look at the \
picture and decide what moves. Answer with one JSON object and nothing else, with these fields:
subject: what moves, in a few words.
motion_prompt: what happens, in English, present tense, at most {PROMPT_WORDS} words, as a caption of the clip. Name \
the subject and its motion. Motion must be possible from what the picture shows: no cuts, no new objects, nothing that \
leaves and comes back.
camera: one of {", ".join(CAMERAS)}. Use static unless the camera should move.
motion: how much moves, a number from 0 (almost still) to 1 (lively).
mode: animate for a clip, loop for one that repeats without a seam (water, fire, clouds), interpolate only if there \
are two pictures.
negative_prompt: what to avoid, in a few words, or an empty string.
seconds: duration, a number; 2 unless the idea asks for more.
sound: a fitting sound in one to three words, such as wind, rain, sea, fire, crickets or room; an empty string for none.
why: one short sentence for the person.
"""


def data_url(picture: Picture) -> str:
    """A picture as a data URL of a JPEG, at most :data:`LONGEST_SIDE` pixels wide and high, without metadata."""
    from PIL import Image

    image = Image.fromarray(picture.pixels.numpy())
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def check_pictures_allowed(profile: Profile) -> None:
    """Raise UsageError unless the profile is of this machine or the person agreed to sending pictures there."""
    if not (profile.is_local or profile.pictures):
        raise UsageError(
            f"profile {profile.name} would send the picture to {profile.host}, to which nobody has agreed; agree with "
            f"`dynamicrafter language-model agree {profile.name}`"
        )


def questions(pictures: list[Picture], idea: str) -> list[Message]:
    """What a language model is asked, about no picture as well, for servers and models that see none."""
    content: list[dict[str, Any]] = [{"type": "text", "text": _told(idea)}]
    content += [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures]
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": content}]


def text_question(idea: str) -> str:
    """The same as one text, for a language model that gets the picture from elsewhere."""
    return f"{INSTRUCTIONS}\n{_told(idea)}"


def _told(idea: str) -> str:
    if not idea.strip():
        return "The person has no idea yet; propose one."
    return f"The person's idea: {idea.strip()[:_IDEA]}"


async def propose(
    profile: Profile, pictures: list[Picture], idea: str = "", seconds: float = 180.0
) -> ClipPlan:
    """The plan that a language model makes of one picture, or of two to interpolate between, and a person's idea.

    An answer that is no plan is sent back once with what is wrong. Raises UsageError if the pictures may not be sent,
    and LanguageModelError if there is no plan after ``seconds`` for each of the two questions.
    """
    check_pictures_allowed(profile)
    return await ask_for(profile, questions(pictures, idea), plan_schema(), read_plan, seconds)


async def ask_for(
    profile: Profile,
    messages: list[Message],
    schema: Mapping[str, Any],
    read: Callable[[str], _Read],
    seconds: float = 180.0,
) -> _Read:
    """What ``read`` makes of the answer; one from which it raises PlanError is sent back once with what is wrong.

    Raises LanguageModelError if there is no answer after ``seconds`` to each of the two questions, or both are wrong.
    """
    answer = await ask(profile, messages, schema, seconds)
    try:
        return read(answer)
    except PlanError as problem:
        wrong = (
            f"That is not a valid plan ({problem}). Answer with the corrected JSON object and nothing else."
        )
    again: list[Message] = [
        {"role": "assistant", "content": answer[:_REPEATED]},
        {"role": "user", "content": wrong},
    ]
    try:
        return read(await ask(profile, [*messages, *again], schema, seconds))
    except PlanError as problem:
        raise LanguageModelError(
            f"{profile.host} (profile {profile.name}) answered twice without a valid plan ({problem}); use another "
            f"model, or none"
        ) from problem
