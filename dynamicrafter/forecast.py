"""What clips will take before they are generated: memory by calculation, time from the last run on this machine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from .atomic import replacing
from .backends.choice import TORCH, parse_backend
from .bounded_json import parse_json
from .diffusion.config import SECOND_EVALUATION
from .model.configs import LATENT_FACTOR, Quantised, Residence
from .model.variants import Variant
from .motion.extent import frames_at_once, frames_evaluated
from .sampling import calls_of
from .settings import Settings
from .weights.download import weights_folder
from .weights.footprint import ClipSize, Footprint, footprint

_FILE = "speeds.json"
"""Remembered speeds, in the weights folder."""


def work_of(batch: Sequence[Settings]) -> ClipSize:
    """A batch of clips as far as its memory depends on it."""
    one = batch[0]
    return ClipSize(len(batch), frames_at_once(one), one.width, one.height, _branches(one))


def memory_of(
    variant: Variant,
    batch: Sequence[Settings],
    dtype: torch.dtype,
    kind: Quantised | None = None,
    residence: Residence = "high",
) -> Footprint:
    """Bytes on the device for a batch of clips, with fused attention."""
    return footprint(variant, work_of(batch), dtype, kind, residence)


@dataclass(frozen=True)
class Amount:
    """How much work a clip is."""

    evaluations: int
    """Evaluations of the network times frames times the pixels of a latent."""
    cells: int
    """Frames times the pixels of a latent."""


@dataclass(frozen=True)
class Speed:
    """Seconds that a model took on a device."""

    load: float
    """For loading and hashing the weights."""
    evaluation: float
    """For sampling, by :attr:`Amount.evaluations`."""
    frame: float
    """For everything else, by :attr:`Amount.cells`."""

    def seconds(self, clips: Sequence[Settings | Amount]) -> float:
        """For loading the model and generating ``clips``, assuming that both parts grow in proportion."""
        work = (one.evaluations * self.evaluation + one.cells * self.frame for one in map(amount_of, clips))
        return self.load + sum(work)


def amount_of(clip: Settings | Amount) -> Amount:
    """The work of a clip of DynamiCrafter; another model's is given as such."""
    return clip if isinstance(clip, Amount) else Amount(evaluations(clip), _cells(clip))


def speed_of(
    model: Variant | str,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = TORCH,
    stored: str = "full",
    memory: str = "high",
    compile: str = "off",
) -> Speed | None:
    """The speed of the last run with weights ``stored``, ``memory`` used and blocks compiled like this.

    None if there was none on this machine. A model without variants goes by its name."""
    values = _read(weights_folder() / _FILE).get(_key(model, device, dtype, backend, stored, memory, compile))
    names = Speed.__dataclass_fields__
    if not isinstance(values, dict) or cast(dict[str, Any], values).keys() != names.keys():
        return None
    numbers = cast(dict[str, Any], values)
    if not all(isinstance(value, float) and 0 <= value < math.inf for value in numbers.values()):
        return None
    return Speed(**numbers)


class Stopwatch:
    """Measures the speed of a run by its reports of progress."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._spent = {"load": 0.0, "sample": 0.0, "other": 0.0}
        self._clips: list[Amount] = []

    def report(self, work: str) -> None:
        """Count the time since the last report as spent on ``work``, a stage of :class:`dynamicrafter.shots.Work`."""
        kind = {"load": "load", "hash": "load", "sample": "sample"}.get(work, "other")
        now = time.monotonic()
        self._spent[kind] += now - self._last
        self._last = now

    def remember(
        self,
        finished: Sequence[Settings | Amount],
        model: Variant | str,
        device: torch.device,
        dtype: torch.dtype,
        backend: str = TORCH,
        stored: str = "full",
        memory: str = "high",
        compile: str = "off",
    ) -> None:
        """Store the speed of the run so far, of which the clips ``finished`` are the last; failures are ignored."""
        self._clips += map(amount_of, finished)
        speed = Speed(
            self._spent["load"],
            self._spent["sample"] / sum(one.evaluations for one in self._clips),
            self._spent["other"] / sum(one.cells for one in self._clips),
        )
        place = weights_folder() / _FILE
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            # Read again, because another process may have added entries in the meantime.
            key = _key(model, device, dtype, backend, stored, memory, compile)
            known = {**_read(place), key: asdict(speed)}
            with replacing(place) as part:
                part.write_text(json.dumps(known, indent=1), encoding="utf-8")


def _cells(one: Settings) -> int:
    """Frames times the pixels of a latent."""
    return frames_evaluated(one) * (one.width // LATENT_FACTOR) * (one.height // LATENT_FACTOR)


def evaluations(one: Settings) -> int:
    """Evaluations of the network times :func:`_cells`."""
    # The second evaluation of a step is at the timestep of the next one, with the guidance of that.
    return _cells(one) * sum(
        (2 if index and one.sampler in SECOND_EVALUATION else 1) * calls
        for index, calls in enumerate(calls_of(one))
    )


def _branches(one: Settings) -> int:
    return max(calls_of(one))


def _key(
    model: Variant | str,
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    stored: str,
    memory: str,
    compile: str,
) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if backend != TORCH:
        name = str(parse_backend(backend))
    unusual = [each for each in (stored, memory) if each not in ("full", "high")]
    if compile != "off":
        unusual.append(f"compile {compile}")
    known = model if isinstance(model, str) else model.name
    return ", ".join([known, name, str(dtype).removeprefix("torch."), *unusual])


def _read(place: Path) -> Mapping[str, Any]:
    try:
        values = parse_json(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], values) if isinstance(values, dict) else {}
