"""Clips of a folder as training items: a list of captions read, clips decoded, broken ones told and left out.

Lists are csv or jsonl with ``path`` and ``caption`` (and, if known, ``fps`` and ``motion``), or WebVid's columns
``videoid``, ``page_dir`` and ``name``, whose clips are ``videos/<page_dir>/<videoid>.mp4``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..settings import SIZE_STEP
from .movies import ShorterClip, UnusableClip, open_movie

LISTS = ("captions.csv", "captions.jsonl")
"""Names of the list that are looked for in a folder."""
_OWN, _WEBVID = ("path", "caption"), ("videoid", "page_dir", "name")
_MOTION_WORDING = "dynamic_wording"
"""WebVid10M-motion's column with the part of the caption that tells the motion."""
_LONGEST_ASPECT = 2.0


@dataclass(frozen=True)
class Row:
    """One line of a list."""

    path: Path
    caption: str
    fps: float | None = None
    """None takes the clip's own rate."""
    motion: str = ""
    """What moves and how, without what the picture shows anyway; empty where the list does not say."""


def read_list(folder: Path, listing: Path | None = None) -> list[Row]:
    """The rows of ``listing``, or of the list in ``folder``; paths are relative to ``folder``.

    Rows that lack a needed value are left out, as in the released code. Raises UsageError for a missing folder or
    list, one without the needed columns, and one without rows.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no data folder {folder}; give the folder that holds the clips")
    if listing is None:
        if not any(folder.iterdir()):
            raise UsageError(f"the data folder {folder} is empty; put the clips and a captions.csv into it")
        found = [folder / name for name in LISTS if (folder / name).is_file()]
        if not found:
            raise UsageError(
                f"{folder} holds no {' or '.join(LISTS)}; write one with the columns path and caption"
            )
        listing = found[0]
    if not listing.is_file():
        raise UsageError(f"there is no list {listing}; give a csv or jsonl file with path and caption")
    rows: list[Row] = []
    for values in read_lines(listing, _OWN):
        row = _row(folder, listing, values)
        if row is not None:
            rows.append(row)
    if not rows:
        raise UsageError(f"{listing} names no clip; each row needs a path and a caption")
    return rows


def read_lines(listing: Path, needed: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The lines of a list, csv or jsonl by its extension, by column; ``needed`` are the columns to name in errors.

    Raises UsageError for a file that cannot be read or is no such list, and for a csv line with more cells than
    columns, which a comma in a text without quotes makes of it.
    """
    try:
        with listing.open(encoding="utf-8-sig", newline="") as file:
            if listing.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _object(line, listing, number, needed)
                return
            table = csv.DictReader(file)
            for values in table:
                if cast(Any, values).get(None):
                    raise UsageError(
                        f"line {table.line_num} of {listing} has more cells than there are columns; put texts with "
                        f"commas in them into double quotes"
                    )
                yield values
    except (UnicodeDecodeError, csv.Error) as problem:
        raise UsageError(f"{listing} is not a csv or jsonl file in UTF-8 ({problem})") from problem
    except OSError as problem:
        raise UsageError(f"{listing} cannot be read ({problem.strerror or problem})") from problem


def _object(line: str, listing: Path, number: int, needed: Sequence[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as problem:
        raise UsageError(f"line {number} of {listing} is not JSON ({problem})") from problem
    if not isinstance(value, dict):
        raise UsageError(f"line {number} of {listing} must be an object with {' and '.join(needed)}")
    return cast(dict[str, Any], value)


def _row(folder: Path, listing: Path, values: Mapping[str, Any]) -> Row | None:
    """One row; None where a needed value is empty. Raises UsageError where a column is missing."""
    for columns in (_OWN, _WEBVID):
        if all(name in values for name in columns):
            break
    else:
        have = ", ".join(str(name) for name in values) or "none"
        raise UsageError(
            f"{listing} needs the columns {' and '.join(_OWN)}, or WebVid's {', '.join(_WEBVID)}; it has {have}"
        )
    cells = [str(values[name] or "").strip() for name in columns]
    if not all(cells):
        return None
    motion = str(values.get("motion") or values.get(_MOTION_WORDING) or "").strip()
    rate = str(values.get("fps") or "").strip()
    try:
        fps = float(rate) if rate else None
    except ValueError as problem:
        raise UsageError(f"{listing} gives the fps {rate!r} for {cells[0]}; it must be a number") from problem
    if columns == _OWN:
        return Row(folder / cells[0], cells[1], fps, motion)
    return Row(folder / "videos" / cells[1] / f"{cells[0]}.mp4", cells[2], fps, motion)


@dataclass(frozen=True)
class Piece:
    """A stretch of a clip at training size."""

    frames: Tensor
    """``[t, 3, H, W]`` in [-1, 1]."""
    fps: float
    """Frames per second after the stride, what all variants but 256 are conditioned on."""
    stride: int


def read_piece(
    row: Row, frames: int, size: tuple[int, int], strides: tuple[int, int], generator: torch.Generator
) -> Piece:
    """A random stretch of the row's clip, scaled to ``size`` (width, height) by its shorter side and centre-cropped.

    The stride is drawn from ``strides`` and made smaller for clips that are too short, as in the released code.
    Raises UnusableClip for clips that cannot be read or have fewer than ``frames`` frames.
    """
    movie = open_movie(row.path)
    while True:
        if movie.frames < frames:
            raise UnusableClip(f"{row.path} has {movie.frames} frames, but {frames} are needed")
        stride = int(torch.randint(strides[0], strides[1] + 1, (1,), generator=generator))
        if (frames - 1) * stride + 1 > movie.frames:
            stride = movie.frames // frames
        room = movie.frames - (frames - 1) * stride
        start = int(torch.randint(room, (1,), generator=generator))
        try:
            pictures = movie.read(range(start, start + (frames - 1) * stride + 1, stride))
            break
        except ShorterClip as problem:
            movie = replace(movie, frames=problem.frames)
    chosen = torch.stack([_fit(picture, size) for picture in pictures])
    return Piece(chosen, (row.fps or movie.rate) / stride, stride)


def _fit(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 ``[h, w, 3]`` to float ``[3, H, W]`` in [-1, 1], scaled to cover ``size`` and centre-cropped."""
    width, height = size
    x = picture.permute(2, 0, 1)[None].float()
    factor = max(height / x.shape[2], width / x.shape[3])
    target = (max(height, round(x.shape[2] * factor)), max(width, round(x.shape[3] * factor)))
    x = F.interpolate(x, target, mode="bicubic", antialias=True)
    top, left = (target[0] - height) // 2, (target[1] - width) // 2
    return x[0, :, top : top + height, left : left + width].clamp(0, 255) / 127.5 - 1


def bucket(aspect: float, area: int) -> tuple[int, int]:
    """(width, height) in multiples of 64 of about ``area`` pixels, nearest to ``aspect`` (width over height)."""
    wanted = min(max(aspect, 1 / _LONGEST_ASPECT), _LONGEST_ASPECT)
    sides = range(SIZE_STEP, 4 * math.isqrt(area) + SIZE_STEP, SIZE_STEP)
    sizes = [(w, h) for w in sides for h in sides if 0.7 * area <= w * h <= 1.3 * area]

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return abs(math.log(size[0] / size[1] / wanted)), abs(size[0] * size[1] - area)

    return min(sizes, key=distance)


def enough_for(processes: int, items: Sequence[object]) -> None:
    """Raise UsageError when there are more processes than clips."""
    if len(items) < processes:
        raise UsageError(
            f"{processes} processes cannot share {len(items)} usable clip(s); start at most as many as there are clips"
        )
