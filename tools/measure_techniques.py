"""Measure on the built-in model what the techniques of docs/techniques do, and the latent statistics of its world.

Usage, in the top folder: ``python -m tools.measure_techniques [NAME ...]``, with the names of rows or ``statistics``.
``NAME=FILE`` is a row of another model of ``tiny``'s variant, and ``NAME=FILE,FILE`` of two that are switched. Each row
is 32 held-out clips, eight images with four directions each, and is printed as a row of a Markdown table.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from dynamicrafter.api import load, switch
from dynamicrafter.evaluation.figures import psnr
from dynamicrafter.evaluation.latents import latent_statistics
from dynamicrafter.model.variants import TINY
from dynamicrafter.pipeline import Model
from dynamicrafter.settings import make_settings
from dynamicrafter.toy.behaviour import generate_clips
from dynamicrafter.toy.gauges import directions, track, travelled
from dynamicrafter.toy.world import DIRECTIONS, captions, join, make_clips, sample_scenes, with_motion

PICTURES = 8
TRAILING = {"spacing": "uniform_trailing"}
GUIDED = {"cfg": 4.0, "guidance_rescale": 0.0}
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "trailing": TRAILING,
    "contrast": {**TRAILING, "contrast": "restored"},
    "denoise": {"denoise": 0.5},
    "start": {**TRAILING, "start_time": 900},
    "analytic": {**TRAILING, "start_time": 900, "analytic_init": "model"},
    "stg": {"stg_scale": 1.0},
    "pag": {"pag_scale": 1.0},
    "alg": {"cfg": 2.0, "alg_ratio": 0.4, "alg_end": 0.2},
    "cfg2": {"cfg": 2.0},
    "noise": {"image_noise": 0.1},
    "guided": GUIDED,
    "steps": {**GUIDED, "cfg_steps": "1,0"},
    "frames": {**GUIDED, "cfg_frames": "0,1"},
    "apg": {**GUIDED, "apg_eta": 0.0},
}
HEAD = "| row | as prompted | distance, px | first frame, dB | all frames, dB | contrast |\n|---|---|---|---|---|---|"


def main() -> None:
    """Print the rows named, or all."""
    torch.set_num_threads(1)
    model = load("tiny", device="cpu")
    names = sys.argv[1:] or ["statistics", *ROWS]
    models: dict[str, Model] = {}
    for name, _, files in (name.partition("=") for name in names if "=" in name):
        each = [load(file, device="cpu") for file in files.split(",")]
        models[name] = each[0] if len(each) == 1 else switch(*each)
    if "statistics" in names:
        scenes = sample_scenes(256, torch.Generator().manual_seed(0))
        clips = ((make_clips(scenes, 16).movedim(2, -1) + 1) * 127.5).round().byte()
        means, variance = latent_statistics(model, clips)
        print(",".join(f"{value:.3g}" for value in (*means, variance)), flush=True)
    first = sample_scenes(PICTURES, torch.Generator().manual_seed(15), "held_out")
    scenes = join([with_motion(first, direction, 10) for direction in DIRECTIONS])
    wanted = [direction for direction in DIRECTIONS for _ in range(PICTURES)]
    truth = make_clips(scenes, 16)
    print(HEAD, flush=True)
    for name in [*filter(ROWS.__contains__, names), *models]:
        began = time.process_time()
        settings = make_settings(TINY, "animate", **ROWS.get(name, {}))
        clips = generate_clips(models.get(name, model), scenes, captions(scenes), settings, 1)
        found = track(clips, scenes)
        right = sum(a == b for a, b in zip(directions(found), wanted, strict=True))
        each = [
            travelled(found),
            psnr(clips[:, 0], truth[:, 0]),
            torch.stack([psnr(clip, true).mean() for clip, true in zip(clips, truth, strict=True)]),
            (clips.flatten(1).std(1) / truth.flatten(1).std(1)),
        ]
        cells = [f"{values.mean():.2f} ± {values.std():.2f}" for values in each]
        seconds = time.process_time() - began
        print(f"| {name} | {right}/{len(wanted)} | {' | '.join(cells)} | {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
