# pyright: reportMissingTypeStubs=false
"""The CLIP towers that read the prompt and the picture: open_clip's modules and tokenizer, kornia's resize.

Both packages are imported where they are used, so that a caller with ready-made features needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from .configs import TEXT_TOKENS, TextConfig, VisionConfig

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
"""Pixel statistics of CLIP's training set."""


def build_text_tower(config: TextConfig, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """open_clip's text transformer with the blocks that run (the last trained block is never run, nor built)."""
    from open_clip.transformer import TextTransformer

    with torch.device(device):
        tower = TextTransformer(
            context_length=TEXT_TOKENS,
            vocab_size=config.vocabulary,
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            output_dim=None,
        )
    # Its mask is a buffer that no checkpoint holds; encode_text makes one where it is needed.
    tower.attn_mask = None
    return tower.to(dtype)


def build_vision_tower(config: VisionConfig, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """open_clip's vision transformer without the final norm and projection, which are never run."""
    from open_clip.transformer import VisionTransformer

    with torch.device(device):
        tower = VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=4.0,
        )
    tower.ln_post = nn.Identity()
    tower.proj = None
    return tower.to(dtype)


@cache
def _tokenizer() -> Callable[..., Tensor]:
    from open_clip.tokenizer import SimpleTokenizer

    return cast(Callable[..., Tensor], SimpleTokenizer(context_length=TEXT_TOKENS))


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Token ids ``[b, 77]``: start, words, end, then zeros; longer prompts are cut and end with the end token."""
    return _tokenizer()(list(prompts))


def count_tokens(prompt: str) -> int:
    """Word pieces of a prompt, without start and end; the network reads at most 75 of them."""
    return len(cast(Any, _tokenizer()).encode(prompt))


def encode_text(tower: nn.Module, tokens: Tensor) -> Tensor:
    """Token ids ``[b, 77]`` to hidden states ``[b, 77, width]`` after the last block and the final norm."""
    modules = cast(Any, tower)
    weight = modules.positional_embedding
    x = modules.token_embedding(tokens.to(weight.device)) + weight
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
    for block in modules.transformer.resblocks:
        x = block(x, attn_mask=mask)
    return modules.ln_final(x)


def clip_pixels(pictures: Tensor, size: int = 224) -> Tensor:
    """Pictures ``[b, 3, h, w]`` in [-1, 1] to CLIP's input ``[b, 3, size, size]``.

    The whole picture is squashed to a square (Gaussian blur against aliasing, then bicubic with aligned corners, as
    the networks were trained), never cropped and never clamped. Always computed in float32.
    """
    from kornia.geometry.transform import resize

    pixels = resize(
        pictures.float(), (size, size), interpolation="bicubic", align_corners=True, antialias=True
    )
    mean = torch.tensor(_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(_STD, device=pixels.device)[:, None, None]
    return ((pixels + 1) / 2 - mean) / std


def encode_image(tower: nn.Module, pixels: Tensor) -> Tensor:
    """CLIP input ``[b, 3, 224, 224]`` to tokens ``[b, 1 + patches, width]``: class token first, no final norm."""
    modules = cast(Any, tower)
    weight = modules.positional_embedding
    x = modules.conv1(pixels.to(weight.device, weight.dtype)).flatten(2).transpose(1, 2)
    first = modules.class_embedding.expand(x.shape[0], 1, -1)
    x = modules.ln_pre(torch.cat([first, x], dim=1) + weight)
    for block in modules.transformer.resblocks:
        x = block(x)
    return x
