"""Lists of files with their texts: csv or jsonl, one row for each file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import UsageError

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"))
"""Extensions of images, which are clips of one frame."""
CLIPS = frozenset((".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".gif"))
"""Extensions of clips in a folder without a list; a list may name any file."""


def read_lines(listing: Path, needed: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number of the line that each row of a csv or jsonl list ends on, and the row's values by column.

    ``needed`` are the columns to name in errors. Raises UsageError for a file that cannot be read or is no such list,
    and for a csv line with more cells than columns, which a comma in a text without quotes makes of it, or with a
    quote that is never closed.
    """
    done = 0
    try:
        with listing.open(encoding="utf-8-sig", newline="") as file:
            if listing.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _object(line, listing, number, needed)
                return
            # Otherwise a quote that is never closed swallows all lines after it without a word.
            table = csv.DictReader(file, strict=True)
            # Read here, the columns count as a row of their own.
            _ = table.fieldnames
            done = table.line_num
            for values in table:
                done = table.line_num
                if cast(Any, values).get(None):
                    raise UsageError(
                        f"line {done} of {listing} has more cells than there are columns; put texts with "
                        f"commas in them into double quotes"
                    )
                yield done, values
    except csv.Error as problem:
        raise UsageError(
            f"the row that begins on line {done + 1} of {listing} is not csv ({problem}); close every double quote, "
            f"and write those within a text twice"
        ) from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{listing} is not a csv or jsonl file in UTF-8 ({problem})") from problem
    except OSError as problem:
        raise UsageError(f"{listing} cannot be read ({problem.strerror or problem})") from problem


def _object(line: str, listing: Path, number: int, needed: Sequence[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"line {number} of {listing} is not JSON ({problem})") from problem
    if not isinstance(value, dict):
        raise UsageError(f"line {number} of {listing} must be an object with {' and '.join(needed)}")
    return cast(dict[str, Any], value)
