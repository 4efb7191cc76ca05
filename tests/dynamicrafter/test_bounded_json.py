"""JSON of strangers is a value of plain size, or refused with a reason."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dynamicrafter.bounded_json import parse_json


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, True, None, "é\U0001f600"], "b": {}},
        [],
        "",
        2**64 - 1,
        -(2**63),
        json.loads("[" * 32 + "]" * 32),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_plain_values_come_through(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        (b"\xff", "can't decode byte"),
        ("[" * 100_000, "nested more than 32 levels deep"),
        ("[" * 33 + "]" * 33, "nested more than 32 levels deep"),
        ('{"a":' * 33 + "1" + "}" * 33, "nested more than 32 levels deep"),
        ("1" * 5000, "an integer in it has more than 20 digits"),
        ("1e400", "a number in it is too large"),
        ("[NaN]", "NaN in it is not valid JSON"),
        ("-Infinity", "-Infinity in it is not valid JSON"),
        ("[" + "[]," * 1_000_000 + "1]", "more than 2,000,000 parts"),
    ],
)
def test_the_rest_is_refused_at_once(text: str | bytes, reason: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    assert time.perf_counter() - begun < 2
