"""How long does a checkpoint take to load from a warm cache, and how much memory does loading need?

    python benchmarks/load.py
    python benchmarks/load.py model.ckpt --towers --dtype fp16

Without a path, a random checkpoint of full size is written first and deleted at the end. Every load runs in a separate
process, because peak memory is a property of a process; "peak / model" counts the whole process, including Python and
PyTorch, "grown / model" only what loading added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measure import DTYPES, Table, peak_bytes, processor, versions

from dynamicrafter.model.variants import VARIANTS, Variant
from dynamicrafter.weights.load import load_components
from dynamicrafter.weights.random_model import write_random_checkpoint

CPU = torch.device("cpu")
HEADER = ("file GB", "to", "model GB", "s min", "s median", "peak GB", "peak / model", "grown / model")


@dataclass(frozen=True)
class Run:
    """One load."""

    seconds: float
    model_bytes: int
    peak_bytes: int
    before_bytes: int
    """Memory of the process before loading."""


def load(path: Path, arguments: argparse.Namespace) -> Run:
    """Load once, in this process."""
    before = peak_bytes(CPU)
    start = time.perf_counter()
    loaded = load_components(
        path, variant=arguments.variant, towers=arguments.towers, dtype=DTYPES[arguments.dtype]
    )
    seconds = time.perf_counter() - start
    networks = (loaded.unet, loaded.vae, loaded.resampler, loaded.text, loaded.vision)
    size = sum(p.nbytes for network in networks if network is not None for p in network.parameters())
    return Run(seconds, size, peak_bytes(CPU), before)


def load_elsewhere(path: Path, arguments: argparse.Namespace) -> Run:
    """Load once, in a new process."""
    command = [sys.executable, __file__, str(path), "--once", "--dtype", arguments.dtype]
    if arguments.towers:
        command.append("--towers")
    if arguments.path and arguments.variant:
        command.extend(["--variant", arguments.variant])
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return Run(**json.loads(result.stdout))


def load_rows(variant: Variant, dtype: torch.dtype, repeats: int) -> list[dict[str, object]]:
    """Seconds of loading a random checkpoint of a variant, stored in the dtype it is loaded in."""
    name = next(name for name, known in DTYPES.items() if known == dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        write_random_checkpoint(path, variant, dtype=dtype, towers=False)
        given = argparse.Namespace(dtype=name, towers=False, path=path, variant=variant.name)
        runs = [load_elsewhere(path, given) for _ in range(repeats + 1)][1:]
    seconds = [run.seconds for run in runs]
    return [
        {
            "variant": variant.name,
            "dtype": name,
            "model GB": runs[0].model_bytes / 1e9,
            "s min": min(seconds),
            "s median": statistics.median(seconds),
            "peak GB": max(run.peak_bytes for run in runs) / 1e9,
        }
    ]


def measure(path: Path, arguments: argparse.Namespace) -> None:
    # The first load only warms the cache.
    runs = [load_elsewhere(path, arguments) for _ in range(arguments.repeats + 1)][1:]
    seconds = [run.seconds for run in runs]
    worst = max(runs, key=lambda run: run.peak_bytes)
    table = Table(HEADER)
    table.add(
        f"{path.stat().st_size / 1e9:.2f}",
        arguments.dtype,
        f"{worst.model_bytes / 1e9:.2f}",
        f"{min(seconds):.2f}",
        f"{statistics.median(seconds):.2f}",
        f"{worst.peak_bytes / 1e9:.2f}",
        f"{worst.peak_bytes / worst.model_bytes:.3f}",
        f"{(worst.peak_bytes - worst.before_bytes) / worst.model_bytes:.3f}",
    )
    print(f"{processor()}; {versions()}\n\n{table.markdown()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="?", type=Path, help="checkpoint to load (default: write a random one)")
    parser.add_argument("--variant", help="variant of the random checkpoint (1024_v1), or of PATH if needed")
    parser.add_argument("--stored", choices=DTYPES, default="bf16", help="precision of the random checkpoint")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="precision to load in")
    parser.add_argument("--towers", action="store_true", help="with both CLIP towers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write the random checkpoint")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(asdict(load(arguments.path, arguments))))
    elif arguments.path:
        measure(arguments.path, arguments)
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = Path(folder) / "random.safetensors"
            variant = VARIANTS[arguments.variant or "1024_v1"]
            write_random_checkpoint(path, variant, dtype=DTYPES[arguments.stored], towers=arguments.towers)
            measure(path, arguments)


if __name__ == "__main__":
    main()
