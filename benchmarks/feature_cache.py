"""Do caches of features pay more than fewer steps? With `tiny`.

Run with ``python benchmarks/feature_cache.py``.

*Deep* computes the stages below the highest resolution in every n-th step only and reuses their output in between
(DeepCache, arXiv 2312.00858). *First block* computes the first stage in each step, and reuses what all later ones added
to it while its output has changed by less than a threshold since they were computed. Both are compared with clips of
fewer steps, without fresh noise: PSNR of the frames to those of the same noise in 100 steps, by CPU seconds of the
network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dynamicrafter.api import load
from dynamicrafter.evaluation.figures import psnr
from dynamicrafter.model import unet
from dynamicrafter.model.variants import TINY
from dynamicrafter.settings import make_settings
from dynamicrafter.toy.behaviour import generate_clips
from dynamicrafter.toy.world import DIRECTIONS, captions, join, sample_scenes, with_motion

REFERENCE = 100
"""Steps of the clips that all others are compared with."""
PLAIN = (3, 4, 5, 6, 8, 10, 12, 16, 25, 50)
"""Steps of the clips without a cache."""
CACHED = (6, 12, 25, 50)
"""Steps of the clips with a cache."""


@dataclass
class Cache:
    """What is reused between the evaluations of a network, and what they cost."""

    every: int = 1
    """Stages below the highest resolution are computed in one of so many evaluations."""
    change: float = 0.0
    """Relative change of the first stage's output below which what the later ones added is reused."""
    evaluations: int = 0
    whole: int = 0
    """Evaluations in which everything was computed."""
    seconds: float = 0.0
    """CPU seconds of all evaluations."""

    def __str__(self) -> str:
        if self.every > 1:
            return f"deep, every {self.every}"
        return f"first block, {self.change:g}" if self.change else "none"


@contextmanager
def reusing(network: unet.VideoUNet, cache: Cache) -> Iterator[None]:
    """Evaluate ``network`` with reuse as ``cache`` says, which counts; for one clip or batch and one condition."""
    first, last = network.input_blocks[1], network.output_blocks[-1]
    # As many stages of the highest resolution at the end as at the beginning.
    top = next(index for index, stage in enumerate(network.input_blocks) if len(stage) == 1 and index)
    deep = {*network.input_blocks[top:], network.middle_block, *network.output_blocks[:-top]}
    later = {*network.input_blocks[2:], network.middle_block, *network.output_blocks}
    run = getattr(unet, "_run")  # noqa: B009
    kept: dict[nn.Module, Tensor] = {}
    reused: set[nn.Module] = set()

    def shortened(stage: nn.Module, h: Tensor, *others: Any) -> Tensor:
        nonlocal began
        if stage in reused:
            return began + kept[last] - kept[first] if stage is last and cache.change else kept[stage]
        made = run(stage, h, *others)
        if stage is first:
            began = made
            if cache.change and first in kept:
                before = kept[first]
                if float((made - before).abs().mean() / before.abs().mean()) < cache.change:
                    reused.update(later)
                    return made
        kept[stage] = made
        return made

    def start(*_: Any) -> None:
        nonlocal clock
        reused.clear()
        if cache.evaluations % cache.every:
            reused.update(deep)
        clock = time.process_time()

    def end(*_: Any) -> None:
        cache.seconds += time.process_time() - clock
        cache.evaluations += 1
        cache.whole += not reused

    clock, began = 0.0, torch.empty(0)
    hooks = [network.register_forward_pre_hook(start), network.register_forward_hook(end)]
    try:
        with mock.patch.object(unet, "_run", shortened):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each number of steps and cache."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=4, help="each with four directions (default: 4)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load("tiny", device="cpu")
    pictures = sample_scenes(given.pictures, torch.Generator().manual_seed(15), "held_out")
    scenes = join([with_motion(pictures, direction, 10) for direction in DIRECTIONS])

    def generated(steps: int, cache: Cache) -> Tensor:
        settings = make_settings(TINY, "animate", steps=steps, eta=0.0)
        with reusing(model.unet, cache):
            return generate_clips(model, scenes, captions(scenes), settings, 1)

    ways = [(steps, Cache()) for steps in PLAIN]
    ways += [(steps, Cache(every=every)) for steps in CACHED for every in (2, 3)]
    ways += [(steps, Cache(change=change)) for steps in CACHED for change in (0.1, 0.2, 0.4)]
    wanted = generated(REFERENCE, Cache())
    print("| steps | cache | whole evaluations | s | PSNR, dB |\n|---|---|---|---|---|", flush=True)
    for steps, blank in ways:
        cache = replace(blank)
        clips = generated(steps, cache)
        likeness = torch.stack([psnr(clip, best).mean() for clip, best in zip(clips, wanted, strict=True)])
        whole = round(steps * cache.whole / cache.evaluations, 1)
        seconds = cache.seconds / len(clips)
        print(f"| {steps} | {cache} | {whole:g} | {seconds:.2f} | {likeness.mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
