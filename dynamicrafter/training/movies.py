"""Decodes movie files for training, with torchcodec if it is installed and works, else with PyAV."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

_USUAL_RATE = 8.0
"""Frames per second assumed for a file without a frame rate."""
_PLACE = re.compile(r"^.*\.cpp:\d+, ")
"""The source location that torchcodec's messages begin with."""


class UnusableClip(Exception):
    """A clip that cannot be used for training; the message says why."""


class ShorterClip(Exception):
    """A file with fewer frames than it declares."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.frames = frames


@dataclass(frozen=True)
class Movie:
    """An open movie; frames are not cached."""

    frames: int
    """Number of frames that the file declares."""
    rate: float
    """Frames per second."""
    read: Callable[[Sequence[int]], list[Tensor]]
    """Reads frames by ascending indices, each uint8 ``[h, w, 3]``.

    Raises UnusableClip, or ShorterClip if the file ends early.
    """


def movie_file(path: Path) -> os.stat_result:
    """``os.stat`` of the file at ``path``; raises UnusableClip if it is not a regular file."""
    try:
        file = path.stat()
    except (OSError, ValueError) as problem:
        raise UnusableClip(
            f"{path} cannot be read ({getattr(problem, 'strerror', None) or problem})"
        ) from problem
    if not stat.S_ISREG(file.st_mode):
        # Opening a pipe would block forever.
        raise UnusableClip(f"{path} cannot be read (it is not a regular file)")
    return file


def open_movie(path: Path) -> Movie:
    """Open the movie at ``path``; raises UnusableClip if it is not one."""
    movie_file(path)
    decoder = torchcodec_decoder()
    return _by_av(path) if decoder is None else _by_torchcodec(path, decoder)


@cache
def torchcodec_decoder() -> Any:
    """torchcodec's VideoDecoder, or None if it is missing or finds no FFmpeg libraries."""
    try:
        return import_module("torchcodec.decoders").VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None


def clip_size(path: Path) -> tuple[int, int]:
    """Display (width, height) of a clip's frames, taken from the first one; raises UnusableClip."""
    movie_file(path)
    with _stream(path) as (container, stream):
        for frame in container.decode(stream):
            return (frame.height, frame.width) if _quarters(frame) % 2 else (frame.width, frame.height)
    raise UnusableClip(f"{path} contains no frame")


@contextmanager
def _stream(path: Path) -> Generator[tuple[Any, Any]]:
    """PyAV's container and first video stream; any error while using them is raised as UnusableClip.

    Damage that FFmpeg detects is an error and is not concealed.
    """
    import av
    from av.error import FFmpegError

    try:
        with cast(Any, av).open(str(path)) as container:
            if not container.streams.video:
                raise UnusableClip(f"{path} contains no video")
            stream = container.streams.video[0]
            context = stream.codec_context
            context.options = {"err_detect": "explode"}
            # Errors in decoder threads are not reported, but for VP8 only threads detect damage.
            context.thread_count = 2 if context.name == "vp8" else 1
            yield container, stream
    except (FFmpegError, OSError, ValueError) as problem:
        raise UnusableClip(f"{path} cannot be read ({problem})") from problem


def _quarters(frame: Any) -> int:
    """Counterclockwise quarter turns with which the file's metadata says to display a frame."""
    return round(frame.rotation / 90)


def _picture(frame: Any) -> Tensor:
    """uint8 ``[h, w, 3]``, upright."""
    picture = torch.as_tensor(frame.to_ndarray(format="rgb24"))
    return torch.rot90(picture, _quarters(frame), (0, 1))


def _by_av(path: Path) -> Movie:
    with _stream(path) as (container, stream):
        rate = float(stream.average_rate or _USUAL_RATE)
        frames = stream.frames or sum(1 for _ in container.decode(stream))

    def read(numbers: Sequence[int]) -> list[Tensor]:
        wanted = set(numbers)
        found: list[Tensor] = []
        count = 0
        with _stream(path) as (container, stream):
            for frame in container.decode(stream):
                if count in wanted:
                    # Some decoders only flag frames in which they concealed damage.
                    if frame.is_corrupt:
                        raise UnusableClip(f"{path} cannot be read (its frame {count} is damaged)")
                    found.append(_picture(frame))
                count += 1
                if len(found) == len(wanted):
                    return found
        raise ShorterClip(count)

    return Movie(frames, rate, read)


def _by_torchcodec(path: Path, decoder: Any) -> Movie:
    try:
        opened = decoder(str(path), dimension_order="NHWC")
        frames, rate = len(opened), float(opened.metadata.average_fps or _USUAL_RATE)
    except (RuntimeError, ValueError, TypeError) as problem:
        raise _unreadable(path, problem) from problem

    def read(numbers: Sequence[int]) -> list[Tensor]:
        try:
            return list(opened.get_frames_at(list(numbers)).data)
        except (RuntimeError, ValueError, IndexError) as problem:
            raise _unreadable(path, problem) from problem

    return Movie(frames, rate, read)


def _unreadable(path: Path, problem: Exception) -> UnusableClip:
    line = str(problem).strip().partition("\n")[0]
    return UnusableClip(f"{path} cannot be read ({_PLACE.sub('', line)})")
