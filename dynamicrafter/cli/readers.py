"""Readers of the values of options: text to value, ArgumentTypeError or ValueError if it is none."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from ..parameters import Parameter


def to_positive(text: str) -> int:
    """A positive integer."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def to_shift(text: str) -> tuple[float, float]:
    """Two numbers separated by a comma."""
    try:
        across, down = map(float, text.split(","))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"must be two numbers such as 0.1,-0.05, not {text!r}") from problem
    return across, down


def number_of(parameter: Parameter) -> Callable[[str], float]:
    """A reader of the parameter's numbers; integers stay integers, so that they are stored as such."""

    def read(text: str) -> float:
        try:
            return int(text)
        except ValueError:
            pass
        try:
            # The table rejects what is not an integer but has to be one, with advice.
            return float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {parameter.wanted}, not {text!r}") from None

    return read


_COMPUTED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_STORED = {
    **_COMPUTED,
    "fp8_e4m3fn": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "int8": "int8",
    "fp8_scaled": "fp8_scaled",
}
"""Short names of precisions, and PyTorch's or the package's names."""


def to_computed(text: str) -> str:
    """A precision to compute in, or ``auto``."""
    return _precision(text, _COMPUTED, "auto")


def to_stored(text: str) -> str:
    """A precision to store weights in, or ``keep``."""
    return _precision(text, _STORED, "keep")


def to_plain(text: str) -> str:
    """A precision of 16 bits or more to store weights in, or ``keep``."""
    return _precision(text, _COMPUTED, "keep")


def _precision(text: str, known: dict[str, str], other: str) -> str:
    """PyTorch's name of a precision, from that or from its short name; or ``other``."""
    name = known.get(text, text)
    if name not in (*known.values(), other):
        raise argparse.ArgumentTypeError(f"must be {', '.join(known)} or {other}, not {text!r}")
    return name


def to_name(text: str) -> str:
    """A name or path, which an unset variable in a script would make empty."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def to_path(text: str) -> Path:
    """A path."""
    return Path(to_name(text))


def to_names(text: str) -> list[str]:
    """Names or paths separated by commas."""
    return [to_name(part.strip()) for part in text.split(",")]


def to_shard(text: str) -> tuple[int, int]:
    """``i/N`` as two integers."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be i/N, such as 1/4 for the first of four, not {text!r}")
    return int(number), int(count)


def to_lora(text: str) -> tuple[Path, float]:
    """A path and a strength, 1 if omitted; the colon of a drive letter does not start a strength."""
    stem, _, end = text.rpartition(":")
    try:
        strength = float(end) if stem else None
    except ValueError:
        strength = None
    if strength is None:
        return Path(text), 1.0
    if not math.isfinite(strength):
        raise argparse.ArgumentTypeError(f"the strength must be a number such as 0.8, not {end!r}")
    return Path(stem), strength


def to_hint(text: str) -> tuple[Path, int | None]:
    """A path and the frame after its last ``@``, None if there is none."""
    name, sign, frame = text.rpartition("@")
    # A path may contain the sign.
    return (to_path(name), int(frame)) if sign and frame.isdecimal() else (to_path(text), None)


def to_size(text: str) -> tuple[int, int]:
    """``WxH`` as width and height in pixels."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WxH in pixels, such as 512x320, not {text!r}")
    return int(width), int(height)


def to_seeds(text: str) -> list[int]:
    """Seeds separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be a non-negative integer, or several separated by commas, not {text!r}"
        )
    return [int(part) for part in parts]
