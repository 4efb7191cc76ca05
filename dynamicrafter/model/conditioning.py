"""From pictures and prompts to everything the network is conditioned on: the one way that all front ends take.

:func:`perceive` runs the networks that only encode, :func:`condition` adds the resampler and the random numbers. A host
that keeps its prompts in a form of its own, or draws later, uses the parts: :func:`see`, :func:`encode_keys`,
:func:`image_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from .configs import ResamplerConfig
from .protocols import Context, ImageEncoder, PictureEncoder, Posterior, TextEncoder, TokenResampler
from .variants import Mode, Variant


@dataclass(frozen=True)
class Conditioning:
    """All conditions of a batch of clips; the image latents and fs are the same in every evaluation."""

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


class Encoders(Protocol):
    """The networks that only encode, of one model."""

    @property
    def variant(self) -> Variant:
        """What the model is."""
        ...

    @property
    def text(self) -> TextEncoder:
        """The text encoder."""
        ...

    @property
    def vision(self) -> ImageEncoder:
        """The image encoder."""
        ...

    @property
    def vae(self) -> PictureEncoder:
        """The autoencoder."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What the autoencoder takes pictures in."""
        ...


@dataclass(frozen=True)
class Request:
    """What a batch of clips is to show."""

    mode: Mode
    frames: int
    prompts: Sequence[str]
    """One for each clip, as are the next three."""
    negatives: Sequence[str]
    fs: Sequence[int]
    first: Tensor
    """Pictures ``[b, 3, H, W]`` float32 in [-1, 1], on the device of the encoders."""
    last: Tensor | None = None
    """The same, in interpolation only."""


@dataclass(frozen=True)
class KeyLatents:
    """The pictures a batch of clips is conditioned on, as distributions of latents still to be drawn from."""

    keys: Mapping[int, Posterior]
    """By frame (negative ones count from the end), of ``b`` pictures each."""
    frames: int
    scale: float
    """Latents are a sample times this."""
    everywhere: bool
    """Whether the picture of frame 0 conditions every frame, as in image-to-video."""

    def draw(self, noise: Tensor) -> Tensor:
        """Image latents ``[b, 4, t, h, w]`` float32, with the rows of ``noise`` ``[b, t, 4, h, w]`` of the key frames.

        The original draws noise for all frames, of which only these are used.
        """
        drawn = {
            frame: (self.scale * posterior.sample(noise[:, frame].to(posterior.mean))).float()
            for frame, posterior in self.keys.items()
        }
        return (
            repeat_picture(drawn[0], self.frames) if self.everywhere else place_keyframes(drawn, self.frames)
        )

    def to(self, device: torch.device | str) -> KeyLatents:
        """The same on another device."""
        moved = {f: Posterior(p.mean.to(device), p.logvar.to(device)) for f, p in self.keys.items()}
        return replace(self, keys=moved)


@dataclass(frozen=True)
class Perceived:
    """What the encoders make of a request; the same for every seed."""

    text: Tensor
    """``[b, 77, c]``."""
    negative: Tensor
    """``[b, 77, c]``."""
    vision: Tensor
    """``[b + 1, n, width]``: the pictures, and last the grey one that stands for none."""
    keys: KeyLatents
    fs: Tensor
    """``[b]``."""

    def to(self, device: torch.device | str) -> Perceived:
        """The same on another device."""
        return Perceived(
            self.text.to(device),
            self.negative.to(device),
            self.vision.to(device),
            self.keys.to(device),
            self.fs.to(device),
        )


def perceive(encoders: Encoders, request: Request) -> Perceived:
    """Run the text encoder, the image encoder and the autoencoder's encoder on a request."""
    texts = encoders.text([*request.prompts, *request.negatives])
    text, negative = texts.chunk(2)
    keys = encode_keys(
        encoders.vae,
        request.mode,
        request.first.to(encoders.dtype),
        None if request.last is None else request.last.to(encoders.dtype),
        request.frames,
        encoders.variant.vae.scale_factor,
    )
    fs = torch.tensor(request.fs, dtype=torch.int64, device=request.first.device)
    return Perceived(text, negative, see(encoders.vision, request.first), keys, fs)


def condition(
    perceived: Perceived, resampler: TokenResampler, config: ResamplerConfig, noise: Tensor
) -> Conditioning:
    """The conditions of all branches; ``noise`` ``[b, t, 4, h, w]`` draws the pictures' latents."""
    tokens = image_tokens(resampler(perceived.vision), config)
    image, grey = tokens[:-1], tokens[-1:].expand(tokens.shape[0] - 1, -1, -1, -1)
    return Conditioning(
        full=Context(perceived.text, image),
        unconditional=Context(perceived.negative, grey),
        image_only=Context(perceived.negative, image),
        concat=perceived.keys.draw(noise),
        fs=perceived.fs,
    )


def see(encoder: ImageEncoder, pictures: Tensor) -> Tensor:
    """Image tokens ``[b + 1, n, width]`` of ``[b, 3, H, W]``, and last those of a mid-grey picture.

    Mid-grey is what "no picture" meant in training.
    """
    return encoder(torch.cat([pictures, torch.zeros_like(pictures[:1])]))


def encode_keys(
    encoder: PictureEncoder, mode: Mode, first: Tensor, last: Tensor | None, frames: int, scale: float
) -> KeyLatents:
    """The key frames of a mode from pictures ``[b, 3, H, W]``; a loop ends with its first picture.

    Pictures are encoded one at a time to bound the memory.
    """

    def encoded(pictures: Tensor) -> Posterior:
        found = [encoder.encode(picture[None]) for picture in pictures]
        return Posterior(torch.cat([p.mean for p in found]), torch.cat([p.logvar for p in found]))

    begin = encoded(first)
    if mode == "animate":
        return KeyLatents({0: begin}, frames, scale, everywhere=True)
    return KeyLatents(
        {0: begin, -1: begin if last is None else encoded(last)}, frames, scale, everywhere=False
    )


def image_tokens(tokens: Tensor, config: ResamplerConfig) -> Tensor:
    """Resampler output ``[b, q, c]`` frame by frame of the trained length, ``[b, f, n, c]``.

    The network gives each frame its own where the clip has that length, and shows all to every frame otherwise, as in
    the original.
    """
    return rearrange(tokens, "b (f n) c -> b f n c", f=config.frames)


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
