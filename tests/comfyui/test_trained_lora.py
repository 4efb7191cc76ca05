"""A LoRA that our trainer made, in ComfyUI: core's own node loads it whole, and it does what it does in our program."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from pack_graphs import (
    Prompt,
    conditioned,
    latents_of,
    node,
    sampled,
    saved_latent,
    upload_pictures,
    with_ksampler,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfyui_client import Client
    from comfyui_server import Server
    from torch import Tensor

TINY = "tiny (built in)"
NOT_LOADED = "lora key not loaded"
"""What core's loader says of every name in a file that it finds no layer for."""


@dataclass(frozen=True)
class Trained:
    """Names of a file of adapters, and of a checkpoint that has the same adapters merged by our program."""

    lora: str
    merged: str


@pytest.fixture(scope="module")
def trained(pack_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A few steps of training on the built-in model, with a learning rate that shows."""
    for package in ("accelerate", "peft"):
        pytest.importorskip(package, reason=f"training a LoRA needs {package}")
    from dynamicrafter.api import Lora, find_model, load
    from dynamicrafter.toy.clips import write_toy_clips
    from dynamicrafter.training.config import FinetuneConfig
    from dynamicrafter.training.finetune import finetune, save_model
    from dynamicrafter.training.trainer import TrainerConfig

    folder = tmp_path_factory.mktemp("trained")
    write_toy_clips(folder / "clips", pictures=1)
    config = FinetuneConfig(
        model="tiny",
        data=str(folder / "clips"),
        rank=4,
        alpha=2.0,
        layers=("spatial", "temporal", "image", "feed_forward", "convolutions"),
        strides=(1, 1),
        batch=2,
        checkpointing=False,
        trainer=TrainerConfig(steps=4, learning_rate=2e-2),
    )
    loras = pack_server.base / "models" / "loras"
    checkpoints = pack_server.base / "models" / "checkpoints"
    for place in (loras, checkpoints):
        place.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ACCELERATE_USE_CPU", "true")
        made = finetune(load("tiny", device="cpu"), config, folder / "run")
    os.replace(made, loras / "hops.safetensors")
    files = find_model("tiny")
    merged = load(
        type(files)(files.weights, loras=(Lora(loras / "hops.safetensors"),)), device="cpu", dtype="float32"
    )
    networks = merged.unet.state_dict(), merged.resampler.state_dict()
    save_model(merged, *networks, checkpoints / "tiny_with_hops.safetensors")
    return Trained("hops.safetensors", "tiny_with_hops.safetensors")


@pytest.fixture
def ready(client: Client) -> Client:
    """A client whose server has the pictures."""
    upload_pictures(client)
    return client


def of_tiny(prompt: Prompt, checkpoint: str = TINY) -> Prompt:
    prompt["loader"]["inputs"]["checkpoint"] = checkpoint
    return prompt


def with_lora(prompt: Prompt, file: str, strength: float) -> Prompt:
    prompt["sampler"]["inputs"]["model"] = ["lora", 0]
    lora = node("LoraLoaderModelOnly", model=["loader", 0], lora_name=file, strength_model=strength)
    return {**prompt, "lora": lora}


def latents(client: Client, prompt: Prompt) -> Tensor:
    found = latents_of(client, client.run(saved_latent(prompt)))
    assert found.isfinite().all()
    return found


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Power of what was wanted over that of the error."""
    return float(10 * (wanted.square().mean() / (found - wanted).square().mean()).log10())


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("make", [sampled, with_ksampler])
def test_core_loads_every_adapter_and_it_counts_as_in_our_program(
    ready: Client, trained: Trained, pack_server: Server, make: Callable[..., Prompt]
) -> None:
    said = len(pack_server.log())

    def clip(strength: float | None = None, checkpoint: str = TINY) -> Tensor:
        prompt = of_tiny(make(conditioned(frames=4, prompt="a red circle hops")), checkpoint)
        return latents(ready, prompt if strength is None else with_lora(prompt, trained.lora, strength))

    plain, nothing, half, whole = (clip(strength) for strength in (None, 0.0, 0.5, 1.0))
    merged = clip(checkpoint=trained.merged)
    assert NOT_LOADED not in pack_server.log()[said:]
    assert difference(nothing, plain) == 0
    changed = difference(whole, plain)
    assert changed > 1e-2
    assert 1e-3 < difference(half, plain)
    assert difference(half, whole) > 1e-3
    # The host keeps weights in 16 bits, the merged file in 32.
    assert difference(whole, merged) < 0.1 * changed


def test_a_lora_on_weights_in_8_bits_is_nearly_that_on_float32(ready: Client, trained: Trained) -> None:
    def clip(kind: str, strength: float) -> Tensor:
        prompt = of_tiny(sampled(conditioned(frames=4, prompt="a red circle hops")))
        prompt["loader"]["inputs"]["weight_dtype"] = kind
        return latents(ready, with_lora(prompt, trained.lora, strength))

    exact, stored, without = clip("float32", 1.0), clip("int8", 1.0), clip("int8", 0.0)
    assert decibels(stored, exact) > 35
    assert decibels(without, exact) < decibels(stored, exact) - 10
    assert torch.equal(clip("int8", 0.0), without)


def test_the_host_says_so_where_a_name_is_of_no_layer(
    ready: Client, trained: Trained, pack_server: Server
) -> None:
    """What the other test looks for in the log is really said; else it could not fail."""
    from safetensors.torch import load_file, save_file

    loras = pack_server.base / "models" / "loras"
    weights = load_file(loras / trained.lora)
    renamed = {name.replace("middle_block", "no_such_block"): value for name, value in weights.items()}
    save_file(renamed, loras / "renamed.safetensors")
    said = len(pack_server.log())
    latents(ready, with_lora(of_tiny(sampled(conditioned(frames=2))), "renamed.safetensors", 1.0))
    assert NOT_LOADED in pack_server.log()[said:]
