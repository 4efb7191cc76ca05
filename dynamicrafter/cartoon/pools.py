"""Caches encoded characters and builds the batches that the networks of ``tiny_person`` are trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..model.autoencoder import Autoencoder
from ..toy.world import Split
from ..training.person import high_timesteps
from ..training.processes import one_process_first
from ..training.state import load_state, save_state
from ..training.trainer import Batch, Draw
from .autoencoder import generator_of
from .characters import character_keypoints, picture_of, pose_picture, sample_character
from .motions import HELD_OUT_MOTIONS, PERFORMED, sample_performance

VIEWS = 4
"""Images of each character in a pool of single images."""
CLIP_FRAMES = 8
"""Frames of each clip in a pool of clips; the one before them is the reference."""
_STILLS = (*PERFORMED, *("free",) * 4)
"""What the characters of single images perform in training: half of their poses are arbitrary ones."""
_DROP = 0.1
"""Share of the references that are withheld."""
_FAR = 40


@dataclass(frozen=True)
class CharacterPool:
    """Images of characters, encoded once: views in any order, or a reference followed by the frames of a clip."""

    latents: Tensor
    """Scaled, ``[n, v, 4, h, w]``."""
    poses: Tensor
    """Drawn, uint8 ``[n, v, 3, H, W]``."""


@torch.no_grad()
def encoded(vae: Autoencoder, pictures: Tensor) -> Tensor:
    """Scaled latents of images, the mean of the posterior, as the pipeline encodes references."""
    with torch.autocast("cpu", torch.bfloat16):
        return vae.encode(pictures).mean.float() * vae.config.scale_factor


def make_pool(
    vae: Autoencoder, count: int, seed: int, split: Split = "train", *, clips: bool = False
) -> CharacterPool:
    """A pool of ``count`` characters, each in :data:`VIEWS` images or in a reference and a clip."""
    latents: list[Tensor] = []
    poses: list[Tensor] = []
    performed = tuple(PERFORMED) if clips else _STILLS
    motions = performed if split == "train" else tuple(HELD_OUT_MOTIONS)
    for number in range(count):
        # A seed for each, so that a longer pool begins like a shorter one
        random = np.random.default_rng((seed, number))
        character = sample_character(random, split)
        shown = [
            sample_performance(random, motions).pose(random.uniform(0, _FAR))
            for _ in range(1 if clips else VIEWS)
        ]
        if clips:
            moving = sample_performance(random, motions)
            shown += [moving.pose(frame) for frame in range(CLIP_FRAMES)]
        latents.append(encoded(vae, torch.stack([picture_of(character, pose)[0] for pose in shown])))
        poses.append(torch.stack([pose_picture(character_keypoints(character, pose)) for pose in shown]))
    return CharacterPool(torch.stack(latents), torch.stack(poses))


def kept_characters(folder: Path, name: str, make: Callable[[], CharacterPool]) -> CharacterPool:
    """The pool called ``name``, made unless it is in ``folder``."""
    path = folder / f"pool_{name}.pt"
    with one_process_first():
        if not path.exists():
            save_state(vars(make()), path)
    return CharacterPool(**load_state(path))


def batch_of(
    pool: CharacterPool,
    characters: Tensor,
    targets: Tensor,
    t: Tensor,
    noise: Tensor,
    kept: Tensor,
    context_dim: int,
) -> Batch:
    """A batch of ``characters`` ``[b]`` with their views ``targets`` ``[b, k]``, whose first one is the reference.

    Views of a clip are one row, those of a pool of images a row each.
    """
    reference, rest = targets[:, 0], targets[:, 1:]
    latents, poses = (values[characters[:, None], rest] for values in (pool.latents, pool.poses))
    if len(t) == len(characters):
        latents, poses = latents.movedim(1, 2), poses.movedim(1, 2)
    else:
        latents, poses = (values.flatten(0, 1)[:, :, None] for values in (latents, poses))
    return {
        "latents": latents,
        "noise": noise.view_as(latents),
        "t": t,
        "poses": poses,
        "seen": pool.latents[characters, reference],
        "context": torch.zeros(len(characters), 1, context_dim),
        "kept": kept,
    }


def pool_draw(pool: CharacterPool, batch: int, context_dim: int, *, clips: bool = False) -> Draw:
    """Batches of ``batch`` characters, each with one of its images as the reference of the others, or of its clip."""
    count, views = pool.latents.shape[:2]

    def draw(generator: torch.Generator) -> Batch:
        random = generator_of(generator)
        characters = torch.as_tensor(random.choice(count, batch, replace=count < batch))
        if clips:
            targets = torch.arange(views).expand(batch, -1)
        else:
            targets = torch.stack([torch.as_tensor(random.permutation(views)) for _ in range(batch)])
        return batch_of(
            pool,
            characters,
            targets,
            high_timesteps(batch if clips else batch * (views - 1), generator),
            torch.randn(batch * (views - 1), *pool.latents.shape[2:], generator=generator),
            torch.rand(batch, generator=generator) >= _DROP,
            context_dim,
        )

    return draw
