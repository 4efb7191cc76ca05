"""A file of something else is refused with what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_checkpoints import PREFIXES, hugging_face, open_clip_model, save, small
from torch import Tensor

from dynamicrafter.errors import CheckpointError
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.inspect import inspect
from dynamicrafter.weights.load import load_components

UNET = PREFIXES["unet"]


def stable_diffusion(width: int, block: str = "1.1") -> dict[str, Tensor]:
    """The telling tensors of a picture model that attends to text of a width."""
    return {
        f"{UNET}input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3),
        f"{UNET}input_blocks.{block}.transformer_blocks.0.attn1.to_k.weight": torch.zeros(320, 320),
        f"{UNET}input_blocks.{block}.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, width),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(128, 3, 3, 3),
    }


def video(name: str) -> dict[str, Tensor]:
    return {**stable_diffusion(1024), f"{UNET}input_blocks.1.{name}": torch.zeros(2)}


def wider() -> dict[str, Tensor]:
    first = f"{UNET}input_blocks.0.0.weight"
    return {**small(), first: torch.zeros(48, 8, 3, 3)}


def lora() -> dict[str, Tensor]:
    stem = "lora_unet_input_blocks_1_1_proj_in"
    return {f"{stem}.lora_up.weight": torch.zeros(4, 2), f"{stem}.alpha": torch.zeros(())}


OTHERS = {
    "Stable Diffusion 1.5": stable_diffusion(768),
    "Stable Diffusion 2.1": stable_diffusion(1024),
    "Stable Diffusion XL": stable_diffusion(2048, "4.1"),
    "Stable Video Diffusion": video("1.time_stack.0.norm1.weight"),
    "VideoCrafter, which takes no image": video("0.temopral_conv.conv1.0.weight"),
    "a LoRA": lora(),
    r"only an autoencoder \(VAE\)": small("vae"),
    "only an autoencoder": {
        "decoder.conv_in.weight": torch.zeros(2),
        "encoder.conv_in.weight": torch.zeros(2),
    },
    "only a CLIP model, which can serve as a checkpoint's text or image encoder": open_clip_model(),
    "only a CLIP model": hugging_face("vision"),
    "only the image token resampler": small("resampler"),
    "a DynamiCrafter network with sizes that match no known variant": wider(),
    "a network with diffusers' tensor names": {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(2)},
    "a ControlNet": {"control_model.time_embed.0.weight": torch.zeros(2)},
    r"of an unknown architecture \(its first tensors are bert\)": {"bert": torch.zeros(2)},
    "a file without any tensors": {},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_architecture_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "other.safetensors", OTHERS[name])
    wanted = f"other.safetensors is not a DynamiCrafter checkpoint but {name}.*; .*RELEASES lists the models"
    if "DynamiCrafter network" in name:
        wanted = name
    with pytest.raises(CheckpointError, match=wanted):
        load_components(path)
    with pytest.raises(CheckpointError, match=wanted):
        load_components(path, variant="512_v1")
    with pytest.raises(CheckpointError, match=wanted):
        convert(path, tmp_path / "new.safetensors")


def test_inspecting_another_architecture_is_no_error(tmp_path: Path) -> None:
    report = inspect(save(tmp_path / "other.safetensors", stable_diffusion(768)))
    assert report.architecture == "Stable Diffusion 1.5"
    assert report.variants == ()
    assert report.components == ()
