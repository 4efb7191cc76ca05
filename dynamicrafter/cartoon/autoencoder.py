"""Adapts the autoencoder of ``tiny`` to characters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..toy.world import Split
from ..training.trainer import Batch, Draw
from .characters import HEIGHT, WIDTH, picture_of, sample_character
from .motions import HELD_OUT_MOTIONS, PERFORMED, sample_performance

_CROP_WIDTH, _CROP_HEIGHT = 96, 128
_WHOLE = 1 / 3
"""Share of the batches that are whole images, which have more background; the others show more of the characters."""
_FAR = 40
"""Frames of a performance that images are taken from."""


def still_pictures(count: int, seed: int, split: Split = "held_out") -> Tensor:
    """Images ``[count, 3, HEIGHT, WIDTH]`` in [-1, 1] of one character each."""
    random = np.random.default_rng(seed)
    return torch.stack([_any_picture(random, split) for _ in range(count)])


def _any_picture(random: np.random.Generator, split: Split) -> Tensor:
    motions = tuple(PERFORMED if split == "train" else HELD_OUT_MOTIONS)
    performance = sample_performance(random, motions)
    return picture_of(sample_character(random, split), performance.pose(random.uniform(0, _FAR)))[0]


def generator_of(generator: torch.Generator) -> np.random.Generator:
    """A generator of NumPy that depends only on PyTorch's."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def character_draw(batch: int, channels: int = 4) -> Draw:
    """Batches of ``batch`` crops, or of half as many whole images, which have as many pixels."""

    def draw(generator: torch.Generator) -> Batch:
        random = generator_of(generator)
        if random.uniform() < _WHOLE:
            pictures = [_any_picture(random, "train") for _ in range(batch // 2)]
        else:
            pictures = [_cropped(_any_picture(random, "train"), random) for _ in range(batch)]
        height, width = pictures[0].shape[-2:]
        noise = torch.randn(len(pictures), channels, height // 8, width // 8, generator=generator)
        return {"pictures": torch.stack(pictures), "noise": noise}

    return draw


def _cropped(picture: Tensor, random: np.random.Generator) -> Tensor:
    left = int(random.integers(WIDTH - _CROP_WIDTH + 1))
    top = int(random.integers(HEIGHT - _CROP_HEIGHT + 1))
    return picture[:, top : top + _CROP_HEIGHT, left : left + _CROP_WIDTH]
