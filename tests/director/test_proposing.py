"""A language model's proposals, from servers that answer well and from those that do not."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch
from language_model import (
    PLAN,
    LanguageModelServer,
    completion,
    good,
    half,
    megabytes,
    refusal,
    silent,
)
from PIL import Image

from dynamicrafter.director import chat
from dynamicrafter.director.plan import ClipPlan
from dynamicrafter.director.profiles import Profile
from dynamicrafter.director.proposing import data_url, propose
from dynamicrafter.errors import LanguageModelError, UsageError
from dynamicrafter.media.pictures import Picture

PICTURE = Picture(torch.full((60, 80, 3), 128, dtype=torch.uint8))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tries follow each other at once."""
    monkeypatch.setattr(chat, "_PAUSE", 0.001)
    yield


def proposed(
    *replies: Any, seconds: float = 20.0, key: str = "", idea: str = ""
) -> tuple[ClipPlan, LanguageModelServer]:
    with LanguageModelServer(*replies) as server:
        profile = Profile("test", server.url, "any", key=key)
        return asyncio.run(propose(profile, [PICTURE], idea, seconds)), server


def test_picture_and_idea_are_sent_and_the_plan_is_read() -> None:
    plan, server = proposed(good(), key="sk-secret", idea="let the sea move")
    assert asdict(plan) == PLAN
    system, user = server.requests[0]["messages"]
    assert "motion_prompt" in system["content"]
    assert "let the sea move" in user["content"][0]["text"]
    sent = base64.b64decode(user["content"][1]["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(sent)).size == (80, 60)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert set(schema["required"]) == set(schema["properties"]) == set(PLAN)
    assert schema["additionalProperties"] is False
    assert not {"minimum", "maximum", "$ref"} & set(json.dumps(schema).replace('"', " ").split())


def test_large_pictures_are_sent_smaller() -> None:
    large = Picture(torch.zeros(600, 3000, 3, dtype=torch.uint8))
    sent = base64.b64decode(data_url(large).partition(",")[2])
    assert Image.open(io.BytesIO(sent)).size == (1024, 205)


@pytest.mark.parametrize(
    "content",
    [
        f"Of course! Here it is:\n```json\n{json.dumps(PLAN)}\n```\nHave fun {{}}.",
        f"<think>maybe {{x}} or {{}}?</think>{json.dumps(PLAN)}",
        [{"type": "text", "text": json.dumps(PLAN)}],
    ],
    ids=["fences", "thinking", "parts"],
)
def test_plans_are_found_between_other_text(content: Any) -> None:
    plan, server = proposed(good(content))
    assert plan.motion_prompt == "waves roll in"
    assert len(server.requests) == 1


def test_a_server_without_schemas_is_asked_for_any_object_and_then_for_text() -> None:
    plan, server = proposed(
        refusal(400, "json_schema is not supported"), refusal(400, "no json_object"), good()
    )
    assert plan.subject == "the sea"
    forms = [request.get("response_format", {}).get("type") for request in server.requests]
    assert forms == ["json_schema", "json_object", None]


@pytest.mark.parametrize(
    "wrong",
    ["Sorry, I cannot see pictures.", json.dumps({**PLAN, "motion": "fast"}), json.dumps({"subject": "sea"})],
    ids=["prose", "type", "missing"],
)
def test_a_wrong_answer_is_sent_back_once_with_what_is_wrong(wrong: str) -> None:
    plan, server = proposed(good(wrong), good())
    assert plan.camera == "static"
    assert [message["role"] for message in server.requests[1]["messages"]][2:] == ["assistant", "user"]
    assert "not a valid plan" in server.requests[1]["messages"][-1]["content"]


def test_two_wrong_answers_end_in_a_sentence() -> None:
    with pytest.raises(
        LanguageModelError, match=r"answered twice without a valid plan \(motion: .* is needed\)"
    ):
        proposed(good(json.dumps({**PLAN, "motion": None})))


def test_an_overloaded_server_is_asked_again() -> None:
    started = time.monotonic()
    _, server = proposed(refusal(429, "slow down", Retry_After="0.3"), refusal(500), refusal(503), good())
    assert len(server.requests) == 4
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (
            refusal(401, "bad key sk-secret"),
            r"does not accept the key \(HTTP 401: bad key \*\*\*\); correct the key",
        ),
        (
            refusal(403, f"{'x' * 195} sk-secret"),
            r"does not accept the key \(HTTP 403: x{195} \*\*\*\); correct",
        ),
        (refusal(500, "boom"), r"failed 4 times \(HTTP 500: boom\); try again later"),
        (refusal(302, "", Location="http://127.0.0.1:1/"), r"redirects elsewhere \(HTTP 302\)"),
        (refusal(418), r"refused the request \(HTTP 418\); check the profile"),
        (
            refusal(404, "no such model"),
            r"rejected the request \(HTTP 404: no such model\); check its model, and that its address ends where /chat",
        ),
        ((200, b"<html>hello</html>", {}), r"is not a chat completion; check that the profile's address"),
        ((200, b'{"choices": []}', {}), r"is not a chat completion"),
        (half, r"failed 4 times"),
        (megabytes, r"sent more than 1,000,000 bytes"),
    ],
)
def test_bad_servers_end_in_one_sentence_without_the_key(reply: Any, sentence: str) -> None:
    with pytest.raises(LanguageModelError, match=sentence) as told:
        proposed(reply, key="sk-secret")
    assert "sk-secret" not in str(told.value)


def test_a_silent_server_is_left_after_the_time_limit() -> None:
    started = time.monotonic()
    with pytest.raises(LanguageModelError, match=r"did not answer within 0\.4 s|sent nothing for 0\.4 s"):
        proposed(silent, seconds=0.4)
    assert time.monotonic() - started < 4


def test_asking_can_be_cancelled() -> None:
    async def cancelled() -> float:
        with LanguageModelServer(silent) as server:
            task = asyncio.create_task(propose(Profile("test", server.url, "any"), [PICTURE]))
            while not server.requests:
                await asyncio.sleep(0.01)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - started

    assert asyncio.run(cancelled()) < 1


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(LanguageModelError, match=r"127\.0\.0\.1:9 \(profile test\) failed 4 times"):
        asyncio.run(propose(Profile("test", "http://127.0.0.1:9/v1", "any"), [PICTURE]))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    proposed(good())


def test_a_proxy_of_the_profile_is_used() -> None:
    with LanguageModelServer(good()) as proxy:
        address = proxy.url.removesuffix("/v1")
        profile = Profile("test", "http://model.invalid/v1", "any", proxy=address, pictures=True)
        asyncio.run(propose(profile, [PICTURE]))
        assert proxy.headers[0]["Host"] == "model.invalid"


def test_pictures_leave_the_machine_only_after_agreement() -> None:
    profile = Profile("cloud", "https://api.example.com/v1", "any")
    with pytest.raises(UsageError, match=r"to api\.example\.com, to which nobody has agreed; agree with"):
        asyncio.run(propose(profile, [PICTURE]))


def test_a_plan_sets_prompts_and_numbers_and_nothing_else() -> None:
    nasty = {
        **PLAN,
        "output": "/etc/passwd",
        "model": "../../evil.ckpt",
        "size": [100_000, 100_000],
        "motion": 7,
        "seconds": 1e9,
        "motion_prompt": "waves\x1b[2J\n roll | 99: " + "very " * 500,
        "why": "x" * 10_000,
    }
    plan, _ = proposed((200, completion(json.dumps(nasty)), {}))
    assert set(asdict(plan)) == set(PLAN)
    assert (plan.motion, plan.seconds) == (1.0, 60.0)
    assert plan.motion_prompt.startswith("waves [2J roll , 99: very")
    assert len(plan.motion_prompt.split()) <= 40
    assert len(plan.why) == 400
