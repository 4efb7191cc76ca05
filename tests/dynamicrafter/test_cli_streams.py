"""Standard input and output, patterns and names that are no files."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import QUICK, Run, complaint, left

from dynamicrafter.cli import main
from dynamicrafter.media.video import read_frames, read_metadata

QUICKEST = (*QUICK, "--frames", "2")


class Stream(io.TextIOWrapper):
    """A pipe, or a terminal."""

    def __init__(self, content: bytes = b"", terminal: bool = False) -> None:
        self.bytes = io.BytesIO(content)
        self.terminal = terminal
        super().__init__(self.bytes, encoding="utf-8")

    def isatty(self) -> bool:
        return self.terminal


def test_an_image_comes_from_standard_input(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stream(pictures["wide"].read_bytes()))
    ran = run("animate", "-", *QUICKEST, "-v")
    assert ran.code == 0
    assert ran.err.splitlines()[0].endswith(", from -")
    assert left() == ["stdin-animate.mp4"]
    run("animate", pictures["wide"], *QUICKEST)
    assert torch.equal(read_frames("stdin-animate.mp4"), read_frames("wide-animate.mp4"))
    assert not Path(read_metadata("stdin-animate.mp4")["pictures"][0]["file"]).exists()
    assert "image stdin was not found in " in complaint(run("again", "stdin-animate.mp4"), 1)


def test_one_image_of_two_comes_from_standard_input(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stream(pictures["other"].read_bytes()))
    assert run("interpolate", pictures["wide"], "-", *QUICKEST, "-o", "piped").code == 0
    run("interpolate", pictures["wide"], pictures["other"], *QUICKEST, "-o", "files")
    assert torch.equal(read_frames("piped"), read_frames("files"))


@pytest.mark.parametrize("command", ["animate", "again"])
def test_a_clip_goes_to_standard_output_and_its_line_elsewhere(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    words = ["animate", str(pictures["wide"]), *QUICKEST]
    if command == "again":
        run(*words, "-o", "clip.mp4")
        words = ["again", "clip.mp4", "--quiet", "--picture", str(pictures["wide"])]
    shown, told = Stream(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", shown)
        patch.setattr(sys, "stderr", told)
        assert main([*words, "--output", "-"]) == 0
    assert told.getvalue().splitlines()[-1].startswith("-: 64x64, 2 frame(s) at 8 fps, seed 123, ")
    clip = tmp_path / "piped.mp4"
    clip.write_bytes(shown.bytes.getvalue())
    assert read_frames(clip).shape == (2, 64, 64, 3)
    assert read_metadata(clip)["settings"]["steps"] == 1
    assert left() == (["clip.mp4"] if command == "again" else [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("animate", "-", "-"), "standard input holds one image, but - was given more than once; use files"),
        (("animate", "-"), "- is standard input, which is a terminal here; pipe an image into the command"),
        (
            ("animate", "PICTURE", "-o", "-", "--seed", "1,2"),
            "standard output takes one clip, but 2 were requested; name a file with --output",
        ),
        (
            ("animate", "PICTURE", "-o", "-"),
            "standard output is a terminal here; redirect it to a file or a program",
        ),
        (("animate", "*.webp"), "no file matches '*.webp'; check the pattern and the folder"),
        (("animate", ""), "argument PICTURE: the name is empty; see 'dynamicrafter animate --help'"),
        (("again", ""), "argument CLIP: the name is empty; see 'dynamicrafter again --help'"),
        (("animate", "PICTURE", "-o", ""), "argument -o/--output: the name is empty; see"),
    ],
)
def test_what_standard_streams_and_patterns_cannot_be(
    run: Run,
    pictures: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.setattr("dynamicrafter.api.load_components", None)
    monkeypatch.setattr(sys, "stdin", Stream(terminal=True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    given = [pictures["wide"] if word == "PICTURE" else word for word in words]
    assert expected in complaint(run(*given, *([] if words[0] == "again" else QUICK)), 2)
    assert left() == []


def test_json_and_the_clip_do_not_both_go_to_standard_output(run: Run, pictures: dict[str, Path]) -> None:
    told = run("animate", pictures["wide"], *QUICK, "-o", "-", "--json").json
    assert told["error"] == "--json and --output - both write to standard output; use only one of them"


@pytest.mark.parametrize("url", ["https://example.com/boat.png?size=2", "s3://bucket/boat.png"])
def test_a_url_is_refused_as_such(run: Run, url: str) -> None:
    sentence = f"{url} is a URL, but images are read from files; download it and pass the file"
    assert complaint(run("animate", url, *QUICK), 1) == sentence


def test_patterns_are_expanded_in_order_and_files_of_that_name_are_not(
    run: Run, pictures: dict[str, Path]
) -> None:
    Path("in").mkdir()
    for name in ("b.png", "a.png", "[ab].png", "c.jpg"):
        shutil.copy(pictures["wide"], Path("in") / name)
    ran = run("animate", "in/?.png", "in/[ab].png", *QUICKEST)
    assert ran.code == 0, ran.err
    assert [line.partition(":")[0].rpartition("/")[2] for line in ran.out.splitlines()] == [
        "a-animate.mp4",
        "b-animate.mp4",
        "[ab]-animate.mp4",
    ]


@pytest.mark.parametrize(("option", "value"), [("--prompt", "-a"), ("--negative", "--x;y"), ("-o", "-x.gif")])
def test_a_value_that_looks_like_an_option_is_told_how_to_be_given(
    run: Run, pictures: dict[str, Path], option: str, value: str
) -> None:
    sentence = complaint(run("animate", pictures["wide"], *QUICK, option, value), 2)
    name = "--output" if option == "-o" else option
    quoted = f"'{value}'" if ";" in value else value
    assert sentence.endswith(
        f"expected one argument; write {name}={quoted} for a value that starts with a hyphen"
    )
    assert run("animate", pictures["wide"], *QUICKEST, "--json", f"{name}={value}").code == 0


def test_an_option_without_its_value_is_only_that(run: Run, pictures: dict[str, Path]) -> None:
    sentence = complaint(run("animate", pictures["wide"], "--prompt", "--steps", "4"), 2)
    assert sentence == "argument --prompt: expected one argument; see 'dynamicrafter animate --help'"
