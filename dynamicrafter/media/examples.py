"""Images and prompts from a folder of images and clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .lists import CLIPS, IMAGES
from .pictures import Picture, as_picture, read_picture
from .video import EXTENSIONS, read_frames

_KNOWN = IMAGES | CLIPS.intersection(EXTENSIONS)


@dataclass(frozen=True)
class Example:
    """What a clip could be generated from."""

    first: Picture
    last: Picture
    """The same as the first one for an image."""
    prompt: str


def read_examples(folder: Path, most: int) -> list[Example]:
    """The first and last frames of the images and clips in ``folder``, each with the text of the .txt file of its name.

    If there are more than ``most``, they are spread over the names in order. Without a .txt file the prompt is empty.
    Raises UsageError for a folder without images and clips, and PictureError or ClipError for files that cannot be
    read.
    """
    if not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder}; choose one with images or clips like those to generate"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _KNOWN)
    if not files:
        raise UsageError(
            f"{folder} contains no images and clips ({', '.join(sorted(_KNOWN))}); put some into it that are like "
            f"those to generate"
        )
    count = min(most, len(files))
    return [_read(files[index * len(files) // count]) for index in range(count)]


def _read(path: Path) -> Example:
    text = path.with_suffix(".txt")
    try:
        prompt = " ".join(text.read_text(encoding="utf-8-sig").split()) if text.is_file() else ""
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"{text} is not a text file in UTF-8; save it as one") from problem
    if path.suffix.lower() in IMAGES:
        picture = read_picture(path)
        return Example(picture, picture, prompt)
    frames = read_frames(path)
    return Example(as_picture(frames[0].numpy()), as_picture(frames[-1].numpy()), prompt)
