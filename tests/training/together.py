"""Run by several processes at once: trains the model of a config as ``finetune`` does and keeps what each has.

Arguments: ddp or fsdp, then a config and a folder, as often as wanted. The batches of two processes are those that one
process accumulates.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from dynamicrafter.api import load
from dynamicrafter.training import trainer
from dynamicrafter.training.config import FinetuneConfig, load_config
from dynamicrafter.training.finetune import finetune
from dynamicrafter.training.processes import join_processes, process_index


def same_batches(seed: int, step: int, micro: int = 0, process: int = 0) -> int:
    return 2 * step + micro + process


def share_on_the_cpu() -> None:
    """accelerate shares networks out (FSDP2) among GPUs only, though PyTorch does on CPUs too: call them GPUs."""
    from accelerate import DistributedType, PartialState

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def main(how: str, *given: str) -> None:
    trainer.step_seed = same_batches
    join_processes(torch.device("cpu"))
    if how == "fsdp":
        share_on_the_cpu()
    for name, folder in zip(given[::2], given[1::2], strict=True):
        config = load_config(name)
        assert isinstance(config, FinetuneConfig)
        model = load(config.model, device="cpu")
        finetune(model, config, Path(folder))
        if how == "ddp":
            torch.save(model.unet.state_dict(), Path(folder) / f"rank_{process_index()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
