"""Random checkpoints are the same for the same seed, and make finite noise that every weight has a part in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_checkpoints import outputs

from dynamicrafter.errors import CheckpointError
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights.formats.files import open_weights
from dynamicrafter.weights.load import load_components
from dynamicrafter.weights.random_model import write_random_checkpoint


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_checkpoint(tmp_path / f"{name}.safetensors", seed=seed, towers=False)
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_no_weight_is_zero(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "a.safetensors")
    for name, tensor in load_file(tmp_path / "a.safetensors").items():
        assert torch.isfinite(tensor).all(), name
        assert tensor.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_noise_of_ordinary_size(tmp_path: Path, dtype: torch.dtype) -> None:
    write_random_checkpoint(tmp_path / "a.safetensors", SMALL, 3, dtype=dtype)
    assert {entry.dtype for entry in open_weights(tmp_path / "a.safetensors").entries.values()} == {dtype}
    for output in outputs(load_components(tmp_path / "a.safetensors", dtype=dtype)):
        assert torch.isfinite(output).all()
        assert 0.01 < output.float().std() < 100


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_random_checkpoint(tmp_path / "missing" / "a.safetensors", towers=False)
