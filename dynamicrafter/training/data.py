"""Training data from a folder of clips and images: reads the captions and decodes clips; unusable ones raise.

Lists are csv or jsonl with ``path`` and ``caption`` (and, if known, ``fps``, ``motion`` and ``mask``), or WebVid's
columns ``videoid``, ``page_dir`` and ``name``, whose clips are ``videos/<page_dir>/<videoid>.mp4``. Without a list,
each clip's caption is in the .txt file of the same name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import PictureError, UsageError
from ..media.lists import CLIPS, IMAGES, read_lines
from ..media.pictures import read_picture
from ..model.variants import Preset
from ..parameters import SIZE_STEP
from .movies import ShorterClip, UnusableClip, clip_size, open_movie

CAPTION_LISTS = ("captions.csv", "captions.jsonl")
"""File names recognised as the list of a folder."""
_OWN, _WEBVID = ("path", "caption"), ("videoid", "page_dir", "name")
_MOTION_WORDING = "dynamic_wording"
"""WebVid10M-motion's column with the part of the caption that describes the motion."""
_MASK = ".mask"
"""End of the stem of a clip's mask in a folder without a list, as in ``boat.mask.png``."""
_HIGHEST_RATE = 1000.0
_LONGEST_ASPECT = 2.0


@dataclass(frozen=True)
class Row:
    """One row of a list."""

    path: Path
    caption: str
    fps: float | None = None
    """Frames per second; None uses the clip's own rate."""
    motion: str = ""
    """Description of the motion only, without the contents of the image; empty if the list has none."""
    mask: Path | None = None
    """Image or clip that is white where the loss is measured and black elsewhere; None measures it everywhere."""
    repeats: int = 1
    """How often the clip counts among all clips."""
    folder: Path = field(default=Path(), compare=False)
    """The data folder."""

    @property
    def is_image(self) -> bool:
        """Whether the file is an image."""
        return self.path.suffix.lower() in IMAGES


def read_list(
    folder: Path, listing: Path | None = None, note: Callable[[str], None] | None = None
) -> list[Row]:
    """The rows of ``listing``, or of the list in ``folder``, or of its .txt files; paths are relative to ``folder``.

    Rows that lack a required value are skipped, as in the released code, and ``note`` is called with their number.
    Raises UsageError for a missing folder or list, for two lists of which none is chosen, and for a list without the
    required columns, with unusable values or without rows.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no data folder {folder}; choose the folder that contains the clips")
    if listing is None:
        if not any(folder.iterdir()):
            raise UsageError(f"the data folder {folder} is empty; put the clips and a captions.csv into it")
        found = [folder / name for name in CAPTION_LISTS if (folder / name).is_file()]
        if not found:
            return _read_texts(folder, note)
        if len(found) > 1:
            raise UsageError(
                f'{folder} contains both {" and ".join(CAPTION_LISTS)}; set "listing" to the one to use'
            )
        listing = found[0]
    if not listing.is_file():
        raise UsageError(f"there is no list {listing}; use a csv or jsonl file with path and caption")
    rows: list[Row] = []
    incomplete: list[int] = []
    for number, values in read_lines(listing, _OWN):
        row = _row(folder, listing, number, values)
        if row is None:
            incomplete.append(number)
        else:
            rows.append(row)
    if not rows:
        raise UsageError(f"{listing} lists no clip; each row needs a path and a caption")
    if incomplete and note is not None:
        note(
            f"{len(incomplete)} row(s) of {listing} lack a path or a caption and are skipped; the first one ends on "
            f"line {incomplete[0]}"
        )
    return rows


def _read_texts(folder: Path, note: Callable[[str], None] | None) -> list[Row]:
    """The clips and images of ``folder`` with the captions in the .txt files of the same name."""
    rows: list[Row] = []
    bare: list[Path] = []
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES | CLIPS)
    masks = {path.stem.removesuffix(_MASK): path for path in files if path.stem.endswith(_MASK)}
    for path in files:
        if path.stem.endswith(_MASK):
            continue
        text = path.with_suffix(".txt")
        try:
            caption = " ".join(text.read_text(encoding="utf-8-sig").split()) if text.is_file() else ""
        except (OSError, UnicodeDecodeError) as problem:
            raise UsageError(f"{text} is not a text file in UTF-8; save it as one") from problem
        if caption:
            rows.append(Row(path, caption, mask=masks.get(path.stem), folder=folder))
        else:
            bare.append(path)
    if not rows:
        raise UsageError(
            f"{folder} contains no {' or '.join(CAPTION_LISTS)}; create one with the columns path and caption, or a "
            ".txt file with the caption for every clip"
        )
    if bare and note is not None:
        note(
            f"{len(bare)} clip(s) of {folder} lack a .txt file with a caption and are skipped; the first one is "
            f"{bare[0].name}"
        )
    return rows


def _row(folder: Path, listing: Path, number: int, values: Mapping[str, Any]) -> Row | None:
    """One row; None if a required value is empty. Raises UsageError for a missing column or an unusable value."""
    for columns in (_OWN, _WEBVID):
        if all(name in values for name in columns):
            break
    else:
        have = ", ".join(str(name) for name in values) or "none"
        raise UsageError(
            f"{listing} needs the columns {' and '.join(_OWN)}, or WebVid's {', '.join(_WEBVID)}; it has {have}"
        )
    where = f"line {number} of {listing}"
    cells = [_text(values, name, where) for name in columns]
    if not all(cells):
        return None
    motion = _text(values, "motion", where) or _text(values, _MOTION_WORDING, where)
    fps = _rate(_text(values, "fps", where), cells[0], where)
    mask = _text(values, "mask", where)
    own = columns == _OWN
    return Row(
        folder / cells[0] if own else folder / "videos" / cells[1] / f"{cells[0]}.mp4",
        cells[1] if own else cells[2],
        fps,
        motion,
        folder / mask if mask else None,
        folder=folder,
    )


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    """A value as text, empty if there is none; raises UsageError for anything but text or a number."""
    value = values.get(name)
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        given = json.dumps(value)
        raise UsageError(
            f"{where} has {given if len(given) < 80 else given[:77] + '...'} as {name}; write a string"
        )
    text = str(value).strip()
    # JSON may contain lone surrogates, which can be neither encoded in file names nor printed.
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(f"{where} has invalid characters in {name}, {ascii(text)}; rewrite it")
    return text


def _rate(text: str, clip: str, where: str) -> float | None:
    """Frames per second, None if ``text`` is empty. Raises UsageError for an invalid rate."""
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError as problem:
        raise UsageError(f"{where} has the fps {text!r} for {clip}; it must be a number") from problem
    # The condition is also false for NaN.
    if not 0 < rate <= _HIGHEST_RATE:
        raise UsageError(
            f"{where} has the fps {text} for {clip}; it must be above 0 and at most {_HIGHEST_RATE:g}, or empty to use "
            f"the clip's own"
        )
    return rate


@dataclass(frozen=True)
class ClipPiece:
    """An excerpt of a clip at training size."""

    frames: Tensor
    """``[t, 3, H, W]`` in [-1, 1]."""
    fps: float | None
    """Frames per second after applying the stride; all variants but 256 are conditioned on it. None for an image."""
    stride: int
    mask: Tensor | None = None
    """``[t, 1, H, W]`` in 0..1."""

    def fs(self, preset: Preset) -> int:
        """The value that the network is conditioned on; that of the least motion for an image."""
        if self.fps is None:
            return preset.fs_still
        # Only the stride grows with the motion.
        return self.stride if preset.fs_still < preset.fs_lively else int(self.fps)


def read_piece(
    row: Row,
    frames: int,
    size: tuple[int, int],
    strides: tuple[int, int],
    generator: torch.Generator,
    shortest: int | None = None,
) -> ClipPiece:
    """A random excerpt of the row's clip, scaled to cover ``size`` (width, height) and centre-cropped.

    The stride is sampled from ``strides`` and reduced for clips that are too short, as in the released code. Clips with
    fewer than ``frames`` frames, but at least ``shortest``, are read whole; images have one frame. Raises UnusableClip
    for clips that cannot be read or are shorter.
    """
    if row.is_image:
        still = [_read_image(row.path)]
        return ClipPiece(_fitted(still, size), row.fps, 1, _read_mask(row, [0], size))
    movie = open_movie(row.path)
    while True:
        least = frames if shortest is None else shortest
        if movie.frames < least:
            raise UnusableClip(f"{row.path} has {movie.frames} frames, but {least} are needed")
        count = min(frames, movie.frames)
        stride = int(torch.randint(strides[0], strides[1] + 1, (1,), generator=generator))
        if (count - 1) * stride + 1 > movie.frames:
            stride = movie.frames // count
        room = movie.frames - (count - 1) * stride
        start = int(torch.randint(room, (1,), generator=generator))
        numbers = range(start, start + (count - 1) * stride + 1, stride)
        try:
            pictures = movie.read(numbers)
            break
        except ShorterClip as problem:
            movie = replace(movie, frames=problem.frames)
    fps = (row.fps or movie.rate) / stride
    return ClipPiece(_fitted(pictures, size), fps, stride, _read_mask(row, numbers, size))


def piece_size(row: Row) -> tuple[int, int]:
    """Display (width, height) of the row's clip or image; raises UnusableClip."""
    if not row.is_image:
        return clip_size(row.path)
    height, width = _read_image(row.path).shape[:2]
    return width, height


def _read_image(path: Path) -> Tensor:
    try:
        return read_picture(path).pixels
    except PictureError as problem:
        raise UnusableClip(str(problem)) from problem


def _read_mask(row: Row, numbers: Sequence[int], size: tuple[int, int]) -> Tensor | None:
    """The frames of the row's mask with the given numbers; one image is the mask of all of them."""
    if row.mask is None:
        return None
    if row.mask.suffix.lower() in IMAGES:
        pictures = [_read_image(row.mask)] * len(numbers)
    else:
        try:
            pictures = open_movie(row.mask).read(numbers)
        except ShorterClip as problem:
            raise UnusableClip(
                f"{row.mask} has {problem.frames} frames, but its clip {row.path} has more"
            ) from problem
    mask = (_fitted(pictures, size).mean(1, keepdim=True) + 1) / 2
    if not mask.any():
        raise UnusableClip(f"{row.mask} is black, so nothing of {row.path} can be trained on")
    return mask


def _fitted(pictures: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    return torch.stack([_fit(picture, size) for picture in pictures])


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
    """(width, height) in multiples of 64 with about ``area`` pixels and nearest to ``aspect`` (width over height)."""
    wanted = min(max(aspect, 1 / _LONGEST_ASPECT), _LONGEST_ASPECT)
    sides = range(SIZE_STEP, 4 * math.isqrt(area) + SIZE_STEP, SIZE_STEP)
    sizes = [(w, h) for w in sides for h in sides if 0.7 * area <= w * h <= 1.3 * area]

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return abs(math.log(size[0] / size[1] / wanted)), abs(size[0] * size[1] - area)

    return min(sizes, key=distance)


def enough_for(processes: int, items: Sequence[object]) -> None:
    """Raise UsageError if there are more processes than clips."""
    if len(items) < processes:
        raise UsageError(
            f"{processes} processes cannot share {len(items)} usable clip(s); start at most as many as there are clips"
        )
