"""Dataclasses as JSON and back, so that files written by one version of the program are read by others.

A field that is absent takes its default, so a dataclass may gain fields that have one. A field that is unknown is
refused by name, because a newer version may have meant something by it that must not be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

_Kind = TypeVar("_Kind")

_UNFIT = object()
_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
}


def program_version() -> str:
    """Version of the installed package, which files that it writes carry; "unknown" where it is not installed."""
    try:
        return version("dynamicrafter-studio")
    except PackageNotFoundError:
        return "unknown"


def to_json(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain values that :class:`Form` reads back."""
    return asdict(value)


@dataclass(frozen=True)
class Form:
    """Where stored values come from, for the sentences that say what is wrong with them."""

    name: str
    """What the values are called, such as a file's name."""
    error: type[Exception]
    """What is raised."""
    writer: str | None = None
    """Version of the program that wrote the values; None where a person wrote them."""

    def read(self, kind: type[_Kind], values: object) -> _Kind:
        """The dataclass ``kind`` whose fields are ``values``, an object of JSON; lists become tuples.

        Fields may be dataclasses themselves. What such an inner object leaves out is what it is where the whole
        object is left out. Raises ``error`` that names unknown fields, absent ones without a default, and values of
        another type, besides what ``kind`` itself raises for values out of range.
        """
        made = self._value(kind, values, "", MISSING)
        if made is _UNFIT:
            raise self.error(f"{self.name} must be {_in_words(kind)}, not {values!r}{self._advice}")
        return made

    @property
    def _advice(self) -> str:
        return "" if self.writer is None else "; it is damaged, write it again"

    def _value(self, hint: Any, value: Any, path: str, default: Any) -> Any:
        """``value`` as a field of type ``hint`` holds it, or ``_UNFIT``; ``path`` is what leads to the field."""
        origin, choices = get_origin(hint), get_args(hint)
        if is_dataclass(hint):
            return (
                self._object(hint, cast(Mapping[str, Any], value), path, default)
                if _is_object(value)
                else _UNFIT
            )
        if origin is Literal:
            return value if value in choices else _UNFIT
        if origin is UnionType:
            made = (self._value(choice, value, path, MISSING) for choice in choices)
            return next((one for one in made if one is not _UNFIT), _UNFIT)
        if origin is tuple:
            return self._tuple(choices, value, path)
        if origin is Mapping:
            return value if _is_object(value) else _UNFIT
        # A whole number is good for a fraction, a truth value for neither.
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
            raise self.error(f"{self.name} has unknown settings: {', '.join(unknown)}")
        if unknown:
            raise self.error(
                f"{self.name} says {', '.join(unknown)}, which this version ({program_version()}) does not know; "
                f"version {self.writer} wrote it, use that one or a newer one"
            )
        absent = [key for key, field in known.items() if key not in values and _default(field) is MISSING]
        if absent and default is MISSING:
            said = ", ".join(f"{path}{key}" for key in absent)
            raise self.error(f"{self.name} must say {said}{self._advice}")
        hints = get_type_hints(kind)
        made: dict[str, Any] = {}
        for key, value in values.items():
            place = f"{path}{key}"
            made[key] = self._value(hints[key], value, f"{place}.", _default(known[key]))
            if made[key] is _UNFIT:
                wanted = _in_words(hints[key])
                raise self.error(f"{place} in {self.name} must be {wanted}, not {value!r}{self._advice}")
        return kind(**made) if default is MISSING else replace(default, **made)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _default(field: Field[Any]) -> Any:
    """What a field is where nothing is said; MISSING where something must be."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _in_words(hint: Any) -> str:
    """What a value of a field must be, for a sentence."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, choices))
    if origin is UnionType:
        return " or ".join(_in_words(choice) for choice in choices)
    if origin is tuple:
        count = "" if choices[-1] is Ellipsis else f" of {len(choices)}"
        return f"a list{count}, each {_in_words(choices[0])}"
    return _WORDS.get(hint, "an object with settings of its own")
