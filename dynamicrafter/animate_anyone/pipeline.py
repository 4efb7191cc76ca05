"""The arrows of AnimateAnyone: reference image and poses to conditioning, to latents, to frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..diffusion.config import DiffusionConfig
from ..diffusion.denoiser import Evaluate, make_denoiser
from ..diffusion.finite import finite_steps, require_finite
from ..diffusion.guidance import Branch, make_guidance
from ..diffusion.samplers import Callback, Sampler, sample_ddim
from ..diffusion.schedule import Schedule, make_schedule, make_strided_plan
from ..diffusion.windows import Blend, Window
from ..model.autoencoder import Autoencoder
from ..model.configs import Quantised
from ..model.placement import Placement
from ..model.protocols import PictureCodec
from ..pipeline import finite_frames
from .attention import Features, Reference
from .config import PersonConfig
from .embedder import ImageEmbedder, embedder_pixels
from .pose_guider import PoseGuider
from .protocols import PersonNetwork, PictureEmbedder, PoseNetwork, ReferenceNetwork
from .unet import DenoisingUNet, ReferenceUNet

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
    reference: ReferenceNetwork
    denoising: PersonNetwork
    pose_guider: PoseNetwork
    vae: PictureCodec
    embedder: PictureEmbedder
    device: torch.device
    dtype: torch.dtype
    """The dtype in which the networks compute; sampling is always float32."""
    quantised: Quantised | None = field(default=None, kw_only=True)
    """How the weights of the denoising network's layers are stored; None if in ``dtype``."""
    placement: Placement | None = field(default=None, kw_only=True)
    """What moves the networks to ``device`` when they work; None if they stay there."""


@dataclass(frozen=True)
class TorchPersonModel(PersonModel):
    """A model of PyTorch modules."""

    reference: ReferenceUNet
    denoising: DenoisingUNet
    pose_guider: PoseGuider
    vae: Autoencoder
    embedder: ImageEmbedder


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

    The latent is the mean of the autoencoder's distribution, not a sample. Raises DynamiCrafterError for the first of
    the networks whose output is not finite.
    """
    context = model.embedder(embedder_pixels(picture, model.config.embedder.image_size)).to(model.dtype)
    pixels = resized(picture, width, height)[None].to(model.device).float() / 255 * 2 - 1
    latents = model.config.vae.scale_factor * model.vae.encode(pixels.to(model.dtype)).mean
    features = model.reference(latents, context)
    require_finite(context, "image embedder", model.dtype)
    require_finite(latents, "autoencoder", model.dtype)
    for feature in features.values():
        require_finite(feature, "reference network", model.dtype)
    return context, features


def condition_person(
    model: PersonModel, picture: Image, poses: Poses, width: int, height: int
) -> PersonConditioning:
    """Conditioning of a clip of ``width`` x ``height`` pixels with as many frames as there are poses."""
    context, features = features_of(model, picture, width, height)
    if model.placement is not None and isinstance(model.denoising, DenoisingUNet):
        model.placement.enter(model.denoising)
    reference = model.denoising.project(features)
    drawn = torch.empty((len(poses), 3, height - height % 8, width - width % 8), dtype=torch.uint8)
    for place, pose in zip(drawn, poses, strict=True):
        place.copy_(resized(pose, width, height))
    return PersonConditioning(context, reference, drawn)


def person_evaluator(
    model: PersonModel, conditioning: PersonConditioning, windows: Sequence[Window]
) -> Evaluate:
    """The network's outputs over a whole clip, window by window.

    The unconditional branch sees the poses, a context of zeros and no reference. The clip may be on another device than
    the networks, of which only a window and its pose features are then on theirs: that memory does not grow with the
    number of windows.
    """
    nothing = torch.zeros_like(conditioning.context)

    @lru_cache(maxsize=1)
    def pose_of(frames: tuple[int, ...]) -> Tensor:
        # Frame by frame, because the first layers have the size of the image.
        features = [
            model.pose_guider(pose.to(model.device, model.dtype)[None, :, None] / 255)
            for pose in conditioning.poses[list(frames)]
        ]
        return torch.cat(features, dim=2)

    def evaluate(x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        blends = {branch: Blend(x) for branch in branches}
        for window in windows:
            part = x[:, :, list(window.frames)].to(model.device, model.dtype)
            times = torch.full((x.shape[0],), timestep, device=model.device)
            pose = pose_of(window.frames)
            for branch in branches:
                if branch == "full":
                    output = model.denoising(part, times, conditioning.context, pose, conditioning.reference)
                else:
                    output = model.denoising(part, times, nothing, pose)
                blends[branch].add(window, output)
        return [blends[branch].mean() for branch in branches]

    return evaluate


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
    """Latents ``[1, 4, f, h, w]`` from noise of that shape, both float32 on one device.

    That may be another device than the networks': with noise on the CPU, theirs has no more than a window of the clip.
    ``draw`` returns new noise for each step. Defaults are those of the original's demo. Raises DynamiCrafterError after
    the first step whose result is not finite.
    """
    schedule = schedule or make_schedule(DIFFUSION)
    denoise = make_denoiser(
        person_evaluator(model, conditioning, windows),
        schedule,
        make_guidance(cfg, None, guidance_rescale=0.0),
    )

    plan = make_strided_plan(schedule, steps, eta)
    return sampler(denoise, plan, noise, draw, finite_steps(model.dtype, callback))


def person_frames(model: PersonModel, latents: Tensor, interpolate: int = 1) -> Iterator[Tensor]:
    """Frames ``[3, H, W]`` in [0, 1] on the CPU of latents ``[1, 4, f, h, w]``, decoded one by one while they are read.

    Between each two, ``interpolate - 1`` more are decoded, as :func:`interpolated`. Raises DynamiCrafterError for a
    frame that is not finite.
    """
    frames = torch.cat(list(_with_between(latents, interpolate))).to(model.device, model.dtype)
    for pixels in finite_frames(model.vae, frames, None, model.placement):
        yield (pixels[0] / 2 + 0.5).clamp(0, 1)


def interpolated(latents: Tensor, factor: int) -> Tensor:
    """Latents ``[1, 4, f, h, w]`` with ``factor - 1`` frames between each two, on the arc between them.

    Neighbours that are almost parallel (cosine above 0.9995) are connected by a straight line. The cosine is that of
    whole frames, as in the original.
    """
    return torch.stack(list(_with_between(latents, factor)), dim=2)


def _with_between(latents: Tensor, factor: int) -> Iterator[Tensor]:
    """The frames of :func:`interpolated`, ``[1, 4, h, w]`` each."""
    frames = latents.unbind(2)
    for first, second in zip(frames, frames[1:], strict=False):
        yield first
        cosine = torch.sum(_unit(first) * _unit(second))
        angle = torch.acos(cosine)
        for i in range(1, factor):
            t = i / factor
            if abs(cosine.item()) > 0.9995:
                yield (1 - t) * first + t * second
            else:
                ahead, behind = torch.sin((1 - t) * angle), torch.sin(t * angle)
                yield (ahead * first + behind * second) / torch.sin(angle)
    yield frames[-1]


def _unit(frame: Tensor) -> Tensor:
    return frame / torch.sqrt(torch.sum(frame * frame))
