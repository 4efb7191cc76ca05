"""CLIP similarity of frames to their prompt and image, with the OpenCLIP ViT-H/14 that the checkpoints include.

The diffusion model uses hidden states of both encoders; the CLIP score needs their final outputs. The additional parts
(the text encoder's last block, the image encoder's final norm, both projections) are present but unused in the authors'
files and in open_clip's own, and missing from pruned ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..api import ModelFiles
from ..backends.openvino.manifest import is_export
from ..errors import CheckpointError
from ..model.configs import TextConfig, VisionConfig
from ..model.encoders import (
    CLIPImageEncoder,
    CLIPTextEncoder,
    tokenize,
)
from ..model.variants import V512
from ..weights.catalogue import TOWERS, find
from ..weights.download import local_path
from ..weights.formats.entries import WeightsFile, read_tensor
from ..weights.formats.files import open_weights

_PREFIXES = (("cond_stage_model.model.", "embedder.model."), ("", ""))
"""Name prefixes of the text and the image encoder, in checkpoints and in open_clip's files."""
_EXTRA = ("text_projection", "visual.proj", "visual.ln_post.weight", "visual.ln_post.bias")
_Encoder = TypeVar("_Encoder", bound=nn.Module)

_FRAMES = 16
"""Frames encoded at once."""


@dataclass(frozen=True)
class CLIPScorer:
    """Both CLIP encoders with their projections, on one device."""

    text: CLIPTextEncoder
    vision: CLIPImageEncoder
    projections: Mapping[str, Tensor]
    device: torch.device

    @torch.inference_mode()
    def see(self, frames: Tensor) -> Tensor:
        """Unit vectors ``[n, d]`` of images ``[n, 3, h, w]`` in [-1, 1], resized to CLIP's square input."""
        found: list[Tensor] = []
        for start in range(0, len(frames), _FRAMES):
            some = frames[start : start + _FRAMES]
            tokens = self.vision(some.to(self.device))
            weight, bias = self.projections["visual.ln_post.weight"], self.projections["visual.ln_post.bias"]
            pooled = F.layer_norm(tokens[:, 0], weight.shape, weight, bias)
            found.append(F.normalize(pooled @ self.projections["visual.proj"], dim=-1))
        return torch.cat(found)

    @torch.inference_mode()
    def read(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors ``[n, d]`` of prompts."""
        tokens = tokenize(prompts).to(self.device)
        hidden = self.text.encode(tokens)
        # The end token has the highest id; its output represents the prompt.
        pooled = hidden[torch.arange(len(tokens), device=self.device), tokens.argmax(1)]
        return F.normalize(pooled @ self.projections["text_projection"], dim=-1)


def find_towers(model: ModelFiles | None, given: Path | None = None) -> Path | None:
    """Find a local file with both complete encoders: ``given``, one of the model's, the download, or the hub's cache.

    Returns None if there is none. Raises CheckpointError if ``given`` lacks a part.
    """
    if given is not None:
        if not _complete(open_weights(given), V512.text):
            raise CheckpointError(
                f"{given} lacks CLIP's last text block or its projections; use the authors' file of a model, "
                f"or open_clip's ViT-H-14"
            )
        return given
    places: list[Path | None] = []
    if model is not None:
        # An export is no file of weights.
        weights = None if is_export(model.weights) else model.weights
        places += [weights, model.text_encoder, model.image_encoder]
    places += [local_path(find(TOWERS)), _cached()]
    return next((place for place in places if place and _complete(open_weights(place), V512.text)), None)


def load_scorer(
    path: Path,
    *,
    text: TextConfig = V512.text,
    vision: VisionConfig = V512.vision,
    device: torch.device | str = "cpu",
) -> CLIPScorer:
    """Load the encoders from a file found by :func:`find_towers`, in float32.

    ``text.layers`` counts the blocks that checkpoints run. Raises CheckpointError if a part is missing.
    """
    file = open_weights(path)
    prefixes = _complete(file, text)
    if prefixes is None:
        raise CheckpointError(
            f"{path} does not contain both complete CLIP encoders; use open_clip's ViT-H-14"
        )
    words, sight = prefixes

    def tensor(name: str) -> Tensor:
        prefix = sight if name.startswith("visual.") else words
        return read_tensor(file, prefix + name).float().to(device)

    def filled(tower: _Encoder, inner: str) -> _Encoder:
        names = [name for name, _ in tower.named_parameters()]
        tower.load_state_dict({name: tensor(inner + name) for name in names}, assign=True)
        return tower.train(False).requires_grad_(False)

    whole = replace(text, layers=text.layers + 1)
    return CLIPScorer(
        filled(CLIPTextEncoder(whole, torch.float32, "meta"), ""),
        filled(CLIPImageEncoder(vision, torch.float32, "meta"), "visual."),
        {name: tensor(name) for name in _EXTRA},
        torch.device(device),
    )


def _complete(file: WeightsFile, text: TextConfig) -> tuple[str, str] | None:
    """The prefixes under which a file contains both complete encoders; None if it does not."""
    for words, sight in _PREFIXES:
        last = f"{words}transformer.resblocks.{text.layers}.mlp.c_proj.weight"
        names = {(sight if name.startswith("visual.") else words) + name for name in _EXTRA}
        first = f"{sight}visual.conv1.weight"
        if {last, first, *names} <= file.entries.keys():
            wide = file.entries[words + "text_projection"].shape[0]
            if wide == text.width:
                return words, sight
    return None


def _cached() -> Path | None:
    """open_clip's own file of these encoders in the hub's cache, if present."""
    from huggingface_hub import try_to_load_from_cache

    release = find(TOWERS)
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = cast(Any, try_to_load_from_cache)(release.repository, name)
        if isinstance(found, str):
            return Path(found)
    return None
