"""Writes checkpoints with random weights: they generate noise, but are otherwise complete."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ..model.variants import SMALL, Variant
from .detect import variant_metadata
from .fill import single_thread
from .formats.entries import PIECE_BYTES, Entry, Piece
from .formats.safetensors_file import write_safetensors
from .layout import PREFIXES
from .networks import COMPONENTS, CORE, expected

_GAIN_SPREAD = 0.05
"""Standard deviation of norm gains around 1."""
_OFFSET = 0.02
"""Standard deviation of biases, embeddings and single scalars."""


def write_random_checkpoint(
    path: Path | str,
    variant: Variant = SMALL,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    towers: bool = True,
) -> None:
    """Write a safetensors checkpoint of ``variant`` with random weights from ``seed``.

    Equal seeds give equal files. Every layer roughly preserves variance and none is zero, not even those that are
    initialised to zero for training, so that outputs are finite noise that depends on every weight. ``towers`` includes
    the CLIP encoders. Raises CheckpointError if the file cannot be written.
    """
    shapes = {
        PREFIXES[component] + name: shape
        for component in (COMPONENTS if towers else CORE)
        for name, shape in expected(variant, component).items()
    }
    entries = {name: Entry(shape, dtype) for name, shape in shapes.items()}
    with single_thread():
        write_safetensors(Path(path), entries, _draw(entries, seed), variant_metadata(variant))


def _draw(entries: Mapping[str, Entry], seed: int) -> Iterator[Piece]:
    generator = torch.Generator().manual_seed(seed)
    step = PIECE_BYTES // torch.float32.itemsize
    for name, entry in entries.items():
        mean, deviation = _distribution(name, entry.shape)
        for start in range(0, entry.numel, step):
            values = torch.randn(min(step, entry.numel - start), generator=generator)
            yield Piece(name, start, values.mul_(deviation).add_(mean).to(entry.dtype))


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of the values of a tensor."""
    if name.endswith((".token_embedding.weight", ".positional_embedding")):
        return 0.0, _OFFSET
    if name.endswith(".latents"):
        return 0.0, 1.0
    if len(shape) > 1:
        return 0.0, math.prod(shape[1:]) ** -0.5
    return (1.0, _GAIN_SPREAD) if name.endswith(".weight") else (0.0, _OFFSET)
