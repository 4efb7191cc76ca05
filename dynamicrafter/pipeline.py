"""The arrows composed: pictures and a prompt to conditioning, to latents, to frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from .diffusion.denoiser import make_denoiser
from .diffusion.guidance import make_guidance
from .diffusion.samplers import Callback, Step, draw_noise, sample_ddim
from .diffusion.schedule import ddim_plan, make_schedule
from .errors import DynamiCrafterError, Remedy
from .model.autoencoder import Autoencoder
from .model.conditioning import Conditioning, assemble, image_tokens, place_keyframes, repeat_picture
from .model.configs import LATENT_FACTOR
from .model.encoders import clip_pixels, encode_image, encode_text, tokenize
from .model.resampler import Resampler
from .model.unet import VideoUNet
from .model.variants import Variant
from .model.video_decoder import VideoAutoencoder
from .settings import Settings

Stage = Literal["encode", "sample", "decode"]
Progress = Callable[[Stage, int, int], None]
"""Called with the stage, the steps done and their total; whatever it raises stops the work.

Uniform spacing takes a step or more beyond those asked for at some step counts, so the total may grow once.
"""


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint: its networks on one device, ready to run."""

    variant: Variant
    unet: VideoUNet
    vae: Autoencoder
    resampler: Resampler
    text: nn.Module
    vision: nn.Module
    device: torch.device
    dtype: torch.dtype
    """What the networks compute in; sampling is float32 in any case."""


@dataclass(frozen=True)
class KeyPictures:
    """The pictures of a batch of clips, ``[b, 3, H, W]`` float32 in [-1, 1]; ``last`` only in interpolation."""

    first: Tensor
    last: Tensor | None = None


def make_generators(model: Model, settings: Settings, seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator for each clip, on the CPU or, if the settings say so, on the model's device."""
    device = torch.device("cpu") if settings.noise_device == "cpu" else model.device
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


@torch.inference_mode()
def encode(
    model: Model, pictures: KeyPictures, settings: Settings, generators: Sequence[torch.Generator]
) -> Conditioning:
    """Conditions of a batch of clips.

    Draws the posterior noise of all frames of a clip even where one frame's is used, as the original script does, so
    that the same seed continues with the same random numbers.
    """
    batch = pictures.first.shape[0]
    first = pictures.first.to(model.device)

    prompts = [settings.prompt] * batch + [settings.negative] * batch
    text, negative = encode_text(model.text, tokenize(prompts)).to(model.dtype).chunk(2)

    seen = torch.cat([clip_pixels(first), clip_pixels(torch.zeros_like(first[:1]))])
    tokens = model.resampler(encode_image(model.vision, seen).to(model.dtype))
    tokens = image_tokens(tokens, model.variant.resampler, settings.frames)
    grey = tokens[-1:].expand(batch, -1, -1, -1)

    draws = draw_noise(generators, (settings.frames, *latent_shape(model.variant, settings)), model.device)
    z_first = _latents(model, first, draws[:, 0])
    if settings.mode == "animate":
        concat = repeat_picture(z_first, settings.frames)
    else:
        end = first if pictures.last is None else pictures.last.to(model.device)
        concat = place_keyframes({0: z_first, -1: _latents(model, end, draws[:, -1])}, settings.frames)
    return assemble(text, negative, tokens[:-1], grey, concat, settings.fs)


@torch.inference_mode()
def sample(
    model: Model,
    conditioning: Conditioning,
    settings: Settings,
    generators: Sequence[torch.Generator],
    callback: Callback | None = None,
) -> Tensor:
    """Latents ``[b, 4, t, h, w]`` float32 of the conditioned clips; ``callback`` sees every step and may raise.

    Raises DynamiCrafterError after the first step whose result is not finite.
    """
    schedule = make_schedule(model.variant.diffusion)
    guidance = make_guidance(settings.cfg, settings.image_cfg, settings.guidance_rescale)
    denoise = make_denoiser(model.unet, schedule, conditioning, guidance, model.dtype)
    plan = ddim_plan(schedule, settings.spacing, settings.steps, settings.eta)
    channels, height, width = latent_shape(model.variant, settings)

    def draw() -> Tensor:
        return draw_noise(generators, (channels, settings.frames, height, width), model.device)

    def checked(step: Step) -> None:
        # At once, rather than after all the steps of a clip that is lost.
        _require_finite(model, "denoising network", step.x)
        if callback is not None:
            callback(step)

    return sample_ddim(denoise, plan, draw(), draw, checked)


@torch.inference_mode()
def decode(
    model: Model,
    latents: Tensor,
    pictures: KeyPictures | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Frames ``[b, 3, t, H, W]`` around [-1, 1], unclamped, on the CPU in float32.

    Ordinary autoencoders decode one frame at a time. ToonCrafter's decodes a clip at once and looks at ``pictures``
    if they are given. ``callback`` gets the frames done and their total, and may raise. Raises DynamiCrafterError when
    the frames are not finite, which would make them black.
    """
    batch, _, frames = latents.shape[:3]
    latents = latents.to(model.device, model.dtype)
    decoded: list[Tensor] = []
    for clip in range(batch):
        z = rearrange(latents[clip : clip + 1], "b c t h w -> (b t) c h w")
        if isinstance(model.vae, VideoAutoencoder):
            references = None if pictures is None else _references(model, model.vae, pictures, clip)
            made = [model.vae.decode_clip(z, frames, references).float().cpu()]
            if callback is not None:
                callback((clip + 1) * frames, batch * frames)
        else:
            made = list[Tensor]()
            for index in range(frames):
                made.append(model.vae.decode(z[index : index + 1]).float().cpu())
                if callback is not None:
                    callback(clip * frames + index + 1, batch * frames)
        decoded.append(torch.cat(made))
        _require_finite(model, "autoencoder", decoded[-1])
    return rearrange(torch.stack(decoded), "b t c h w -> b c t h w")


def to_frames(video: Tensor) -> Tensor:
    """Decoded clips ``[b, 3, t, H, W]`` around [-1, 1] as uint8 ``[b, t, H, W, 3]``, cut off as in the original."""
    scaled = (video.clamp(-1, 1) + 1) / 2 * 255
    return rearrange(scaled.to(torch.uint8), "b c t h w -> b t h w c").contiguous()


def generate(
    model: Model,
    pictures: KeyPictures,
    settings: Settings,
    seeds: Sequence[int],
    progress: Progress | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """A batch of clips, one for each picture and seed, uint8 ``[b, t, H, W, 3]``.

    A loop comes back without its last frame, which repeats the first, so that it plays without a stutter.
    """

    def report(stage: Stage, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    def stepped(step: Step) -> None:
        if callback is not None:
            callback(step)
        report("sample", step.index + 1, step.total)

    generators = make_generators(model, settings, seeds)
    report("encode", 0, 1)
    conditioning = encode(model, pictures, settings, generators)
    report("encode", 1, 1)
    report("sample", 0, settings.steps)
    latents = sample(model, conditioning, settings, generators, stepped)
    video = decode(model, latents, pictures, lambda done, total: report("decode", done, total))
    frames = to_frames(video)
    return frames[:, :-1] if settings.mode == "loop" else frames


def latent_shape(variant: Variant, settings: Settings) -> tuple[int, int, int]:
    """Channels, height and width of one frame's latents."""
    return (
        variant.vae.latent_channels,
        settings.height // LATENT_FACTOR,
        settings.width // LATENT_FACTOR,
    )


def _latents(model: Model, pictures: Tensor, noise: Tensor) -> Tensor:
    """Scaled latents of pictures ``[b, 3, H, W]``, one picture at a time to bound the memory, float32."""
    encoded = [
        model.vae.latents(picture[None].to(model.dtype), drawn[None].to(model.dtype))
        for picture, drawn in zip(pictures, noise, strict=True)
    ]
    return torch.cat(encoded).float()


def _require_finite(model: Model, network: str, values: Tensor) -> None:
    if torch.isfinite(values).all():
        return
    remedy = Remedy("lower_cfg" if model.dtype == torch.float32 else "widen_dtype")
    name = str(model.dtype).removeprefix("torch.")
    raise DynamiCrafterError(f"the {network}'s output is not finite in {name}", remedy)


def _references(model: Model, vae: VideoAutoencoder, pictures: KeyPictures, clip: int) -> list[Tensor]:
    first = pictures.first[clip : clip + 1].to(model.device, model.dtype)
    last = first if pictures.last is None else pictures.last[clip : clip + 1].to(model.device, model.dtype)
    return vae.references(first, last)
