"""Frames of movies by PyAV and by torchcodec: the same ones, and clear words for files that lack them."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from training_clips import write_movie

from dynamicrafter.media.video import write_clip
from dynamicrafter.training import data, movies
from dynamicrafter.training.data import Row, read_piece
from dynamicrafter.training.movies import UnusableClip, clip_size, open_movie


class Decoder:
    """What is used of torchcodec's decoder, for a movie of ten grey frames."""

    def __init__(self, path: str, dimension_order: str) -> None:
        assert dimension_order == "NHWC"
        if not Path(path).read_bytes():
            raise RuntimeError(
                "SingleStreamDecoder, /build/src/SingleStreamDecoder.cpp:41, Could not open input file: no data\nat"
            )
        self.metadata = SimpleNamespace(average_fps=12.5)

    def __len__(self) -> int:
        return 10

    def get_frames_at(self, numbers: list[int]) -> SimpleNamespace:
        assert isinstance(numbers, list)
        frames = torch.tensor(numbers, dtype=torch.uint8) * 20
        return SimpleNamespace(data=frames[:, None, None, None].expand(-1, 64, 64, 3))


@pytest.fixture(autouse=True)
def forget_the_decoder() -> Iterator[None]:
    movies.torchcodec_decoder.cache_clear()
    yield
    movies.torchcodec_decoder.cache_clear()


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("torchcodec.decoders")
    stand_in.VideoDecoder = Decoder
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", stand_in)


@pytest.fixture
def no_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


def movie(path: Path, count: int = 10) -> Path:
    levels = torch.linspace(-1, 0.4, count)
    return write_movie(path, levels[:, None, None, None].expand(-1, 3, 64, 64).clone(), rate=24)


def brightness(frames: list[torch.Tensor]) -> list[float]:
    return [float(frame.float().mean()) for frame in frames]


def test_torchcodec_is_used_where_it_is(torchcodec: None, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"anything")
    piece = read_piece(Row(tmp_path / "a.mp4", "x"), 4, (64, 64), (2, 2), torch.Generator().manual_seed(0))
    assert (piece.stride, piece.fps) == (2, 6.25)
    assert (piece.frames.mean((1, 2, 3)).diff() * 127.5).tolist() == pytest.approx([40.0] * 3)


def test_torchcodec_tells_what_it_cannot_read(torchcodec: None, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UnusableClip, match=r"a\.mp4 cannot be read \(Could not open input file: no data\)$"):
        open_movie(tmp_path / "a.mp4")


def test_a_torchcodec_without_its_libraries_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setattr(movies, "import_module", fail)
    assert open_movie(movie(tmp_path / "a.mp4")).frames == 10


def test_the_real_torchcodec_reads_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if movies.torchcodec_decoder() is None:
        pytest.skip("torchcodec is not installed, or finds no FFmpeg libraries")
    path = movie(tmp_path / "a.mp4")
    theirs = open_movie(path)
    monkeypatch.setattr(movies, "torchcodec_decoder", lambda: None)
    ours = open_movie(path)
    assert (theirs.frames, theirs.rate) == (ours.frames, ours.rate) == (10, 24.0)
    assert brightness(theirs.read([1, 4, 9])) == pytest.approx(brightness(ours.read([1, 4, 9])), abs=2)
    (tmp_path / "b.mp4").write_bytes(b"no movie")
    with pytest.raises(UnusableClip, match=r"b\.mp4 cannot be read \((?!.*cpp)"):
        open_movie(tmp_path / "b.mp4").read([0])


def test_only_wanted_frames_are_kept(no_torchcodec: None, tmp_path: Path) -> None:
    opened = open_movie(movie(tmp_path / "a.mp4"))
    assert (opened.frames, opened.rate) == (10, 24.0)
    assert brightness(opened.read([2, 5])) == pytest.approx([0.4 / 9 * 2 * 127.5 * 3.5, 99.2], abs=6)


def test_a_file_with_fewer_frames_than_it_says(
    no_torchcodec: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(movie(tmp_path / "a.mp4"), "x")
    monkeypatch.setattr(data, "open_movie", lambda path: replace(open_movie(path), frames=1000))
    piece = read_piece(row, 4, (64, 64), (6, 6), torch.Generator().manual_seed(0))
    assert (len(piece.frames), piece.stride) == (4, 2)
    with pytest.raises(UnusableClip, match="has 10 frames, but 16 are needed"):
        read_piece(row, 16, (64, 64), (1, 1), torch.Generator().manual_seed(0))


_UPRIGHT = (1, 0, 0, 1)
"""What a point's x, then its y, becomes in x and in y: a, b, c, d of a movie header's matrix."""


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A movie of 96x64 that is brightest in its upper left corner, with the matrix in its track's header."""
    frames = torch.full((4, 3, 64, 96), -0.8)
    frames[..., :32, :32] = 0.8
    data = bytearray(write_movie(path, frames).read_bytes())

    def numbers(values: tuple[int, int, int, int]) -> bytes:
        a, b, c, d = (value * 0x10000 for value in values)
        return b"".join(value.to_bytes(4, "big", signed=True) for value in (a, b, 0, c, d, 0))

    place = data.index(numbers(_UPRIGHT), data.index(b"tkhd"))
    data[place : place + 24] = numbers(matrix)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "size", "bright"),
    [
        (_UPRIGHT, (96, 64), (0, 0)),
        # A quarter turn clockwise takes (x, y) to (height - y, x), and the upper left corner to the upper right one.
        ((0, 1, -1, 0), (64, 96), (0, 1)),
        ((0, -1, 1, 0), (64, 96), (1, 0)),
        ((-1, 0, 0, -1), (96, 64), (1, 1)),
    ],
)
def test_frames_are_turned_as_the_file_says(
    no_torchcodec: None,
    tmp_path: Path,
    matrix: tuple[int, int, int, int],
    size: tuple[int, int],
    bright: tuple[int, int],
) -> None:
    path = turned(tmp_path / "a.mp4", matrix)
    assert clip_size(path) == size
    for frame in open_movie(path).read([0, 3]):
        assert (frame.shape[1], frame.shape[0]) == size
        top, left = (frame[:16].float(), frame[-16:].float())[bright[0]], bright[1]
        corner = top[:, -16:] if left else top[:, :16]
        assert float(corner.mean()) > 200
        assert float(frame.float().mean()) < 80


def test_what_the_file_calls_upright_is_read_as_it_is(no_torchcodec: None, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (6, 64, 64, 3), generator=generator, dtype=torch.uint8)
    for name in ("a.mp4", "a.webm", "a.gif"):
        path = write_clip(frames, tmp_path / name, 8, {})
        assert clip_size(path) == (64, 64)
        assert _decoded(path) == [frame.numpy().tobytes() for frame in open_movie(path).read(range(6))]


def _decoded(path: Path) -> list[bytes]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("codec", "name", "flips"),
    [("libx264", "a.mp4", 20), ("mpeg4", "a.mp4", 20), ("libvpx", "a.webm", 20), ("mjpeg", "a.avi", 60)],
)
def test_damaged_clips_are_told(
    no_torchcodec: None, tmp_path: Path, codec: str, name: str, flips: int
) -> None:
    path = _busy(tmp_path / name, codec)
    assert len(open_movie(path).read(range(24))) == 24
    data = bytearray(path.read_bytes())
    # What says where the frames are is left alone.
    mp4 = b"moov" in data
    start, end = (data.index(b"mdat") + 40, data.index(b"moov") - 8) if mp4 else (6000, len(data) - 1000)
    dice = random.Random(0)
    for _ in range(flips):
        data[dice.randrange(start, end)] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    with pytest.raises(UnusableClip, match=rf"{name} cannot be read \("):
        open_movie(path).read(range(24))


def _busy(path: Path, codec: str) -> Path:
    """A movie of 24 frames in which everything moves."""
    import av

    blocks = torch.randint(0, 255, (32, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height = 320, 256
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(24):
            pixels = picture.roll((3 * number, 5 * number), (0, 1)).numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_frame_marked_as_damaged_is_told(
    no_torchcodec: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def stream(path: Path) -> Iterator[tuple[SimpleNamespace, SimpleNamespace]]:
        frames = [SimpleNamespace(is_corrupt=True)]
        yield SimpleNamespace(decode=lambda stream: frames), SimpleNamespace(average_rate=8, frames=1)

    monkeypatch.setattr(movies, "_stream", stream)
    with pytest.raises(UnusableClip, match=r"a\.mp4 cannot be read \(its frame 0 is damaged\)"):
        open_movie(movie(tmp_path / "a.mp4")).read([0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are not everywhere")
def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "c.mp4").mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        for use in (open_movie, clip_size):
            with pytest.raises(UnusableClip, match=rf"{name} cannot be read \(it is not a regular file\)"):
                use(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0.mp4", "\ud800.mp4"])
def test_names_that_no_file_has_are_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnusableClip, match=r"\.mp4 cannot be read \("):
        open_movie(tmp_path / name)
