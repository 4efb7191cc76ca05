"""Interfaces of the networks: the inputs and outputs of each, independent of the implementation.

The package's PyTorch modules satisfy these protocols; a host's models or another runtime may implement them too. Inputs
and outputs are on the implementation's device and in its dtype unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What one evaluation of the network attends to.

    ``text`` is ``[b, 77, c]``. ``image`` is ``[b, f, n, c]``: if f is the number of frames of the clip, each frame
    attends to its own n tokens; otherwise every frame attends to all ``f * n`` of them.
    """

    text: Tensor
    image: Tensor
    frames: tuple[int, ...] | None = None
    """Which frames of a longer clip these are; None if they are all of it, in order."""

    def grouped(self, frames: int) -> Context:
        """The same for a clip of ``frames`` frames, with one group of image tokens for each frame or one for all.

        ``image`` is then ``[b, frames, n, c]`` or ``[b, 1, f * n, c]``, which expands to every frame without asking for
        its size, so that a traced network is right for every length.
        """
        if self.image.shape[1] in (1, frames):
            return self
        return replace(self, image=self.image.flatten(1, 2).unsqueeze(1))


@dataclass(frozen=True)
class Residuals:
    """What a ControlNet adds to features of the denoising network, each ``[(b t), c, h, w]`` of its place."""

    middle: Tensor | float
    """Added to the output of the middle block; 0 is nothing."""
    skips: Sequence[Tensor | None]
    """Added to the skip connections, in the order of the input blocks; None is nothing."""


@dataclass(frozen=True)
class Posterior:
    """An autoencoder's normal distribution over unscaled latents, both ``[n, 4, h, w]``."""

    mean: Tensor
    logvar: Tensor
    """At most 20; minus infinity for a deterministic encoder."""

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``, with standard normal ``noise`` from the caller."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class TextEncoder(Protocol):
    """Prompts to hidden states."""

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states ``[b, 77, c]`` of prompts; long prompts are truncated."""
        ...


class ImageEncoder(Protocol):
    """Images to tokens."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Tokens ``[b, n, width]`` of images ``[b, 3, h, w]`` in [-1, 1] of any size."""
        ...


class TokenResampler(Protocol):
    """Image tokens to context tokens."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[b, n, width]`` to ``[b, frames * queries_per_frame, c]``, ordered by frame."""
        ...


class PictureEncoder(Protocol):
    """Images to the distribution of their latents."""

    def encode(self, pictures: Tensor) -> Posterior:
        """The posterior of images ``[n, 3, h, w]`` in [-1, 1]."""
        ...


class FrameDecoder(Protocol):
    """Latents of a clip to its frames."""

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        """Decode scaled latents ``[t, 4, h, w]``; yields consecutive frames ``[n, 3, 8 h, 8 w]``, about in [-1, 1].

        ``pictures`` are the first and the last image ``[2, 3, 8 h, 8 w]`` in [-1, 1], for decoders that use them.
        """
        ...


class PictureCodec(PictureEncoder, FrameDecoder, Protocol):
    """An encoder and a decoder."""


class Network(Protocol):
    """The denoising network."""

    def __call__(self, x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        """One evaluation: ``x`` ``[b, 8, t, h, w]``, ``timesteps`` and ``fs`` ``[b]``; returns ``[b, 4, t, h, w]``."""
        ...


NetworkWrapper = Callable[[Network], Network]
"""Wraps a network, for example with temporal windows, cached features or residuals."""
