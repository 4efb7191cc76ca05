"""``again`` gives the same clip once more, or says what is missing for it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import QUICK, Run, paint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dynamicrafter.api import find_model
from dynamicrafter.hashing import file_sha256
from dynamicrafter.media.video import read_frames, read_metadata, write_clip

QUICKEST = (*QUICK, "--steps", "1", "--frames", "2")
"""Options of clips that matter by their record alone."""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return paint(tmp_path / "boat.png", 100, 80)


@pytest.fixture
def clip(run: Run, picture: Path) -> Path:
    """A clip in the folder the command runs in."""
    ran = run("animate", picture, *QUICKEST, "--prompt", "a boat", "--seed", "9", "--output", "clip.mp4")
    assert ran.code == 0, ran.err
    return Path("clip.mp4").resolve()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip", "clip.v2/"])
def test_the_clip_is_the_same(run: Run, picture: Path, name: str) -> None:
    options = *QUICK, "--frames", "2", "--seed", "9", "--eta", "0.5", "--dtype", "bf16", "--fps", "7.5"
    run("animate", picture, *options, "--output", name)
    ran = run("again", name, "--quiet")
    assert ran.code == 0, ran.err
    (new,) = [path for path in Path.cwd().iterdir() if "-again" in path.name]
    assert torch.equal(read_frames(new), read_frames(Path(name)))
    assert read_metadata(new) == read_metadata(Path(name))


def test_every_kind_of_clip_can_be_repeated(run: Run, picture: Path, tmp_path: Path) -> None:
    other = paint(tmp_path / "other.png", 80, 100)
    for command, pictures in (("loop", [picture]), ("interpolate", [picture, other])):
        run(command, *pictures, *QUICK, "--output", f"{command}.webp")
        ran = run("again", f"{command}.webp", "--json")
        assert torch.equal(read_frames(ran.json["clips"][0]["output"]), read_frames(Path(f"{command}.webp")))


def test_the_output_may_be_of_another_kind(run: Run, clip: Path) -> None:
    ran = run("again", clip, "--quiet", "--output", "more.gif")
    assert ran.code == 0, ran.err
    assert read_frames("more.gif").shape == read_frames(clip).shape


# Pictures


def test_a_changed_picture_is_refused(run: Run, clip: Path, picture: Path) -> None:
    paint(picture, 100, 80, hue=1)
    ran = run("again", clip)
    assert ran.code == 1
    assert (
        ran.err
        == f"dynamicrafter: {picture} is not the image the clip was made from; pass --picture FILE for every image\n"
    )


def test_a_picture_that_is_gone_is_asked_for(run: Run, clip: Path, picture: Path) -> None:
    moved = picture.rename(picture.with_name("moved.png"))
    ran = run("again", clip)
    assert (ran.code, ran.err) == (
        1,
        f"dynamicrafter: the clip's image {picture} does not exist; pass --picture FILE for every image\n",
    )
    assert run("again", clip, "--quiet", "--picture", moved).code == 0


def test_a_picture_beside_the_clip_is_found(run: Run, clip: Path, picture: Path) -> None:
    picture.rename(clip.with_name(picture.name))
    assert run("again", clip, "--quiet").code == 0


def test_a_picture_beside_the_clip_stands_in_for_a_changed_one(run: Run, clip: Path, picture: Path) -> None:
    shutil.copy(picture, clip.with_name(picture.name))
    paint(picture, 100, 80, hue=1)
    assert run("again", clip, "--quiet").code == 0


def test_the_number_of_pictures_is_that_of_the_clip(run: Run, clip: Path, picture: Path) -> None:
    ran = run("again", clip, "--picture", picture, "--picture", picture)
    assert ran.code == 2
    assert ran.err == (
        "dynamicrafter: the clip was made from 1 image(s), but 2 were given; pass --picture FILE for every image\n"
    )


# Weights


def test_weights_that_are_gone_are_asked_for(
    run: Run, picture: Path, tmp_path: Path, random_weights: Path
) -> None:
    weights = Path(shutil.copy(random_weights, tmp_path / "weights.safetensors"))
    run("animate", picture, *QUICK, "--model", weights, "--output", "clip.mp4")
    moved = weights.rename(weights.with_name("moved.safetensors"))
    ran = run("again", "clip.mp4")
    assert (ran.code, ran.err) == (
        1,
        f"dynamicrafter: the clip's weights {weights} do not exist; specify it with --model NAME or FILE\n",
    )
    assert run("again", "clip.mp4", "--quiet", "--model", moved).code == 0


def test_changed_weights_are_refused(
    run: Run, picture: Path, tmp_path: Path, random_weights: Path, wide_weights: Path
) -> None:
    weights = Path(shutil.copy(random_weights, tmp_path / "weights.safetensors"))
    run("animate", picture, *QUICK, "--model", weights, "--output", "clip.mp4")
    shutil.copy(wide_weights, weights)
    ran = run("again", "clip.mp4")
    assert (ran.code, ran.err) == (
        1,
        f"dynamicrafter: {weights} is not the file the clip was made with; specify it with --model NAME or FILE\n",
    )


def with_metadata(source: Path, target: Path) -> Path:
    """A copy of a weights file with one more line of metadata."""
    with safe_open(source, "pt") as file:
        save_file(load_file(source), target, {**file.metadata(), "more": "text"})
    assert target.stat().st_size != source.stat().st_size
    return target


def known_by_bytes(clip: Path, weights: Path, sha256: str) -> Path:
    """The clip as 0.1.0 wrote it, which knew weights by the hash of the file."""
    record = read_metadata(clip)
    record["model"]["weights"] = {"file": str(weights), "sha256": sha256}
    return write_clip(read_frames(clip), clip.with_name(f"old-{clip.name}"), 8, record)


def test_other_metadata_does_not_make_other_weights(
    run: Run, picture: Path, tmp_path: Path, random_weights: Path
) -> None:
    weights = Path(shutil.copy(random_weights, tmp_path / "weights.safetensors"))
    run("animate", picture, *QUICK, "--model", weights, "--output", "clip.mp4")
    with_metadata(random_weights, weights)
    assert run("again", "clip.mp4", "--quiet").code == 0
    assert torch.equal(read_frames("clip-again.mp4"), read_frames("clip.mp4"))


def test_weights_known_by_their_bytes_are_compared_by_them(
    run: Run, picture: Path, tmp_path: Path, wide_weights: Path
) -> None:
    weights = Path(shutil.copy(wide_weights, tmp_path / "weights.safetensors"))
    run("animate", picture, *QUICK, "--model", weights, "--output", "clip.mp4")
    clip = known_by_bytes(Path("clip.mp4"), weights, file_sha256(weights))
    assert run("again", clip, "--quiet").code == 0
    with_metadata(wide_weights, weights)
    assert "is not the file the clip was made with" in run("again", clip).err


def test_old_clips_of_the_built_in_model_survive_a_change_of_its_metadata(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = find_model("tiny").weights
    run("animate", picture, *QUICK, "--model", "tiny", "--output", "clip.mp4")
    clip = known_by_bytes(Path("clip.mp4"), tmp_path / "gone.safetensors", file_sha256(tiny))
    monkeypatch.setattr("dynamicrafter.api._TINY_WEIGHTS", with_metadata(tiny, tmp_path / "tiny.safetensors"))
    ran = run("again", clip, "--quiet", "--output", "again.mp4")
    assert ran.code == 0, ran.err
    assert torch.equal(read_frames("again.mp4"), read_frames("clip.mp4"))


def test_a_named_model_is_found_in_another_weights_folder(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine, or after the folder was moved."""
    record = read_metadata(clip)
    record["model"]["weights"]["file"] = "C:\\weights\\random.safetensors"
    record["pictures"][0]["file"] = "C:\\pictures\\boat.png"
    frames = read_frames(clip)
    moved = write_clip(frames, tmp_path / "moved.mp4", 8, record)
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "another home"))
    ran = run("again", moved, "--output", "clip", "--quiet")
    assert ran.code == 0, ran.err
    run("again", clip, "--output", "original", "--quiet")
    assert torch.equal(read_frames("clip"), read_frames("original"))


def test_details_of_a_model_need_the_model(run: Run, clip: Path) -> None:
    ran = run("again", clip, "--variant", "512_v1")
    assert ran.code == 2
    assert ran.err == (
        "dynamicrafter: --variant, --text-encoder, --image-encoder and --lora require --model; "
        "specify it as well\n"
    )


# Other files


def test_a_file_that_is_no_clip_is_refused(run: Run, picture: Path) -> None:
    for name, message in (("gone.mp4", "there is no clip "), (picture, f"{picture} is not a clip; ")):
        ran = run("again", name)
        assert ran.code == 1
        assert ran.err.startswith(f"dynamicrafter: {message}")


DAMAGED = "; it is damaged, write it again"
UNTOLD = "{} has no record of how it was made; choose a clip that the dynamicrafter command has written"
AN_OBJECT = "an object"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": "another"}, UNTOLD),
        ({"program": None}, UNTOLD),
        ({"model": None}, UNTOLD),
        ({"pictures": None}, f"the record in {{}} must contain pictures{DAMAGED}"),
        (
            {"pictures": ["boat.png"]},
            f"pictures in the record in {{}} must be a list, each {AN_OBJECT}, not ['boat.png']{DAMAGED}",
        ),
        ({"model": "random"}, f"model in the record in {{}} must be {AN_OBJECT}, not 'random'{DAMAGED}"),
    ],
)
def test_a_clip_with_another_record_is_refused(
    run: Run, clip: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    record = {key: value for key, value in {**read_metadata(clip), **changes}.items() if value is not None}
    changed = write_clip(read_frames(clip), tmp_path / "changed.webp", 8, record)
    ran = run("again", changed)
    assert (ran.code, ran.err) == (1, f"dynamicrafter: {message.format(changed)}\n")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "mood",
            "calm",
            r"settings\.mood, which this version \(.*\) does not know; it was written by version 0\.9\.0, use",
        ),
        (
            "steps",
            "many",
            r"settings\.steps in the record in .* must be an integer, not 'many'; it is damaged",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    run: Run, clip: Path, tmp_path: Path, name: str, value: str, message: str
) -> None:
    record = read_metadata(clip)
    record["version"] = "0.9.0"
    record["settings"][name] = value
    changed = write_clip(read_frames(clip), tmp_path / "changed.webp", 8, record)
    ran = run("again", changed)
    assert ran.code == 1
    assert re.search(message, ran.err)
