"""The arrows of AnimateAnyone: reference image and poses to conditioning, to latents, to frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..diffusion.config import DiffusionConfig
from ..diffusion.denoiser import Evaluate, make_denoiser
from ..diffusion.guidance import Branch, make_guidance
from ..diffusion.samplers import Callback, Sampler, sample_ddim
from ..diffusion.schedule import Schedule, make_schedule, make_strided_plan
from ..model.autoencoder import Autoencoder
from .attention import Features, Reference
from .config import PersonConfig
from .embedder import ImageEmbedder, embedder_pixels
from .pose_guider import PoseGuider
from .unet import DenoisingUNet, ReferenceUNet
from .windows import Window

if TYPE_CHECKING:
    from PIL.Image import Image

DIFFUSION = DiffusionConfig(prediction="v", zero_snr=True, base_scale=None, betas="linear")
"""The noise process of the released files."""


class Poses(Protocol):
    """Drawings of poses, a list or what makes them as it is read, so that they need not all be in memory."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Image]: ...


@dataclass(frozen=True)
class PersonModel:
    """The networks of one model, on one device and in one dtype."""

    config: PersonConfig
    reference: ReferenceUNet
    denoising: DenoisingUNet
    pose_guider: PoseGuider
    vae: Autoencoder
    embedder: ImageEmbedder
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class PersonConditioning:
    """What a clip is made from."""

    context: Tensor
    """Embedding of the reference image, ``[1, 1, d]``; without it, and without the reference, the context is zeros."""
    reference: Reference
    poses: Tensor
    """Drawn poses, uint8 ``[f, 3, H, W]`` on the CPU; their number and size are the clip's."""

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Of the clip: ``[1, 4, f, h, w]``."""
        frames, _, height, width = self.poses.shape
        return (1, 4, frames, height // 8, width // 8)


def resized(picture: Image, width: int, height: int) -> Tensor:
    """An image as uint8 ``[3, h, w]``, stretched by Pillow's Lanczos filter to multiples of 8, rounded down."""
    from PIL.Image import Resampling

    size = (width - width % 8, height - height % 8)
    pixels = np.array(picture.convert("RGB").resize(size, Resampling.LANCZOS))
    return torch.as_tensor(pixels).movedim(-1, 0)


def features_of(model: PersonModel, picture: Image, width: int, height: int) -> tuple[Tensor, Features]:
    """The context ``[1, 1, d]`` and the reference network's features of an image that is stretched to the clip's size.

    The latent is the mean of the autoencoder's distribution, not a sample.
    """
    context = model.embedder(embedder_pixels(picture, model.config.embedder.image_size)).to(model.dtype)
    pixels = resized(picture, width, height)[None].to(model.device).float() / 255 * 2 - 1
    latents = model.vae.config.scale_factor * model.vae.encode(pixels.to(model.dtype)).mean
    return context, model.reference(latents, context)


def condition_person(
    model: PersonModel, picture: Image, poses: Poses, width: int, height: int
) -> PersonConditioning:
    """Conditioning of a clip of ``width`` x ``height`` pixels with as many frames as there are poses."""
    context, features = features_of(model, picture, width, height)
    drawn = torch.empty((len(poses), 3, height - height % 8, width - width % 8), dtype=torch.uint8)
    for place, pose in zip(drawn, poses, strict=True):
        place.copy_(resized(pose, width, height))
    return PersonConditioning(context, model.denoising.project(features), drawn)


def person_evaluator(
    model: PersonModel, conditioning: PersonConditioning, windows: Sequence[Window]
) -> Evaluate:
    """The network's outputs over a whole clip, window by window.

    The unconditional branch sees the poses, a context of zeros and no reference. Memory does not grow with the number
    of windows: of the pose features, only those of one window are kept.
    """
    nothing = torch.zeros_like(conditioning.context)

    @lru_cache(maxsize=1)
    def pose_of(frames: tuple[int, ...]) -> Tensor:
        poses = conditioning.poses[list(frames)].to(model.device, model.dtype) / 255
        return model.pose_guider(poses.movedim(0, 1)[None])

    def evaluate(x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        times = torch.full((x.shape[0],), timestep, device=x.device)

        def outputs(window: Window) -> list[Tensor]:
            part = x[:, :, list(window.frames)].to(model.dtype)
            pose = pose_of(window.frames)
            return [
                model.denoising(part, times, conditioning.context, pose, conditioning.reference)
                if branch == "full"
                else model.denoising(part, times, nothing, pose)
                for branch in branches
            ]

        return over_windows(x.shape[2], windows, outputs)

    return evaluate


def over_windows(
    frames: int, windows: Sequence[Window], outputs: Callable[[Window], Sequence[Tensor]]
) -> list[Tensor]:
    """A clip of ``frames`` from each of the outputs ``[b, c, f, h, w]`` of its windows, averaged by their weights.

    Float32 ``[b, c, frames, h, w]``; ``outputs`` gives as many for every window.
    """
    sums: list[Tensor] = []
    weight = torch.zeros(frames)
    for window in windows:
        made = outputs(window)
        if not sums:
            device, single = made[0].device, torch.float32
            sums = [out.new_zeros((*out.shape[:2], frames, *out.shape[3:]), dtype=single) for out in made]
            weight = weight.to(device)
        chosen = torch.tensor(window.frames, device=weight.device)
        weights = torch.tensor(window.weights, device=weight.device)
        weight.index_add_(0, chosen, weights)
        for total, out in zip(sums, made, strict=True):
            total.index_add_(2, chosen, out.float() * weights[:, None, None])
    return [total / weight[:, None, None] for total in sums]


def sample_person(
    model: PersonModel,
    conditioning: PersonConditioning,
    windows: Sequence[Window],
    noise: Tensor,
    draw: Callable[[], Tensor],
    *,
    steps: int = 25,
    cfg: float = 3.5,
    eta: float = 0.0,
    schedule: Schedule | None = None,
    sampler: Sampler = sample_ddim,
    callback: Callback | None = None,
) -> Tensor:
    """Latents ``[1, 4, f, h, w]`` from noise of that shape, both float32 on the model's device.

    ``draw`` returns new noise for each step. Defaults are those of the original's demo.
    """
    schedule = schedule or make_schedule(DIFFUSION)
    denoise = make_denoiser(
        person_evaluator(model, conditioning, windows),
        schedule,
        make_guidance(cfg, None, guidance_rescale=0.0),
    )
    return sampler(denoise, make_strided_plan(schedule, steps, eta), noise, draw, callback)


def person_frames(model: PersonModel, latents: Tensor) -> Iterator[Tensor]:
    """Frames ``[3, H, W]`` in [0, 1] of latents ``[1, 4, f, h, w]``, one by one."""
    for frame in model.vae.frames(latents[0].movedim(1, 0).to(model.dtype)):
        yield (frame[0].float() / 2 + 0.5).clamp(0, 1)


def interpolated(latents: Tensor, factor: int) -> Tensor:
    """Latents ``[1, 4, f, h, w]`` with ``factor - 1`` frames between each two, on the arc between them.

    Neighbours that are almost parallel (cosine above 0.9995) are connected by a straight line. The cosine is that of
    whole frames, as in the original.
    """
    frames = latents.unbind(2)
    made: list[Tensor] = []
    for first, second in zip(frames, frames[1:], strict=False):
        made.append(first)
        cosine = torch.sum(_unit(first) * _unit(second))
        angle = torch.acos(cosine)
        for i in range(1, factor):
            t = i / factor
            if abs(cosine.item()) > 0.9995:
                made.append((1 - t) * first + t * second)
            else:
                ahead, behind = torch.sin((1 - t) * angle), torch.sin(t * angle)
                made.append((ahead * first + behind * second) / torch.sin(angle))
    return torch.stack([*made, frames[-1]], dim=2)


def _unit(frame: Tensor) -> Tensor:
    return frame / torch.sqrt(torch.sum(frame * frame))
