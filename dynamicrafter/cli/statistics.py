"""The command that measures the latents of clips for Analytic-Init: statistics."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..api import load
from ..evaluation.folder import find_clips
from ..evaluation.latents import latent_statistics
from ..media.video import read_frames
from .clips import model_files


def run(given: Namespace) -> dict[str, Any]:
    """Run ``statistics`` and return what ``--json`` prints."""
    clips = find_clips(given.folder)
    model = load(model_files(given), device=given.device)
    means, variance = latent_statistics(model, map(read_frames, clips))
    numbers = ",".join(f"{value:.4g}" for value in (*means, variance))
    if not given.json:
        print(f"{len(clips)} clip(s) in the latents of {model.variant.name}:")
        print(f"--analytic-init={numbers}")
    return {"clips": len(clips), "means": means, "variance": variance, "analytic_init": numbers}
