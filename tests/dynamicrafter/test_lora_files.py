"""Several LoRA files at once, each with its strength."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import normal
from safetensors.torch import save_file

from dynamicrafter.api import Lora, find_model, load
from dynamicrafter.cli import main
from dynamicrafter.media.video import read_metadata

LAYERS = ("middle_block.1.proj_in", "middle_block.2.transformer_blocks.0.attn1.to_q")
WIDTH = 64


def adapter(path: Path, *layers: str, seed: int) -> Path:
    """A file with adapters of rank 2 for square layers of tiny."""
    tensors = {}
    for index, layer in enumerate(layers):
        down, up = normal(2, WIDTH, seed=seed + index), normal(WIDTH, 2, seed=seed + 10 + index)
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = down
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = up
    save_file(tensors, path)
    return path


@pytest.mark.usefixtures("one_thread")
def test_their_changes_add_up(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one.safetensors", *LAYERS, seed=1)
    two = adapter(tmp_path / "two.safetensors", LAYERS[0], seed=5)
    files = find_model("tiny")
    plain = load(files, device="cpu").unet
    merged = load(replace(files, loras=(Lora(one, 0.5), Lora(two, -2.0))), device="cpu").unet

    def product(seed: int) -> torch.Tensor:
        return normal(WIDTH, 2, seed=seed + 10) @ normal(2, WIDTH, seed=seed)

    changes = [
        merged.get_parameter(f"{layer}.weight") - plain.get_parameter(f"{layer}.weight") for layer in LAYERS
    ]
    torch.testing.assert_close(changes[0], 0.5 * product(1) - 2.0 * product(5), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(changes[1], 0.5 * product(2), atol=1e-5, rtol=1e-5)


def test_the_record_names_each_with_its_strength(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Path(__file__).parents[2] / "pictures" / "red_circle.png"
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        adapter(tmp_path / name, LAYERS[seed], seed=seed)
    words = ["animate", str(picture), "--frames", "2", "--steps", "1", "--quiet", "-o", "clip/"]
    loras = ["--lora", "one.safetensors:0.25", "--lora", "two.safetensors"]
    assert main([*words, *loras]) == 0, capsys.readouterr().err
    found = read_metadata("clip")["model"]["loras"]
    assert [(lora["file"], lora["strength"]) for lora in found] == [
        ("one.safetensors", 0.25),
        ("two.safetensors", 1.0),
    ]
