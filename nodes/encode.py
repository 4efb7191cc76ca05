"""Pictures and prompts to conditioning: what image conditioning, interpolation and looping have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dynamicrafter.media.pictures import as_picture, fit_picture
from ..dynamicrafter.model.conditioning import image_tokens
from ..dynamicrafter.model.configs import LATENT_FACTOR
from ..dynamicrafter.model.variants import Mode, Variant
from .choices import settings_of
from .host.model import FS, KEYFRAMES, TOKENS, KeyframeLatents
from .host.resampler import resample
from .host.towers import check_text, check_vision, encode_picture, encode_prompt
from .host.vae import check_vae, encode_keyframes

LOOP = "dynamicrafter_loop"
"""Key of a latent: its last frame repeats the first and is to be dropped."""
PICTURES = "dynamicrafter_pictures"
"""Key of a latent: the key pictures ``[2, 3, H, W]``, for a decoder that looks at them."""


def variant_of(model: Any) -> Variant:
    """The variant of a MODEL; raises ValueError for a model of another kind."""
    variant = getattr(model.model, "variant", None)
    if not isinstance(variant, Variant):
        raise ValueError(
            "model is not a DynamiCrafter model; connect the MODEL output of DynamiCrafter Checkpoint Loader"
        )
    return variant


def single(pictures: Tensor, name: str) -> Tensor:
    """The one picture ``[h, w, c]`` of an IMAGE; raises ValueError for a batch."""
    if pictures.shape[0] != 1:
        raise ValueError(
            f"{name} holds {pictures.shape[0]} pictures, but one is wanted; pick one with core Image From Batch, or "
            f"make a list of them with core Rebatch Images (batch size 1) to get a clip of each"
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
    **choices: Any,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Positive, negative and image-only conditioning and the empty latent; ``first`` and ``last`` are ``[h, w, c]``."""
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

    seen = torch.cat([pictures[:1], torch.zeros_like(pictures[:1])])
    tokens = resample(model, encode_picture(clip_vision, seen, variant))
    tokens, grey = image_tokens(tokens, variant.resampler, frames).split(1)

    distinct = pictures[:1] if mode != "interpolate" else pictures
    mean, std = encode_keyframes(vae, distinct, variant.vae.scale_factor)
    shared = {
        KEYFRAMES: KeyframeLatents(mean, std, frames, everywhere=mode == "animate"),
        FS: settings.fs,
    }
    latent: dict[str, Any] = {
        "samples": torch.zeros(frames, mean.shape[1], height // LATENT_FACTOR, width // LATENT_FACTOR)
    }
    if mode != "animate":
        latent[PICTURES] = pictures
    if mode == "loop":
        latent[LOOP] = True
    return (
        _with(text, {**shared, TOKENS: tokens}),
        _with(unwanted, {**shared, TOKENS: grey}),
        _with(unwanted, {**shared, TOKENS: tokens}),
        latent,
    )


def _text(variant: Variant, clip: Any, prompt: str, given: Any, name: str) -> Any:
    if given is None:
        if clip is None:
            raise ValueError(
                f"there is no text for {name}; connect the loader's CLIP and write a prompt, or connect a CLIP Text "
                f"Encode to {name}"
            )
        given = encode_prompt(clip, prompt)
    check_text(given, variant, name)
    return given


def _with(conditioning: Any, extra: dict[str, Any]) -> Any:
    """A copy of a conditioning whose every entry also carries ``extra``."""
    return [[entry[0], {**entry[1], **extra}] for entry in conditioning]
