"""From prompts and pictures to everything the network is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .configs import ResamplerConfig


@dataclass(frozen=True)
class Context:
    """What one evaluation of the network attends to.

    ``text`` is ``[b, 77, c]``. ``image`` is ``[b, f, n, c]`` with f = number of frames (each frame sees its own n
    tokens) or f = 1 (every frame sees all n).
    """

    text: Tensor
    image: Tensor


@dataclass(frozen=True)
class Conditioning:
    """All conditions of a clip; the image latents and fs are the same in every evaluation."""

    full: Context
    """Prompt and picture."""
    unconditional: Context
    """Negative prompt and a mid-grey picture."""
    image_only: Context
    """Negative prompt and picture (the third evaluation of the two-scale guidance)."""
    concat: Tensor
    """Image latents ``[b, 4, t, h, w]``, joined to the noisy latents on the channel axis."""
    fs: Tensor
    """``[b]`` integers."""


def image_tokens(tokens: Tensor, config: ResamplerConfig, frames: int) -> Tensor:
    """Resampler output ``[b, q, c]`` as the network takes it: ``[b, frames, n, c]`` or ``[b, 1, q, c]``.

    The resampler makes ``queries_per_frame`` tokens for each frame of the trained length. A clip of exactly that
    length gives each frame its own; in a clip of any other length every frame sees all of them, as in the original.
    """
    if frames == config.frames:
        return rearrange(tokens, "b (t n) c -> b t n c", t=frames)
    return rearrange(tokens, "b q c -> b 1 q c")


def place_keyframes(keyframes: Mapping[int, Tensor], frames: int) -> Tensor:
    """Latents ``[b, 4, h, w]`` at their frame positions in ``[b, 4, frames, h, w]``, zeros elsewhere.

    Interpolation places two pictures at the ends; a loop places one picture at both ends.
    """
    some = next(iter(keyframes.values()))
    clip = torch.zeros(
        some.shape[0], some.shape[1], frames, *some.shape[2:], dtype=some.dtype, device=some.device
    )
    for position, latents in keyframes.items():
        if not -frames <= position < frames:
            raise ValueError(f"key frame {position} is outside a clip of {frames} frames")
        clip[:, :, position] = latents
    return clip


def repeat_picture(latents: Tensor, frames: int) -> Tensor:
    """Latents ``[b, 4, h, w]`` at every frame, ``[b, 4, frames, h, w]``: what image-to-video is conditioned on."""
    return latents.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def assemble(
    text: Tensor, negative_text: Tensor, image: Tensor, grey_image: Tensor, concat: Tensor, fs: int
) -> Conditioning:
    """Conditions of all branches; texts ``[b, 77, c]``, images ``[b, f, n, c]``, ``concat`` ``[b, 4, t, h, w]``.

    ``grey_image`` holds the tokens of a mid-grey picture: what "no picture" meant in training.
    """
    return Conditioning(
        full=Context(text, image),
        unconditional=Context(negative_text, grey_image),
        image_only=Context(negative_text, image),
        concat=concat,
        fs=torch.full((concat.shape[0],), fs, dtype=torch.int64, device=concat.device),
    )
