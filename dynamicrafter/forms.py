"""Converts dataclasses to JSON and back so that files written by one version of the program can be read by others.

An absent field takes its default, so a dataclass may gain fields that have one. An unknown field is rejected by name,
because a newer version may rely on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

_Kind = TypeVar("_Kind")

_UNFIT = object()
_UNIONS = (UnionType, Union)
"""Origins of ``A | B``: the second one if either is a Literal."""
_WORDS: dict[object, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    NoneType: "null",
}


def program_version() -> str:
    """Version of the installed package, stored in the files it writes; "unknown" if the package is not installed."""
    try:
        return version("dynamicrafter-studio")
    except PackageNotFoundError:
        return "unknown"


def shortened(text: str) -> str:
    """``text`` for a sentence, whatever a file contains: not too long, on one line, without control characters."""
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return "".join(part if part.isprintable() else ascii(part)[1:-1] for part in text)


def one_line(text: str, most: int) -> str:
    """The first ``most`` characters of foreign text, on one line and without control characters."""
    # Spaces are joined before the text is cut, but text without end is not looked at.
    plain = "".join(sign if sign.isprintable() else " " for sign in text[: 10 * most])
    return " ".join(plain.split())[:most].rstrip()


def to_json(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain values that :class:`Form` reads back."""
    return asdict(value)


@dataclass(frozen=True)
class Form:
    """The source of stored values, for error messages about them."""

    name: str
    """Name of the source in messages, such as a file name."""
    error: type[Exception]
    """Type of the exceptions raised."""
    writer: str | None = None
    """Version of the program that wrote the values; None if a person wrote them."""

    def read(self, kind: type[_Kind], values: object) -> _Kind:
        """Build the dataclass ``kind`` from ``values``, a JSON object; lists become tuples.

        Fields may be dataclasses themselves. Fields absent from such a nested object take their values from the outer
        field's default. Raises ``error`` for unknown fields, absent fields without a default and values of the wrong
        type, naming them, and whatever ``kind`` itself raises for values out of range.
        """
        made = self._value(kind, values, "", MISSING)
        if made is _UNFIT:
            raise self.error(
                f"{self.name} must be {in_words(kind)}, not {shortened(repr(values))}{self._advice}"
            )
        return made

    @property
    def _advice(self) -> str:
        return "" if self.writer is None else "; it is damaged, write it again"

    def _value(self, hint: Any, value: Any, path: str, default: Any) -> Any:
        """``value`` converted to the type ``hint``, or ``_UNFIT``; ``path`` is the prefix of nested field names."""
        origin, choices = get_origin(hint), get_args(hint)
        if is_dataclass(hint):
            return (
                self._object(hint, cast(Mapping[str, Any], value), path, default)
                if _is_object(value)
                else _UNFIT
            )
        if origin is Literal:
            return value if value in choices else _UNFIT
        if origin in _UNIONS:
            made = (self._value(choice, value, path, MISSING) for choice in choices)
            return next((one for one in made if one is not _UNFIT), _UNFIT)
        if origin is tuple:
            return self._tuple(choices, value, path)
        if origin is Mapping:
            return value if _is_object(value) else _UNFIT
        # An integer is valid as a float; a bool is valid as neither.
        kinds = (int, float) if hint is float else (hint,)
        return value if type(value) in kinds else _UNFIT

    def _tuple(self, choices: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            return _UNFIT
        items = cast("list[Any] | tuple[Any, ...]", value)
        kinds = choices[:1] * len(items) if choices[-1] is Ellipsis else choices
        if len(items) != len(kinds):
            return _UNFIT
        made = tuple(self._value(kind, item, path, MISSING) for kind, item in zip(kinds, items, strict=True))
        return _UNFIT if _UNFIT in made else made

    def _object(self, kind: Any, values: Mapping[str, Any], path: str, default: Any) -> Any:
        known = {field.name: field for field in fields(kind)}
        unknown = [f"{path}{key}" for key in sorted(set(values) - set(known))]
        if unknown and self.writer is None:
            nearest = _nearest(unknown[0], [f"{path}{name}" for name in _names(kind)])
            advice = f"the nearest known one is {nearest}" if nearest else "remove them"
            raise self.error(f"{self.name} has unknown settings: {shortened(', '.join(unknown))}; {advice}")
        if unknown:
            raise self.error(
                f"{self.name} contains {shortened(', '.join(unknown))}, which this version ({program_version()}) does "
                f"not know; it was written by version {self.writer}, use that version or a newer one"
            )
        absent = [key for key, field in known.items() if key not in values and _default(field) is MISSING]
        if absent and default is MISSING:
            said = ", ".join(f"{path}{key}" for key in absent)
            raise self.error(f"{self.name} must contain {said}{self._advice}")
        hints = get_type_hints(kind)
        made: dict[str, Any] = {}
        for key, value in values.items():
            place = f"{path}{key}"
            made[key] = self._value(hints[key], value, f"{place}.", _default(known[key]))
            if made[key] is _UNFIT:
                wanted = in_words(hints[key])
                raise self.error(
                    f"{place} in {self.name} must be {wanted}, not {shortened(repr(value))}{self._advice}"
                )
        return kind(**made) if default is MISSING else replace(default, **made)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _names(kind: Any) -> list[str]:
    """Names of the fields of a dataclass, followed by those of its nested dataclasses with a prefix."""
    hints = get_type_hints(kind)
    inner = [f"{key}.{name}" for key, hint in hints.items() if is_dataclass(hint) for name in _names(hint)]
    return [*hints, *inner]


def _nearest(wrong: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` whose last part is most similar to that of ``wrong``; None if none is similar."""
    by_last = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = get_close_matches(wrong.rpartition(".")[2], by_last, 1)
    return by_last[close[0]] if close else None


def _default(field: Field[Any]) -> Any:
    """Default of a field; MISSING if it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def in_words(hint: Any) -> str:
    """Description of the values that the type ``hint`` allows, for messages."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, choices))
    if origin in _UNIONS:
        return " or ".join(in_words(choice) for choice in choices)
    if origin is tuple:
        count = "" if choices[-1] is Ellipsis else f" of {len(choices)}"
        return f"a list{count}, each {in_words(choices[0])}"
    return _WORDS.get(hint, "an object")
