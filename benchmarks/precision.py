"""Which layers would gain from float32 in a network of 16 bits? Errors of `tiny`, one kind of layer at a time.

    python benchmarks/precision.py

Each row is the network in bf16 or fp16 with one kind of layer in float32: its weights as trained, its input and output
rounded to 16 bits as those of its neighbours are. The error is the signal-to-noise ratio of one evaluation against
float32, the mean over four timesteps, on normal random inputs.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from figures import signal_to_noise
from measure import Table, machine, versions
from torch import Tensor, nn
from unet import inputs

from dynamicrafter.api import load
from dynamicrafter.model.operations import fused_attention
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "none": (),
    "GroupNorm": (nn.GroupNorm,),
    "LayerNorm": (nn.LayerNorm,),
    "convolutions in space": (nn.Conv1d, nn.Conv2d),
    "convolutions over time": (nn.Conv3d,),
    "Linear": (nn.Linear,),
}
TIMESTEPS = (50, 350, 650, 950)


def attention_in_float32(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return fused_attention(q.float(), k.float(), v.float(), heads).to(q.dtype)


def widened(network: VideoUNet, dtype: torch.dtype, kinds: tuple[type[nn.Module], ...]) -> VideoUNet:
    """A copy in ``dtype`` with layers of ``kinds`` in float32."""
    made = copy.deepcopy(network).to(dtype)
    for layer, trained in zip(made.modules(), network.modules(), strict=True):
        if kinds and isinstance(layer, kinds):
            layer.float().load_state_dict(trained.state_dict())
            layer.register_forward_pre_hook(lambda _, given: tuple(x.float() for x in given))
            layer.register_forward_hook(lambda _, __, out: out.to(dtype))
    return made


@torch.inference_mode()
def decibels(network: VideoUNet, other: VideoUNet, dtype: torch.dtype, given: Any) -> float:
    """Mean signal-to-noise ratio of ``other``, computing in ``dtype``."""
    found: list[float] = []
    for step in TIMESTEPS:
        x, t, context, fs = given
        t = torch.full_like(t, step)
        true = network(x, t, context, fs)
        low = other(x.to(dtype), t, Context(context.text.to(dtype), context.image.to(dtype)), fs).float()
        found.append(float(signal_to_noise(true.double(), (low - true).double())))
    return math.fsum(found) / len(found)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = load("tiny", device="cpu")
    size = model.variant.preset.height // 8, model.variant.preset.width // 8
    given = inputs(model.variant, (1, 16, *size), torch.float32, torch.device("cpu"))
    table = Table(("in float32", "bf16, dB", "fp16, dB"))
    kinds: dict[str, Any] = {**KINDS, "attention": None}
    for name, chosen in kinds.items():
        cells: list[str] = []
        for dtype in (torch.bfloat16, torch.float16):
            if chosen is None:
                other = widened(model.unet, dtype, ())
                for layer in other.modules():
                    if hasattr(layer, "attention"):
                        layer.attention = attention_in_float32
            else:
                other = widened(model.unet, dtype, chosen)
            cells.append(f"{decibels(model.unet, other, dtype, given):.1f}")
        table.add(name, *cells)
    print(f"{machine(torch.device('cpu'))}; {versions()}\n\n{table.markdown()}")


if __name__ == "__main__":
    main()
