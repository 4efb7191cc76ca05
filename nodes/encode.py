"""Images and prompts to conditioning: what image conditioning, interpolation and looping have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..dynamicrafter.diffusion.guidance import Branch
from ..dynamicrafter.media.pictures import as_picture, fit_picture
from ..dynamicrafter.model.conditioning import KeyLatents, encode_keys, image_tokens, see
from ..dynamicrafter.model.configs import LATENT_FACTOR
from ..dynamicrafter.model.variants import Mode, Variant
from ..dynamicrafter.motion.windowed import needs_windows
from ..dynamicrafter.settings import Settings, prompt_parts, sampled_frames
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
    pictures = fitted([first] if last is None else [first, last], settings)
    text = _text(variant, clip, [prompt], positive, "positive")
    unwanted = _text(variant, clip, [negative_prompt], negative, "negative")
    branches, keys = condition(model, vae, clip_vision, pictures, settings, text, unwanted, guide)
    latent: dict[str, Any] = {"samples": empty_latent(keys, settings), FPS: settings.fps}
    if mode in ("interpolate", "loop"):
        latent[PICTURES] = pictures.repeat(2, 1, 1, 1) if mode == "loop" else pictures
    if mode == "loop":
        latent[LOOP] = True
    if mask is not None:
        fits = fitted_mask(mask, first, settings)
        still = keys.keys[0].mean.float().expand(settings.frames, -1, -1, -1)
        latent |= {
            "samples": intermediate(still),
            "noise_mask": fits[None],
            HELD: (shown(pictures[0]), fits),
        }
    made = (branches["full"], branches["unconditional"], branches["image_only"], latent)
    return made, notes_on(model, vae, prompt if positive is None else None, pictures, keys)


def fitted(images: Iterable[Tensor], settings: Settings) -> Tensor:
    """Images ``[h, w, c]`` in [0, 1] at the clip's size, ``[n, 3, H, W]`` in [-1, 1]."""
    width, height, fit = settings.width, settings.height, settings.fit
    return torch.stack([fit_picture(as_picture(image), width, height, fit) for image in images])  # pyright: ignore


def shown(picture: Tensor) -> Tensor:
    """A fitted image ``[3, H, W]`` as it is shown, ``[H, W, 3]`` in [0, 1]."""
    return ((picture + 1) * 127.5).round().movedim(0, -1) / 255


def empty_latent(keys: KeyLatents, settings: Settings) -> Tensor:
    """Latents of zeros ``[t, 4, h, w]`` with the length of the key frames and the size of the clip."""
    channels = keys.keys[0].mean.shape[1]
    size = (settings.height // LATENT_FACTOR, settings.width // LATENT_FACTOR)
    return intermediate(torch.zeros(keys.frames, channels, *size))


def condition(
    model: Any,
    vae: Any,
    clip_vision: Any,
    pictures: Tensor,
    settings: Settings,
    text: Any,
    unwanted: Any,
    guide: Tensor | None = None,
) -> tuple[dict[Branch, Any], KeyLatents]:
    """The conditioning of all branches, and its key frames.

    ``pictures`` are the fitted image, or both of an interpolation. ``text`` and ``unwanted`` are the conditioning of
    the prompts, and ``guide`` a clip ``[t, h, w, c]`` for views.
    """
    variant = variant_of(model)
    seen = see(HostImageEncoder(clip_vision, variant), pictures[:1])
    tokens, grey = image_tokens(resample(model, seen), variant.resampler).split(1)
    # A window of a loop is a clip that begins with the image.
    mode: Mode = "animate" if needs_windows(settings) else settings.mode
    end = pictures[1:] if mode == "interpolate" else None
    frames = sampled_frames(settings)
    followed = None
    if guide is not None:
        followed = fitted((one.cpu() for one in guide[:frames]), settings).transpose(0, 1)[None]
    keys = encode_keys(
        HostPictureEncoder(vae), mode, pictures[:1], end, frames, variant.vae.scale_factor, followed
    )
    shared = {KEYFRAMES: keys, FS: settings.fs}
    branches: dict[Branch, Any] = {
        "full": with_options(text, {**shared, TOKENS: tokens}),
        "unconditional": with_options(unwanted, {**shared, TOKENS: grey}),
        "image_only": with_options(unwanted, {**shared, TOKENS: tokens}),
    }
    return branches, keys


def texts_of(variant: Variant, clip: Any, settings: Settings) -> tuple[Any, Any]:
    """The conditioning of the prompts of a clip, and of its negative prompt as many times."""
    prompts = [part.text for part in prompt_parts(settings)]
    return (
        _text(variant, clip, prompts, None, "positive"),
        _text(variant, clip, [settings.negative] * len(prompts), None, "negative"),
    )


def fitted_mask(mask: Tensor, image: Tensor, settings: Settings) -> Tensor:
    """A mask ``[1, h, w]`` at the clip's size, ``[H, W]``; raises ValueError unless it is one of the image's size."""
    if mask.ndim != 3 or tuple(mask.shape) != (1, *image.shape[:2]):
        raise ValueError(
            f"the mask is {' x '.join(map(str, mask.shape))}, but must be one of the image's size "
            f"({image.shape[1]}x{image.shape[0]}); paint it on the same image, or resize it"
        )
    return (fitted([mask[0].cpu()], settings)[0].mean(0) + 1) / 2


def _text(variant: Variant, clip: Any, prompts: Sequence[str], given: Any, name: str) -> Any:
    """The conditioning ``given``, or that of ``prompts``, whose tokens follow each other if there are several."""
    if given is None:
        if clip is None:
            raise ValueError(NO_TEXT.format(name))
        given = encode_prompt(clip, prompts[0])
        if len(prompts) > 1:
            joined = torch.cat([encode_prompt(clip, prompt)[0][0] for prompt in prompts], dim=1)
            given = [[joined, given[0][1]]]
    check_text(given, variant, name)
    return given


def with_options(conditioning: Any, extra: dict[str, Any]) -> Any:
    """A copy of a conditioning whose every entry also carries ``extra``."""
    return [[entry[0], {**entry[1], **extra}] for entry in conditioning]
