"""Loading and converting need little more memory than the model itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynamicrafter.forms import to_json
from dynamicrafter.model.variants import SMALL, Variant
from dynamicrafter.weights.networks import CORE, expected
from dynamicrafter.weights.random_model import write_random_checkpoint

ROOT = Path(__file__).parents[2]
LARGER = replace(SMALL, name="larger", unet=replace(SMALL.unet, model_channels=224, norm_groups=32))

# Does each work on a small file first, so that everything is imported, then reports how much the large one adds. The
# peak that the system tells never falls again, so that only the first work is measured exactly: a later one takes as
# much as is told or less.
PROGRAM = """
import json, sys
from pathlib import Path
import psutil, torch
from dynamicrafter.forms import Form
from dynamicrafter.model.variants import VARIANTS, Variant
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.formats.files import tensors_sha256
from dynamicrafter.weights.load import load_components

folder, names = Path(sys.argv[1]), sys.argv[3:]
variant = Form("it", ValueError).read(Variant, json.loads(sys.argv[2]))
# Pickles say nothing of their variant, so it has to be a known one.
VARIANTS[variant.name] = variant

def converted(path):
    return convert(path, path.with_name(path.name + ".new.safetensors"), dtype=torch.bfloat16)

def loaded(path):
    return load_components(path, towers=False, dtype=torch.bfloat16)

def peak():
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what this process inherited from the one that started it.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

WORKS = {
    "convert": (converted, "safetensors"),
    "load safetensors": (loaded, "safetensors"),
    "load ckpt": (loaded, "ckpt"),
    "hash safetensors": (tensors_sha256, "safetensors"),
    "hash ckpt": (tensors_sha256, "ckpt"),
}
kept, grown = [], {}
for name in names:
    work, suffix = WORKS[name]
    kept.append(work(folder / f"small.{suffix}"))
    before = psutil.Process().memory_info().rss
    kept.append(work(folder / f"larger.{suffix}"))
    grown[name] = peak() - before
print(json.dumps(grown))
"""


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
        bytes_grown: dict[str, int] = {}
        for works in (("load safetensors", "convert"), ("load ckpt",), ("hash safetensors", "hash ckpt")):
            result = subprocess.run(
                [sys.executable, "-c", PROGRAM, name, json.dumps(to_json(LARGER)), *works],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert result.returncode == 0, result.stderr
            bytes_grown |= json.loads(result.stdout)
    return {work: more / size(LARGER) for work, more in bytes_grown.items()}


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
