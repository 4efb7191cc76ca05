"""Two ways of moving a person side by side, on a small model with random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from dynamicrafter.animate_anyone.api import PersonSettings
from dynamicrafter.animate_anyone.clips import PersonMeans, PersonShot
from dynamicrafter.animate_anyone.drawing import draw
from dynamicrafter.animate_anyone.keypoints import Person
from dynamicrafter.animate_anyone.pose_clips import PoseChoices
from dynamicrafter.animate_anyone.ways import PersonWay, person_way
from dynamicrafter.cli import comparing, main
from dynamicrafter.cli.defaults import actions_of, parse_value
from dynamicrafter.cli.parser import make_parser
from dynamicrafter.errors import UsageError
from dynamicrafter.evaluation import comparison
from dynamicrafter.media.video import read_frames, read_metadata, write_clip
from tests.animate_anyone.small_person import small_person, write_person
from tests.animate_anyone.test_poses import SOMEBODY, STANDING, flat

SIZE = ("--size", "64x72", "--steps", "2", "--frames", "2")
LABEL, ENLARGED = 24, 4
"""Rows above the clips of the video, and how many pixels one of 64 becomes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("compared")
    write_person(folder / "model.safetensors", small_person())
    Image.new("RGB", (64, 72), (200, 30, 60)).save(folder / "dancer.png")
    people = {"people": [{"pose_keypoints_2d": flat(STANDING)}], "canvas_width": 64, "canvas_height": 72}
    (folder / "dance.json").write_text(json.dumps([people] * 3), encoding="utf-8")
    write_clip(torch.as_tensor(draw(SOMEBODY, 576, 512)).expand(3, -1, -1, -1), folder / "drawn", 8, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICRAFTER_HOME", str(folder / "home"))
        yield folder


def compared(
    folder: Path, capsys: pytest.CaptureFixture[str], a: str, b: str, *more: str, poses: str = "dance.json"
) -> tuple[int, Any]:
    words = ["compare-person", a, b, str(folder / "dancer.png"), "--poses", str(folder / poses), *SIZE]
    words += ["--model", str(folder / "model.safetensors"), "--device", "cpu", "--json", *more]
    code = main(words)
    out, err = capsys.readouterr()
    assert err == ""
    return code, json.loads(out)


def way_of(folder: Path, choices: PoseChoices, interpolate: int = 1) -> PersonWay:
    chosen = PersonSettings(width=64, height=72, steps=1, interpolate=interpolate)
    picture, poses, model = (folder / name for name in ("dancer.png", "dance.json", "model.safetensors"))
    return person_way("a way", PersonShot(chosen, choices, picture, poses, model), PersonMeans("cpu"))


def message_of(folder: Path, capsys: pytest.CaptureFixture[str], b: str, *more: str, **which: str) -> str:
    code, told = compared(folder, capsys, ":seed=1", b, "--dry-run", *more, **which)
    assert code in (1, 2)
    return told["error"]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("poses", ["dance.json", "drawn"])
def test_a_side_is_the_clip_of_person(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], poses: str
) -> None:
    out = tmp_path / "both"
    code, told = compared(
        folder, capsys, ":eta=0", str(folder / "model.safetensors:dtype=bf16"), "-o", f"{out}/", poses=poses
    )
    assert code == 0
    a, b = told["a"], told["b"]
    assert (a["dtype"], b["dtype"], a["device"]) == ("float32", "bfloat16", "cpu")
    assert a["settings"] == b["settings"] and a["settings"]["steps"] == 2
    for side in (a, b):
        stages = [side[name] for name in ("load", "encode", "sample", "decode")]
        assert min(stages) > 0 and sum(stages) == pytest.approx(side["seconds"])
        assert 0 < side["step"] < side["sample"]
        assert side["disk"] == (folder / "model.safetensors").stat().st_size
        assert side["memory"] >= side["memory_before"] > 0 and side["device_memory"] is None
    assert 10 < told["likeness"]["latents_psnr"] < 100 and told["notes"] == []
    frames = read_frames(out)
    assert frames.shape == (2, LABEL + ENLARGED * 72, 3 * ENLARGED * 64, 3)
    metadata = read_metadata(out)
    assert [side["settings"] for side in metadata["compared"]] == [a["settings"], b["settings"]]
    words = ["person", str(folder / "dancer.png"), "--poses", str(folder / poses), *SIZE, "-q"]
    words += ["--model", str(folder / "model.safetensors"), "--device", "cpu", "-o", f"{tmp_path}/alone/"]
    assert main(words) == 0
    alone = read_frames(tmp_path / "alone")
    assert torch.equal(frames[:, LABEL::ENLARGED, : ENLARGED * 64 : ENLARGED], alone)


@pytest.mark.usefixtures("in_this_process")
def test_a_way_is_equal_to_itself_and_not_to_one_with_other_poses(folder: Path) -> None:
    same, other = (way_of(folder, PoseChoices(frames=2, shift=(x, 0))) for x in (0, 0.2))
    alike, different = (comparison.compare(same, b).likeness for b in (same, other))
    assert alike is not None and different is not None
    assert min(alike.latents_psnr, alike.frames_psnr) > 120
    assert max(different.latents_psnr, different.frames_psnr) < 120


def test_the_latents_are_those_before_frames_are_interpolated(folder: Path) -> None:
    way = way_of(folder, PoseChoices(frames=2), interpolate=3)
    assert way.shape == "move a person at 64x72 with 4 frames from 2 poses"
    _, latents, frames = cast("tuple[Any, ...]", comparison._measured(lambda *_: None, way))
    assert (latents.shape, frames.shape) == ((4, 2, 9, 8), (4, 72, 64, 3))


def test_a_dry_run_says_what_each_side_is_to_generate(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["compare-person", "tiny_person", f"{folder / 'model.safetensors'}:seed=7,cfg=2"]
    words += [str(folder / "dancer.png"), "--poses", str(folder / "dance.json"), *SIZE, "--device", "cpu"]
    assert main([*words, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["A: tiny_person", f"B: {words[2]}"]
    place = tmp_path / "dancer-compare-person.mp4"
    assert lines[1] == f"  {place}: 64x72, 2 frame(s) at 24 fps, seed 42, 1 window(s) a step"
    assert lines[2].startswith("  memory: about ") and lines[3].startswith("  time: ")
    notes = err.splitlines()
    assert notes[0].startswith("note: the built-in tiny_person model knows cartoon characters")
    assert notes[1] == "note: A and B start from different noise, so their clips differ for that reason alone"
    assert main([*words, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["a"]["settings"]["seed"], told["b"]["settings"]["seed"]) == (42, 7)
    assert (told["b"]["settings"]["cfg"], told["b"]["frames"]) == (2, 2)
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "an unknown option": (":stepz=4", "B has the unknown option 'stepz'; did you mean 'steps'"),
    "an option of DynamiCrafter": (":fs=4", "B has the unknown option 'fs'; "),
    "an option of both": (":poses=x.json", "B has the unknown option 'poses'; "),
    "a value out of range": (":smooth=4", "B, :smooth=4: smooth must be an odd number from 1 to 31"),
    "too many frames, of which DynamiCrafter has fewer": (
        ":frames=300",
        "B, :frames=300: .* gives 3 poses of the 300 that are asked for",
    ),
    "a flag with a value": (":exact=maybe", "exact in B must be true or false, not 'maybe'"),
    "a model that is not there": ("missing", "B, missing: .*missing"),
    "no export": (":backend=openvino", "B, :backend=openvino: .* has not been exported for OpenVINO"),
    "another length": (
        ":interpolate=2",
        "A and B must generate clips of one mode, size and length, but A is to move a person at 64x72 with 2 frames "
        "from 2 poses and B to move a person at 64x72 with 3 frames from 2 poses; pass the same values for both",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(folder / "empty"))
    side, message = WRONG[case]
    assert re.match(message, message_of(folder, capsys, side))


def test_each_frame_is_looked_at_once_for_both_sides(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def find(frames: Iterator[torch.Tensor]) -> tuple[list[Person], int]:
        levels = [int(frame[0, 0, 0]) for frame in frames]
        looked.extend(levels)
        return [SOMEBODY for _ in levels], len(levels)

    monkeypatch.setattr(comparing, "load_finder", lambda: find)
    levels = torch.tensor([10, 20, 30], dtype=torch.uint8)
    write_clip(levels[:, None, None, None].expand(3, 16, 16, 3), folder / "filmed", 8, {})
    code, told = compared(folder, capsys, ":smooth=3", ":every=2", "--detect", "--dry-run", poses="filmed")
    assert (code, looked) == (0, [10, 20, 30])
    (note,) = told["notes"]
    assert "has several people in 2 frames" in note


def test_the_video_does_not_replace_the_poses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = message_of(folder, capsys, ":seed=2", "-o", f"{folder}/drawn/", poses="drawn")
    assert re.search("--output and --poses are the same, .*drawn; name another file", said)


def test_two_images_are_not_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(folder / "dancer2.png")
    words = ["compare-person", ":eta=0", ":eta=1", str(folder / "dancer*.png"), "--poses", "x.json", "--json"]
    assert main(words) == 2
    said = json.loads(capsys.readouterr().out)["error"]
    assert said == "the pattern stands for 2 images, but one clip is compared; name its image"


@pytest.mark.parametrize(("text", "drawn"), [("true", False), ("false", True)])
def test_an_option_that_switches_off_can_be_of_one_side(text: str, drawn: bool) -> None:
    (action,) = (one for one in actions_of(make_parser(""), "person") if one.dest == "hands")
    assert parse_value(action, text, "B") is drawn
    with pytest.raises(UsageError, match="hands in B must be true or false, not 'no'"):
        parse_value(action, "no", "B")
