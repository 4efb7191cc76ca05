"""The networks as the rest of the package sees them: what each takes and gives, whoever computes it.

PyTorch modules satisfy these protocols, and so does anything else that does: a host's models, another runtime. Tensors
go in and come out on the implementation's own device and in its own dtype unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What one evaluation of the network attends to.

    ``text`` is ``[b, 77, c]``. ``image`` is ``[b, f, n, c]``: where f is the number of frames of the clip, each frame
    sees its own n tokens; otherwise every frame sees all ``f * n`` of them.
    """

    text: Tensor
    image: Tensor


@dataclass(frozen=True)
class Posterior:
    """An autoencoder's normal distribution over unscaled latents, both ``[n, 4, h, w]``."""

    mean: Tensor
    logvar: Tensor
    """At most 20; minus infinity for an encoder that knows no spread."""

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``, with the caller's standard normal ``noise``."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class TextEncoder(Protocol):
    """Prompts to hidden states."""

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states ``[b, 77, c]`` of prompts, longer ones cut."""
        ...


class ImageEncoder(Protocol):
    """Pictures to tokens."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Tokens ``[b, n, width]`` of pictures ``[b, 3, h, w]`` in [-1, 1] of any size."""
        ...


class TokenResampler(Protocol):
    """Image tokens to context tokens."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[b, n, width]`` to ``[b, frames * queries_per_frame, c]``, frame by frame."""
        ...


class PictureEncoder(Protocol):
    """Pictures to the distribution of their latents."""

    def encode(self, pictures: Tensor) -> Posterior:
        """The posterior of pictures ``[n, 3, h, w]`` in [-1, 1]."""
        ...


class FrameDecoder(Protocol):
    """Latents of a clip to its frames."""

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        """Consecutive frames ``[n, 3, 8 h, 8 w]`` around [-1, 1] of scaled latents ``[t, 4, h, w]``, as they are ready.

        ``pictures`` are the first and the last picture ``[2, 3, 8 h, 8 w]`` in [-1, 1], for decoders that look at them.
        """
        ...


class PictureCodec(PictureEncoder, FrameDecoder, Protocol):
    """Both directions."""


class Network(Protocol):
    """The denoising network."""

    def __call__(self, x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        """One evaluation: ``x`` ``[b, 8, t, h, w]``, ``timesteps`` and ``fs`` ``[b]``; returns ``[b, 4, t, h, w]``."""
        ...


NetworkWrapper = Callable[[Network], Network]
"""A network made of another one: windows over time, cached features, residuals."""
