"""A short run of a model for doctor, and its distance from the same run elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor

from ..backends.openvino.manifest import read_manifest
from ..model.variants import Variant
from ..pipeline import KeyPictures, Model, decode, encode, make_generators, sample
from ..process_memory import peak_resident
from ..settings import Settings, make_settings

GOLDEN_STEPS = 4
GOLDEN = Path(__file__).parent.parent / "weights" / "built_in" / "golden.safetensors"
"""Latents of :func:`run_trial` of the built-in model with that many steps, on a CPU in float32."""

MOST_ERROR = 5e-5
"""Largest relative error of the latents against GOLDEN; the tolerance of whole pipelines in tests/parity."""

_LEAST_PSNR, _LEAST_ROUNDED = 40.0, 25.0
"""Least PSNR in dB of the frames of one step, against the CPU in float32; the second if numbers or weights have fewer
bits.

On a CPU, bfloat16 has 62 dB with ``tiny`` and 43 dB with ``random``, float16 20 dB more, and a network with its weights
in a wrong order 9 to 13 dB.
"""

_SIDE = 128
"""Width and height of the frames in pixels, if the model's own are larger."""


@dataclass(frozen=True)
class Trial:
    """The result of a run."""

    latents: Tensor
    """``[1, 4, t, h, w]`` float32 on the CPU."""
    frames: Tensor
    """``[1, 3, t, 8 h, 8 w]`` float32 on the CPU, in [-1, 1]."""
    seconds: float
    peak_bytes: int | None
    """Most memory in use on the device, or by the process on the CPU; None if it is not known."""


def trial_settings(variant: Variant, steps: int) -> Settings:
    """Settings of the first mode that the variant was trained for, without guidance, in a small size."""
    side = (min(variant.preset.width, _SIDE), min(variant.preset.height, _SIDE))
    return make_settings(
        variant, variant.modes[0], prompt="a red circle moves right", size=side, steps=steps, cfg=1.0, eta=0.0
    )


@torch.inference_mode()
def run_trial(model: Model, steps: int) -> Trial:
    """Run all networks of a model on an image of a disc; the steps are few, so the frames may be blurred.

    Raises DynamiCrafterError if the result is not finite.
    """
    settings = trial_settings(model.variant, steps)
    pictures = KeyPictures(
        _disc(settings, 0.3), _disc(settings, 0.7) if settings.mode == "interpolate" else None
    )
    _forget_peak(model.device)
    began = time.perf_counter()
    generators = make_generators(model, [settings])
    conditioning = encode(model, pictures, [settings], generators)
    latents = sample(model, conditioning, settings, generators).cpu()
    frames = decode(model, latents, pictures).clamp(-1, 1)
    return Trial(latents.float(), frames, time.perf_counter() - began, _peak(model.device))


def least_psnr(model: Model, export: Path | None) -> float:
    """What the PSNR of a trial must reach; ``export`` is what the model is run from, if PyTorch does not run it."""
    coarse = model.quantised is not None or (export is not None and read_manifest(export).stored != "fp16")
    return _LEAST_PSNR if model.dtype == torch.float32 and not coarse else _LEAST_ROUNDED


def golden_error(trial: Trial) -> float:
    """Largest error of the latents against GOLDEN, relative to its largest magnitude."""
    with cast(Any, safe_open)(str(GOLDEN), framework="pt") as file:
        golden: Tensor = file.get_tensor("latents")
    return float((trial.latents - golden).abs().max() / golden.abs().max())


def _disc(settings: Settings, across: float) -> Tensor:
    """An image ``[1, 3, H, W]`` in [-1, 1]: a red disc on a slope from dark to bright."""
    height, width = settings.height, settings.width
    y = torch.arange(height)[:, None] / height
    x = torch.arange(width)[None, :] / width
    inside = (x - across).square() + (y - 0.5).square() < 0.02
    background = ((x + y) / 2 - 0.5).expand(height, width)
    disc = torch.tensor([0.8, -0.7, -0.7])[:, None, None]
    return torch.where(inside, disc, background[None])[None].float()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return peak_resident() if device.type == "cpu" else None
