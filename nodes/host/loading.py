"""A checkpoint's networks as the host's MODEL, CLIP, CLIP_VISION and VAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import comfy.clip_vision
import comfy.sd
import folder_paths

from ...dynamicrafter.api import find_model
from ...dynamicrafter.model.configs import QUANTISED
from ...dynamicrafter.weights.formats.files import open_weights
from ...dynamicrafter.weights.preview import preview_of
from ...dynamicrafter.weights.tensors import components_in, load_tensors
from .exported import build_exported_model
from .files import BUILT_IN, encoders_path
from .model import STORAGE_DTYPES, build_model
from .resampler import attach_resampler
from .towers import build_clip, build_clip_vision
from .vae import build_vae

AUTO = "auto"
WEIGHT_DTYPES = [AUTO, *STORAGE_DTYPES, *QUANTISED]
"""Choices of the dtype in which the network's weights are stored."""

_FILE = "dynamicrafter_file"
"""Key of what is attached to a MODEL: the path of its checkpoint."""

Part = Literal["model", "vae", "clip", "clip_vision"]


@dataclass(frozen=True)
class Loaded:
    """The parts of a checkpoint; None if it does not contain them and, for encoders, no released file does."""

    model: Any
    clip: Any
    clip_vision: Any
    vae: Any


def load_checkpoint(path: Path, variant: str | None, weight_dtype: str, exported: bool = False) -> Loaded:
    """Read a checkpoint, one network after the other, so that two copies of it are never in memory.

    ``exported``: whether the denoising network runs in OpenVINO, from the checkpoint's export.

    The encoders of a pruned checkpoint come from :func:`~.files.encoders_path`, by core's own loaders.
    """
    chosen, present = components_in(path, variant)

    def part(name: Part) -> Any:
        return load_part(name, path, chosen.name, weight_dtype)

    return Loaded(
        model=load_exported(path, chosen.name) if exported else part("model"),
        clip=part("clip") if "text" in present else _core_clip(),
        clip_vision=part("clip_vision") if "vision" in present else _core_clip_vision(),
        vae=part("vae") if "vae" in present else None,
    )


def _core_clip() -> Any:
    path = encoders_path()
    if path is None:
        return None
    return comfy.sd.load_clip([str(path)], embedding_directory=folder_paths.get_folder_paths("embeddings"))


def _core_clip_vision() -> Any:
    path = encoders_path()
    return None if path is None else comfy.clip_vision.load(str(path))


def load_part(part: Part, path: Path, variant: str, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    """One of the host's objects, with the function by which the host can create it again.

    ``disable_dynamic``: whether the host requests its older kind of patcher, which keeps weights whole and in place.
    """
    if part == "model":
        chosen, found = load_tensors(path, ("unet", "resampler"), variant)
        unet, resampler = found["unet"], found["resampler"]
        preview = preview_of(open_weights(path))
        if weight_dtype in QUANTISED:
            unet = unet.kept(weight_dtype)
        elif weight_dtype != AUTO:
            unet = unet.kept(None)
        made = build_model(chosen, unet, weight_dtype, preview, disable_dynamic)
        attach_resampler(made, chosen, resampler.tensors, resampler.dtype, disable_dynamic)
        made.set_attachments(_FILE, path)
    elif part == "vae":
        chosen, found = load_tensors(path, ("vae",), variant)
        made = build_vae(chosen.vae, found["vae"].tensors, disable_dynamic)
    elif part == "clip":
        chosen, found = load_tensors(path, ("text",), variant)
        made = build_clip(chosen.text, found["text"].tensors, disable_dynamic)
    else:
        chosen, found = load_tensors(path, ("vision",), variant)
        made = build_clip_vision(chosen.vision, found["vision"].tensors, disable_dynamic)
    # The host creates further copies with this: on another device, without streaming, for weights changed by hooks.
    _patcher(part, made).cached_patcher_init = (load_patcher, (part, path, variant, weight_dtype))
    return made


def load_exported(path: Path, variant: str) -> Any:
    """The MODEL of a checkpoint's export for OpenVINO, with the resampler of the checkpoint."""
    made = build_exported_model(path, variant, preview_of(open_weights(path)))
    chosen, found = load_tensors(path, ("resampler",), variant)
    attach_resampler(made, chosen, found["resampler"].tensors, found["resampler"].dtype)
    made.set_attachments(_FILE, path)
    return made


def built_in_name(model: Any) -> str | None:
    """The name of the built-in model that a MODEL is, or None; one with a LoRA may know more."""
    path = model.get_attachment(_FILE)
    names = [name for name in BUILT_IN.values() if find_model(name).weights == path]
    return names[0] if names and not model.patches else None


def load_patcher(
    part: Part, path: Path, variant: str, weight_dtype: str, disable_dynamic: bool = False
) -> Any:
    """The patcher of :func:`load_part`, in the form that the host calls."""
    return _patcher(part, load_part(part, path, variant, weight_dtype, disable_dynamic))


def _patcher(part: Part, made: Any) -> Any:
    return made if part == "model" else made.patcher
