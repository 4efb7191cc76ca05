"""Parses JSON from untrusted files, with limits on size, depth and numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn, cast

_PARTS = 2_000_000
"""Maximum number of commas and brackets, about the number of values, each of about 100 bytes in memory."""
_DEPTH = 32
_DIGITS = 20
"""Of an integer; 2^64 has 20. (Python itself allows 4,300, and arithmetic is slow with far fewer.)"""


def parse_json(
    text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> Any:
    """The value of a JSON text (UTF-8 if bytes); ``pairs`` creates an object from its keys and values.

    Raises ValueError with the reason if the text is not JSON, has more than 2 million commas and brackets, is nested
    more than 32 levels deep, or contains integers of more than 20 digits or numbers that are not finite.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if sum(map(text.count, ",[{")) > _PARTS:
        raise ValueError(f"it has more than {_PARTS:,} parts")
    try:
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_refused, object_pairs_hook=pairs
        )
    except RecursionError as error:
        raise ValueError(f"it is nested more than {_DEPTH} levels deep") from error
    level = _inside([value])
    for _ in range(_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {_DEPTH} levels deep")


def _inside(outer: Any) -> list[Any]:
    """The lists and objects directly inside a list or an object."""
    values: Any = cast(dict[str, Any], outer).values() if isinstance(outer, dict) else outer
    return [value for value in values if isinstance(value, (dict, list))]


def _whole(digits: str) -> int:
    if len(digits.removeprefix("-")) > _DIGITS:
        raise ValueError(f"an integer in it has more than {_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number in it is too large")
    return value


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} in it is not valid JSON")
