"""Maps the tensor names of the released files to the networks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from ..weights.layout import UNUSED, Place, locate_clip
from .config import PersonConfig

Part = Literal["reference", "denoising", "pose_guider", "vae", "embedder"]
"""A network; the denoising one is two files, of which one holds its motion modules."""

PARTS: tuple[Part, ...] = ("reference", "denoising", "pose_guider", "vae", "embedder")

_WITHOUT_EFFECT = re.compile(r".*\.transformer_blocks\.0\.(attn2\.to_[qk]|norm2)\.(weight|bias)")
"""Of the cross-attention to one token, whose softmax is 1 whatever query and key are."""
_POSITIONS = re.compile(r".*\.attention_blocks\.[01]\.pos_encoder\.pe")
"""Tables that are computed."""

_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|\w+samplers\.0)\.(.+)"
)
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)")
_VAE_ATTENTION = {
    "group_norm": "norm",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
"""Names of diffusers' attention in old and new files."""


def locate_person(part: Part, key: str, config: PersonConfig) -> Place | None:
    """The place of the tensor called ``key`` in a file of a network; None for an unknown name."""
    if part == "vae":
        return Place("vae", _vae_name(key, len(config.vae.channel_mult)))
    if part == "embedder":
        return _embedder(key)
    if _WITHOUT_EFFECT.fullmatch(key) or _POSITIONS.fullmatch(key):
        return UNUSED
    return Place(part, key.replace(".downsamplers.0.conv.", ".downsamplers.0.op."))


def released_name(part: Part, name: str) -> str:
    """A name in a file, one that is read back, of the tensor that a network calls ``name``."""
    if part == "embedder":
        # CLIP's own name of this norm stands for one that DynamiCrafter does not use.
        if name.startswith("ln_post."):
            return name.replace("ln_post.", "vision_model.post_layernorm.")
        return name if name.startswith("visual_projection.") else f"visual.{name}"
    return name if part == "vae" else name.replace(".downsamplers.0.op.", ".downsamplers.0.conv.")


def _vae_name(key: str, levels: int) -> str:
    """The name in :class:`~dynamicrafter.model.autoencoder.Autoencoder` of one of diffusers'."""
    block = _VAE_BLOCK.fullmatch(key)
    if block is not None:
        side, way, level, index, rest = block.groups()
        # Diffusers counts the decoder's levels from the lowest resolution up.
        place = int(level) if way == "down" else levels - 1 - int(level)
        name = f"{way}sample" if index is None else f"block.{index}"
        return f"{side}.{way}.{place}.{name}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    middle = _VAE_MIDDLE.fullmatch(key)
    if middle is not None:
        side, kind, index, rest = middle.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(index) + 1}.{rest}"
        stem, _, leaf = rest.rpartition(".")
        return f"{side}.mid.attn_1.{_VAE_ATTENTION.get(stem, stem)}.{leaf}"
    return key.replace("conv_norm_out", "norm_out")


def _embedder(key: str) -> Place | None:
    final = {
        "vision_model.post_layernorm.weight": "ln_post.weight",
        "vision_model.post_layernorm.bias": "ln_post.bias",
        "visual_projection.weight": "visual_projection.weight",
    }
    if key in final:
        return Place("embedder", final[key])
    place = locate_clip(key)
    return (
        None
        if place is None or place.component == "text"
        else replace(place, component=place.component and "embedder")
    )
