"""Frames of movies by PyAV and by torchcodec: the same ones, and clear words for files that lack them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from training_clips import write_movie

from dynamicrafter.training import data, movies
from dynamicrafter.training.data import Row, read_piece
from dynamicrafter.training.movies import UnusableClip, open_movie


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
