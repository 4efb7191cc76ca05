"""The values that pass between the stages of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


@dataclass(frozen=True)
class Estimate:
    """What a denoiser makes of noisy latents at one timestep; both float32 ``[b, 4, t, h, w]``."""

    x0: Tensor
    """Clean latents, before the dynamic rescale of the sampler."""
    noise: Tensor
    """The noise in the input."""
