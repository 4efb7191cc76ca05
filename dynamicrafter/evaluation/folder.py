"""Reads what to evaluate: images with prompts, from a list or from text files next to them, and existing clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UsageError
from ..media.lists import read_lines
from ..media.video import EXTENSIONS

PROMPT_LISTS = ("prompts.csv", "prompts.jsonl")
"""File names recognised as the list of a folder."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""Suffixes of image files in a folder without a list."""
_NEEDED, _OPTIONAL = ("picture", "prompt"), ("end", "clip")
_CALLED = {"picture": "an image", "end": "an end image", "clip": "a clip"}


@dataclass(frozen=True)
class Item:
    """One image to animate."""

    name: str
    """The image's file name without its suffix, numbered from the second use on; existing clips are matched by it."""
    picture: Path
    prompt: str = ""
    end: Path | None = None
    """End image of an interpolation; None for image-to-video."""
    real: Path | None = None
    """Real clip, for FVD and KVD."""
    text: Path | None = None
    """Text file that the prompt was read from, if any."""


def read_items(place: Path) -> list[Item]:
    """Read a folder or a list (csv or jsonl with ``picture`` and ``prompt``, optionally ``end`` and ``clip``).

    A folder's list is ``prompts.csv`` or ``prompts.jsonl``; without one each image is an item, with the prompt in the
    text file of the same name, if there is one. Paths in a list are relative to it. Raises UsageError if there is
    nothing to measure, and for a list with missing columns or files.
    """
    if place.suffix.lower() in PICTURES and place.is_file():
        raise UsageError(
            f"{place} is an image; choose the folder that contains it, or a list of images and prompts"
        )
    if place.is_file():
        return _listed(place)
    if not place.is_dir():
        raise UsageError(f"there is no folder or list {place}; choose the folder that contains the images")
    for name in PROMPT_LISTS:
        if (place / name).is_file():
            return _listed(place / name)
    entries = sorted(entry for entry in place.iterdir() if not _is_hidden(entry))
    pictures = [entry for entry in entries if entry.suffix.lower() in PICTURES and entry.is_file()]
    if not pictures:
        raise UsageError(
            f"{place} contains no images and no {' or '.join(PROMPT_LISTS)}; "
            f"put images with text files of the same names there"
        )
    texts = {entry.stem: entry for entry in entries if entry.suffix.lower() == ".txt" and entry.is_file()}
    return _named([_with_text_beside(picture, texts) for picture in pictures])


def find_clips(place: Path) -> list[Path]:
    """The clips in a folder, sorted by name: clip files and folders of PNG images; or ``place`` itself if it is a clip.

    Raises UsageError if there is none.
    """
    if _is_clip(place):
        return [place]
    if not place.is_dir():
        raise UsageError(f"there is no folder or clip {place}; choose the folder that contains the clips")
    clips = sorted(entry for entry in place.iterdir() if not _is_hidden(entry) and _is_clip(entry))
    if not clips:
        raise UsageError(
            f"{place} contains no clip; clips are {', '.join(EXTENSIONS)} files or folders of PNGs"
        )
    return clips


def match_clips(items: Sequence[Item], clips: Iterable[Path]) -> tuple[list[tuple[Item, Path]], list[str]]:
    """Match each clip with its item; returns the pairs and a note for each unmatched clip and item.

    A clip belongs to the item with the same name, or to the longest item name that is followed by a hyphen in its own:
    ``boat-animate.mp4`` and ``boat-2.mp4`` belong to ``boat``. Raises UsageError if no clip has an item.
    """
    pairs: list[tuple[Item, Path]] = []
    notes: list[str] = []
    by_name = {item.name.casefold(): item for item in items}
    for clip in clips:
        words = clip_name(clip).casefold().split("-")
        starts = ("-".join(words[:count]) for count in range(len(words), 0, -1))
        item = next((by_name[start] for start in starts if start in by_name), None)
        if item is None:
            notes.append(f"{clip.name} is skipped: no image has a matching name")
        else:
            pairs.append((item, clip))
    if not pairs:
        raise UsageError(
            "no clip is named after an image; name the clips of boat.png boat.mp4 or boat-something.mp4"
        )
    used = {item.name for item, _ in pairs}
    notes += [f"{item.name} has no clip" for item in items if item.name not in used]
    return pairs, notes


def clip_name(clip: Path) -> str:
    """A clip's name without its extension."""
    return clip.stem if clip.suffix.lower() in EXTENSIONS else clip.name


def _is_hidden(path: Path) -> bool:
    """Whether a file is hidden; macOS stores metadata in files such as ``._boat.png``, which are not images."""
    return path.name.startswith(".")


def _is_clip(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix.lower() in EXTENSIONS and path.is_file()
    inside = list(path.iterdir())
    others = any(entry.is_dir() or entry.suffix.lower() in EXTENSIONS for entry in inside)
    return not others and any(entry.suffix.lower() == ".png" for entry in inside)


def _with_text_beside(picture: Path, texts: Mapping[str, Path]) -> Item:
    """The image with the prompt from the text file of the same name; ``texts`` include upper-case suffixes."""
    text: Path | None = picture.with_suffix(".txt")
    if not text.is_file():
        text = texts.get(picture.stem)
    if text is None:
        return Item(picture.stem, picture)
    try:
        prompt = " ".join(text.read_text(encoding="utf-8-sig").split())
        return Item(picture.stem, picture, prompt, text=text)
    except UnicodeDecodeError as problem:
        raise UsageError(f"{text} is not a UTF-8 text file; save it as one") from problem


def _listed(listing: Path) -> list[Item]:
    items: list[Item] = []
    for number, (_, row) in enumerate(read_lines(listing, _NEEDED), 1):
        absent = [name for name in _NEEDED if name not in row]
        if absent:
            have = ", ".join(str(name) for name in row) or "none"
            raise UsageError(
                f"{listing} needs the columns {' and '.join(_NEEDED)} (and may have {' and '.join(_OPTIONAL)}); "
                f"it has {have}"
            )
        cells = {name: str(row.get(name) or "").strip() for name in (*_NEEDED, *_OPTIONAL)}
        if not cells["picture"]:
            raise UsageError(f"row {number} of {listing} names no image; fill in the picture column")
        paths = {name: listing.parent / cells[name] for name in ("picture", *_OPTIONAL) if cells[name]}
        for name, path in paths.items():
            try:
                there = _is_clip(path) if name == "clip" else path.is_file()
            except (OSError, ValueError):  # A prompt in the wrong column may be too long for a file name.
                there = False
            if not there:
                raise UsageError(
                    f"row {number} of {listing} names {_CALLED[name]} that does not exist: {path}"
                )
        picture = paths["picture"]
        items.append(Item(picture.stem, picture, cells["prompt"], paths.get("end"), paths.get("clip")))
    if not items:
        raise UsageError(f"{listing} has no rows; each needs a {' and a '.join(_NEEDED)}")
    return _named(items)


def _named(items: Sequence[Item]) -> list[Item]:
    """The items with unique names, also on case-insensitive file systems."""
    taken: set[str] = set()
    named: list[Item] = []
    for item in items:
        name, number = item.name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{item.name}_{number}"  # A hyphen and a number could be a clip's seed.
        taken.add(name.casefold())
        named.append(replace(item, name=name))
    return named
