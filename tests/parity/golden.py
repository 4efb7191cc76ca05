"""Golden cases: tensors of the original implementation with a sidecar that says what they are."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

OWN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One case: its name, its description and its tensors (weights as float32, without their ``w.``)."""

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]
    folder: Path

    @property
    def weights(self) -> dict[str, Tensor]:
        return {key[2:]: value.float() for key, value in self.tensors.items() if key.startswith("w.")}

    def neighbour(self, name: str) -> Golden:
        return read_golden(self.folder / f"{name}.json")


def read_golden(sidecar: Path) -> Golden:
    info = json.loads(sidecar.read_text(encoding="utf-8"))
    plain = sidecar.with_suffix(".safetensors")
    packed = sidecar.with_suffix(".safetensors.xz")
    tensors: dict[str, Tensor] = {}
    if plain.exists():
        tensors = load(plain.read_bytes())
    elif packed.exists():
        tensors = load(lzma.decompress(packed.read_bytes()))
    return Golden(sidecar.stem, info, tensors, sidecar.parent)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest magnitude of the golden."""
    assert ours.shape == theirs.shape, f"shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    difference = (ours.double() - theirs.double()).abs().max().item()
    largest = theirs.double().abs().max().item()
    return difference / largest if largest > 0 else difference
