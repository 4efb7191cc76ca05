"""What a command would generate, from what, and what that takes: --dry-run and --verbose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api import ModelFiles, find_place, pick_dtype, stored_as, variant_of
from ..backends.choice import parse_backend
from ..backends.openvino.manifest import GRAPHS, read_manifest
from ..forecast import memory_of, speed_of
from ..model.configs import Residence
from ..parameters import PARAMETERS
from ..settings import clip_length, settings_to_json
from ..shots import Means, Shot, batches, residence_for
from .streams import Streams

_KEPT = {"high": "", "low": " (one network at a time)", "min": " (a few layers at a time)"}
"""What is said of the weights on the device, by the way in which networks use its memory."""


@dataclass(frozen=True)
class RunPlan:
    """What would be generated, as ``--json`` prints it."""

    clips: list[dict[str, Any]]
    model: dict[str, Any]
    device: str
    dtype: str
    weights: str
    """How the weights of the denoising network's layers are kept."""
    memory: Residence | None
    """How the networks use the device's memory; None for OpenVINO, which does not let them choose."""
    compile: str
    """Whether the denoising network's blocks are compiled."""
    weights_bytes: int
    activations_bytes: int
    seconds: float | None
    """None if no clip was generated in this way on this machine."""

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        yield from _brief(self.clips, self.model)
        compiled = "" if self.compile == "off" else f", compiled ({self.compile})"
        yield f"computed on: {self.device} in {self.dtype}{compiled}"
        yield memory_text(self.weights_bytes, self.activations_bytes, self.memory)
        yield time_text(self.seconds)


def brief_of(shots: Sequence[Shot], files: ModelFiles, streams: Streams) -> list[str]:
    """The lines about clips and model alone."""
    return list(_brief(_clips(shots, streams), _model(files)))


def plan_of(shots: Sequence[Shot], files: ModelFiles, means: Means, streams: Streams) -> RunPlan:
    """The plan of ``shots``, with the files of ``streams`` under the name of standard input and output."""
    variant = variant_of(files)
    device, folder = find_place(
        files, means.device, means.backend, means.weights, means.memory, means.compile
    )
    dtype = pick_dtype(means.dtype, device)
    residence = residence_for(shots, files, means)
    kind = stored_as(files, means.weights) if folder is None else None
    memories = [
        memory_of(variant, [shot.settings for shot in batch], dtype, kind, residence)
        for batch in batches(shots, means.batch)
    ]
    most = max(memories, key=lambda memory: memory.total)
    stored, weights = kind or "full", most.weights
    if folder is not None:
        manifest = read_manifest(folder)
        stored, weights = manifest.stored, manifest.resident_bytes(GRAPHS, dtype.itemsize)
    speed = speed_of(variant, device, dtype, means.backend, stored, residence, means.compile)
    return RunPlan(
        clips=_clips(shots, streams),
        model=_model(files),
        device=str(device) if folder is None else str(parse_backend(means.backend)),
        dtype=str(dtype).removeprefix("torch."),
        weights=stored,
        memory=residence if folder is None else None,
        compile=means.compile,
        weights_bytes=weights,
        activations_bytes=round(most.activations),
        seconds=None if speed is None else round(speed.seconds([shot.settings for shot in shots]), 1),
    )


def _clips(shots: Sequence[Shot], streams: Streams) -> list[dict[str, Any]]:
    return [
        {
            "output": streams.name(shot.target),
            "pictures": [streams.name(picture) for picture in shot.pictures],
            "frames": clip_length(shot.settings),
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
        solver = "" if chosen["sampler"] == PARAMETERS["sampler"].default else f" of {chosen['sampler']}"
        sampled = f"{chosen['steps']} steps{solver}, seed {chosen['seed']}"
        yield f"{clip['output']}: {size}, {sampled}, from {' and '.join(clip['pictures'])}"
    yield f"model: {model['variant']}, from {', '.join(model['files'])}"


def memory_text(weights: float, activations: float, residence: Residence | None) -> str:
    """Bytes on the device for a person; a residence of None is OpenVINO's."""
    kept, runtime = "", "PyTorch and OpenVINO themselves"
    if residence is not None:
        kept, runtime = _KEPT[residence], "PyTorch itself"
    each = f"{_size(weights)} for weights{kept} and {_size(activations)} for activations"
    return f"memory: about {each}, besides {runtime}"


def time_text(seconds: float | None) -> str:
    """A forecast of time for a person."""
    source = "the last run with this model, device, precision, weights, memory and compilation"
    if seconds is None:
        return f"time: unknown, because it is estimated from {source}"
    return f"time: about {_time(seconds)}, in proportion to {source}"


def size_text(width: int, height: int, frames: int, fps: float) -> str:
    """The size of a clip for a person."""
    return f"{width}x{height}, {frames} frame(s) at {fps:g} fps"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
