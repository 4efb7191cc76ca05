"""A client of servers that speak OpenAI's chat completions: one question, one answer, within limits.

A server is not trusted. Its answers are bounded in size and time, redirections are not followed, proxies are those of
the profile alone, and nothing that it says is shown without the key being removed from it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from ..bounded_json import parse_json
from ..errors import LanguageModelError, UsageError
from ..forms import one_line
from .profiles import Profile

if TYPE_CHECKING:
    import aiohttp

Message = Mapping[str, Any]
"""``role`` and ``content`` of OpenAI's chat completions."""

_BYTES = 1_000_000
"""Maximum bytes of an answer, which is a few kilobytes."""
_TRIES = 4
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds before the second try, doubled each time, and the longest wait that a server may ask for."""
_SILENCE = 90.0
"""Seconds without a byte after which the server counts as lost; a model that thinks first sends none for a while."""
_MESSAGE = 200
"""Characters that are shown of what a server says of an error."""
_TRY_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_UNSUPPORTED = (400, 404, 415, 422, 501)
"""Answers of servers that do not know a part of the request, such as a JSON schema."""


class _Unsupported(Exception):
    """The server rejects the request as it is."""


async def ask(
    profile: Profile,
    messages: Sequence[Message],
    schema: Mapping[str, Any] | None = None,
    seconds: float = 180.0,
) -> str:
    """The answer to ``messages``, as text; with ``schema`` as JSON of that schema where the server can.

    A server that rejects the schema is asked for any JSON object, and then for text. An overloaded one is asked again.
    Raises LanguageModelError if there is no answer within ``seconds`` in all. Can be cancelled at any time.
    """
    key = profile.secret()
    if find_spec("aiohttp") is None:
        raise UsageError(
            "language models need aiohttp, which is not installed; install it with "
            "pip install 'dynamicrafter-studio[director]'"
        )
    try:
        return await asyncio.wait_for(_ask(profile, key, messages, schema, seconds), seconds)
    except asyncio.TimeoutError as error:
        raise LanguageModelError(
            f"{profile.host} (profile {profile.name}) did not answer within {seconds:g} s; try again, or choose a "
            f"faster model"
        ) from error


async def _ask(
    profile: Profile, key: str, messages: Sequence[Message], schema: Mapping[str, Any] | None, seconds: float
) -> str:
    import aiohttp

    forms: list[Mapping[str, Any] | None] = [None]
    if schema is not None:
        named = {"name": "plan", "strict": True, "schema": schema}
        forms = [{"type": "json_schema", "json_schema": named}, {"type": "json_object"}, None]
    timeout = aiohttp.ClientTimeout(
        total=seconds, sock_connect=min(20.0, seconds), sock_read=min(_SILENCE, seconds)
    )
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        for number, form in enumerate(forms):
            # No limit of tokens, which servers name differently and refuse; the answer is limited in bytes and time.
            body: dict[str, Any] = {"model": profile.model, "messages": list(messages)}
            if form is not None:
                body["response_format"] = form
            try:
                return _content(await _post(session, profile, key, body), profile)
            except _Unsupported as refusal:
                if number == len(forms) - 1:
                    raise _error(
                        profile,
                        key,
                        f"rejected the request ({refusal})",
                        "check its model, and that its address ends where /chat/completions begins",
                    ) from refusal
    raise AssertionError("the last form returns or raises")


async def _post(session: aiohttp.ClientSession, profile: Profile, key: str, body: Mapping[str, Any]) -> bytes:
    """The body of a successful answer."""
    import aiohttp

    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    address = f"{profile.url.rstrip('/')}/chat/completions"
    text = json.dumps(body)
    failure = ""
    for attempt in range(_TRIES):
        pause = _PAUSE * 2**attempt * random.uniform(0.75, 1.25)
        try:
            async with session.post(
                address, data=text, headers=headers, allow_redirects=False, proxy=profile.proxy or None
            ) as response:
                answer = await _bounded(response)
                status = response.status
                if status == 200:
                    if answer is None:
                        raise _error(
                            profile, key, f"sent more than {_BYTES:,} bytes", "choose another server"
                        )
                    return answer
                told = f"HTTP {status}{_message(answer or b'', key)}"
                if 300 <= status < 400:
                    raise _error(
                        profile, key, f"redirects elsewhere ({told})", "use the address it redirects to"
                    )
                if status in (401, 403):
                    raise _error(
                        profile, key, f"does not accept the key ({told})", "correct the key of the profile"
                    )
                if status in _UNSUPPORTED:
                    raise _Unsupported(told)
                if status not in _TRY_AGAIN:
                    raise _error(profile, key, f"refused the request ({told})", "check the profile")
                failure = told
                pause = _asked_pause(response.headers.get("Retry-After")) or pause
        except aiohttp.ConnectionTimeoutError:
            failure = "no connection"
        except asyncio.TimeoutError as error:
            raise _error(
                profile, key, f"sent nothing for {session.timeout.sock_read:g} s", "try again"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = type(error).__name__ if not str(error) else str(error)
        if attempt < _TRIES - 1:
            await asyncio.sleep(pause)
    raise _error(profile, key, f"failed {_TRIES} times ({failure})", "try again later, or check its address")


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None if it is larger than allowed; the rest is not read."""
    found = bytearray()
    async for piece in response.content.iter_chunked(65_536):
        found += piece
        if len(found) > _BYTES:
            response.close()
            return None
    return bytes(found)


def _content(answer: bytes, profile: Profile) -> str:
    try:
        content = parse_json(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise LanguageModelError(
            f"what {profile.host} (profile {profile.name}) answered is not a chat completion; check that the "
            f"profile's address ends where /chat/completions begins"
        ) from error
    if isinstance(content, list):
        # Some servers answer in parts, as questions are asked.
        known = [cast(dict[str, Any], part) for part in cast(list[Any], content) if isinstance(part, dict)]
        parts = [part.get("text") for part in known]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _message(answer: bytes, key: str) -> str:
    """What a server says of an error, as far as it is fit to be shown."""
    try:
        value = parse_json(answer)
        # Google's servers put the object into a list.
        error: Any = (cast(list[Any], value)[0] if isinstance(value, list) else value)["error"]
        told = cast(Any, error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    # Before the text is cut, as half a key would not be found.
    plain = one_line(_without(key, str(told)), _MESSAGE)
    return f": {plain}" if plain else ""


def _asked_pause(header: str | None) -> float | None:
    """Seconds of a Retry-After, at most :data:`_LONGEST_PAUSE`; None if there are none."""
    try:
        return min(max(float(header or ""), 0.0), _LONGEST_PAUSE)
    except ValueError:
        return None


def _error(profile: Profile, key: str, what: str, remedy: str) -> LanguageModelError:
    sentence = f"{profile.host} (profile {profile.name}) {what}; {remedy}"
    return LanguageModelError(_without(key, sentence))


def _without(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text
