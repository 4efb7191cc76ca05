"""Identifies the architecture of a file from its tensors, so that the error for a wrong file says what it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .formats.entries import Entry
from .layout import PREFIXES

_Entries = Mapping[str, Entry]

_LORA = re.compile(
    r"(lora_(up|down|A|B|linear_layer)\b|\.lora[._]|hada_w\d|lokr_w\d|oft_blocks|dora_scale|\.lora_(A|B)\.)"
)
_CONTEXT = re.compile(r".*input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\.to_k\.weight")
"""The first match gives the width of the text embeddings that a Stable Diffusion network attends to."""


def recognise(entries: _Entries) -> str:
    """What a file without a known DynamiCrafter variant is, as a noun phrase with its article."""
    if not entries:
        return "a file without any tensors"
    for name, fits in _KNOWN:
        if fits(entries):
            return name
    return f"of an unknown architecture (its first tensors are {', '.join(list(entries)[:3])})"


def _any(pattern: str) -> Callable[[_Entries], bool]:
    compiled = re.compile(pattern)
    return lambda entries: any(compiled.search(key) for key in entries)


def _all(pattern: str) -> Callable[[_Entries], bool]:
    compiled = re.compile(pattern)
    return lambda entries: all(compiled.match(key) for key in entries)


def _context(width: int) -> Callable[[_Entries], bool]:
    def fits(entries: _Entries) -> bool:
        return next((e.shape[-1:] for key, e in entries.items() if _CONTEXT.fullmatch(key)), ()) == (width,)

    return fits


_VAE_NAMES = r"(encoder|decoder|quant_conv|post_quant_conv|loss)\."
_CLIP_NAMES = (
    r"(text_model|vision_model|visual|transformer\.resblocks|token_embedding|embedder|cond_stage_model)\."
)

# The first match wins, so an architecture whose tensors others also contain comes after them.
_KNOWN: tuple[tuple[str, Callable[[_Entries], bool]], ...] = (
    (
        "a LoRA, which extends a model and is not a model itself",
        lambda entries: any(_LORA.search(key) for key in entries),
    ),
    (
        "a DynamiCrafter network with sizes that match no known variant",
        lambda entries: _any(r"temopral_conv\.")(entries) and _any(r"attn2\.to_k_ip\.weight")(entries),
    ),
    ("VideoCrafter, which takes no image", _any(r"temopral_conv\.")),
    (
        "Stable Video Diffusion",
        _any(r"(diffusion_model\..*time_stack|time_mixer\.|temporal_transformer_blocks\.)"),
    ),
    ("a complete AnimateAnyone model", _any(r"^reference_unet\.conv_in\.")),
    ("a motion module of AnimateDiff or AnimateAnyone", _any(r"motion_modules\.")),
    (
        "the reference network of AnimateAnyone",
        lambda entries: (
            "up_blocks.1.attentions.0.proj_in.weight" in entries and "conv_norm_out.weight" not in entries
        ),
    ),
    (
        "the pose guider of AnimateAnyone",
        lambda entries: "blocks.0.weight" in entries and "conv_in.weight" in entries,
    ),
    ("a ControlNet", _any(r"(^|\.)(control_model|controlnet_cond_embedding|zero_convs)\.")),
    ("a Flux model", _any(r"double_blocks\.\d+\.")),
    ("Stable Diffusion 3", _any(r"joint_blocks\.\d+\.")),
    ("Stable Diffusion XL", _context(2048)),
    ("Stable Diffusion XL", _any(r"conditioner\.embedders\.1\.")),
    ("Stable Diffusion 1.5", _context(768)),
    ("Stable Diffusion 2.1", _context(1024)),
    (
        "a Stable Diffusion network with diffusers' tensor names, such as the denoising network of AnimateAnyone",
        lambda entries: (
            "conv_norm_out.weight" in entries and "down_blocks.0.resnets.0.norm1.weight" in entries
        ),
    ),
    (
        "a network with diffusers' tensor names instead of those of the released checkpoints",
        _any(r"^(down|mid|up)_blocks?\."),
    ),
    (
        "only the image token resampler of DynamiCrafter",
        lambda entries: all(key.startswith(PREFIXES["resampler"]) for key in entries),
    ),
    (
        "only an autoencoder (VAE), without the denoising network",
        _all(rf"({re.escape(PREFIXES['vae'])}|{_VAE_NAMES})"),
    ),
    (
        "only a CLIP model, which can serve as a checkpoint's text or image encoder",
        _any(rf"^{_CLIP_NAMES}"),
    ),
)
