"""Images and prompts to conditioning: what image conditioning, interpolation and looping have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dynamicrafter.media.pictures import as_picture, fit_picture
from ..dynamicrafter.model.conditioning import encode_keys, image_tokens, see
from ..dynamicrafter.model.configs import LATENT_FACTOR
from ..dynamicrafter.model.variants import Mode, Variant
from ..dynamicrafter.settings import Fit
from .choices import settings_of
from .host.model import FS, KEYFRAMES, TOKENS
from .host.resampler import resample
from .host.run import intermediate
from .host.towers import HostImageEncoder, check_text, check_vision, encode_prompt
from .host.vae import HostPictureEncoder, check_vae
from .notes import notes_on

LOOP = "dynamicrafter_loop"
"""Key of a latent whose last frame repeats the first and must be dropped."""
PICTURES = "dynamicrafter_pictures"
"""Key of a latent: the key images ``[2, 3, H, W]``, for a decoder that uses them."""
HELD = "dynamicrafter_held"
"""Key of a latent whose clip is the image held still: the image ``[H, W, 3]`` in [0, 1], and the mask ``[H, W]`` of
what may move, 1 everywhere if there is none."""
FPS = "dynamicrafter_fps"
"""Key of a latent: the model's playback rate in frames per second."""

NO_TEXT = "there is no text for {0}; connect the loader's CLIP and enter a prompt, or connect a CLIP Text Encode to {0}"
"""The error for a prompt without an encoder."""


def variant_of(model: Any) -> Variant:
    """The variant of a MODEL; raises ValueError for a model of another kind."""
    variant = getattr(model.model, "variant", None)
    if not isinstance(variant, Variant):
        raise ValueError(
            "model is not a DynamiCrafter model; connect the MODEL output of DynamiCrafter Checkpoint Loader"
        )
    return variant


def single(pictures: Tensor, name: str) -> Tensor:
    """The single image ``[h, w, c]`` of an IMAGE; raises ValueError for a batch."""
    if pictures.shape[0] != 1:
        raise ValueError(
            f"{name} must be a single image, but it is a batch of {pictures.shape[0]}; select one with core Image "
            f"From Batch, or convert the batch to a list with core Rebatch Images (batch size 1) to get one clip each"
        )
    return pictures[0]


def encode(
    mode: Mode,
    model: Any,
    vae: Any,
    clip_vision: Any,
    first: Tensor,
    last: Tensor | None,
    *,
    clip: Any = None,
    prompt: str = "",
    negative_prompt: str = "",
    positive: Any = None,
    negative: Any = None,
    mask: Tensor | None = None,
    guide: Tensor | None = None,
    **choices: Any,
) -> tuple[tuple[Any, Any, Any, dict[str, Any]], dict[str, list[str]]]:
    """Positive, negative and image-only conditioning and the empty latent, and the node's report to the editor.

    ``first`` and ``last`` are ``[h, w, c]``, ``mask`` is ``[1, h, w]``: 1 may move. With a mask, the latent is the
    image held still. ``guide`` is ``[t, h, w, c]``, for views.
    """
    variant = variant_of(model)
    check_vision(clip_vision, variant)
    check_vae(vae)
    settings = settings_of(variant, mode, (first.shape[1], first.shape[0]), **choices)
    frames, width, height = settings.frames, settings.width, settings.height
    sources = [first] if last is None else [first, last]
    pictures = torch.stack([fit_picture(as_picture(p), width, height, settings.fit) for p in sources])  # pyright: ignore
    if mode == "loop":
        pictures = pictures.repeat(2, 1, 1, 1)

    text = _text(variant, clip, prompt, positive, "positive")
    unwanted = _text(variant, clip, negative_prompt, negative, "negative")

    seen = see(HostImageEncoder(clip_vision, variant), pictures[:1])
    tokens, grey = image_tokens(resample(model, seen), variant.resampler).split(1)

    end = pictures[1:] if mode == "interpolate" else None
    shown = None
    if guide is not None:
        fitted = [fit_picture(as_picture(p.cpu()), width, height, settings.fit) for p in guide[:frames]]
        shown = torch.stack(fitted, dim=1)[None]
    keys = encode_keys(
        HostPictureEncoder(vae), mode, pictures[:1], end, frames, variant.vae.scale_factor, shown
    )
    shared = {KEYFRAMES: keys, FS: settings.fs}
    shape = keys.keys[0].mean.shape[1]
    empty = torch.zeros(frames, shape, height // LATENT_FACTOR, width // LATENT_FACTOR)
    latent: dict[str, Any] = {"samples": intermediate(empty), FPS: settings.fps}
    if mode in ("interpolate", "loop"):
        latent[PICTURES] = pictures
    if mode == "loop":
        latent[LOOP] = True
    if mask is not None:
        fitted = _fitted_mask(mask, first, width, height, settings.fit)
        still = keys.keys[0].mean.float().expand(frames, -1, -1, -1)
        latent |= {
            "samples": intermediate(still),
            "noise_mask": fitted[None],
            HELD: (((pictures[0] + 1) * 127.5).round().movedim(0, -1) / 255, fitted),
        }
    made = (
        _with(text, {**shared, TOKENS: tokens}),
        _with(unwanted, {**shared, TOKENS: grey}),
        _with(unwanted, {**shared, TOKENS: tokens}),
        latent,
    )
    return made, notes_on(model, vae, prompt if positive is None else None, pictures, keys)


def _fitted_mask(mask: Tensor, image: Tensor, width: int, height: int, fit: Fit) -> Tensor:
    """A mask ``[1, h, w]`` at the clip's size, ``[H, W]``; raises ValueError unless it is one of the image's size."""
    if mask.ndim != 3 or tuple(mask.shape) != (1, *image.shape[:2]):
        raise ValueError(
            f"the mask is {' x '.join(map(str, mask.shape))}, but must be one of the image's size "
            f"({image.shape[1]}x{image.shape[0]}); paint it on the same image, or resize it"
        )
    return (fit_picture(as_picture(mask[0].cpu()), width, height, fit).mean(0) + 1) / 2  # pyright: ignore


def _text(variant: Variant, clip: Any, prompt: str, given: Any, name: str) -> Any:
    if given is None:
        if clip is None:
            raise ValueError(NO_TEXT.format(name))
        given = encode_prompt(clip, prompt)
    check_text(given, variant, name)
    return given


def _with(conditioning: Any, extra: dict[str, Any]) -> Any:
    """A copy of a conditioning whose every entry also carries ``extra``."""
    return [[entry[0], {**entry[1], **extra}] for entry in conditioning]
