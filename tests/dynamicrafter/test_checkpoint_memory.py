"""Loading and converting need little more memory than the model itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bounded_runs import run_bounded
from safetensors.torch import load_file

from dynamicrafter.model.variants import SMALL, VARIANTS, Variant
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.formats.files import tensors_sha256
from dynamicrafter.weights.load import load_components
from dynamicrafter.weights.networks import CORE, expected
from dynamicrafter.weights.random_model import write_random_checkpoint

LARGER = replace(SMALL, name="larger", unet=replace(SMALL.unet, model_channels=224, norm_groups=32))


def converted(path: Path) -> None:
    convert(path, path.with_name(path.name + ".new.safetensors"), dtype=torch.bfloat16)


def loaded(path: Path) -> object:
    # Pickles say nothing of their variant, so it has to be a known one.
    VARIANTS[LARGER.name] = LARGER
    return load_components(path, towers=False, dtype=torch.bfloat16)


WORKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "convert": (converted, "safetensors"),
    "load safetensors": (loaded, "safetensors"),
    "load ckpt": (loaded, "ckpt"),
    "hash safetensors": (tensors_sha256, "safetensors"),
    "hash ckpt": (tensors_sha256, "ckpt"),
}


def size(variant: Variant) -> int:
    """Bytes of the three networks in bfloat16."""
    return sum(2 * torch.Size(shape).numel() for name in CORE for shape in expected(variant, name).values())


@pytest.fixture(scope="module")
def grown() -> dict[str, float]:
    """Memory that each work on the larger file adds at its peak, in units of the model's size."""
    with tempfile.TemporaryDirectory() as name:
        for variant in (SMALL, LARGER):
            path = Path(name) / f"{variant.name}.safetensors"
            write_random_checkpoint(path, variant, towers=False)
            torch.save({"state_dict": load_file(path)}, path.with_suffix(".ckpt"))
        grown: dict[str, float] = {}
        for work, (do, suffix) in WORKS.items():
            small, larger = (Path(name) / f"{variant.name}.{suffix}" for variant in (SMALL, LARGER))
            ran = run_bounded(do, larger, first=(small,))
            assert not ran.ended.startswith("foreign"), ran
            grown[work] = ran.grown / size(LARGER)
    return grown


def test_the_larger_file_is_large_enough_to_tell() -> None:
    assert size(LARGER) > 150e6


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_loading_needs_less_than_a_fifth_more_than_the_model(grown: dict[str, float], suffix: str) -> None:
    """The files are float32, so that even one copy of them would be twice the model."""
    assert 1.0 < grown[f"load {suffix}"] < 1.2


def test_converting_needs_a_part_of_the_model(grown: dict[str, float]) -> None:
    assert grown["convert"] < 0.5


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_hashing_needs_a_small_part_of_the_model(grown: dict[str, float], suffix: str) -> None:
    assert grown[f"hash {suffix}"] < 0.5
