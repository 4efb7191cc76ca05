"""Lists of clips in every form that is read, pieces of clips, and clear words for what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_clips import write_movie, write_rows

from dynamicrafter.errors import UsageError
from dynamicrafter.training.data import Row, bucket, enough_for, read_list, read_piece
from dynamicrafter.training.movies import UnusableClip, clip_size


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey_levels(count: int, width: int = 64, height: int = 64) -> torch.Tensor:
    """Frames that brighten steadily, so that a frame tells its number."""
    levels = torch.linspace(-0.8, 0.8, count)
    return levels[:, None, None, None].expand(-1, 3, height, width).clone()


def test_a_csv_with_path_and_caption(tmp_path: Path) -> None:
    write_rows(tmp_path / "captions.csv", ["path", "caption", "fps"], [["a.mp4", "one, two", "12.5"]])
    assert read_list(tmp_path) == [Row(tmp_path / "a.mp4", "one, two", 12.5)]


def test_a_jsonl_with_motion(tmp_path: Path) -> None:
    line = {"path": "a.mp4", "caption": "a boat", "motion": "it sails", "fps": 24}
    (tmp_path / "captions.jsonl").write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    assert read_list(tmp_path) == [Row(tmp_path / "a.mp4", "a boat", 24.0, "it sails")]


def test_webvid_columns(tmp_path: Path) -> None:
    listing = write_rows(
        tmp_path / "webvid.csv",
        ["videoid", "contentUrl", "duration", "page_dir", "name", "dynamic_wording"],
        [["7", "http", "PT1S", "000", "a dog runs", "runs"], ["8", "http", "PT1S", "", "no page", ""]],
    )
    assert read_list(tmp_path, listing) == [
        Row(tmp_path / "videos" / "000" / "7.mp4", "a dog runs", motion="runs")
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.csv", "file,words\na.mp4,x\n", "needs the columns path and caption.*it has file, words"),
        ("captions.csv", "path,caption\n,\n", "lists no clip"),
        ("captions.csv", "", "lists no clip"),
        ("captions.csv", "path,caption,fps\na.mp4,x,fast\n", "line 2 of .* has the fps 'fast' for a.mp4"),
        (
            "captions.csv",
            "path,caption,fps\na.mp4,x,nan\n",
            "line 2 .* the fps nan .* above 0 and at most 1000",
        ),
        (
            "captions.csv",
            "path,caption,fps\na.mp4,x,1\na.mp4,x,inf\n",
            "line 3 .* the fps inf .* above 0 and at",
        ),
        (
            "captions.csv",
            "path,caption,fps\na.mp4,x,0\n",
            "line 2 .* the fps 0 .* or empty to use the clip's",
        ),
        ("captions.csv", "path,caption,fps\na.mp4,x,-8\n", "line 2 .* the fps -8 .* above 0"),
        ("captions.csv", "path,caption,fps\na.mp4,x,1e9\n", "line 2 .* the fps 1e9 .* at most 1000"),
        ("captions.jsonl", '{"path": "a.mp4", "caption": "x", "fps": 0}\n', "line 1 .* the fps 0 .* above 0"),
        (
            "captions.csv",
            'path,caption\na,x\n0.mp4,"a red\n1.mp4,x\n',
            "begins on line 3 .* not csv .*close every",
        ),
        (
            "captions.csv",
            'path,caption\na,"x"y\n',
            "the row that begins on line 2 of .* is not csv .*close every double",
        ),
        (
            "captions.csv",
            f"path,caption\na,{'x' * 140_000}\n",
            "the row that begins on line 2 .*larger than field limit",
        ),
        ("captions.csv", 'path,"caption\na,x\n', "the row that begins on line 1 of .* is not csv"),
        (
            "captions.csv",
            "path,caption\na\0.mp4,x\n",
            r"line 2 .* invalid characters in path, 'a\\x00.mp4'; rewrite",
        ),
        ("captions.csv", "path,caption\na.mp4,a boat, waves\n", "line 2 of .* has more cells than .* quotes"),
        ("captions.jsonl", "{\n", "line 1 of .* is not JSON"),
        ("captions.jsonl", "[" * 100_000 + "\n", "line 1 of .* is not JSON"),
        ("captions.jsonl", "[1]\n", "line 1 of .* must be an object"),
        (
            "captions.jsonl",
            '\n{"path": "a", "caption": ["a", "b"]}\n',
            r'line 2 .* \["a", "b"\] as caption; write a',
        ),
        (
            "captions.jsonl",
            '{"path": {"a": 1}, "caption": "x"}\n',
            r'line 1 .* has {"a": 1} as path; write a string',
        ),
        (
            "captions.jsonl",
            '{"path": "a", "caption": true}\n',
            "line 1 .* has true as caption; write a string",
        ),
        (
            "captions.jsonl",
            '{"path": "\\ud800", "caption": "x"}\n',
            r"line 1 .* invalid characters in path, '\\ud800'; rewrite",
        ),
        (
            "captions.jsonl",
            '{"path": "a", "caption": "\\udc00"}\n',
            "line 1 .* invalid characters in caption",
        ),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_list(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "path,caption\na.mp4,x\nb.mp4,\nc.mp4\n,y\n"),
        (
            "captions.jsonl",
            '{"path": "a.mp4", "caption": "x"}\n\n{"path": "b.mp4", "caption": null}\n'
            '{"path": "", "caption": "x"}\n{"path": null, "caption": "x"}\n',
        ),
    ],
)
def test_rows_without_a_path_or_a_caption_are_told(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    told: list[str] = []
    assert [row.path.name for row in read_list(tmp_path, note=told.append)] == ["a.mp4"]
    assert told == [
        f"3 row(s) of {tmp_path / name} lack a path or a caption and are skipped; the first one ends on line 3"
    ]


def test_a_whole_list_is_read_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"path": 0, "caption": "x", "fps": null}\n', encoding="utf-8")
    told: list[str] = []
    assert read_list(tmp_path, note=told.append) == [Row(tmp_path / "0", "x")]
    assert not told


def test_one_of_two_lists_must_be_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "captions.csv", ["path", "caption"], [["a.mp4", "x"]])
    (tmp_path / "captions.jsonl").write_text('{"path": "b.mp4", "caption": "x"}\n', encoding="utf-8")
    with pytest.raises(
        UsageError, match=r'contains both captions.csv and captions.jsonl; set "listing" to the one to use$'
    ):
        read_list(tmp_path)
    assert read_list(tmp_path, tmp_path / "captions.jsonl") == [Row(tmp_path / "b.mp4", "x")]


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_bytes("path,caption\na.mp4,caf\xe9\n".encode("latin-1"))
    with pytest.raises(UsageError, match="is not a csv or jsonl file in UTF-8"):
        read_list(tmp_path)


def test_missing_folders_and_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no data folder"):
        read_list(tmp_path / "nowhere")
    with pytest.raises(
        UsageError, match="the data folder .* is empty; put the clips and a captions.csv into"
    ):
        read_list(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"a clip")
    with pytest.raises(UsageError, match=r"contains no captions.csv or captions.jsonl"):
        read_list(tmp_path)
    with pytest.raises(UsageError, match="there is no list"):
        read_list(tmp_path, tmp_path / "list.csv")


def test_a_caption_of_a_thousand_words_is_read_whole(tmp_path: Path) -> None:
    caption = " ".join(["word"] * 1000)
    write_rows(tmp_path / "captions.csv", ["path", "caption"], [["a.mp4", caption]])
    assert read_list(tmp_path)[0].caption == caption


def test_a_piece_has_the_stride_and_the_rate_of_its_frames(tmp_path: Path) -> None:
    row = Row(write_movie(tmp_path / "a.mp4", grey_levels(24), rate=24), "x")
    piece = read_piece(row, 6, (64, 64), (3, 3), seeded())
    assert (piece.stride, piece.fps) == (3, 8.0)
    assert piece.frames.shape == (6, 3, 64, 64)
    steps = piece.frames.mean((1, 2, 3)).diff()
    assert steps.tolist() == pytest.approx([3 * 1.6 / 23] * 5, abs=0.04)


def test_the_list_may_correct_the_rate(tmp_path: Path) -> None:
    row = Row(write_movie(tmp_path / "a.mp4", grey_levels(8), rate=24), "x", fps=12.0)
    assert read_piece(row, 8, (64, 64), (1, 1), seeded()).fps == 12.0


def test_short_clips_get_a_smaller_stride(tmp_path: Path) -> None:
    row = Row(write_movie(tmp_path / "a.mp4", grey_levels(9)), "x")
    assert read_piece(row, 4, (64, 64), (6, 6), seeded()).stride == 2


def test_pieces_begin_anywhere(tmp_path: Path) -> None:
    row = Row(write_movie(tmp_path / "a.mp4", grey_levels(20)), "x")
    starts = {
        round(float(read_piece(row, 2, (64, 64), (1, 1), seeded(s)).frames[0].mean()), 1) for s in range(12)
    }
    assert len(starts) > 4


def test_wide_clips_are_cropped_in_the_middle(tmp_path: Path) -> None:
    frames = torch.zeros(4, 3, 64, 192) - 0.9
    frames[..., 64:128] = 0.9
    row = Row(write_movie(tmp_path / "a.mp4", frames), "x")
    assert float(read_piece(row, 4, (64, 64), (1, 1), seeded()).frames[..., 8:-8].mean()) > 0.7


@pytest.mark.parametrize("content", [b"", b"not a movie at all, only text" * 40])
def test_broken_clips_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UnusableClip, match=r"a\.mp4 cannot be read"):
        read_piece(Row(tmp_path / "a.mp4", "x"), 4, (64, 64), (1, 1), seeded())
    with pytest.raises(UnusableClip, match=r"a\.mp4 cannot be read"):
        clip_size(tmp_path / "a.mp4")


def test_too_short_clips_are_told(tmp_path: Path) -> None:
    row = Row(write_movie(tmp_path / "a.mp4", grey_levels(3)), "x")
    with pytest.raises(UnusableClip, match="has 3 frames, but 16 are needed"):
        read_piece(row, 16, (64, 64), (1, 1), seeded())


def test_buckets_follow_the_shape() -> None:
    assert bucket(1.0, 64 * 64) == (64, 64)
    assert bucket(16 / 9, 320 * 512)[0] > bucket(16 / 9, 320 * 512)[1]
    width, height = bucket(9 / 16, 320 * 512)
    assert width < height
    assert bucket(100.0, 320 * 512) == bucket(2.0, 320 * 512)
    assert 0.7 <= width * height / (320 * 512) <= 1.3


def test_more_processes_than_clips_is_an_error() -> None:
    enough_for(2, ["a", "b"])
    with pytest.raises(UsageError, match=r"3 processes cannot share 2 usable clip\(s\)"):
        enough_for(3, ["a", "b"])
