# pyright: reportMissingTypeStubs=false
"""The CLIP encoders for prompts and images: open_clip's modules and tokenizer, kornia's resize.

Both packages are imported where they are used, so that a caller with its own features needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .configs import TEXT_TOKENS, TextConfig, VisionConfig
from .open_clip_modules import open_clip_module

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Pixel statistics of CLIP's training set."""


class _WithoutValues(TorchFunctionMode):
    """Omits what only gives values to parameters, for the meta device, whose tensors have none.

    PyTorch imports its compiler for these functions there, which takes longer than a small clip.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in (nn.init.normal_, Tensor.triu_, Tensor.mul):
            return named["tensor"] if "tensor" in named else args[0]
        return (torch.empty if func is torch.randn else func)(*args, **named)


@contextmanager
def creating_on(device: torch.device | str) -> Generator[None, None, None]:
    """Within the context, open_clip's constructors create parameters on ``device``."""
    place = torch.device(device)
    with place, _WithoutValues() if place.type == "meta" else nullcontext():
        yield


class CLIPTextEncoder(nn.Module):
    """open_clip's text transformer without the last trained block, which is never executed."""

    def __init__(self, config: TextConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        with creating_on(device):
            tower = open_clip_module("transformer").TextTransformer(
                context_length=TEXT_TOKENS,
                vocab_size=config.vocabulary,
                width=config.width,
                heads=config.heads,
                layers=config.layers,
                output_dim=None,
            )
        self.positional_embedding = tower.positional_embedding
        self.token_embedding = tower.token_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.to(dtype)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states ``[b, 77, width]`` of prompts."""
        return self.encode(tokenize(prompts))

    def encode(self, tokens: Tensor) -> Tensor:
        """Token ids ``[b, 77]`` to hidden states ``[b, 77, width]`` after the last block and the final norm."""
        x = self.token_embedding(tokens.to(self.positional_embedding.device)) + self.positional_embedding
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, attn_mask=mask)
        return self.ln_final(x)


class CLIPImageEncoder(nn.Module):
    """open_clip's vision transformer without the final norm and projection, which are never executed."""

    def __init__(self, config: VisionConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        with creating_on(device):
            tower = open_clip_module("transformer").VisionTransformer(
                image_size=config.image_size,
                patch_size=config.patch,
                width=config.width,
                layers=config.layers,
                heads=config.heads,
                mlp_ratio=4.0,
            )
        self.image_size = config.image_size
        self.class_embedding = tower.class_embedding
        self.positional_embedding = tower.positional_embedding
        self.conv1 = tower.conv1
        self.ln_pre: nn.Module = tower.ln_pre
        self.transformer = tower.transformer
        self.to(dtype)

    def forward(self, pictures: Tensor) -> Tensor:
        """Images ``[b, 3, h, w]`` in [-1, 1] of any size to tokens, as :meth:`encode`."""
        return self.encode(clip_pixels(pictures, self.image_size))

    def encode(self, pixels: Tensor) -> Tensor:
        """CLIP input ``[b, 3, s, s]`` to tokens ``[b, 1 + patches, width]``: class token first, no final norm."""
        weight = self.positional_embedding
        x = self.conv1(pixels.to(weight.device, weight.dtype)).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + weight)
        for block in self.transformer.resblocks:
            x = block(x)
        return x


@cache
def _tokenizer() -> Callable[..., Tensor]:
    return open_clip_module("tokenizer").SimpleTokenizer(context_length=TEXT_TOKENS)


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Token ids ``[b, 77]``: start, prompt, end, then zeros; longer prompts are truncated and keep the end token."""
    return _tokenizer()(list(prompts))


def count_tokens(prompt: str) -> int:
    """Number of tokens in a prompt, without start and end; the encoder uses at most 75 of them."""
    return len(cast(Any, _tokenizer()).encode(prompt))


def clip_pixels(pictures: Tensor, size: int = 224) -> Tensor:
    """Images ``[b, 3, h, w]`` in [-1, 1] to CLIP's input ``[b, 3, size, size]``.

    The whole image is resized to a square without keeping its aspect ratio (Gaussian blur against aliasing, then
    bicubic with aligned corners, as in training); it is neither cropped nor clamped. Always computed in float32.
    """
    if max(pictures.shape[-2:]) < size:
        # Nothing is blurred to enlarge an image: what kornia would do, without the time to import it.
        pixels = F.interpolate(pictures.float(), (size, size), mode="bicubic", align_corners=True)
    else:
        from kornia.geometry.transform import resize

        pixels = resize(
            pictures.float(), (size, size), interpolation="bicubic", align_corners=True, antialias=True
        )
    mean = torch.tensor(CLIP_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(CLIP_STD, device=pixels.device)[:, None, None]
    return ((pixels + 1) / 2 - mean) / std
