"""Remembered hashes of weights files, by which a model is known wherever its files lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..hashing import remembered_sha256
from .download import weights_folder
from .formats.entries import ByteProgress
from .formats.files import open_weights, tensors_sha256


def remembered_hash(
    path: Path,
    compute: Callable[[Path, ByteProgress | None], str] = tensors_sha256,
    progress: ByteProgress | None = None,
) -> str:
    """A hash of a weights file or of all its shards; each kind is cached in a separate file."""
    name = "tensor_hashes.json" if compute is tensors_sha256 else "hashes.json"
    parts = open_weights(path).files
    return remembered_sha256(path, weights_folder() / name, lambda file: compute(file, progress), parts)
