"""The commands train and evaluate, and --lora, from the shell's point of view."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamicrafter.cli import main

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture
def lora_config(small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path) -> Path:
    pytest.importorskip("peft", reason="adapters are made by peft")
    values = {
        "recipe": "finetune",
        "model": str(small_weights),
        "data": str(clip_folder()),
        "frames": 4,
        "strides": [1, 1],
        "rank": 2,
        "trainer": {"steps": 2, "log_every": 1, "learning_rate": 0.01},
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_a_lora_from_training_to_a_clip(
    lora_config: Path, small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips" / "2.mp4").write_bytes(b"broken")
    words = ["train", str(lora_config), "--folder", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "skipped: " in out
    assert "step      2 loss" in out
    lora = tmp_path / "run" / "lora.safetensors"
    assert out.splitlines()[-1] == str(lora)

    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture)
    made = []
    for strength in ("", ":0.5"):
        words = ["animate", str(picture), "--model", str(small_weights), "--lora", f"{lora}{strength}"]
        words += ["--steps", "1", "--frames", "2", "--json", "--output", str(tmp_path / "clip.mp4")]
        assert main(words) == 0
        made.append(json.loads(capsys.readouterr().out)["clips"][0]["output"])
    # Both are found by their names next to the clip.
    shutil.copy(small_weights, tmp_path)
    beside = lora.rename(tmp_path / lora.name)
    assert main(["again", made[1], "--json", "--output", str(tmp_path / "again.mp4")]) == 0
    capsys.readouterr()
    beside.write_bytes(beside.read_bytes()[:-1] + b"?")
    assert main(["again", made[1], "--output", str(tmp_path / "third.mp4")]) == 1
    assert f"{beside} is not the clip's LoRA file (its contents differ)" in capsys.readouterr().err
    beside.unlink()
    assert main(["again", made[1], "--output", str(tmp_path / "third.mp4")]) == 1
    assert "the clip's LoRA file lora.safetensors was not found in " in capsys.readouterr().err


def test_training_again_goes_on(
    lora_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(lora_config), "--folder", str(tmp_path / "run"), "--device", "cpu", "--json"]
    assert main(words) == 0
    first = (tmp_path / "run" / "lora.safetensors").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "run" / "lora.safetensors").read_bytes() == first
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["left_out"] for row in told] == [[], []]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "nothing"), "there is no config 'nothing'"),
        (
            ("train", "tiny", "--stage", "last"),
            "the stages are vae, text, vision, prompted, mixed, refined, continued, decoder, export",
        ),
        (("train", "tiny_person", "--stage", "text"), "the stages are vae"),
        (("train", "lora", "--stage", "vae"), "only the recipes of built-in models have stages"),
        (("evaluate", "toy", "--model", "tinny"), "there is no model 'tinny'"),
        (("evaluate", "toy", "--items", "0"), "items must be at least 4"),
    ],
)
def test_wrong_usage_is_told(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_another_size_is_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from dynamicrafter.model.variants import SMALL
    from dynamicrafter.weights.random_model import write_random_checkpoint

    wide = replace(SMALL, preset=replace(SMALL.preset, width=128))
    write_random_checkpoint(tmp_path / "wide.safetensors", wide)
    assert main(["evaluate", "toy", "--model", str(tmp_path / "wide.safetensors"), "--device", "cpu"]) == 2
    assert "generates 128x64" in capsys.readouterr().err


def test_a_random_model_is_measured_and_found_wanting(
    small_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        "toy",
        "--model",
        str(small_weights),
        "--items",
        "4",
        "--steps",
        "1",
        "--cfg",
        "1",
        "--json",
    ]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["autoencoder: round trip, dB"] < 15
    assert set(figures) >= {
        "prompted direction, share",
        "same share without a prompt",
        "stands still when told, share",
        "grows when told, share",
        "shrinks when told, share",
        "slower with every higher fs, share",
        "interpolation: last frame, dB",
        "loop: last to first over the median step, ratio",
    }

    from dynamicrafter.api import load
    from dynamicrafter.evaluation.figures import psnr
    from dynamicrafter.toy.autoencoder import round_trip
    from dynamicrafter.toy.world import make_clips, sample_scenes

    vae = load(small_weights, device="cpu").vae.float()
    for name, salt, count, fs, frame in (
        ("round trip of these pictures, dB", 1, 1, (8, 30), 0),
        ("interpolation: round trip of the last pictures, dB", 5, 4, (8, 12), -1),
    ):
        scenes = sample_scenes(count, torch.Generator().manual_seed(salt), "held_out", fs=fs)
        images = make_clips(scenes, 16)[:, frame]
        if frame == 0:
            # What a clip begins with is an image of 8 bits.
            images = ((images + 1) * 127.5).round() / 127.5 - 1
        assert figures[name] == pytest.approx(float(psnr(images, round_trip(vae, images)).mean()), abs=1e-3)
