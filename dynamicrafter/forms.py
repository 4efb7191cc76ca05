"""Values that came from JSON, compared with the types of a dataclass's fields."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, cast, get_args, get_origin

_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}


def with_tuples(value: Any) -> Any:
    """``value`` with a list as a tuple, which frozen dataclasses hold."""
    return tuple(cast(list[Any], value)) if isinstance(value, list) else value


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a field's type; a whole number is good for a fraction, a truth value for neither."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in choices
    if origin is UnionType:
        return any(fits(choice, value) for choice in choices)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        items = cast(tuple[Any, ...], value)
        kinds = choices[:1] * len(items) if choices[-1] is Ellipsis else choices
        return len(items) == len(kinds) and all(
            fits(kind, item) for kind, item in zip(kinds, items, strict=True)
        )
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def in_words(hint: Any) -> str:
    """What a value of a field must be, for a sentence."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, choices))
    if origin is UnionType:
        return " or ".join(in_words(choice) for choice in choices)
    if origin is tuple:
        count = "" if choices[-1] is Ellipsis else f" of {len(choices)}"
        return f"a list{count}, each {in_words(choices[0])}"
    return _WORDS.get(hint, "an object")
