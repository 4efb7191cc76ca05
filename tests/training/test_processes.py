"""Several processes: they end with the same weights, which are those of one process that does the work of all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import together
import torch
from safetensors.torch import load_file

from dynamicrafter.api import load
from dynamicrafter.errors import UsageError
from dynamicrafter.model.variants import SMALL, Variant
from dynamicrafter.training import processes, trainer
from dynamicrafter.training.config import FinetuneConfig, load_config
from dynamicrafter.training.finetune import finetune
from dynamicrafter.training.state import load_state
from dynamicrafter.training.trainer import STATE, Trainer, TrainerConfig
from dynamicrafter.weights.random_model import write_random_checkpoint

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

ROOT = Path(__file__).resolve().parents[2]
CLOSE = 1e-4
"""Sums in another order differ by rounding; a step of Adam changes a weight by about 1e-3 here."""


def scaled() -> Variant:
    """The small variant with the learned scales of 256, single numbers that FSDP2 cannot share out."""
    return replace(SMALL, unet=replace(SMALL.unet, learned_image_scale=True))


@pytest.fixture
def config_file(clip_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a config for a few steps on two clips."""
    weights = tmp_path / "small.safetensors"
    write_random_checkpoint(weights, scaled())
    data = clip_folder(count=2, frames=4)

    def write(name: str, steps: int, accumulate: int, **choices: object) -> Path:
        values = {
            "recipe": "finetune",
            "model": str(weights),
            "data": str(data),
            "frames": 4,
            "strides": [1, 1],
            "target": "all",
            "rank": 2,
            "checkpointing": False,
            **choices,
            "trainer": {"steps": steps, "accumulate": accumulate, "learning_rate": 1e-3, "ema": 0.5},
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


def two(*words: str) -> list[tuple[int, str, str]]:
    """Run a program in two processes that know of each other; the code, output and errors of each.

    What ``accelerate launch`` does on GPUs; on CPUs it starts only one, unless MPI is there.
    """
    for _ in range(3):
        ended = two_once(*words)
        # Between the choice of a port and its use another program can take it.
        if not any("address already in use" in errors.lower() for _, _, errors in ended):
            break
    return ended


def two_once(*words: str) -> list[tuple[int, str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "USE_LIBUV": "0", "OMP_NUM_THREADS": "1"}
    known |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **known, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=900) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *words) for process, words in zip(started, said, strict=True)]


def succeed(*words: str) -> None:
    for code, _, errors in two(*words):
        assert code == 0, errors


def alone(path: Path, folder: Path) -> Path:
    config = load_config(str(path))
    assert isinstance(config, FinetuneConfig)
    return finetune(load(config.model, device="cpu"), config, folder)


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert {name: value.shape for name, value in one.items()} == {
        name: value.shape for name, value in other.items()
    }
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "step_seed", together.same_batches)
    script = Path(together.__file__)
    succeed(str(script), "ddp", str(config_file("both", 3, 1)), str(tmp_path / "both"))
    ranks = [torch.load(tmp_path / "both" / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    one = load_file(alone(config_file("one", 3, 2), tmp_path / "one"))
    assert farthest(one, load_file(tmp_path / "both" / "model.safetensors")) < CLOSE
    assert farthest(one, load_file(tmp_path / "small.safetensors")) > 1e-3


@pytest.mark.slow
def test_shared_networks_go_on_from_whole_ones_and_back(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2: weights, moments and running means are stored whole, so any number of processes goes on from them."""
    monkeypatch.setattr(trainer, "step_seed", together.same_batches)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    alone(config_file("begin", 1, 2), whole)
    shutil.copytree(whole, parts)
    samples = {"every": 2, "steps": 1, "cfg": 1.0}
    words = [str(config_file("shared", 3, 1, samples=samples)), str(parts)]
    words += [str(config_file("adapters", 2, 1, target="lora")), str(tmp_path / "adapters")]
    succeed(str(Path(together.__file__)), "fsdp", *words)
    assert [path.name for path in (parts / "samples").iterdir()] == ["step_000002_1.mp4"]

    one = load_file(alone(config_file("middle", 3, 2), whole))
    assert farthest(one, load_file(parts / "model.safetensors")) < CLOSE
    states = [load_state(folder / STATE) for folder in (whole, parts)]
    for name in ("module", "mean"):
        kept = [state[name] for state in states]
        assert farthest(kept[0], {key: v.view_as(kept[0][key]) for key, v in kept[1].items()}) < CLOSE
    for moment in ("exp_avg", "exp_avg_sq"):
        ours, theirs = (
            torch.cat([row[moment].flatten() for row in state["optimizer"]["state"].values()])
            for state in states
        )
        assert (ours - theirs).norm() < 0.01 * ours.norm()
    assert farthest(one, load_file(alone(config_file("middle", 3, 2), parts))) < CLOSE

    pytest.importorskip("peft", reason="adapters are made by peft")
    adapters = load_file(alone(config_file("one_adapter", 2, 2, target="lora"), tmp_path / "one_adapter"))
    assert farthest(adapters, load_file(tmp_path / "adapters" / "lora.safetensors")) < CLOSE


def test_more_processes_than_clips_are_told(config_file: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "clips" / "1.mp4").write_bytes(b"broken")
    words = ["-m", "dynamicrafter", "train", str(config_file("both", 1, 1))]
    main, other = two(*words, "--folder", str(tmp_path / "run"), "--device", "cpu")
    for code, _, errors in (main, other):
        assert code == 2
        assert "2 processes cannot share 1 usable clip(s); start at most as many as there are clips" in errors
    assert main[1].count("skipped: ") == 1
    assert other[1] == ""


def test_muon_is_not_for_shared_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_sharded", True)
    module = torch.nn.Linear(2, 2)
    with pytest.raises(
        UsageError, match="muon needs unsharded weight matrices; with FSDP, set method to adamw"
    ):
        Trainer(module, lambda _: {}, TrainerConfig(method="muon"), tmp_path)


def test_ways_that_are_not_known_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    class Deep(accelerate.Accelerator):
        distributed_type = accelerate.DistributedType.DEEPSPEED

    monkeypatch.setattr(accelerate, "Accelerator", Deep)
    with pytest.raises(UsageError, match="must use DDP or FSDP version 2; start them with accelerate launch"):
        processes.make_accelerator("no")


def test_one_precision_after_the_other() -> None:
    """The stages of the built-in model differ in it."""
    assert [processes.make_accelerator(kind).mixed_precision for kind in ("bf16", "no")] == ["bf16", "no"]


def test_several_processes_choose_their_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    monkeypatch.setattr(accelerate.PartialState(cpu=True), "num_processes", 2)
    with pytest.raises(UsageError, match="2 processes cannot all train on cuda:1; omit the device"):
        processes.join_processes(torch.device("cuda:1"))


def test_single_numbers_become_vectors() -> None:
    module = torch.nn.Module()
    module.alpha = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
    module.other = torch.nn.Linear(2, 2)
    processes.widen_scalars(module)
    assert module.alpha.tolist() == [0.5]
    assert not module.alpha.requires_grad
    assert module.other.weight.shape == (2, 2)
