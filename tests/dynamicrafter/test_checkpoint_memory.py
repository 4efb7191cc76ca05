"""Loading, converting and hashing need little more memory than the model itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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

# Loads, converts or hashes a first, small file, so that everything is imported, then reports how much the second adds.
PROGRAM = """
import json, sys
from pathlib import Path
import psutil, torch
from dynamicrafter.forms import Form
from dynamicrafter.model.variants import VARIANTS, Variant
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.formats.files import tensors_sha256
from dynamicrafter.weights.load import load_components

work, small, large, variant = sys.argv[1:]
# Pickles say nothing of their variant, so it has to be a known one.
VARIANTS["larger"] = Form("it", ValueError).read(Variant, json.loads(variant))

def run(path):
    if work == "load":
        return load_components(path, towers=False, dtype=torch.bfloat16)
    if work == "hash":
        return tensors_sha256(path)
    return convert(path, path + ".new.safetensors", dtype=torch.bfloat16)

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

kept = run(small)
before = psutil.Process().memory_info().rss
also_kept = run(large)
print(json.dumps(peak() - before))
"""


def size(variant: Variant) -> int:
    """Bytes of the three networks in bfloat16."""
    return sum(2 * torch.Size(shape).numel() for name in CORE for shape in expected(variant, name).values())


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Files of 350 MB, gone as soon as they have been read."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        for variant in (SMALL, LARGER):
            write_random_checkpoint(path / f"{variant.name}.safetensors", variant, towers=False)
            tensors = load_file(path / f"{variant.name}.safetensors")
            torch.save({"state_dict": tensors}, path / f"{variant.name}.ckpt")
        yield path


def grown(folder: Path, work: str, suffix: str) -> float:
    """Memory that the work on the larger file adds at its peak, in units of the model's size."""
    files = [str(folder / f"{variant.name}.{suffix}") for variant in (SMALL, LARGER)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, work, *files, json.dumps(to_json(LARGER))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) / size(LARGER)


def test_the_larger_file_is_large_enough_to_tell() -> None:
    assert size(LARGER) > 150e6


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_loading_needs_less_than_a_fifth_more_than_the_model(folder: Path, suffix: str) -> None:
    """The files are float32, so that even one copy of them would be twice the model."""
    assert 1.0 < grown(folder, "load", suffix) < 1.2


def test_converting_needs_a_part_of_the_model(folder: Path) -> None:
    assert grown(folder, "convert", "safetensors") < 0.5


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_hashing_needs_a_small_part_of_the_model(folder: Path, suffix: str) -> None:
    assert grown(folder, "hash", suffix) < 0.5
