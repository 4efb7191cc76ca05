"""What a command would generate, from what, and what that takes: --dry-run and --verbose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api import ModelFiles, pick_device, pick_dtype, variant_of
from ..forecast import memory_of, speed_of
from ..settings import settings_to_json
from ..shots import Means, Shot, batches
from .streams import Streams


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


def brief_of(shots: Sequence[Shot], files: ModelFiles, streams: Streams) -> list[str]:
    """The lines about clips and model alone."""
    return list(_brief(_clips(shots, streams), _model(files)))


def plan_of(shots: Sequence[Shot], files: ModelFiles, means: Means, streams: Streams) -> RunPlan:
    """The plan of ``shots``, with the files of ``streams`` under the name of standard input and output."""
    variant, device = variant_of(files), pick_device(means.device)
    dtype = pick_dtype(means.dtype, device)
    memories = [
        memory_of(variant, [shot.settings for shot in batch], dtype) for batch in batches(shots, means.batch)
    ]
    speed = speed_of(variant, device, dtype)
    return RunPlan(
        clips=_clips(shots, streams),
        model=_model(files),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        weights_bytes=memories[0].weights,
        activations_bytes=round(max(memory.activations for memory in memories)),
        seconds=None if speed is None else round(speed.seconds([shot.settings for shot in shots]), 1),
    )


def _clips(shots: Sequence[Shot], streams: Streams) -> list[dict[str, Any]]:
    return [
        {
            "output": streams.name(shot.target),
            "pictures": [streams.name(picture) for picture in shot.pictures],
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
        size = size_text(chosen["width"], chosen["height"], clip["frames"], chosen["fps"])
        sampled = f"{chosen['steps']} steps, seed {chosen['seed']}"
        yield f"{clip['output']}: {size}, {sampled}, from {' and '.join(clip['pictures'])}"
    yield f"model: {model['variant']}, from {', '.join(model['files'])}"


def size_text(width: int, height: int, frames: int, fps: float) -> str:
    """The size of a clip for a person."""
    return f"{width}x{height}, {frames} frame(s) at {fps:g} fps"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
