"""Writing and reading clips, with their settings stored inside.

The extension selects the format; a name without one, or ending in a slash, is a folder of PNG images. A file or folder
gets its final name only when it is complete.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ..atomic import check_writable, replacing
from ..bounded_json import parse_json
from ..errors import ClipError, UsageError
from ..forms import Form, shortened, to_json
from .provenance import DigitalSource, add_to_gif, add_to_mp4, statement, xmp_packet

EXTENSIONS = (".mp4", ".webm", ".gif", ".webp")
"""Extensions of clip files; everything else is a folder or an error."""
_SOUNDS = {
    ".aac": "aac",
    ".flac": "flac",
    ".m4a": "mp4",
    ".mp3": "mp3",
    ".oga": "ogg",
    ".ogg": "ogg",
    ".opus": "ogg",
    ".wav": "wav",
}
"""Extensions of files with nothing but sound, and their formats in libav's terms."""
SOUND_EXTENSIONS = tuple(_SOUNDS)

Frames: TypeAlias = "np.ndarray[Any, Any] | Tensor"
"""uint8 ``[t, h, w, 3]``, RGB 0..255."""


@dataclass(frozen=True, eq=False)
class FrameStream:
    """Frames that are made while they are written, so that they need not all be in memory."""

    parts: Iterable[Tensor]
    """Consecutive frames, uint8 ``[n, h, w, 3]`` RGB each; read once, and whatever they raise stops the writing."""
    count: int
    """Number of all frames."""
    width: int
    height: int


@dataclass(frozen=True)
class ClipSource:
    """A clip whose frames are read as they are needed, as often as they are."""

    path: Path
    count: int
    """Number of frames."""
    fps: float | None
    """Frames per second; None where it is not stored."""
    width: int
    height: int

    def frames(self, start: int = 0, step: int = 1, count: int | None = None) -> Iterator[Tensor]:
        """``count`` frames, uint8 ``[h, w, 3]`` each: every ``step``-th from ``start`` on; all of them by default.

        Raises ClipError if one cannot be read.
        """
        stop = None if count is None else start + (count - 1) * step + 1
        with _reading(self.path):
            for frame in islice(_frames_of(self.path), start, stop, step):
                yield torch.as_tensor(frame)


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound of a clip."""

    samples: np.ndarray[Any, Any]
    """float32 ``[channels, n]`` with one or two channels, within [-1, 1]."""
    rate: int = 48_000
    """Samples per second."""


_RECORD_KIND = "dynamicrafter clip"
_RECORD_FORM = 1
_RECORD_NAME = "clip.json"
_FRAME_NAME = re.compile(r"frame_\d{4,}\.png")
_IMAGE_DESCRIPTION_TAG = 0x010E  # EXIF 2.32, section 4.6.4
_EBML = b"\x1a\x45\xdf\xa3"
"""How a Matroska file, which a WebM is, begins (RFC 8794)."""
FASTEST = 240  # Frames a second.
_GIF_FASTEST = 50  # Delays are hundredths of a second, and browsers show 1 of them as 10.

_AGAIN = "it may be damaged, generate it again"
"""What to do about a clip that cannot be read."""

_LARGEST_FRAME = 40_000_000
"""Maximum pixels of a frame that is read, nearly five times 4K."""
_LARGEST_RECORD = 2**24
"""Maximum bytes of a clip.json that is read."""
_LARGEST_CLIP = 2 * 2**30
"""Maximum bytes of all frames that are read, 14 seconds of Full HD at 24 fps; a small file can decode to far more."""

_SOUND_GAP = 4800
"""Samples, a tenth of a second, from which on a difference of times is a gap in the sound."""

# libav's numbers; 1 is BT.709 as a matrix, as primaries and as a transfer function (ITU-T H.273).
_BT709 = 1
_BT601 = 5
_LIMITED = 1
_FULL = 2


@dataclass(frozen=True)
class _Codec:
    """A video format in libav's terms."""

    container: str
    name: str
    options: Mapping[str, str]
    sound: str = ""
    """Name of the codec of its sound."""
    container_options: Mapping[str, str] = field(default_factory=dict[str, str])
    avx512_options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Additional options on a processor with AVX-512."""


# High profile in 4:2:0 and the index at the front are what browsers, phones and presentation software expect.
_VIDEO = {
    ".mp4": _Codec(
        container="mp4",
        name="libx264",
        options={"crf": "10", "profile": "high"},  # crf of the original script.
        sound="aac",
        container_options={"movflags": "+faststart"},
        # x264's AVX-512 code for macroblock trees processes eight macroblocks at a time and reads uninitialised memory
        # beyond the end of a row. Clips whose width is not a multiple of 128 then differ from one write to the next.
        # Its AVX2 code stops at the end of the row, and every processor with AVX-512 has AVX2 too. Disabling
        # macroblock trees on every processor instead would make the files 1.3 to 1.8 times as large.
        avx512_options={"x264-params": "asm=AVX2"},
    ),
    ".webm": _Codec(
        container="webm",
        name="libvpx-vp9",
        options={"crf": "8", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
        sound="libopus",
    ),
}


@dataclass(frozen=True)
class _Record:
    """What is stored in a clip besides its frames."""

    fps: float
    frames: int
    metadata: Mapping[str, Any]
    kind: str = _RECORD_KIND
    version: int = _RECORD_FORM
    """Version of this form; the version of the program is in the metadata."""

    def to_text(self) -> str:
        """JSON in plain ASCII, which every container preserves."""
        return json.dumps(to_json(self), ensure_ascii=True)

    @staticmethod
    def from_text(text: str, source: Path) -> _Record | None:
        """The record of the clip ``source``, or None if ``text`` is not one; raises ClipError for an invalid record."""
        try:
            values = parse_json(text)
        except ValueError:
            return None
        if not isinstance(values, dict) or cast(dict[str, Any], values).get("kind") != _RECORD_KIND:
            return None
        stored = cast(dict[str, Any], values)
        metadata = stored.get("metadata")
        writer = "unknown"
        if isinstance(metadata, dict):
            writer = shortened(str(cast(dict[str, Any], metadata).get("version", writer)))
        form = stored.get("version")
        if isinstance(form, int) and form > _RECORD_FORM:
            raise ClipError(
                f"{source} contains a record of form {form}, but this version reads up to {_RECORD_FORM}; "
                f"use version {writer} or a newer one"
            )
        record = Form(f"the record in {source}", ClipError, writer).read(_Record, stored)
        return record if 1 <= record.fps <= FASTEST and record.frames >= 1 else None


def check_clip_path(path: str | os.PathLike[str]) -> Path:
    """``path``, absolute, after checking that a clip can be written there; call it before a long computation.

    Raises UsageError if the extension is unknown, and ClipError if the folder is missing or not writable, or if the
    path is a folder that contains other files. An existing clip is not an error; it will be replaced.
    """
    target = _target(path)
    with _telling(f"{target} could not be written", target.parent):
        check_writable(target)
    return target


def write_clip(
    frames: Frames | FrameStream,
    path: str | os.PathLike[str],
    fps: float,
    metadata: Mapping[str, Any],
    *,
    source: DigitalSource = "trainedAlgorithmicMedia",
    sound: Sound | None = None,
) -> Path:
    """Write frames, uint8 ``[t, h, w, 3]`` or a stream, as a clip at ``fps`` frames per second; returns its full path.

    Frames of a stream are written as they come, but a ``.gif`` or ``.webp`` is written from all of them at once.
    ``.mp4`` is H.264, ``.webm`` VP9 (both BT.709 4:2:0, so width and height must be even). ``.gif`` has one
    palette for all frames and plays at 50 fps at most; it and the animated ``.webp`` loop endlessly. A folder
    gets ``frame_0001.png`` and so on, and ``clip.json``. ``metadata``, which must be JSON values, is stored in
    each format for :func:`read_metadata`. For other programs, every file (of a folder, every frame) also says which
    program wrote it and that it is of the digital ``source``: as XMP, or as tags in ``.webm``, which has no place for
    XMP. ``sound`` is for ``.mp4`` (AAC) and ``.webm`` (Opus) alone; :func:`takes_sound` tells. An existing clip is
    replaced. On one machine the same clip gives the same file, except for the random
    identifiers in every ``.webm``.

    Raises ClipError for other dtypes and shapes, for a path that :func:`check_clip_path` rejects, and if writing
    fails, for example because the disk is full. No partial file is left then, and an existing clip is kept.
    """
    stream = frames if isinstance(frames, FrameStream) else _whole(frames)
    if not 1 <= fps <= FASTEST:
        raise ClipError(f"fps must be 1 to {FASTEST}, but {fps} was given")
    record = _Record(fps=fps, frames=stream.count, metadata=dict(metadata))
    text = record.to_text()
    target = _target(path)
    extension = _extension(target)
    if extension in _VIDEO and (stream.height % 2 or stream.width % 2):
        raise ClipError(
            f"{extension} needs an even width and height, not {stream.width}x{stream.height}; "
            f"crop a line or write .gif, .webp or a folder"
        )
    pictures = _pictures(stream)
    try:
        with _telling(f"{target} could not be written", target.parent), replacing(target) as part:
            if extension in _VIDEO:
                size = (stream.width, stream.height)
                _write_video(part, extension, pictures, size, fps, text, source, sound)
            elif extension == ".gif":
                _write_gif(part, _all(pictures, stream), fps, text, source)
            elif extension == ".webp":
                _write_webp(part, _all(pictures, stream), fps, text, source)
            else:
                _write_folder(part, pictures, text, source)
    except _StreamError as problem:
        cause = problem.cause
    else:
        return target
    raise cause


def takes_sound(path: str | os.PathLike[str]) -> bool:
    """Whether a clip of that name can have sound."""
    return _extension(Path(path)) in _VIDEO


def open_clip(path: str | os.PathLike[str]) -> ClipSource:
    """A clip to be read frame by frame, with its number of frames, their size and their rate.

    Raises ClipError if there is none, or if a frame has more than 40 million pixels.
    """
    with _reading(path):
        source = _existing(path)
        first = next(_frames_of(source), None)
        if first is None:
            raise ClipError(f"{source} contains no frames; generate the clip again")
        if _extension(source) in _VIDEO:
            with _opened(source) as container:
                stream = container.streams.video[0]
                fps = float(stream.average_rate) if stream.average_rate else None
                count = sum(1 for packet in container.demux(stream) if packet.size)
        else:
            record = _read_record(source)
            fps = None if record is None else record.fps
            count = sum(1 for _ in _frames_of(source))
        return ClipSource(source, count, fps, first.shape[1], first.shape[0])


def read_sound(path: str | os.PathLike[str], start: float, seconds: float) -> Sound | None:
    """``seconds`` of the sound of a clip or a sound file from ``start`` on, at 48 kHz; None if it has none there.

    More than two channels are mixed down to two. Raises ClipError if it cannot be read.
    """
    import av

    extension = Path(path).suffix.lower()
    advice = "convert it to WAV or FLAC" if extension in _SOUNDS else _AGAIN
    with _reading(path, advice):
        source = _existing(path, SOUND_EXTENSIONS)
        if extension not in _SOUNDS and _extension(source) not in _VIDEO:
            return None
        with _opened(source) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            layout = "mono" if stream.channels == 1 else "stereo"
            resampler: Any = av.AudioResampler(format="fltp", layout=layout, rate=Sound.rate)
            samples = np.zeros((1 if layout == "mono" else 2, round(seconds * Sound.rate)), np.float32)
            place: int | None = None
            ends = 0
            # After the last frame, the resampler still has samples to give.
            for frame in chain(container.decode(stream), (None,)):
                for part in resampler.resample(frame):
                    begins = round((float(part.pts * part.time_base) - start) * Sound.rate)
                    # Times are rounded, in WebM to a millisecond, so parts follow each other unless there is a gap.
                    if place is None or abs(begins - place) > _SOUND_GAP:
                        place = begins
                    values = part.to_ndarray()[:, max(0, -place) :]
                    values = values[:, : max(0, samples.shape[1] - max(0, place))]
                    if values.shape[1]:
                        samples[:, max(0, place) :][:, : values.shape[1]] = values
                        ends = max(0, place) + values.shape[1]
                    place += part.samples
                if frame is not None and frame.time is not None and frame.time > start + seconds:
                    break
        if not np.isfinite(samples).all():
            raise ClipError(f"{source} contains samples that are not numbers; {advice}")
    return Sound(samples[:, :ends]) if ends else None


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata that :func:`write_clip` stored in the clip at ``path``.

    Raises ClipError if there is no clip, or if it was not written by this program (or lost its metadata in an
    editor or on a website).
    """
    with _reading(path):
        source = _existing(path)
        record = _read_record(source)
    if record is None:
        raise ClipError(
            f"{source} contains no settings; use the original file, "
            f"not one that an editor or a website has saved again"
        )
    return dict(record.metadata)


def read_frames(path: str | os.PathLike[str]) -> Tensor:
    """All frames of a clip, uint8 ``[t, h, w, 3]`` RGB.

    Raises ClipError if there are none, if one has more than 40 million pixels, or if all together take more than
    2 GB.
    """
    with _reading(path):
        source = _existing(path)
        frames: list[np.ndarray[Any, Any]] = []
        for frame in _frames_of(source):
            _check_room(frame.shape[1], frame.shape[0], len(frames) + 1)
            frames.append(frame)
        if not frames:
            raise ClipError(f"{source} contains no frames; generate the clip again")
        return torch.as_tensor(np.stack(frames))


def _frames_of(source: Path) -> Iterator[np.ndarray[Any, Any]]:
    """The frames of a clip, each within the limit for one."""
    extension = _extension(source)
    if extension in _VIDEO:
        return _video_frames(source)
    return iter(_read_animation(source)) if extension else _folder_frames(source)


class _StreamError(Exception):
    """Carries an error of a stream past what tells errors of writing."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


def _whole(frames: Frames) -> FrameStream:
    """All frames as a stream of one part; raises ClipError for other dtypes and shapes."""
    pixels: np.ndarray[Any, Any] = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else frames
    shape = pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ClipError(
            f"frames must be uint8 of shape (frames, height, width, 3), not {pixels.dtype} of shape {shape}"
        )
    return FrameStream((torch.as_tensor(np.ascontiguousarray(pixels)),), shape[0], shape[2], shape[1])


def _pictures(stream: FrameStream) -> Iterator[np.ndarray[Any, Any]]:
    """The frames one by one; raises _StreamError for what the stream raises, and if it is not what it says."""
    count = 0
    try:
        for part in stream.parts:
            count += len(part)
            if part.shape[1:] != (stream.height, stream.width, 3) or count > stream.count:
                break
            yield from np.ascontiguousarray(part.detach().cpu().numpy())
        else:
            if count == stream.count:
                return
    except Exception as problem:
        raise _StreamError(problem) from problem
    raise _StreamError(
        ClipError(
            f"the stream must have {stream.count} frames of {stream.width}x{stream.height} pixels; it differs"
        )
    )


def _all(pictures: Iterable[np.ndarray[Any, Any]], stream: FrameStream) -> np.ndarray[Any, Any]:
    """All frames in one array: Pillow's animations, and a palette for all frames, cannot be written frame by frame."""
    pixels = np.empty((stream.count, stream.height, stream.width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        pixels[index] = picture
    return pixels


# Names


def _extension(path: Path) -> str:
    """The lower case extension of a clip file, or "" for a folder."""
    extension = path.suffix.lower()
    return extension if extension in EXTENSIONS and not path.is_dir() else ""


def _target(path: str | os.PathLike[str]) -> Path:
    """``path``, absolute, after checking its name."""
    given = os.fspath(path)
    folder = given.endswith(("/", os.sep))
    with _telling(f"{given} cannot be written", Path(given).parent):
        target = Path(given).resolve()
        extension = target.suffix.lower()
        mode = _mode(target)
        if stat.S_ISDIR(mode):
            _check_folder(target, extension in EXTENSIONS and not folder)
        elif (folder or not extension) and mode:
            raise ClipError(
                f"{target} is a file, not a folder; choose another name or an extension such as .mp4"
            )
        elif folder and extension in EXTENSIONS:
            raise ClipError(
                f"a folder cannot be called {target.name}; remove the trailing slash for a {extension} file"
            )
        elif not folder and extension and extension not in EXTENSIONS:
            raise UsageError(
                f"{target.name} has the extension {target.suffix}, but a clip can be "
                f"{', '.join(EXTENSIONS)}, or a folder of PNGs (end the name with a slash)"
            )
        if not target.parent.is_dir():
            raise ClipError(f"there is no folder {target.parent}; create it or choose another one")
    return target


def _check_folder(folder: Path, file_wanted: bool) -> None:
    """Raise ClipError unless the existing ``folder`` may be replaced by a folder of frames."""
    if file_wanted:
        raise ClipError(f"{folder} is a folder, not a file; choose a name inside it or another one")
    while seen := _identity(folder):
        try:
            names = [entry.name for entry in folder.iterdir()]
            only_frames = all(name == _RECORD_NAME or _FRAME_NAME.fullmatch(name) for name in names)
            if not names or (only_frames and _read_record(folder) is not None):
                return
        except FileNotFoundError:
            continue
        # Otherwise another process has replaced it in the meantime.
        if _identity(folder) == seen:
            raise ClipError(
                f"the folder {folder} contains other files than those of a clip; choose another name, "
                f"for example {folder / 'clip.mp4'}"
            )


def _mode(path: Path) -> int:
    """Type and permissions of what is at ``path``, links followed; 0 if there is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What distinguishes the file or folder at ``path`` from one that replaces it; None if there is nothing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _existing(path: str | os.PathLike[str], others: Sequence[str] = ()) -> Path:
    """A clip, or a file with one of the ``others`` as its extension."""
    source = Path(path).resolve()
    mode = _mode(source)
    if stat.S_ISDIR(mode):
        return source
    if not mode:
        what = "sound" if source.suffix.lower() in others else "clip"
        raise ClipError(f"there is no {what} {source}; check its name and folder")
    if not stat.S_ISREG(mode):
        raise ClipError(f"{source} is not a regular file; save the clip to a file and use that")
    if not _extension(source) and source.suffix.lower() not in others:
        raise ClipError(f"{source} is not a clip; clips are {', '.join(EXTENSIONS)} files or folders of PNGs")
    return source


# Errors


@contextmanager
def _telling(failure: str, folder: Path) -> Generator[None]:
    """Turn exceptions of the disk and the encoders into a ClipError that begins with ``failure``."""
    from av.error import FFmpegError

    try:
        yield
    except (OSError, ValueError, RuntimeError, FFmpegError) as problem:  # RuntimeError: a symlink loop.
        code = getattr(problem, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT):
            cause = "the disk is full; free some space or choose another disk"
        elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
            cause = f"the folder {folder} is not writable; choose another one"
        else:
            cause = f"{getattr(problem, 'strerror', None) or problem}; try another folder or format"
        raise ClipError(f"{failure}: {cause}") from problem


@contextmanager
def _reading(source: str | os.PathLike[str], advice: str = _AGAIN) -> Generator[None]:
    try:
        yield
    except ClipError:
        raise
    except Exception as problem:  # Decoders raise all kinds of exceptions for damaged files.
        reason = getattr(problem, "strerror", None) or problem
        raise ClipError(f"{source} cannot be read ({reason}); {advice}") from problem


# Formats


def _container(path: Path, mode: str, **choices: Any) -> Any:
    """PyAV's container for a video file, untyped because its type hints are incomplete."""
    import av

    opener: Any = av.open
    return opener(str(path), mode, **choices)


def _opened(path: Path) -> Any:
    """The container of an existing clip or sound file.

    The format is not left to libav, which also knows playlists: a text file called clip.mp4 can name other files.
    """
    kind = _SOUNDS.get(path.suffix.lower())
    if kind is None:
        with path.open("rb") as file:
            kind = "webm" if file.read(len(_EBML)) == _EBML else "mp4"
    return _container(path, "r", format=kind)


def _write_video(
    path: Path,
    extension: str,
    pictures: Iterable[np.ndarray[Any, Any]],
    size: tuple[int, int],
    fps: float,
    text: str,
    source: DigitalSource,
    sound: Sound | None,
) -> None:
    import av

    codec = _VIDEO[extension]
    options = dict(codec.options)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        options |= codec.avx512_options
    with _container(path, "w", format=codec.container, options=dict(codec.container_options)) as output:
        output.metadata["comment"] = text
        if extension == ".webm":
            output.metadata.update(_matroska_tags(source))
        stream = output.add_stream(codec.name, rate=_rate(fps), options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        heard = None if sound is None else output.add_stream(codec.sound, rate=sound.rate)
        if heard is not None and sound is not None:
            heard.layout = "mono" if len(sound.samples) == 1 else "stereo"
        for index, picture in enumerate(pictures):
            if heard is not None and sound is not None:
                # Together, so that a program that plays the file need not search in it.
                begin, end = (round(i * sound.rate / fps) for i in (index, index + 1))
                _write_sound(output, heard, sound, begin, end)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p",
                src_colorspace=_BT709,
                dst_colorspace=_BT709,
                src_color_range=_FULL,
                dst_color_range=_LIMITED,
            )
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if heard is not None:
            output.mux(heard.encode(None))
    if extension == ".mp4":
        add_to_mp4(path, xmp_packet(source))


def _write_sound(output: Any, stream: Any, sound: Sound, begin: int, end: int) -> None:
    """Write the samples from ``begin`` to ``end``."""
    import av

    part = np.ascontiguousarray(sound.samples[:, begin:end])
    if part.shape[1]:
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, begin, Fraction(1, sound.rate)
        output.mux(stream.encode(frame))


def _matroska_tags(source: DigitalSource) -> dict[str, str]:
    """The statement in Matroska's form: words in capitals, joined by underscores."""
    return {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper(): text for name, text in statement(source).items()
    }


def _rate(fps: float) -> Fraction:
    """The exact rate meant by a rounded one: 29.97002997 is 30000/1001."""
    return Fraction(fps).limit_denominator(1001)


def _video_frames(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    with _opened(path) as source:
        for frame in source.decode(video=0):
            _check_room(frame.width, frame.height, 1)
            matrix = _BT709 if frame.colorspace == _BT709 else _BT601
            rgb = frame.reformat(
                format="rgb24",
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=_FULL if frame.color_range == _FULL else _LIMITED,
                dst_color_range=_FULL,
            )
            yield rgb.to_ndarray()


def _write_gif(
    path: Path, pixels: np.ndarray[Any, Any], fps: float, text: str, source: DigitalSource
) -> None:
    from PIL import Image

    # One palette for all frames: colours that stay the same do not flicker.
    stride = max(1, math.isqrt(pixels[..., 0].size // 500_000))
    sample = np.concatenate(list(pixels[:, ::stride, ::stride]))
    palette = Image.fromarray(sample).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    images = [Image.fromarray(picture).quantize(palette=palette) for picture in pixels]
    images[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=[10 * ticks for ticks in _ticks(len(pixels), min(fps, _GIF_FASTEST), 100)],
        loop=0,
        comment=text.encode("ascii"),
    )
    add_to_gif(path, xmp_packet(source))


def _write_webp(
    path: Path, pixels: np.ndarray[Any, Any], fps: float, text: str, source: DigitalSource
) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION_TAG] = text
    images = [Image.fromarray(picture) for picture in pixels]
    images[0].save(
        path,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=_ticks(len(pixels), fps, 1000),
        loop=0,
        quality=90,
        method=4,
        exif=exif.tobytes(),
        xmp=xmp_packet(source).encode(),
    )


def _ticks(frames: int, fps: float, per_second: int) -> list[int]:
    """Duration of each frame in ticks, rounded so that the total stays exact."""
    edges = [round(index * per_second / fps) for index in range(frames + 1)]
    return [after - before for before, after in zip(edges, edges[1:], strict=False)]


def _read_animation(path: Path) -> list[np.ndarray[Any, Any]]:
    from PIL import Image

    with path.open("rb") as file:
        animation = Image.open(file, formats=("GIF", "WEBP"))
        stored: list[tuple[np.ndarray[Any, Any], float]] = []
        for index in range(getattr(animation, "n_frames", 1)):
            animation.seek(index)
            _check_room(*animation.size, index + 1)
            pixels = np.array(animation.convert("RGB"))  # Loads the frame and its duration.
            stored.append((pixels, float(animation.info.get("duration", 0))))
    record = _read_record(path)
    if record is None:
        return [frame for frame, _ in stored]
    # Both formats merge equal neighbours into one longer frame; a single frame has no duration.
    fps = min(record.fps, _GIF_FASTEST) if _extension(path) == ".gif" else record.fps
    times = [max(1, round(shown * fps / 1000)) for _, shown in stored] if len(stored) > 1 else [record.frames]
    _check_room(*animation.size, sum(times))
    return [frame for (frame, _), count in zip(stored, times, strict=True) for _ in range(count)]


def _write_folder(
    path: Path, pictures: Iterable[np.ndarray[Any, Any]], text: str, source: DigitalSource
) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", xmp_packet(source))
    path.mkdir()
    for number, picture in enumerate(pictures, start=1):
        place = path / f"frame_{number:04d}.png"
        Image.fromarray(picture).save(place, "PNG", compress_level=3, pnginfo=about)
    (path / _RECORD_NAME).write_text(text + "\n", encoding="ascii")


def _folder_frames(path: Path) -> Iterator[np.ndarray[Any, Any]]:
    from PIL import Image

    names = sorted(
        (entry.name for entry in path.iterdir() if _FRAME_NAME.fullmatch(entry.name)), key=_by_number
    )
    for name in names:
        if not stat.S_ISREG(_mode(path / name)):
            raise ClipError(f"{path / name} is not a regular file; write the clip again")
        with (path / name).open("rb") as file:
            picture = Image.open(file, formats=("PNG",))
            _check_room(*picture.size, 1)
            yield np.array(picture.convert("RGB"))


def _check_room(width: int, height: int, count: int) -> None:
    """Raise ClipError if ``count`` frames of this size exceed the limits."""
    if width * height > _LARGEST_FRAME or 3 * width * height * count > _LARGEST_CLIP:
        raise ClipError(
            f"the clip has at least {count} frames of {width}x{height} pixels, more than the limit of "
            f"{_LARGEST_FRAME // 10**6} million pixels for a frame or {_LARGEST_CLIP // 2**30} GB for all frames; "
            f"make it smaller or shorter first"
        )


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name


def _read_record(path: Path) -> _Record | None:
    """What :func:`write_clip` stored in the clip at ``path``, or None."""
    extension = _extension(path)
    if extension in _VIDEO:
        with _opened(path) as source:
            # Matroska writes tag names in upper case.
            text = next((value for key, value in source.metadata.items() if key.lower() == "comment"), "")
    elif extension:
        from PIL import Image

        with path.open("rb") as file:
            image = Image.open(file, formats=("GIF", "WEBP"))
            given = (
                image.info.get("comment", b"")
                if extension == ".gif"
                else image.getexif().get(_IMAGE_DESCRIPTION_TAG)
            )
        text = given.decode("ascii", "replace") if isinstance(given, bytes) else str(given)
    else:
        record = path / _RECORD_NAME
        small = record.is_file() and record.stat().st_size <= _LARGEST_RECORD
        text = record.read_text(encoding="utf-8", errors="replace") if small else ""
    return _Record.from_text(text, path)
