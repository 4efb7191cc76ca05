"""The command that moves a person, on a small model with random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynamicrafter.animate_anyone.config import PersonPreset
from dynamicrafter.animate_anyone.drawing import draw
from dynamicrafter.animate_anyone.pipeline import resized
from dynamicrafter.animate_anyone.weights import convert_person
from dynamicrafter.cli import main
from dynamicrafter.forms import program_version
from dynamicrafter.media.video import Sound, read_frames, read_metadata, read_sound, write_clip
from tests.animate_anyone.small_person import small_person, write_person
from tests.animate_anyone.test_poses import SOMEBODY, STANDING, flat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("person")
    write_person(folder / "model.safetensors", small_person())
    Image.new("RGB", (50, 80), (200, 30, 60)).save(folder / "dancer.png")
    frame = {"people": [{"pose_keypoints_2d": flat(STANDING)}]}
    (folder / "bare.json").write_text(json.dumps([frame] * 5), encoding="utf-8")
    frame = {**frame, "canvas_width": 64, "canvas_height": 72}
    (folder / "dance.json").write_text(json.dumps([frame] * 5), encoding="utf-8")
    # Of the short side that keypoints are drawn at.
    drawn = torch.as_tensor(draw(SOMEBODY, 576, 512)).expand(5, -1, -1, -1)
    write_clip(drawn, folder / "drawn", 8, {})
    return folder


def somebody() -> torch.Tensor:
    """The pose as a clip of 64x72 pixels shows it."""
    return resized(Image.fromarray(draw(SOMEBODY, 576, 512)), 64, 72).movedim(0, -1)


def run(
    folder: Path, capsys: pytest.CaptureFixture[str], *more: str, poses: str = "dance.json"
) -> tuple[int, Any, str]:
    words = ["person", str(folder / "dancer.png"), "--poses", str(folder / poses)]
    words += ["--model", str(folder / "model.safetensors"), "--size", "64x72", "--steps", "2", "--json"]
    code = main([*words, "--device", "cpu", *more])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_a_clip_has_a_frame_for_each_pose(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "clip.mp4"
    code, result, _ = run(folder, capsys, "-o", str(target))
    assert (code, result["frames"], result["output"]) == (0, 5, str(target))
    assert read_frames(target).shape == (5, 72, 64, 3)
    metadata = read_metadata(target)
    assert metadata["settings"]["steps"] == 2
    assert (metadata["picture"]["file"], metadata["poses"]["file"]) == ("dancer.png", "dance.json")
    assert (metadata["program"], metadata["version"]) == ("dynamicrafter", program_version())


def test_drawings_and_keypoints_give_the_same_clip(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips: list[torch.Tensor] = []
    for name, poses in (("a", "dance.json"), ("b", "drawn")):
        assert run(folder, capsys, "-o", str(tmp_path / name), "--frames", "2", poses=poses)[0] == 0
        clips.append(read_frames(tmp_path / name))
    assert torch.equal(*clips)


def test_a_seed_repeats_and_another_does_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips: list[torch.Tensor] = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(folder, capsys, "-o", str(tmp_path / name), "--frames", "1", "--seed", seed)
        clips.append(read_frames(tmp_path / name))
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_windows_cover_a_longer_clip(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = ("24", "4"), ("3", "1")
    clips: list[torch.Tensor] = []
    for name, (window, overlap) in (("whole", whole), ("parts", parts)):
        run(
            folder, capsys, "-o", str(tmp_path / name), "--window", window, "--overlap", overlap, "--cfg", "1"
        )
        clips.append(read_frames(tmp_path / name))
    assert clips[0].shape == clips[1].shape
    assert not torch.equal(*clips)


def test_side_by_side_shows_image_pose_and_result(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, capsys, "-o", str(tmp_path / "row"), "--frames", "1", "--side-by-side")
    row = read_frames(tmp_path / "row")
    assert row.shape == (1, 72, 3 * 64, 3)
    assert row[0, 5, 5].tolist() == [200, 30, 60]
    assert torch.equal(row[0, :, 64:128], somebody())


def test_a_dry_run_makes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("-o", str(tmp_path / "clip.mp4"), "--dry-run", "--every", "2")
    code, result, _ = run(folder, capsys, *words)
    assert (code, result["frames"], result["fps"]) == (0, 3, 12)
    assert result["weights_bytes"] > 0 and result["activations_bytes"] > 0
    assert result["memory"] == "high", "of the CPU"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "60x64"), "width must be a multiple of 8 from 64 to 2048, but 60 was given"),
        (("--steps", "0"), "steps must be 1 to 1000, but 0 was given"),
        (("--window", "33"), "window must be 2 to 32, but 33 was given"),
        (("--window", "4"), "overlap must be 0 to 3, less than the window, but 4 was given"),
        (("--frames", "9"), "gives 5 poses of the 9 that are asked for; ask for fewer frames"),
        (("--start", "1"), "gives 0 poses of the 1 that are asked for; .* for an earlier start"),
        (("--start", "-1"), "start must be 0 seconds or more, but -1 was given"),
        (("--seconds", "0"), "seconds must be more than 0, but 0 was given"),
        (("--scale", "0"), "scale must be 0.01 to 100, but 0 was given"),
        (("--shift", "9,0"), "shift must be two numbers from -4 to 4, but"),
        (("--interpolate", "9"), "interpolate must be 1 to 8, but 9 was given"),
        (("--weights", "int4"), "argument --weights: invalid choice: 'int4'"),
        (("--poses", "missing.json"), r"missing.json cannot be read \(No such file"),
        (("--model", "missing"), "missing"),
        (("--model", "missing", "--dry-run", "--poses", "missing.json"), "missing(?!.json)"),
        (("--fps", "0"), "fps must be 1 to 240, but 0 was given"),
        (("--fps", "nan"), "fps must be 1 to 240, but nan was given"),
        (("--frames", "2001", "--poses", "missing.json"), "frames must be 1 to 2000, but 2001 was given"),
        (("--smooth", "4"), "smooth must be an odd number from 1 to 31, but 4 was given"),
        (("--smooth", "33"), "smooth must be an odd number from 1 to 31, but 33 was given"),
        (("-o", "-"), "person cannot write to standard output; name a file with --output"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, result, _ = run(folder, capsys, "-o", str(tmp_path / "clip.mp4"), *words)
    assert code in (1, 2)
    assert re.search(message, result["error"]), result["error"]
    assert not list(tmp_path.iterdir())


def test_a_clip_does_not_replace_its_poses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = run(folder, capsys, "-o", str(folder / "drawn"), poses="drawn")
    assert code == 2
    assert re.search("--output and --poses are the same, .*drawn; name another file", result["error"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[" + "0," * 2_000_000 + "0]",
            r"long.json is too long \(it has more than 2,000,000 parts\); split it",
        ),
        ("[", r"long.json is not JSON \(.*\); use keypoints as OpenPose writes them"),
    ],
)
def test_a_long_file_of_keypoints_is_not_called_broken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "long.json").write_text(text, encoding="utf-8")
    code, result, _ = run(folder, capsys, "--poses", str(tmp_path / "long.json"))
    assert code == 1
    assert re.search(message, result["error"]), result["error"]


def test_a_clip_longer_than_the_limit_is_not_cut_off(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = {"people": [{"pose_keypoints_2d": flat(STANDING)}]}
    (tmp_path / "long.json").write_text(json.dumps([frame] * 2001), encoding="utf-8")
    code, result, _ = run(folder, capsys, "--poses", str(tmp_path / "long.json"), "--dry-run")
    assert code == 2
    assert "gives 2001 poses, but a clip has at most 2000; choose fewer seconds or frames" in result["error"]


def test_drawings_cannot_be_fitted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = run(folder, capsys, "--fit-to", str(folder / "dance.json"), poses="drawn")
    assert code == 2
    assert re.search("fitting needs keypoints, but .*drawn has drawings; use a JSON file", result["error"])


@pytest.mark.parametrize("option", [("--smooth", "3"), ("--scale", "2"), ("--no-hands",)])
def test_drawings_are_taken_as_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    code, result, _ = run(folder, capsys, *option, "--dry-run", poses="drawn")
    assert code == 2
    assert re.search(
        "needs keypoints, but .*drawn has drawings; use a JSON file, or --detect", result["error"]
    )


def test_a_clip_is_generated_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder / "once.webp"
    words = ("--start", "0.1", "--frames", "2", "--interpolate", "2", "--fit", "crop", "--weights", "int8")
    code, result, _ = run(folder, capsys, "-o", str(target), *words)
    assert (code, result["frames"], result["fps"], result["weights"]) == (0, 3, 48, "int8")
    assert main(["again", str(target), "--json", "--device", "cpu"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["output"] == str(folder / "once-again.webp")
    assert torch.equal(read_frames(again["output"]), read_frames(target))
    assert read_metadata(again["output"]) == read_metadata(target)

    monkeypatch.setattr("dynamicrafter.cli.person._USUAL_POSES", 1)
    monkeypatch.setattr("dynamicrafter.cli.person.PersonPreset", lambda: PersonPreset(64, 64, 1))
    (tmp_path / "dance.json").write_text("[]", encoding="utf-8")
    for words, message in (
        (("--poses", str(tmp_path / "dance.json")), "is not the clip's poses .*; pass --poses FILE"),
        (("--model", str(folder / "none.safetensors")), "none.safetensors"),
        (
            ("--variant", "512"),
            "--variant is for DynamiCrafter, but .*once.webp is a clip of a person; omit it",
        ),
        (
            ("--picture", "a.png", "--picture", "b.png"),
            "a clip of a person has one image; pass --picture once",
        ),
        ((), "once.webp takes 4 times the work of a clip with the model's default settings; pass --yes"),
    ):
        assert main(["again", str(target), "--json", *words]) in (1, 2)
        assert re.search(message, json.loads(capsys.readouterr().out)["error"])


def test_poses_are_shown_over_the_image_before_the_long_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "shown"
    code, result, _ = run(folder, capsys, "--dry-run", "--preview-poses", str(place), "--shift", "0.1,0")
    assert (code, result["preview"]) == (0, str(place))
    shown = read_frames(place)
    assert shown.shape == (5, 72, 64, 3)
    assert shown[0, 0, 0].tolist() == [100, 15, 30], "the image at half its brightness"
    assert not torch.equal(shown[0], torch.maximum(shown[0, :1, :1], somebody())), "moved"
    same = ("--preview-poses", "one.mp4", "--output", "one.mp4")
    code, result, _ = run(folder, capsys, *same)
    assert code == 2
    assert re.search("--preview-poses and --output are the same, .*one.mp4; name another", result["error"])


def test_the_best_of_several_people_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    person = {"pose_keypoints_2d": flat(STANDING)}
    (tmp_path / "two.json").write_text(json.dumps([{"people": [person, person]}] * 2), encoding="utf-8")
    _, result, _ = run(folder, capsys, "--poses", str(tmp_path / "two.json"), "--dry-run")
    (note,) = result["notes"]
    assert re.search("two.json has several people in 2 frames; the one with the highest score", note)


def test_black_drawings_have_nobody(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(torch.zeros(3, 64, 64, 3, dtype=torch.uint8), tmp_path / "black.mp4", 8, {})
    code, result, _ = run(folder, capsys, "--poses", str(tmp_path / "black.mp4"))
    assert code == 1
    assert re.search("black.mp4 has no person in its first 3 frames, which are black; use", result["error"])


def test_a_canvas_that_is_not_known_cannot_be_cropped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result, _ = run(folder, capsys, "--fit", "crop", "--poses", str(folder / "bare.json"))
    assert code == 1
    assert re.search("bare.json has no width and height of its canvas to crop it; add them", result["error"])


def test_the_sound_of_the_poses_is_kept_at_their_speed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    poses, target = tmp_path / "loud.mp4", tmp_path / "clip.mp4"
    drawn = torch.as_tensor(draw(SOMEBODY, 72, 64)).expand(6, -1, -1, -1)
    tone = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000).astype(np.float32)[None]
    # Silent in its first half second.
    tone[:, :24_000] = 0
    write_clip(drawn, poses, 6, {}, sound=Sound(tone))
    words = ("--poses", str(poses), "-o", str(target), "--every", "2")
    code, result, _ = run(folder, capsys, *words, "--start", "0.5")
    assert (code, result["frames"], result["fps"], result["notes"]) == (0, 2, 3, [])
    kept = read_sound(target, 0, 1)
    assert kept is not None
    assert abs(kept.samples.shape[1] / kept.rate - 2 / 3) < 0.2, "of two frames"
    assert np.abs(kept.samples[0, 4800:20_000]).max() > 0.5
    code, result, _ = run(folder, capsys, *words, "--fps", "6")
    assert result["notes"] == ["the sound of the poses is left out, because the clip has another speed"]
    assert read_sound(target, 0, 1) is None


def test_keypoints_are_fitted_to_the_reference(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"people": [{"pose_keypoints_2d": flat(tuple((x / 2, y / 2) for x, y in STANDING))}]}
    (tmp_path / "small.json").write_text(json.dumps([small]), encoding="utf-8")
    run(
        folder,
        capsys,
        "--poses",
        str(tmp_path / "small.json"),
        "--fit-to",
        str(folder / "dance.json"),
        "-o",
        str(tmp_path / "row"),
        "--side-by-side",
    )
    row = read_frames(tmp_path / "row")
    assert torch.equal(row[0, :, 64:128], somebody())


def test_a_model_is_converted_and_inspected(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.safetensors"
    assert main(["convert", str(folder / "model.safetensors"), str(made), "--dtype", "bf16"]) == 0
    assert "made.safetensors: AnimateAnyone, 0.00 GB" in capsys.readouterr().out
    assert main(["inspect", str(made)]) == 0
    assert "a complete AnimateAnyone model" in capsys.readouterr().out
    small = tmp_path / "small.safetensors"
    convert_person(folder / "model.safetensors", small, dtype="int8")
    assert main(["inspect", str(small)]) == 0
    assert "layers      int8 with a scale for each output channel" in capsys.readouterr().out
    assert run(folder, capsys, "-o", str(tmp_path / "clip"), "--model", str(made), "--frames", "1")[0] == 0


@pytest.mark.parametrize("words", [("--prune",), ("--variant", "512")])
def test_options_that_do_nothing_for_a_person_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    made = tmp_path / "made.safetensors"
    assert main(["convert", str(folder / "model.safetensors"), str(made), *words]) == 2
    message = rf"{words[0]} is for DynamiCrafter, but .*model.safetensors is AnimateAnyone; leave it out"
    assert re.search(message, capsys.readouterr().err)
    assert not made.exists()


@pytest.mark.parametrize("option", [("--exact",), ("--noise-dtype", "float16")])
def test_what_repeats_the_original_is_another_clip(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...]
) -> None:
    clips: list[torch.Tensor] = []
    for name, more in (("plain", ()), ("as", option)):
        words = ("-o", str(tmp_path / name), "--window", "3", "--overlap", "1", "--steps", "1", *more)
        assert run(folder, capsys, *words)[0] == 0
        clips.append(read_frames(tmp_path / name))
    assert clips[0].shape == clips[1].shape
    assert not torch.equal(*clips)
