"""Maps tensor names, in any of the layouts in use, to networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .networks import Component

PREFIXES: Mapping[str, str] = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "resampler": "image_proj_model.",
    "text": "cond_stage_model.model.",
    "vision": "embedder.model.visual.",
}
"""Name prefix of each network in the released checkpoints and in files written by this package."""


@dataclass(frozen=True)
class Place:
    """The place of a file's tensor in a network."""

    component: str | None
    """None for tensors that are known but never used."""
    name: str = ""
    """Name in the network."""
    part: int = 0
    """Index of the slice of rows it fills, out of ``parts`` equal ones (query, key and value may be separate)."""
    parts: int = 1


UNUSED = Place(None)

_BUFFERS = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "scale_arr",
    }
)
"""The noise schedule, which is computed and not read."""

_UNET = re.compile(r"(?:model\.)?diffusion_model\.(.+)")
_UNET_ROOTS = frozenset(
    {
        "time_embed",
        "fps_embedding",
        "framestride_embed",
        "input_blocks",
        "init_attn",
        "middle_block",
        "output_blocks",
        "out",
    }
)
"""First components of the denoising network's names, to recognise files that contain nothing else."""

_PREFIXED: tuple[Component, ...] = ("vae", "resampler")
"""Networks that are identified by their prefix alone."""

_UNUSED_CLIP = re.compile(
    r"logit_scale|text_projection(\.weight)?|attn_mask|visual\.proj|visual\.ln_post\.\w+"
    r"|visual_projection\.weight|vision_model\.post_layernorm\.\w+"
    r"|(text_model|vision_model)\.embeddings\.position_ids"
)
"""CLIP's tensors after the layer whose output is used, with open_clip's and Hugging Face's names."""

_LEFTOVER = re.compile(
    r"embedder\.model\.(positional_embedding|text_projection|logit_scale|attn_mask|token_embedding\.weight"
    r"|ln_final\.\w+)"
)
"""Tensors of the image encoder's text side in the released checkpoints."""

_TEXT = re.compile(r"(positional_embedding|token_embedding\.weight|(transformer\.resblocks|ln_final)\..+)")
_HF_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_HF_LAYER_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_STACKED = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
_HF_NAMES: dict[str, tuple[Component, str]] = {
    "text_model.embeddings.token_embedding.weight": ("text", "token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": ("text", "positional_embedding"),
    "text_model.final_layer_norm.weight": ("text", "ln_final.weight"),
    "text_model.final_layer_norm.bias": ("text", "ln_final.bias"),
    "vision_model.embeddings.class_embedding": ("vision", "class_embedding"),
    "vision_model.embeddings.patch_embedding.weight": ("vision", "conv1.weight"),
    "vision_model.embeddings.position_embedding.weight": ("vision", "positional_embedding"),
    # Misspelt by Hugging Face.
    "vision_model.pre_layrnorm.weight": ("vision", "ln_pre.weight"),
    "vision_model.pre_layrnorm.bias": ("vision", "ln_pre.bias"),
}
_CLIP_PREFIXES = ("cond_stage_model.model.", "embedder.model.", "clip_h.transformer.", "clip_h.")
"""Prefixes before CLIP's own names: those of the released checkpoints, Stable Diffusion 2's, and ComfyUI's."""


def locate(key: str) -> Place | None:
    """The place of the tensor called ``key``, whatever file it is from; None for an unknown name."""
    if key in _BUFFERS:
        return UNUSED
    for component in _PREFIXED:
        if key.startswith(PREFIXES[component]):
            return Place(component, key.removeprefix(PREFIXES[component]))
    unet = _UNET.fullmatch(key)
    if unet is not None or key.partition(".")[0] in _UNET_ROOTS:
        name = key if unet is None else unet[1]
        # The 256 checkpoint has a different name for these layers.
        return Place("unet", name.replace("framestride_embed", "fps_embedding"))
    if _LEFTOVER.fullmatch(key):
        return UNUSED
    for prefix in _CLIP_PREFIXES:
        if key.startswith(prefix):
            return locate_clip(key.removeprefix(prefix))
    return locate_clip(key)


def locate_clip(key: str) -> Place | None:
    """The place of a tensor with one of CLIP's own names."""
    if _UNUSED_CLIP.fullmatch(key):
        return UNUSED
    if key.startswith("visual."):
        return Place("vision", key.removeprefix("visual."))
    if _TEXT.fullmatch(key):
        return Place("text", key)
    if key in _HF_NAMES:
        return Place(*_HF_NAMES[key])
    layer = _HF_LAYER.fullmatch(key)
    if layer is None:
        return None
    component: Component = "text" if layer[1] == "text" else "vision"
    stem = f"transformer.resblocks.{layer[2]}"
    if layer[3] in _HF_STACKED:
        return Place(component, f"{stem}.attn.in_proj_{layer[4]}", _HF_STACKED[layer[3]], len(_HF_STACKED))
    if layer[3] in _HF_LAYER_PARTS:
        return Place(component, f"{stem}.{_HF_LAYER_PARTS[layer[3]]}.{layer[4]}")
    return None
