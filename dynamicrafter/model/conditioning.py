"""Builds everything the network is conditioned on from images and prompts; all front ends use this module.

:func:`perceive` runs the encoders, :func:`condition` adds the resampler and the random numbers. A host that stores its
prompts in its own format, or samples later, uses the parts: :func:`see`, :func:`encode_keys`, :func:`image_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .configs import ResamplerConfig
from .protocols import Context, ImageEncoder, PictureEncoder, Posterior, TextEncoder, TokenResampler
from .variants import Mode, Variant


@dataclass(frozen=True)
class Conditioning:
    """All conditions of a batch of clips; the image latents and fs are the same for every guidance branch."""

    full: Context
    """Prompt and image."""
    unconditional: Context
    """Negative prompt and a mid-grey image."""
    image_only: Context
    """Negative prompt and image (the third evaluation of the two-scale guidance)."""
    concat: Tensor
    """Image latents ``[b, 4, t, h, w]``, concatenated to the noisy latents along the channel axis."""
    fs: Tensor
    """``[b]`` integers."""


class Encoders(Protocol):
    """The encoders of a model."""

    @property
    def variant(self) -> Variant:
        """The model's variant."""
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
        """Dtype of the images passed to the autoencoder."""
        ...


@dataclass(frozen=True)
class Request:
    """What to generate in a batch of clips."""

    mode: Mode
    frames: int
    prompts: Sequence[str]
    """One for each clip; the same holds for the next three fields."""
    negatives: Sequence[str]
    fs: Sequence[int]
    first: Tensor
    """Images ``[b, 3, H, W]`` float32 in [-1, 1], on the device of the encoders."""
    last: Tensor | None = None
    """As ``first``; for interpolation only."""
    guide: Tensor | None = None
    """Guide clips ``[b, 3, t, H, W]``, as ``first``, which takes the place of their first frame; for views only."""


@dataclass(frozen=True)
class KeyLatents:
    """The images a batch of clips is conditioned on, as posteriors that have not been sampled yet."""

    keys: Mapping[int, Posterior]
    """Posteriors of ``b`` images by frame index (negative indices count from the end)."""
    frames: int
    scale: float
    """Factor that a posterior sample is multiplied by."""
    everywhere: bool
    """Whether the image of frame 0 conditions every frame, as in image-to-video."""

    def draw(self, noise: Tensor) -> Tensor:
        """Sample the image latents ``[b, 4, t, h, w]``, float32, with standard normal ``noise`` ``[b, t, 4, h, w]``.

        The original generates noise for all frames but uses only that of the key frames.
        """
        drawn = {
            frame: (self.scale * posterior.sample(noise[:, frame].to(posterior.mean))).float()
            for frame, posterior in self.keys.items()
        }
        return (
            repeat_picture(drawn[0], self.frames) if self.everywhere else place_keyframes(drawn, self.frames)
        )

    def drawn(self, noise: Tensor) -> KeyLatents:
        """The same with certain latents, those that :meth:`draw` samples with ``noise``."""
        latents = self.draw(noise)
        certain = torch.full_like(latents[:, :, 0], -torch.inf)
        keys = {frame: Posterior(latents[:, :, frame], certain) for frame in self.keys}
        return replace(self, keys=keys, scale=1.0)

    @property
    def differ(self) -> bool:
        """Whether there are two different images; a loop has one twice."""
        first, *others = self.keys.values()
        return any(other is not first for other in others)

    def to(self, device: torch.device | str) -> KeyLatents:
        """The same on another device."""
        moved = {id(p): Posterior(p.mean.to(device), p.logvar.to(device)) for p in self.keys.values()}
        return replace(self, keys={frame: moved[id(p)] for frame, p in self.keys.items()})


@dataclass(frozen=True)
class Perceived:
    """The encoders' outputs for a request; they do not depend on the seed."""

    text: Tensor
    """``[b, 77, c]``."""
    negative: Tensor
    """``[b, 77, c]``."""
    vision: Tensor
    """``[b + 1, n, width]``: tokens of the images, then those of the mid-grey image that means "no image"."""
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
        None if request.guide is None else request.guide.to(encoders.dtype),
    )
    fs = torch.tensor(request.fs, dtype=torch.int64, device=request.first.device)
    return Perceived(text, negative, see(encoders.vision, request.first), keys, fs)


def condition(
    perceived: Perceived, resampler: TokenResampler, config: ResamplerConfig, noise: Tensor
) -> Conditioning:
    """The conditions of all branches; the image latents are sampled with ``noise`` ``[b, t, 4, h, w]``."""
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
    """Image tokens ``[b + 1, n, width]`` of images ``[b, 3, H, W]`` followed by a mid-grey image.

    A mid-grey image stood for "no image" in training.
    """
    return encoder(torch.cat([pictures, torch.zeros_like(pictures[:1])]))


def encode_keys(
    encoder: PictureEncoder,
    mode: Mode,
    first: Tensor,
    last: Tensor | None,
    frames: int,
    scale: float,
    guide: Tensor | None = None,
) -> KeyLatents:
    """Encode images ``[b, 3, H, W]`` as the key frames of a mode; a loop ends with its first image.

    In mode views, all frames are key frames: the image, and then those of ``guide`` ``[b, 3, t, H, W]``; without a
    guide, the image held still. Images are encoded one at a time to bound the memory.
    """

    def encoded(pictures: Tensor) -> Posterior:
        found = [encoder.encode(picture[None]) for picture in pictures]
        return Posterior(torch.cat([p.mean for p in found]), torch.cat([p.logvar for p in found]))

    begin = encoded(first)
    if mode == "views" and guide is not None:
        shown = {frame: encoded(guide[:, :, frame]) for frame in range(1, frames)}
        return KeyLatents({0: begin, **shown}, frames, scale, everywhere=False)
    if mode in ("animate", "views"):
        return KeyLatents({0: begin}, frames, scale, everywhere=True)
    return KeyLatents(
        {0: begin, -1: begin if last is None else encoded(last)}, frames, scale, everywhere=False
    )


def image_tokens(tokens: Tensor, config: ResamplerConfig) -> Tensor:
    """Reshape the resampler output ``[b, f * n, c]`` to ``[b, f, n, c]``, where f is the trained number of frames.

    In a clip of f frames, each frame attends to its own tokens; in any other clip every frame attends to all of them,
    as in the original.
    """
    return rearrange(tokens, "b (f n) c -> b f n c", f=config.frames)


def place_keyframes(keyframes: Mapping[int, Tensor], frames: int) -> Tensor:
    """Place latents ``[b, 4, h, w]`` at their frame positions in ``[b, 4, frames, h, w]``, with zeros elsewhere.

    Interpolation places two images at the ends; a loop places one image at both ends.
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
    """Repeat latents ``[b, 4, h, w]`` for every frame, ``[b, 4, frames, h, w]``, as image-to-video requires."""
    return latents.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def low_pass(concat: Tensor, ratio: float) -> Tensor:
    """Image latents ``[b, 4, t, h, w]`` reduced to ``ratio`` of their size and enlarged again, frame by frame.

    On the CPU, because not all devices have the antialiased resize; the result is where ``concat`` is.
    """
    frames = rearrange(concat.float().cpu(), "b c t h w -> (b t) c h w")
    height, width = frames.shape[2:]
    small = (max(1, round(ratio * height)), max(1, round(ratio * width)))
    for size in (small, (height, width)):
        frames = F.interpolate(frames, size, mode="bilinear", align_corners=False, antialias=True)
    return rearrange(frames, "(b t) c h w -> b c t h w", b=concat.shape[0]).to(concat)


def with_image_noise(concat: Tensor, noise: Tensor) -> Tensor:
    """Image latents ``[b, 4, t, h, w]`` plus ``noise`` ``[b, 4, 1, h, w]`` in every frame that has an image.

    The zeros between key frames stay, because they tell the network that there is none.
    """
    there = (concat != 0).any(dim=(1, 3, 4), keepdim=True)
    return torch.where(there, concat + noise, concat)
