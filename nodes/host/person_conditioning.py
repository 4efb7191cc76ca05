"""A reference image and drawn poses to conditioning of a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...dynamicrafter.animate_anyone.pipeline import resized
from ...dynamicrafter.diffusion.windows import Window
from ...dynamicrafter.model.configs import LATENT_FACTOR
from .person_loading import embed_reference, see_reference
from .person_model import PERSON, PersonClip, person_config
from .run import Progress, intermediate
from .vae import HostPictureEncoder, check_vae

if TYPE_CHECKING:
    from PIL.Image import Image

Conditioning = list[list[Any]]


def condition_person(
    model: Any,
    vae: Any,
    picture: Image,
    poses: Iterable[Image],
    count: int,
    size: tuple[int, int],
    windows: list[Window],
) -> tuple[Conditioning, Conditioning, Tensor]:
    """Positive and negative conditioning and the empty latents of a clip of ``count`` poses.

    Image and poses are stretched to ``size``, width and height in multiples of 8. The negative sees the poses too, a
    context of zeros and no reference.
    """
    config = person_config(model)
    check_vae(vae)
    width, height = size
    context = embed_reference(model, picture)
    pixels = resized(picture, width, height)[None].float() / 255 * 2 - 1
    latents = config.vae.scale_factor * HostPictureEncoder(vae).encode(pixels).mean
    features = see_reference(model, latents, context)
    drawn = torch.empty((count, 3, height, width), dtype=torch.uint8)
    progress = Progress(count)
    for index, (place, pose) in enumerate(zip(drawn, poses, strict=True)):
        place.copy_(resized(pose, width, height))
        progress.update(index + 1)
    seen = PersonClip(features, drawn, tuple(windows))
    unseen = PersonClip(None, drawn, tuple(windows))
    empty = torch.zeros(count, 4, height // LATENT_FACTOR, width // LATENT_FACTOR)
    return (
        [[context, {PERSON: seen}]],
        [[torch.zeros_like(context), {PERSON: unseen}]],
        intermediate(empty),
    )
