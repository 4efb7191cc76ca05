"""What the settings of a training config mean and which values they allow, declared with each field.

A field ``name: Annotated[int, Option("meaning", low=1)] = 16`` is all that a setting needs: its check, its line in a
printed config and its row in the docs are derived from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ..forms import in_words


@dataclass(frozen=True)
class Option:
    """The description of one field; its texts start in lower case and have no full stop."""

    meaning: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Whether ``low`` itself is excluded."""
    below: bool = False
    """Whether ``high`` itself is excluded."""
    hint: str = ""
    """Advice on choosing a value, for the error about an invalid one."""
    example: Any = None
    """A value to show for a setting whose default is to be absent."""

    @property
    def wanted(self) -> str:
        """The allowed range, for "NAME must be ..."; empty if any number is allowed."""
        if math.isinf(self.low):
            return ""
        if math.isinf(self.high):
            return f"{'above' if self.above else 'at least'} {_short(self.low)}"
        return f"{_short(self.low)} to {'below ' if self.below else ''}{_short(self.high)}"

    def check(self, name: str, value: object) -> None:
        """Raise UsageError if a number, or one of several, is outside the range or not finite."""
        numbers = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        if all(self._allows(number) for number in numbers):
            return
        given = " and ".join(map(str, numbers))
        were = "were" if len(numbers) > 1 else "was"
        hint = self.hint and f"; {self.hint}"
        raise UsageError(f"{name} must be {self.wanted or 'finite'}, but {given} {were} given{hint}")

    def _allows(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        if not math.isfinite(value):
            return False
        lower = self.low < value if self.above else self.low <= value
        return lower and (value < self.high if self.below else value <= self.high)


def _short(number: float) -> str:
    text = f"{number:g}"
    return text if len(text) < 6 or number > 1 else str(Fraction(number).limit_denominator(100))


@dataclass(frozen=True)
class Setting:
    """One field of a config or of a config inside it."""

    name: str
    """With the names of the outer fields: ``trainer.steps``."""
    hint: Any
    """Its type."""
    option: Option
    default: Any
    """MISSING if there is none."""

    @property
    def values(self) -> str:
        """The allowed values in words."""
        wanted = f", {self.option.wanted}" if self.option.wanted else ""
        return in_words(self.hint).removesuffix(" or null") + wanted


@cache
def _annotated(kind: type) -> dict[str, tuple[Any, Option]]:
    """Type and description of every field."""
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, tuple[Any, Option]] = {}
    for field in fields(kind):
        hint = hints[field.name]
        if get_origin(hint) is Annotated:
            plain, option = get_args(hint)
            found[field.name] = (plain, option)
    return found


def check_options(config: object, outer: str = "") -> None:
    """Check every field of a dataclass against its description.

    Raises UsageError that names the first wrong one, after ``outer``.
    """
    for name, (hint, option) in _annotated(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise UsageError(f"{outer}{name} must be one of {', '.join(get_args(hint))}, not {value!r}")
        option.check(outer + name, value)


def settings_of(kind: type, default: Any = MISSING, outer: str = "") -> Iterator[Setting]:
    """The fields of the dataclass ``kind``, each config followed by its own fields; defaults are those of ``default``,
    an instance, if there is one."""
    for field in fields(kind):
        hint, option = _annotated(kind)[field.name]
        if default is not MISSING:
            own = getattr(default, field.name)
        else:
            own = field.default if field.default_factory is MISSING else field.default_factory()
        yield Setting(outer + field.name, hint, option, own)
        if is_dataclass(hint):
            yield from settings_of(cast(type, hint), own, f"{outer}{field.name}.")
