"""Clips come back as they were written, carry what made them, and are there whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dynamicrafter.errors import Cancelled, ClipError, UsageError
from dynamicrafter.media.video import (
    EXTENSIONS,
    FrameStream,
    Sound,
    check_clip_path,
    open_clip,
    read_frames,
    read_metadata,
    read_sound,
    takes_sound,
    write_clip,
)
from dynamicrafter.own_process import run_apart
from dynamicrafter.process_memory import peak_resident

NAMES = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip")
SETTINGS = {
    "prompt": 'a "boat"\n\u00e4 \u6e2f \U0001f6a4',
    "seed": 2**63 - 1,
    "cfg": 7.5,
    "nested": {"none": None, "list": [1]},
}

ENCODERS = {
    "clip.mp4": "av.open",
    "clip.webm": "av.open",
    "clip.gif": "PIL.Image.Image.save",
    "clip.webp": "PIL.Image.Image.save",
    "clip": "PIL.Image.Image.save",
}
"""What writes each format's bytes."""


def moving(frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    """A smooth pattern that moves."""
    t, y, x = np.mgrid[:frames, :height, :width]
    channels = [np.sin((x + 6 * t) / 15), np.cos((y + 4 * t) / 13), np.sin((x + y - 5 * t) / 20)]
    return np.stack([127 + 90 * channel for channel in channels], axis=-1).astype(np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# There and back


@pytest.mark.parametrize("name", NAMES)
def test_frames_come_back(tmp_path: Path, name: str) -> None:
    frames = moving()
    path = write_clip(frames, tmp_path / name, 8, {})
    assert path == (tmp_path / name).resolve()
    back = read_frames(path)
    assert back.dtype == torch.uint8
    assert back.shape == frames.shape
    difference = np.abs(back.numpy().astype(int) - frames)
    # A PNG is exact, a GIF has 256 dithered colours for a picture that uses far more.
    limit = {"clip": 0, "clip.gif": 16}.get(name, 3)
    assert difference.mean() <= limit


@pytest.mark.parametrize("name", NAMES)
def test_metadata_comes_back(tmp_path: Path, name: str) -> None:
    assert read_metadata(write_clip(moving(), tmp_path / name, 8, SETTINGS)) == SETTINGS


@pytest.mark.parametrize("name", NAMES)
def test_a_long_prompt_comes_back(tmp_path: Path, name: str) -> None:
    prompt = "\U0001f6a4 <&> \ud83d" * 2500
    assert read_metadata(write_clip(moving(2), tmp_path / name, 8, {"prompt": prompt}))["prompt"] == prompt


@pytest.mark.parametrize("name", NAMES)
def test_tensors_and_single_frames_are_written(tmp_path: Path, name: str) -> None:
    path = write_clip(torch.from_numpy(moving(1)), tmp_path / name, 8, SETTINGS)
    assert read_frames(path).shape == (1, 48, 64, 3)
    assert read_metadata(path) == SETTINGS


@pytest.mark.parametrize("name", NAMES)
def test_flat_colours_keep_their_levels(tmp_path: Path, name: str) -> None:
    colours = [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
        (128, 128, 128),
        (200, 120, 40),
    ]
    frames = np.array(colours, dtype=np.uint8)[:, None, None].repeat(64, 1).repeat(64, 2)
    back = read_frames(write_clip(frames, tmp_path / name, 8, {}))
    difference = np.abs(back.numpy().astype(int) - frames)
    assert difference.max() <= 3, difference.max(axis=(1, 2))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_other_readers_are_told_the_colours(tmp_path: Path, name: str) -> None:
    """BT.709 in limited range; without tags some players take small videos for BT.601."""
    frames = np.full((3, 64, 64, 3), (220, 60, 30), dtype=np.uint8)
    with av.open(str(write_clip(frames, tmp_path / name, 8, {}))) as source:
        context = source.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]
        assert context.pix_fmt == "yuv420p"


def test_mp4_is_what_plays_everywhere(tmp_path: Path) -> None:
    path = write_clip(moving(9), tmp_path / "clip.mp4", 12, SETTINGS)
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.profile == "High"
        assert stream.average_rate == 12
        assert (stream.width, stream.height, stream.frames) == (64, 48, 9)
    raw = path.read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat"), "the index is not at the front"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (7.5, Fraction(15, 2)),
        (1.5, Fraction(3, 2)),
        (24000 / 1001, Fraction(24000, 1001)),
        (8.0, Fraction(8)),
    ],
)
def test_videos_have_the_exact_rate(tmp_path: Path, name: str, fps: float, rate: Fraction) -> None:
    with av.open(str(write_clip(moving(9), tmp_path / name, fps, SETTINGS))) as source:
        stream = source.streams.video[0]
        assert float(stream.average_rate or 0) == pytest.approx(float(rate), rel=1e-4)
        if name == "clip.mp4":  # WebM stores whole nanoseconds.
            assert stream.average_rate == rate
    assert len(read_frames(tmp_path / name)) == 9
    assert read_metadata(tmp_path / name) == SETTINGS


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
@pytest.mark.parametrize("fps", [1.5, 3, 7, 7.5, 8, 24, 29.97, 50, 60])
def test_animations_keep_time_and_equal_frames(tmp_path: Path, name: str, fps: float) -> None:
    frames = moving(4)[[0, 0, 1, 1, 1, 2, 3, 3]]
    path = write_clip(frames, tmp_path / name, fps, {})
    shown = 0
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            shown += image.info["duration"]
    effective = min(fps, 50) if name == "clip.gif" else fps
    assert shown == pytest.approx(8 * 1000 / effective, abs=6)
    back = read_frames(path)
    assert len(back) == 8
    assert torch.equal(back[2], back[4])
    assert not torch.equal(back[1], back[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_that_stands_still_keeps_its_frames(tmp_path: Path, name: str) -> None:
    assert len(read_frames(write_clip(moving(1).repeat(6, 0), tmp_path / name, 12, {}))) == 6


def test_a_folder_holds_numbered_frames_and_the_settings(tmp_path: Path) -> None:
    path = write_clip(moving(3), f"{tmp_path}/clip.v2/", 10, {"seed": 5})
    assert sorted(contents(path)) == ["clip.json", "frame_0001.png", "frame_0002.png", "frame_0003.png"]
    record = json.loads((path / "clip.json").read_text(encoding="utf-8"))
    assert (record["fps"], record["frames"], record["metadata"]) == (10, 3, {"seed": 5})


def test_extensions_may_be_capitals(tmp_path: Path) -> None:
    path = write_clip(moving(2), tmp_path / "CLIP.MP4", 8, SETTINGS)
    assert read_metadata(path) == SETTINGS


@contextmanager
def new_memory_filled() -> Iterator[Callable[[int], None]]:
    """A function that sets what new memory holds, for every library in this process (0: whatever was there)."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc, whose mallopt can fill new memory")
    m_perturb = -6  # From glibc's malloc.h.
    fill = ctypes.CDLL(None).mallopt
    try:
        yield lambda value: fill(m_perturb, value)
    finally:
        fill(m_perturb, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [64, 272])
def test_what_was_in_memory_leaves_no_trace_in_a_clip(tmp_path: Path, name: str, width: int) -> None:
    """A library that reads memory before it is set gives other clips now and then, mostly on a busy machine."""
    written: list[dict[str, bytes]] = []
    frames: list[torch.Tensor] = []
    with new_memory_filled() as fill:
        for number, value in enumerate((85, 170)):
            fill(value)
            folder = tmp_path / str(number)
            folder.mkdir()
            path = write_clip(moving(width=width), folder / name, 8, SETTINGS)
            frames += [read_frames(path), read_frames(path)]
            written.append(contents(folder))
    assert all(torch.equal(frames[0], again) for again in frames[1:])
    if name != "clip.webm":  # Its header has random numbers, by which Matroska tells files apart.
        assert written[0] == written[1]


# Names that are refused


def test_an_unknown_extension_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"clip\.avi has the extension \.avi, .*\.mp4, \.webm, \.gif, \.webp, or a fo"
    ):
        check_clip_path(tmp_path / "clip.avi")
    assert all(extension in ".mp4 .webm .gif .webp" for extension in EXTENSIONS)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClipError, match=r"there is no folder .*gone; create it"):
        write_clip(moving(), tmp_path / "gone" / name, 8, {})


def test_files_and_folders_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ClipError, match=r"a\.mp4 is a folder, not a file"):
        check_clip_path(tmp_path / "a.mp4")
    with pytest.raises(ClipError, match=r"b is a file, not a folder"):
        check_clip_path(tmp_path / "b")
    with pytest.raises(ClipError, match=r"a folder cannot be called c\.gif; remove the trailing slash"):
        check_clip_path(f"{tmp_path}/c.gif/")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    path = write_clip(moving(2), tmp_path / "clip", 8, {})
    (path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ClipError, match="contains other files than those of a clip; choose another name"):
        write_clip(moving(3), path, 8, {})
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "frame_0001.png")
    with pytest.raises(ClipError, match="contains other files"):
        check_clip_path(tmp_path / "photos")
    assert contents(tmp_path).items() >= before.items()


def test_an_over_long_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="could not be written|cannot be written"):
        write_clip(moving(), tmp_path / f"{'n' * 5000}.gif", 8, {})


@pytest.mark.parametrize("name", NAMES)
def test_checking_a_name_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    assert check_clip_path(tmp_path / name) == (tmp_path / name).resolve()
    assert list(tmp_path.iterdir()) == []
    write_clip(moving(), tmp_path / name, 8, {})
    before = contents(tmp_path)
    check_clip_path(tmp_path / name)
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_written_to_is_told_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(
        ClipError, match=r"could not be written: the folder .* is not writable; choose another"
    ):
        check_clip_path(tmp_path / "clip.mp4")


# Frames that are refused


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((48, 64, 3), np.uint8),
        np.zeros((2, 3, 48, 64), np.uint8),
        np.zeros((0, 48, 64, 3), np.uint8),
        np.zeros((2, 48, 64, 4), np.uint8),
        np.zeros((2, 48, 64, 3), np.float32),
        torch.zeros(2, 48, 64, 3),
    ],
)
def test_other_frames_are_refused(tmp_path: Path, frames: Any) -> None:
    with pytest.raises(ClipError, match=r"frames must be uint8 of shape \(frames, height, width, 3\), not "):
        write_clip(frames, tmp_path / "clip.mp4", 8, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_odd_sizes_are_refused_for_video(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClipError, match="needs an even width and height, not 63x48"):
        write_clip(moving(width=63), tmp_path / name, 8, {})


@pytest.mark.parametrize("fps", [0, -1, 241])
def test_impossible_rates_are_refused(tmp_path: Path, fps: int) -> None:
    with pytest.raises(ClipError, match=f"fps must be 1 to 240, but {fps} was given"):
        write_clip(moving(), tmp_path / "clip.mp4", fps, {})


def test_metadata_that_is_no_json_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_clip(moving(), tmp_path / "clip.mp4", 8, {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


# Streams


def streamed(frames: np.ndarray[Any, Any], size: int = 2) -> FrameStream:
    parts = (torch.as_tensor(frames[index : index + size]) for index in range(0, len(frames), size))
    return FrameStream(parts, len(frames), frames.shape[2], frames.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_gives_the_same_clip(tmp_path: Path, name: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    whole = write_clip(moving(), tmp_path / "one" / name, 8, SETTINGS)
    part = write_clip(streamed(moving()), tmp_path / "other" / name, 8, SETTINGS)
    if name == "clip.webm":  # Its identifiers are random.
        assert torch.equal(read_frames(part), read_frames(whole))
    else:
        assert contents(tmp_path / "one") == contents(tmp_path / "other")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "problem", [RuntimeError("CUDA out of memory"), OSError(errno.ENOSPC, "full"), Cancelled("enough")]
)
def test_an_error_of_the_stream_is_not_one_of_the_writing(
    tmp_path: Path, name: str, problem: Exception
) -> None:
    def parts() -> Iterator[torch.Tensor]:
        yield torch.as_tensor(moving())
        raise problem

    with pytest.raises(type(problem)) as raised:
        write_clip(FrameStream(parts(), 9, 64, 48), tmp_path / name, 8, {})
    assert raised.value is problem
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip"])
@pytest.mark.parametrize(("count", "width"), [(4, 64), (6, 64), (5, 128)])
def test_a_stream_is_what_it_says(tmp_path: Path, name: str, count: int, width: int) -> None:
    stream = FrameStream(streamed(moving()).parts, count, width, 48)
    message = f"the stream must have {count} frames of {width}x48 pixels; it differs"
    with pytest.raises(ClipError, match=message):
        write_clip(stream, tmp_path / name, 8, {})
    assert list(tmp_path.iterdir()) == []


def write_long(report: Callable[..., None], path: Path, count: int) -> int:
    """The growth of this process's memory while a stream of frames of 200 kB is written."""
    frame = torch.as_tensor(moving(1, 256, 256))
    stream = FrameStream((frame + index % 7 for index in range(count)), count, 256, 256)
    write_clip(torch.as_tensor(moving(2, 256, 256)), path, 8, {})
    before = peak_resident()
    write_clip(stream, path, 8, {})
    return peak_resident() - before


@pytest.mark.parametrize("name", ["clip.mp4", "clip"])
def test_memory_does_not_grow_with_the_length_of_a_stream(tmp_path: Path, name: str) -> None:
    short, long = (run_apart(write_long, tmp_path / name, count, report=print) for count in (60, 240))
    # The frames in between take 35 MB.
    assert long - short < 8_000_000


# Complete or nothing


def failing(monkeypatch: pytest.MonkeyPatch, name: str, problem: BaseException) -> None:
    """The encoder for ``name`` writes some bytes and then raises ``problem``."""

    class Container:
        def __init__(self, path: str, *_: object, **__: object) -> None:
            Path(path).write_bytes(b"half")
            self.metadata: dict[str, str] = {}

        def __enter__(self) -> Container:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def add_stream(self, *_: object, **__: object) -> None:
            raise problem

    def save(_: Image.Image, path: Path, *__: object, **___: object) -> None:
        path.write_bytes(b"half")
        raise problem

    monkeypatch.setattr(ENCODERS[name], Container if ENCODERS[name] == "av.open" else save)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ClipError, "the disk is full; free some space"),
        (OSError(errno.EROFS, "Read-only file system"), ClipError, "is not writable; choose another one"),
        (
            OSError(errno.EIO, "Input/output error"),
            ClipError,
            "Input/output error; try another folder or format",
        ),
        (av.error.InvalidDataError(1094995529, "bad", "x"), ClipError, "bad; try another folder or format"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_a_failure_keeps_the_old_clip_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    problem: BaseException,
    error: type[BaseException],
    message: str,
) -> None:
    write_clip(moving(), tmp_path / name, 8, SETTINGS)
    before = contents(tmp_path)
    failing(monkeypatch, name, problem)
    for target in (name, f"new_{name}"):
        with pytest.raises(error, match=message):
            write_clip(moving(3), tmp_path / target, 8, {})
    monkeypatch.undo()
    assert contents(tmp_path) == before
    assert read_metadata(tmp_path / name) == SETTINGS


@pytest.mark.parametrize("name", NAMES)
def test_a_real_limit_of_the_system_is_told(tmp_path: Path, name: str) -> None:
    """The last byte that does not fit is noticed: libraries are known to swallow errors of the last write."""
    resource: Any = pytest.importorskip("resource", reason="needs limits for file sizes, which Windows lacks")
    path = write_clip(moving(), tmp_path / name, 8, SETTINGS)
    size = max(len(data) for data in contents(tmp_path).values())
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        try:
            with pytest.raises(ClipError, match="could not be written: File too large"):
                write_clip(moving(), path, 8, SETTINGS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert len(list(tmp_path.iterdir())) == 1
        assert read_metadata(path) == SETTINGS


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_replaces_a_clip(tmp_path: Path, name: str) -> None:
    write_clip(moving(5), tmp_path / name, 8, SETTINGS)
    write_clip(moving(2), tmp_path / name, 8, {"seed": 2})
    assert len(read_frames(tmp_path / name)) == 2
    assert read_metadata(tmp_path / name) == {"seed": 2}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "clip.old").mkdir()
    assert len(read_frames(write_clip(moving(2), tmp_path / "clip.old", 8, {}))) == 2


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(moving(3), tmp_path / "clip", 8, SETTINGS)
    before = contents(tmp_path)
    rename = Path.rename

    def fails_for_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(ClipError, match="Device or resource busy"):
        write_clip(moving(2), path, 8, {})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("gone_at", ["list", "record"])
def test_a_folder_that_another_process_replaces_meanwhile_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone_at: str
) -> None:
    path = write_clip(moving(3), tmp_path / "clip", 8, SETTINGS)
    new = write_clip(moving(2), tmp_path / "new", 8, SETTINGS)
    called = Path.iterdir if gone_at == "list" else Path.is_file
    calls: list[Path] = []

    def while_it_is_replaced(self: Path) -> Any:
        if not calls:
            calls.append(self)
            path.rename(tmp_path / "old")
            try:
                return called(self)
            finally:
                new.rename(path)
        return called(self)

    monkeypatch.setattr(Path, "iterdir" if gone_at == "list" else "is_file", while_it_is_replaced)
    assert check_clip_path(path) == path.resolve()
    assert calls and len(read_frames(path)) == 2


# Clips that cannot be read

READERS: list[Callable[[Path], object]] = [read_frames, read_metadata]


@pytest.mark.parametrize("read", READERS)
def test_a_missing_clip_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ClipError, match=r"there is no clip .*gone\.mp4; check its name"):
        read(tmp_path / "gone.mp4")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ClipError, match=r"a\.txt is not a clip; clips are \.mp4, "):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", NAMES[:4])
def test_a_damaged_clip_is_told(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / name).write_bytes(b"not a clip" * 100)
    with pytest.raises(ClipError, match=r"cannot be read \(.*\); it may be damaged, generate it again"):
        read(tmp_path / name)


def test_a_folder_without_frames_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="contains no frames; generate the clip again"):
        read_frames(tmp_path)


@pytest.mark.parametrize("text", ["a holiday", "{}", "[1]", '{"kind": "another clip"}'])
def test_metadata_of_others_is_not_ours(tmp_path: Path, text: str) -> None:
    image = Image.new("RGB", (16, 16))
    image.save(tmp_path / "a.gif", comment=text.encode())
    image.save(tmp_path / "a.webp")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "clip.json").write_text(text)
    for name in ("a.gif", "a.webp", "clip"):
        with pytest.raises(ClipError, match="contains no settings; use the original file"):
            read_metadata(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": 2, "mood": "calm"},
            r"contains a record of form 2, but this version reads up to 1; use version 0\.9\.0 or a newer one",
        ),
        (
            {"mood": "calm"},
            r"clip contains mood, which this version \(.*\) does not know; it was written by version 0\.9\.0, use",
        ),
        (
            {"fps": "8"},
            r"fps in the record in .*clip must be a number, not '8'; it is damaged, write it again",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_clip(moving(2), tmp_path / "clip", 8, {"version": "0.9.0"}) / "clip.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="ascii")), **changes}), encoding="ascii")
    with pytest.raises(ClipError, match=message):
        read_metadata(path.parent)


def test_animations_of_others_can_be_read(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in moving(3)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=500, lossless=True)
    assert np.array_equal(read_frames(tmp_path / "a.webp").numpy(), moving(3))


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": []},
        {"metadata": None},
        {"fps": "8"},
        {"fps": 0},
        {"fps": 10**6},
        {"frames": 0},
        {"frames": [1]},
        {"kind": {}},
        {"version": 10**30},
        {"metadata": {"seed": float("inf")}},
        {"metadata": {"deep": json.loads("[" * 100 + "]" * 100)}},
    ],
)
def test_a_record_of_other_types_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_clip(moving(1), tmp_path / "clip", 8, {"seed": 1})
    record = {**json.loads((folder / "clip.json").read_text(encoding="ascii")), **change}
    (folder / "clip.json").write_text(json.dumps(record), encoding="ascii")
    told = "contains no settings|in the record in .* must be|a record of form"
    with pytest.raises(ClipError, match=told):
        read_metadata(folder)
    assert read_frames(folder).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_a_record_that_is_hard_to_read_is_not_ours(tmp_path: Path, text: str) -> None:
    folder = write_clip(moving(1), tmp_path / "clip", 8, {})
    (folder / "clip.json").write_text(text, encoding="ascii")
    with pytest.raises(ClipError, match="contains no settings"):
        read_metadata(folder)
    with pytest.raises(ClipError, match="contains other files than those of a clip; choose another name"):
        check_clip_path(folder)


def test_a_single_frame_is_not_repeated_for_ever(tmp_path: Path) -> None:
    path = write_clip(moving(1), tmp_path / "clip.webp", 8, {})
    path.write_bytes(path.read_bytes().replace(b'"frames": 1,', b'"frames": 9,', 1))
    assert len(read_frames(path)) == 9
    image = Image.open(path)
    exif = image.getexif()
    exif[0x010E] = exif[0x010E].replace('"frames": 9', '"frames": 99999999999')
    image.save(tmp_path / "more.webp", exif=exif)
    with pytest.raises(
        ClipError, match=r"at least 99999999999 frames of 64x48 pixels, .* make it smaller or shorter"
    ):
        read_frames(tmp_path / "more.webp")


def test_frames_of_42_million_pixels_are_not_read(tmp_path: Path) -> None:
    Image.new("L", (7000, 6000)).save(tmp_path / "a.gif")
    with pytest.raises(
        ClipError, match="frames of 7000x6000 pixels, more than the limit of 40 million pixels for a frame"
    ):
        read_frames(tmp_path / "a.gif")
    (tmp_path / "clip").mkdir()
    Image.new("L", (7000, 6000)).save(tmp_path / "clip" / "frame_0001.png")
    with pytest.raises(ClipError, match="frames of 7000x6000 pixels"):
        read_frames(tmp_path / "clip")


@pytest.mark.skipif(platform.system() == "Windows", reason="links need a right there")
def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(
        ClipError, match="a/clip.mp4 cannot be written: .*; try another folder or format|there is no folder"
    ):
        check_clip_path(tmp_path / "a" / "clip.mp4")
    (tmp_path / "clip.mp4").symlink_to("clip.mp4")
    for read in (read_frames, read_metadata):
        with pytest.raises(ClipError, match=r"clip\.mp4 cannot be read|there is no clip .*clip\.mp4"):
            read(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile other{}\n", "#EXTM3U\n#EXTINF:1,\nother{}\n"])
def test_a_list_of_other_files_is_no_clip(tmp_path: Path, name: str, text: str) -> None:
    """As libav would read it, a stranger's file could show others of the disk."""
    extension = Path(name).suffix
    write_clip(moving(2), tmp_path / f"other{extension}", 8, SETTINGS)
    (tmp_path / name).write_text(text.format(extension))
    for read in READERS:
        with pytest.raises(ClipError, match=r"cannot be read \(.*\); it may be damaged, generate it again"):
            read(tmp_path / name)


@pytest.mark.parametrize(("name", "other"), [("clip.mp4", "clip.webm"), ("clip.webm", "clip.mp4")])
def test_a_video_with_the_other_extension_is_read(tmp_path: Path, name: str, other: str) -> None:
    path = write_clip(moving(2), tmp_path / name, 8, SETTINGS).rename(tmp_path / other)
    assert read_metadata(path) == SETTINGS
    assert len(read_frames(path)) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_no_clip_and_no_frame(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip.mp4")
    for read in READERS:
        with pytest.raises(ClipError, match=r"clip\.mp4 is not a regular file; save the clip to a file"):
            read(tmp_path / "clip.mp4")
    folder = write_clip(moving(2), tmp_path / "clip", 8, {})
    (folder / "frame_0002.png").unlink()
    os.mkfifo(folder / "frame_0002.png")
    with pytest.raises(ClipError, match=r"frame_0002\.png is not a regular file; write the clip again"):
        read_frames(folder)


def test_an_endless_record_is_not_read(tmp_path: Path) -> None:
    folder = write_clip(moving(1), tmp_path / "clip", 8, {})
    with (folder / "clip.json").open("ab") as file:
        file.truncate(10**10)
    with pytest.raises(ClipError, match="contains no settings"):
        read_metadata(folder)


# Frame by frame, and sound


@pytest.mark.parametrize("name", NAMES)
def test_some_frames_are_read_as_often_as_they_are_asked_for(tmp_path: Path, name: str) -> None:
    path = write_clip(moving(), tmp_path / name, 8, {})
    clip, whole = open_clip(path), read_frames(path)
    assert (clip.count, clip.fps, clip.width, clip.height) == (5, 8, 64, 48)
    for chosen, wanted in (
        (clip.frames(), whole),
        (clip.frames(1, 2), whole[1::2]),
        (clip.frames(1, 1, 2), whole[1:3]),
    ):
        assert torch.equal(torch.stack(list(chosen)), wanted)
    assert list(clip.frames(5)) == []


def test_a_clip_to_be_read_frame_by_frame_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipError, match="text.mp4 cannot be read .*; it may be damaged"):
        open_clip(tmp_path / "text.mp4")
    with pytest.raises(ClipError, match="contains no frames; generate the clip again"):
        open_clip(tmp_path / "empty")
    with pytest.raises(ClipError, match="there is no clip .*none.mp4; check its name and folder"):
        open_clip(tmp_path / "none.mp4")


def tone(channels: int, seconds: float = 1.0) -> Sound:
    """A sine that is twice as high in the second channel."""
    time = np.arange(round(seconds * 48_000)) / 48_000
    waves = [0.5 * np.sin(2 * np.pi * 440 * (channel + 1) * time) for channel in range(channels)]
    return Sound(np.stack(waves).astype(np.float32))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_comes_back_where_it_was(tmp_path: Path, name: str, channels: int) -> None:
    sound = tone(channels)
    path = write_clip(moving(8), tmp_path / name, 8, SETTINGS, sound=sound)
    assert takes_sound(path)
    assert (len(read_frames(path)), read_metadata(path)) == (8, SETTINGS)
    for start in (0.0, 0.25):
        back = read_sound(path, start, 0.5)
        assert back is not None
        first = round(start * 48_000)
        length = back.samples.shape[1]
        assert 0.45 * 48_000 < length <= 0.5 * 48_000
        # Times in WebM are whole milliseconds. Codecs lose some, most at the beginning; a sine of another phase would
        # differ by 0.3 to 0.6.
        lags = range(-96, 97) if name == "clip.webm" else (0,)
        heard = back.samples[:, 4800 : length - 4800]
        begins = [first + 4800 + lag for lag in lags]
        losses = [np.abs(heard - sound.samples[:, i : i + heard.shape[1]]).mean() for i in begins]
        assert min(losses) < 0.04
    assert read_sound(path, 5.0, 1.0) is None, "after its end"


def test_a_clip_without_sound_has_none(tmp_path: Path) -> None:
    for name in NAMES:
        path = write_clip(moving(), tmp_path / name, 8, {})
        assert read_sound(path, 0, 1) is None
        assert takes_sound(path) == (name in ("clip.mp4", "clip.webm"))
