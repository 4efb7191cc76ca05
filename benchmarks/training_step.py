"""How much memory does a training step at 512x320 take? Counted, so it runs on any machine.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --check

The step runs on tensors that have no values (PyTorch's FakeTensorMode), with the networks, the trained weights, the
autocast and the checkpointing of ``dynamicrafter train``. Every tensor that PyTorch would allocate is known (see
live_bytes.py). Attention is PyTorch's fused kernel for the CPU, which keeps no scores, like those of GPUs. The
optimizer's state is that of AdamW. Not counted: the allocator's rounding, workspaces of libraries, the CUDA context.

``--check`` executes one step of a small network, and compares the count of the same step without values.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from live_bytes import LiveBytes
from measure import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dynamicrafter.diffusion.schedule import make_schedule
from dynamicrafter.model.configs import LATENT_FACTOR, TEXT_TOKENS
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import SMALL, V512, Variant
from dynamicrafter.training.config import FinetuneConfig, Target
from dynamicrafter.training.finetune import choose_trained, recompute_activations
from dynamicrafter.training.lora import keep_compact
from dynamicrafter.training.losses import DenoisingLoss
from dynamicrafter.training.trainer import TrainerConfig

FRAMES = 16
VISION_TOKENS = 257
"""Of ViT-H/14."""


@dataclass(frozen=True)
class Case:
    """A kind of training."""

    target: Target
    precision: str
    base: str
    checkpointing: bool = True

    @property
    def config(self) -> FinetuneConfig:
        """The same as a config."""
        trainer = TrainerConfig(precision=self.precision)  # pyright: ignore[reportArgumentType]
        return FinetuneConfig("m", "d", target=self.target, base=self.base, trainer=trainer)  # pyright: ignore


CASES = (
    Case("lora", "bf16", "bf16"),
    Case("lora", "bf16", "bf16", checkpointing=False),
    Case("lora", "bf16", "float32"),
    Case("lora", "no", "float32"),
    Case("image_proj", "bf16", "float32"),
    Case("temporal", "bf16", "float32"),
    Case("spatial", "bf16", "float32"),
    Case("all", "bf16", "float32"),
    Case("all", "no", "float32"),
)


@dataclass(frozen=True)
class Bytes:
    """What a step takes."""

    weights: int
    optimizer: int
    step: int
    """Peak of activations and gradients."""

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.weights + self.optimizer + self.step


def build(variant: Variant, case: Case) -> DenoisingLoss:
    """Network and resampler, ready to train, on the meta device."""
    with torch.device("meta"):
        unet, resampler = VideoUNet(variant.unet), Resampler(variant.resampler)
    loss = DenoisingLoss(unet, resampler, make_schedule(variant.diffusion))
    choose_trained(loss, case.target, case.config.adapters)
    if case.base == "bf16":
        keep_compact(loss.unet, loss.resampler)
    if case.checkpointing:
        recompute_activations(loss.unet)
    return loss


def place(loss: nn.Module) -> None:
    """Give the weights a device: zeros, or nothing under FakeTensorMode."""
    for layer in loss.modules():
        for name, weight in list(layer.named_parameters(recurse=False)):
            placed = torch.zeros(weight.shape, dtype=weight.dtype)
            layer.register_parameter(name, nn.Parameter(placed, requires_grad=weight.requires_grad))


def batch(variant: Variant, frames: int = FRAMES) -> dict[str, Tensor]:
    """One clip of the variant's size."""
    height, width = variant.preset.height // LATENT_FACTOR, variant.preset.width // LATENT_FACTOR
    latents = torch.zeros(1, 4, frames, height, width)
    return {
        "latents": latents,
        "noise": torch.zeros_like(latents),
        "t": torch.full((1,), 500),
        "concat": torch.zeros_like(latents),
        "text": torch.zeros(1, TEXT_TOKENS, variant.unet.context_dim),
        "vision": torch.zeros(1, VISION_TOKENS, variant.resampler.input_dim),
        "fs": torch.full((1,), 10),
    }


def autocast(case: Case) -> AbstractContextManager[Any]:
    """The precision of the case."""
    return torch.autocast("cpu", torch.bfloat16) if case.precision == "bf16" else nullcontext()


def size(parameters: list[nn.Parameter]) -> int:
    """Bytes of parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def count(variant: Variant, case: Case, fake: bool = True) -> Bytes:
    """What one step takes, counted on tensors without values if ``fake``."""
    loss = build(variant, case)
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext():
        place(loss)
        given = batch(variant)
        with LiveBytes() as live:
            with autocast(case):
                value = loss(**given)
            value.backward()
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    return Bytes(size(list(loss.parameters())), 2 * size(trained), live.peak)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description="Count the memory of a training step.")
    options.add_argument("--check", action="store_true", help="compare with a step that is executed")
    if options.parse_args().check:
        for case in CASES:
            counted, executed = count(SMALL, case), count(SMALL, case, fake=False)
            print(f"{case}: counted {counted.total:,} executed {executed.total:,} bytes")
        return
    table = Table(
        ("target", "precision", "base", "checkpointing", "weights", "optimizer", "step", "total, GB")
    )
    for case in CASES:
        found = count(V512, case)
        parts = (found.weights, found.optimizer, found.step, found.total)
        figures = (f"{part / 1e9:.2f}" for part in parts)
        table.add(case.target, case.precision, case.base, str(case.checkpointing), *figures)
    print(table.markdown())


if __name__ == "__main__":
    main()
