"""What a command would generate, from what, and what that takes: --dry-run and --verbose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api import ModelFiles, pick_device, pick_dtype, variant_of
from ..backends.choice import TORCH, parse_backend
from ..forecast import memory_of, speed_of
from ..settings import settings_to_json
from ..shots import Means, Shot, batches
from .streams import STANDARD


@dataclass(frozen=True)
class RunPlan:
    """What would be generated, as ``--json`` prints it."""

    clips: list[dict[str, Any]]
    model: dict[str, Any]
    device: str
    dtype: str
    weights_bytes: int
    activations_bytes: int
    seconds: float | None
    """None if no clip was generated with this model, device and precision on this machine."""

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        yield from _brief(self.clips, self.model)
        yield f"computed on: {self.device} in {self.dtype}"
        weights, activations = _size(self.weights_bytes), _size(self.activations_bytes)
        yield f"memory: about {weights} for weights and {activations} for activations, besides PyTorch itself"
        source = "the last run with this model, device and precision"
        if self.seconds is None:
            yield f"time: unknown, because it is estimated from {source}"
        else:
            yield f"time: about {_time(self.seconds)}, in proportion to {source}"


def brief_of(shots: Sequence[Shot], files: ModelFiles, piped: bool) -> list[str]:
    """The lines about clips and model alone."""
    return list(_brief(_clips(shots, piped), _model(files)))


def plan_of(shots: Sequence[Shot], files: ModelFiles, means: Means, piped: bool) -> RunPlan:
    """The plan of ``shots``; ``piped`` if the clip goes to standard output."""
    variant, device = variant_of(files), pick_device(means.device, means.backend)
    dtype = pick_dtype(means.dtype, device)
    memories = [
        memory_of(variant, [shot.settings for shot in batch], dtype) for batch in batches(shots, means.batch)
    ]
    speed = speed_of(variant, device, dtype, means.backend)
    return RunPlan(
        clips=_clips(shots, piped),
        model=_model(files),
        device=str(device) if means.backend == TORCH else str(parse_backend(means.backend)),
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=memories[0].weights,
        activations_bytes=round(max(memory.activations for memory in memories)),
        seconds=None if speed is None else round(speed.seconds([shot.settings for shot in shots]), 1),
    )


def _clips(shots: Sequence[Shot], piped: bool) -> list[dict[str, Any]]:
    return [
        {
            "output": STANDARD if piped else shot.target,
            "pictures": [str(picture) for picture in shot.pictures],
            "frames": shot.settings.frames - (shot.settings.mode == "loop"),
            "settings": settings_to_json(shot.settings),
        }
        for shot in shots
    ]


def _model(files: ModelFiles) -> dict[str, Any]:
    paths = [files.weights, files.text_encoder, files.image_encoder, *(lora.path for lora in files.loras)]
    return {
        "asked": files.asked,
        "variant": variant_of(files).name,
        "files": list(dict.fromkeys(str(path) for path in paths if path is not None)),
    }


def _brief(clips: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> Iterator[str]:
    for clip in clips:
        chosen = clip["settings"]
        size = f"{chosen['width']}x{chosen['height']}, {clip['frames']} frame(s) at {chosen['fps']:g} fps"
        sampled = f"{chosen['steps']} steps, seed {chosen['seed']}"
        yield f"{clip['output']}: {size}, {sampled}, from {' and '.join(clip['pictures'])}"
    yield f"model: {model['variant']}, from {', '.join(model['files'])}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
