"""The motion that the built-in model is taught, and the folder of clips to teach it with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from dynamicrafter.api import load
from dynamicrafter.cli import main
from dynamicrafter.errors import ClipError, UsageError
from dynamicrafter.evaluation.figures import psnr
from dynamicrafter.pipeline import Model
from dynamicrafter.toy.clips import write_toy_clips
from dynamicrafter.toy.gauges import Track, track
from dynamicrafter.toy.hops import hop_captions, hop_clips, hopped, measure_hops
from dynamicrafter.toy.world import MOTIONS, Scenes, held_out, make_clips, sample_scenes, with_motion
from dynamicrafter.training.data import read_list, read_piece


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_hop_is_told_from_every_known_motion() -> None:
    scenes = sample_scenes(24, seeded(1), "held_out", fs=(8, 10))
    assert all(hopped(track(hop_clips(scenes, 16), scenes)))
    for motion in MOTIONS:
        known = with_motion(scenes, motion)
        assert not any(hopped(track(make_clips(known, 16), known))), motion


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([30, 30, 30], [30, 20, 31], True),
        ([30, 30, 30], [30, 27, 30], False),
        ([30, 30, 30], [30, 20, 22], False),
        ([30, 36, 30], [30, 20, 30], False),
        ([30, 30, 30], [30, 40, 30], False),
    ],
)
def test_a_hop_rises_and_comes_back_on_its_line(x: list[float], y: list[float], expected: bool) -> None:
    found = Track(torch.tensor([x]).float(), torch.tensor([y]).float(), torch.ones(1, 3))
    assert hopped(found) == [expected]


def test_hops_begin_like_every_other_clip() -> None:
    scenes = sample_scenes(3, seeded(2))
    assert torch.equal(hop_clips(scenes, 4)[:, 0], make_clips(scenes, 4)[:, 0])
    assert torch.allclose(hop_clips(scenes, 4)[:, -1], make_clips(scenes, 4)[:, 0], atol=1e-5)


def test_captions_of_hops_name_the_subject() -> None:
    scenes = sample_scenes(40, seeded(3))
    plain = hop_captions(scenes)
    assert all(caption.startswith("a ") and caption.endswith(" hops") for caption in plain)
    other = hop_captions(scenes, seeded(0))
    assert {caption.split()[0] for caption in other} >= {"a", "the"}
    assert [caption.split()[-3:] for caption in other] == [caption.split()[-3:] for caption in plain]


def test_a_folder_of_clips_is_what_training_reads(tmp_path: Path) -> None:
    written = write_toy_clips(tmp_path / "clips", pictures=3, frames=6, seed=4)
    rows = read_list(tmp_path / "clips")
    assert [row.path for row in rows] == written
    assert [row.caption.endswith("hops") for row in rows] == [False, True] * 3

    scenes = sample_scenes(3, seeded(4), fs=(8, 10))
    assert not held_out(scenes.shape[:, 0], scenes.colour[:, 0], scenes.background).any()
    for index, row in enumerate(rows):
        piece = read_piece(row, 6, (64, 64), (1, 1), seeded(0))
        assert piece.fps == int(scenes.fs[index // 2])
        truth = (hop_clips if index % 2 else make_clips)(scenes, 6)[index // 2]
        # Far more than an autoencoder keeps, so that compression costs nothing.
        assert float(psnr(piece.frames, truth).min()) > 42


def test_the_same_seed_gives_the_same_folder(tmp_path: Path) -> None:
    lists = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_toy_clips(tmp_path / name, pictures=2, frames=2, seed=seed)
        lists.append((tmp_path / name / "captions.csv").read_text(encoding="utf-8"))
    assert lists[0] == lists[1] != lists[2]


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["toy-clips", str(tmp_path / "clips"), "--pictures", "2"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "clips"), "clips": 4}
    assert main(words) == 0
    assert "4 clips" in capsys.readouterr().out
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 4


def test_what_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="at least one image and two frames are needed, but 0 and 16"):
        write_toy_clips(tmp_path / "clips", pictures=0)
    assert not (tmp_path / "clips").exists()
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(ClipError, match="taken cannot be created"):
        write_toy_clips(tmp_path / "taken", pictures=1)
    assert main(["toy-clips", str(tmp_path / "clips"), "--pictures", "0"]) == 2
    assert "at least one image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,caption\nmine.mp4,a dog\n", "exists and lists mine.mp4; choose another folder"),
        (
            "path,caption,fps\n000_known.mp4,a square,8\nclips/000_hops.mp4,a dog,8\n",
            "and lists clips/000_hops.mp4; choose",
        ),
        ("path,caption\n,a dog\n", "exists and lists no path; choose another folder"),
        ("videoid,page_dir,name\n1,a,a dog\n", "exists and lists no path; choose another folder"),
        (
            "path,caption\nmine.mp4,a dog, a cat\n",
            r"is a different one \(line 2 of .* has more cells .*\); choose another folder",
        ),
    ],
)
def test_a_list_of_other_clips_is_kept(tmp_path: Path, text: str, told: str) -> None:
    listing = tmp_path / "captions.csv"
    listing.write_text(text, encoding="utf-8")
    with pytest.raises(
        UsageError, match=f"^toy clips are written with their own list, but .*captions.csv .*{told}"
    ):
        write_toy_clips(tmp_path, pictures=1, frames=2)
    assert listing.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [listing]


def test_a_list_of_toy_clips_is_replaced(tmp_path: Path) -> None:
    write_toy_clips(tmp_path, pictures=3, frames=2)
    write_toy_clips(tmp_path, pictures=1, frames=2)
    assert [row.path.name for row in read_list(tmp_path)] == ["000_known.mp4", "000_hops.mp4"]


@pytest.mark.parametrize("seed", [99999999999999999999, 2**63, -1])
def test_a_seed_out_of_range_is_told(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match=rf"^seed must be 0 to 2\^63 - 1, but {seed} was given$"):
        write_toy_clips(tmp_path / "clips", pictures=1, frames=2, seed=seed)
    assert not (tmp_path / "clips").exists()


def test_the_largest_seed_is_usable(tmp_path: Path) -> None:
    assert len(write_toy_clips(tmp_path, pictures=1, frames=2, seed=2**63 - 1)) == 2


def test_a_list_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "clips"
    write_toy_clips(folder, pictures=1, frames=2)
    before = (folder / "captions.csv").read_bytes()

    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).suffix == ".csv":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ClipError, match=r"captions.csv could not be written \(No space left on device\)"):
        write_toy_clips(folder, pictures=2, frames=2)
    assert (folder / "captions.csv").read_bytes() == before
    assert not list(folder.glob("*.part"))


def test_a_model_that_hops_is_found_out(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the network shows what was told in half of the scenes and hops in the others."""

    def acted(model: Model, scenes: Scenes, prompts: list[str], settings: object, seed: int) -> torch.Tensor:
        assert all(prompt.endswith("hops") for prompt in prompts) or not any(
            prompt.endswith("hops") for prompt in prompts
        )
        obedient = torch.arange(len(scenes)) % 2 == 0
        told = hop_clips(scenes, 16) if prompts[0].endswith("hops") else make_clips(scenes, 16)
        other = (
            make_clips(with_motion(scenes, "grow"), 16)
            if prompts[0].endswith("hops")
            else hop_clips(scenes, 16)
        )
        return torch.where(obedient[:, None, None, None, None], told, other)

    monkeypatch.setattr("dynamicrafter.toy.hops.generate_clips", acted)
    assert measure_hops(load(small_weights, device="cpu"), items=8) == {
        "hops when told, share": 0.5,
        "prompted direction, share": 0.5,
        "hops when told to go a direction, share": 0.5,
    }


def test_the_command_measures_hops(small_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        "toy",
        "--model",
        str(small_weights),
        "--hops",
        "--items",
        "4",
        "--steps",
        "1",
        "--cfg",
        "1",
    ]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loras"] == []
    assert told["figures"]["hops when told, share"] == 0
    assert main([*words, "--lora", "gone.safetensors:0.5"]) == 1
    assert "gone.safetensors cannot be read as a LoRA" in capsys.readouterr().err
