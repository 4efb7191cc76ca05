"""Writes a folder of toy clips in the format of a user's training data, to try training and to teach a new word."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import torch

from ..atomic import replacing
from ..errors import ClipError, UsageError
from ..forms import program_version
from ..media.lists import read_lines
from ..media.video import write_clip
from ..settings import PROGRAM, check_seed
from ..training.data import CAPTION_LISTS
from .hops import FS, WORD, hop_captions, hop_clips
from .world import captions, make_clips, sample_scenes

_ENLARGED = 2
"""Enlargement of the files, since MP4 stores chroma at half the resolution of luma."""
_KNOWN = "known"
"""Name of the clips with known motions."""
_OWN_NAME = re.compile(rf"\d{{3,}}_({_KNOWN}|{WORD})\.mp4")
"""Names of clips with any number, so that a longer list of an earlier run can be replaced too."""


def write_toy_clips(folder: Path, *, pictures: int = 64, frames: int = 16, seed: int = 0) -> list[Path]:
    """Write two clips for each of ``pictures`` first images and a ``captions.csv`` with their captions and rates.

    In one clip the subject hops, in the other it does something that the built-in model knows, so that training on the
    folder teaches the word without forgetting the others. All scenes are from the toy world's training split; the files
    are 128x128, twice the world's size, and training scales them down again. Existing files are replaced; the list is
    written last. Returns the clips. Raises UsageError for fewer than one image or two frames, a seed out of range, and
    a list of other clips in the folder, and ClipError if a file cannot be written.
    """
    if pictures < 1 or frames < 2:
        raise UsageError(
            f"at least one image and two frames are needed, but {pictures} and {frames} were given"
        )
    check_seed(seed)
    _keep_other_list(folder / CAPTION_LISTS[0])
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(pictures, generator, fs=FS)
    kinds = {
        _KNOWN: (make_clips(scenes, frames), captions(scenes, generator)),
        WORD: (hop_clips(scenes, frames), hop_captions(scenes, generator)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ClipError(
            f"{folder} cannot be created ({problem.strerror or problem}); choose another folder"
        ) from problem
    written: list[Path] = []
    rows: list[tuple[str, str, int]] = []
    for index in range(pictures):
        for kind, (clips, words) in kinds.items():
            name = f"{index:03}_{kind}.mp4"
            pixels = ((clips[index].clamp(-1, 1) + 1) * 127.5).round().byte()
            large = pixels.repeat_interleave(_ENLARGED, 2).repeat_interleave(_ENLARGED, 3)
            fps = int(scenes.fs[index])
            about = {"program": PROGRAM, "version": program_version(), "caption": words[index], "seed": seed}
            shown = large.permute(0, 2, 3, 1)
            written.append(write_clip(shown, folder / name, fps, about, source="algorithmicMedia"))
            rows.append((name, words[index], fps))
    _write_list(rows, folder / CAPTION_LISTS[0])
    return written


def _keep_other_list(path: Path) -> None:
    """Raise UsageError if ``path`` exists and lists clips not written by this module, or cannot be read."""
    if not os.path.exists(path):
        return
    try:
        names = (str(row.get("path") or "") for _, row in read_lines(path, ("path", "caption")))
        other = next((name for name in names if not _OWN_NAME.fullmatch(name)), None)
    except UsageError as problem:
        raise UsageError(
            f"toy clips are written with their own list, but {path} exists and is a different one ({problem}); choose "
            f"another folder"
        ) from problem
    if other is not None:
        raise UsageError(
            f"toy clips are written with their own list, but {path} exists and lists {other or 'no path'}; choose "
            f"another folder"
        )


def _write_list(rows: list[tuple[str, str, int]], path: Path) -> None:
    try:
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "caption", "fps"), *rows])
    except OSError as problem:
        raise ClipError(
            f"{path} could not be written ({problem.strerror or problem}); free some space or choose another folder"
        ) from problem
