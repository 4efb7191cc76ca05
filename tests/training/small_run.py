"""A run of a few numbers; as a program, one that stops halfway through the writing of its second state.

Arguments: the folder and the number of steps.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynamicrafter.training.trainer import Batch, Trainer, TrainerConfig


class Layer(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square().mean()


def draw(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(2, 4, generator=generator)}


def run(folder: Path, steps: int) -> Layer:
    torch.manual_seed(0)
    layer = Layer(4, 4)
    Trainer(layer, draw, TrainerConfig(steps=steps, save_every=2, log_every=1, ema=0.9), folder).run()
    return layer


def write_half(state: dict[str, Any], path: Path) -> None:
    """What ``torch.save`` has done to the second state when the process is killed."""
    whole = io.BytesIO()
    SAVE(state, whole)
    if state["step"] == 2:
        path.write_bytes(whole.getvalue())
        return
    with path.open("wb") as file:
        file.write(whole.getvalue()[: whole.tell() // 2])
    sys.stdout.write("halfway\n")
    sys.stdout.flush()
    time.sleep(600)


SAVE = torch.save

if __name__ == "__main__":
    torch.save = write_half
    run(Path(sys.argv[1]), int(sys.argv[2]))
