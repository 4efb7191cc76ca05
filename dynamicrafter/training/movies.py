"""Frames of movie files for training: by torchcodec where it is installed and works, else by PyAV."""

from __future__ import annotations

import re
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
"""Frames per second of a file that does not say."""
_PLACE = re.compile(r"^.*\.cpp:\d+, ")
"""Where in its own source something happened, which torchcodec's messages begin with."""


class UnusableClip(Exception):
    """A clip that cannot be trained on; the message says why."""


class ShorterClip(Exception):
    """A file that holds fewer frames than it says."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.frames = frames


@dataclass(frozen=True)
class Movie:
    """An opened movie, of which no frame is kept."""

    frames: int
    """As many as the file says."""
    rate: float
    """Frames per second."""
    read: Callable[[Sequence[int]], list[Tensor]]
    """Frames by their ascending numbers, uint8 ``[h, w, 3]`` each.

    Raises UnusableClip, or ShorterClip where the file ends before.
    """


def open_movie(path: Path) -> Movie:
    """The movie at ``path``; raises UnusableClip for what is none."""
    decoder = torchcodec_decoder()
    return _by_av(path) if decoder is None else _by_torchcodec(path, decoder)


@cache
def torchcodec_decoder() -> Any:
    """torchcodec's VideoDecoder, or None where it is missing or finds no FFmpeg libraries."""
    try:
        return import_module("torchcodec.decoders").VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None


def clip_size(path: Path) -> tuple[int, int]:
    """(width, height) of a clip's frames, told without decoding them; raises UnusableClip."""
    with _stream(path) as (_, stream):
        return stream.width, stream.height


@contextmanager
def _stream(path: Path) -> Generator[tuple[Any, Any]]:
    """PyAV's container and first video stream; whatever goes wrong with them becomes UnusableClip."""
    import av
    from av.error import FFmpegError

    try:
        with cast(Any, av).open(str(path)) as container:
            if not container.streams.video:
                raise UnusableClip(f"{path} holds no video")
            yield container, container.streams.video[0]
    except (FFmpegError, OSError, ValueError) as problem:
        raise UnusableClip(f"{path} cannot be read ({problem})") from problem


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
                    found.append(torch.as_tensor(frame.to_ndarray(format="rgb24")))
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
