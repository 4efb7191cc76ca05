"""A short training run on the built-in model teaches it a word, on scenes it never saw, and it keeps the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamicrafter.api import Lora, find_model, load
from dynamicrafter.diffusion.schedule import make_schedule
from dynamicrafter.model.conditioning import repeat_picture
from dynamicrafter.pipeline import Model
from dynamicrafter.toy.clips import write_toy_clips
from dynamicrafter.toy.hops import FS, hop_captions, hop_clips
from dynamicrafter.toy.world import (
    DIRECTIONS,
    Scenes,
    captions,
    join,
    make_clips,
    sample_scenes,
    select,
    with_motion,
)
from dynamicrafter.training.config import FinetuneConfig
from dynamicrafter.training.finetune import finetune
from dynamicrafter.training.losses import DenoisingLoss
from dynamicrafter.training.trainer import Batch, TrainerConfig

pytest.importorskip("accelerate", reason="training needs accelerate")
pytest.importorskip("peft", reason="adapters are made by peft")
pytestmark = pytest.mark.usefixtures("on_the_cpu")


@torch.inference_mode()
def words(model: Model, prompts: Sequence[str]) -> Tensor:
    return model.text(list(prompts))


@torch.inference_mode()
def at_the_start(model: Model, scenes: Scenes, clips: Tensor, prompts: Sequence[str]) -> Batch:
    """The clips at the last timestep, where nothing but picture and prompt tells what will happen."""
    latents = torch.stack([model.vae.encode(clip).mean * model.vae.config.scale_factor for clip in clips])
    latents = latents.transpose(1, 2)
    return {
        "latents": latents,
        "noise": torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)),
        "t": torch.full((len(scenes),), 999),
        "concat": repeat_picture(latents[:, :, 0], latents.shape[2]),
        "text": words(model, prompts),
        "vision": model.vision(clips[:, 0]),
        "fs": scenes.fs,
    }


@torch.inference_mode()
def losses(model: Model, batches: dict[str, Batch]) -> dict[str, float]:
    loss = DenoisingLoss(model.unet, model.resampler, make_schedule(model.variant.diffusion))
    return {name: float(loss(**batch)) for name, batch in batches.items()}


def test_a_new_word_is_learnt_and_the_old_ones_stay(tmp_path: Path) -> None:
    write_toy_clips(tmp_path / "clips", pictures=8)
    config = FinetuneConfig(
        model="tiny",
        data=str(tmp_path / "clips"),
        strides=(1, 1),
        random_frame=False,
        batch=4,
        drop=0.0,
        timesteps="high",
        checkpointing=False,
        trainer=TrainerConfig(
            steps=24, learning_rate=2e-3, warm_up=2, decay="cosine", weight_decay=0.0, max_grad_norm=1.0
        ),
    )
    model = load("tiny", device="cpu")
    scenes = sample_scenes(4, torch.Generator().manual_seed(31), "held_out", fs=FS)
    hops = at_the_start(model, scenes, hop_clips(scenes, 16), hop_captions(scenes))
    every = join([with_motion(scenes, direction) for direction in DIRECTIONS])
    known = select(every, torch.tensor([0, 5, 10, 15]))
    batches = {
        "hops": hops,
        "hops called up": {**hops, "text": words(model, captions(with_motion(scenes, "up")))},
        "directions": at_the_start(model, known, make_clips(known, 16), captions(known)),
    }
    other = words(model, captions(known)[1:] + captions(known)[:1])
    batches["directions called otherwise"] = {**batches["directions"], "text": other}
    before = losses(model, batches)
    path = finetune(model, config, tmp_path / "run")
    taught = load(replace(find_model("tiny"), loras=(Lora(path),)), device="cpu")
    after = losses(taught, batches)
    assert after["hops"] < 0.75 * before["hops"]
    # It is the word that is learnt, not to hop whatever is said.
    assert after["hops"] < after["hops called up"]
    # The known words still tell what will happen.
    assert after["directions"] < 0.3 * after["directions called otherwise"]
