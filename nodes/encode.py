"""Pictures and prompts to conditioning: what image conditioning, interpolation and looping have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dynamicrafter.media.pictures import as_picture, fit_picture
from ..dynamicrafter.model.conditioning import encode_keys, image_tokens, see
from ..dynamicrafter.model.configs import LATENT_FACTOR
from ..dynamicrafter.model.variants import Mode, Variant
from ..dynamicrafter.settings import SIZE_STEP, default_size, motion_to_fs
from .host.model import FS, KEYFRAMES, TOKENS
from .host.resampler import resample
from .host.towers import HostImageEncoder, check_text, check_vision, encode_prompt
from .host.vae import HostPictureEncoder, check_vae
from .own_values import OWN, problem_of
from .sockets import LARGEST_SIZE

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


def size_problem(width: int | None, height: int | None) -> str | None:
    """What is wrong with a size in pixels, in one sentence, or None; None stands for a number not known yet."""
    for name, value in (("width", width), ("height", height)):
        if value is not None and not 0 <= value <= LARGEST_SIZE:
            return f"{name} must be 0 to {LARGEST_SIZE}, but {value} was given"
        if value is not None and value % SIZE_STEP:
            nearest = max(SIZE_STEP, round(value / SIZE_STEP) * SIZE_STEP)
            return (
                f"{name} must be a multiple of {SIZE_STEP}, but {value} was given; the nearest is {nearest}"
            )
    if width is not None and height is not None and bool(width) != bool(height):
        return (
            f"only one of width ({width}) and height ({height}) is set; set both, or leave both at 0 for the "
            f"model's own size"
        )
    return None


def size_of(variant: Variant, width: int, height: int, picture: Tensor) -> tuple[int, int]:
    """Width and height in pixels: what was asked for, or the variant's, turned as ``picture`` ``[h, w, c]`` is."""
    wrong = size_problem(width, height)
    if wrong:
        raise ValueError(wrong)
    if width and height:
        return width, height
    return default_size(variant, (picture.shape[1], picture.shape[0]))


def fs_of(variant: Variant, motion: float, fs: int) -> int:
    """The frame stride or rate: the raw number if given, else by motion, else the variant's default.

    Raises ValueError with one sentence for a motion that is neither 0 to 1 nor -1.
    """
    wrong = problem_of(motion=motion)
    if wrong:
        raise ValueError(wrong)
    if fs:
        return fs
    return variant.preset.fs if motion == OWN else motion_to_fs(variant, motion)


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
    frames: int,
    motion: float,
    width: int,
    height: int,
    fit: str,
    fs: int = 0,
    clip: Any = None,
    prompt: str = "",
    negative_prompt: str = "",
    positive: Any = None,
    negative: Any = None,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Positive, negative and image-only conditioning and the empty latent; ``first`` and ``last`` are ``[h, w, c]``."""
    variant = variant_of(model)
    check_vision(clip_vision, variant)
    check_vae(vae)
    if mode not in variant.modes:
        raise ValueError(
            f"{variant.name} was trained to {' and '.join(variant.modes)}, not to {mode}; load a model for it "
            f"({'512_interp' if mode != 'animate' else '512, 1024 or 256'})"
        )
    least = {"animate": 1, "interpolate": 2, "loop": 3}[mode]
    if frames < least:
        raise ValueError(f"frames is {frames}, but {mode} needs at least {least}")
    width, height = size_of(variant, width, height, first)
    sources = [first] if last is None else [first, last]
    pictures = torch.stack([fit_picture(as_picture(p), width, height, fit) for p in sources])  # pyright: ignore
    if mode == "loop":
        pictures = pictures.repeat(2, 1, 1, 1)

    text = _text(variant, clip, prompt, positive, "positive")
    unwanted = _text(variant, clip, negative_prompt, negative, "negative")

    seen = see(HostImageEncoder(clip_vision, variant), pictures[:1])
    tokens, grey = image_tokens(resample(model, seen), variant.resampler).split(1)

    end = pictures[1:] if mode == "interpolate" else None
    keys = encode_keys(HostPictureEncoder(vae), mode, pictures[:1], end, frames, variant.vae.scale_factor)
    shared = {KEYFRAMES: keys, FS: fs_of(variant, motion, fs)}
    shape = keys.keys[0].mean.shape[1]
    latent: dict[str, Any] = {
        "samples": torch.zeros(frames, shape, height // LATENT_FACTOR, width // LATENT_FACTOR)
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
