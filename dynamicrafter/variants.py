"""What each released DynamiCrafter checkpoint is: sizes of its networks, its diffusion process and its good defaults.

Configs are values. A variant is written as its difference from another one, so this file read from top to bottom
says how the releases differ. Numbers are those of the released inference configurations and scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Literal, cast, get_type_hints

from .json_values import fits, with_tuples

Prediction = Literal["eps", "v"]
Spacing = Literal["uniform", "uniform_trailing", "linspace"]
Mode = Literal["animate", "interpolate", "loop"]

TEXT_TOKENS = 77
"""Length of every text condition; the networks were trained with exactly this many text tokens."""

LATENT_FACTOR = 8
"""Pixels per latent cell in each direction."""


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the denoising network (paper section 3.2; defaults are those of all released checkpoints)."""

    in_channels: int = 8
    """Noisy latent channels followed by the channels of the picture's latent."""
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level, in units of ``model_channels``; the first must be 1."""
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (1, 2, 4)
    """Downsampling factors at which a level has spatial and temporal transformers."""
    num_head_channels: int = 64
    context_dim: int = 1024
    norm_groups: int = 32
    learned_image_scale: bool = False
    """Whether each image cross-attention has a learned weight ``alpha`` (256 only)."""


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the KL autoencoder; ``video_decoder`` adds ToonCrafter's temporal, reference-guided decoder."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scale_factor: float = 0.18215
    """Latents are the posterior sample times this (Stable Diffusion's constant)."""
    video_decoder: bool = False


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of the network that turns CLIP image tokens into ``frames * queries_per_frame`` context tokens."""

    dim: int = 1024
    depth: int = 4
    head_channels: int = 64
    heads: int = 12
    queries_per_frame: int = 16
    frames: int = 16
    input_dim: int = 1280
    output_dim: int = 1024
    ff_mult: int = 4


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the CLIP text tower; ``layers`` counts the blocks that run (the last trained one never does)."""

    width: int = 1024
    layers: int = 23
    heads: int = 16
    vocabulary: int = 49408


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the CLIP image tower; all ``layers`` run, without final norm and projection."""

    width: int = 1280
    layers: int = 32
    heads: int = 16
    patch: int = 14
    image_size: int = 224


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process: 1000 steps, betas linear in their root from 0.00085 to 0.012."""

    prediction: Prediction = "v"
    zero_snr: bool = True
    """Betas rescaled so that the last step is pure noise (arXiv 2305.08891)."""
    base_scale: float | None = 0.7
    """End value of the dynamic rescale of x0, reached at step 400; None where the variant has none."""


@dataclass(frozen=True)
class Preset:
    """Defaults with which a variant gives its best results (the released scripts' values)."""

    height: int
    width: int
    fs: int
    """Frame stride (256) or frames per second (all others), the number the network is conditioned on."""
    fs_still: int
    """End of the recommended fs range that gives the least motion."""
    fs_lively: int
    """End of the recommended fs range that gives the most motion."""
    spacing: Spacing = "uniform_trailing"
    guidance_rescale: float = 0.7
    steps: int = 50
    cfg: float = 7.5
    eta: float = 1.0
    frames: int = 16
    fps: int = 8
    """Playback rate of the written clip."""


@dataclass(frozen=True)
class Variant:
    """A kind of checkpoint: its networks, its noise process, the modes it was trained for and its defaults."""

    name: str
    purpose: str
    modes: tuple[Mode, ...]
    preset: Preset
    diffusion: DiffusionConfig = DiffusionConfig()
    unet: UNetConfig = UNetConfig()
    vae: VaeConfig = VaeConfig()
    resampler: ResamplerConfig = ResamplerConfig()
    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()


V512 = Variant(
    name="512_v1",
    purpose="picture to clip, 512x320",
    modes=("animate",),
    preset=Preset(height=320, width=512, fs=24, fs_still=30, fs_lively=15),
)
V256 = replace(
    V512,
    name="256_v1",
    purpose="picture to clip, 256x256",
    diffusion=DiffusionConfig(prediction="eps", zero_snr=False, base_scale=None),
    unet=replace(V512.unet, learned_image_scale=True),
    preset=Preset(
        height=256, width=256, fs=3, fs_still=1, fs_lively=6, spacing="uniform", guidance_rescale=0.0
    ),
)
V1024 = replace(
    V512,
    name="1024_v1",
    purpose="picture to clip, 1024x576",
    diffusion=replace(V512.diffusion, base_scale=0.3),
    preset=replace(V512.preset, height=576, width=1024, fs=10, fs_still=15, fs_lively=5),
)
V512_INTERP = replace(
    V512,
    name="512_interp_v1",
    purpose="clip between two pictures and loops, 512x320",
    modes=("interpolate", "loop"),
    preset=replace(V512.preset, fs=5, fs_still=30, fs_lively=5),
)
CIL_512 = replace(V512, name="cil_512", purpose="picture to clip with more motion, 512x320")
CIL_1024 = replace(V1024, name="cil_1024", purpose="picture to clip with more motion, 1024x576")
TOON_512 = replace(
    V512_INTERP,
    name="tooncrafter_512",
    purpose="clip between two drawings, 512x320",
    vae=replace(V512.vae, video_decoder=True),
    preset=replace(V512_INTERP.preset, fs=10),
)
SMALL = Variant(
    name="small",
    purpose="plumbing and tests: all modes at 64x64, same code, few weights",
    modes=("animate", "interpolate", "loop"),
    preset=Preset(height=64, width=64, fs=8, fs_still=30, fs_lively=8, steps=10, cfg=2.0),
    unet=UNetConfig(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_factors=(1, 2),
        num_head_channels=8,
        context_dim=64,
        norm_groups=8,
    ),
    vae=VaeConfig(channels=32, channel_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=8),
    resampler=ResamplerConfig(dim=64, depth=2, head_channels=16, heads=4, input_dim=64, output_dim=64),
    text=TextConfig(width=64, layers=2, heads=4),
    vision=VisionConfig(width=64, layers=2, heads=4, patch=28),
)

TINY = replace(
    SMALL,
    name="tiny",
    purpose="trained on coloured shapes that do as told: all modes at 64x64, built in",
    preset=replace(SMALL.preset, fs=10, steps=12, cfg=1.0, eta=0.0, spacing="linspace"),
    unet=replace(SMALL.unet, model_channels=64, channel_mult=(1, 1), num_head_channels=16),
    vae=replace(SMALL.vae, channel_mult=(1, 1, 2, 4)),
)

VARIANTS: dict[str, Variant] = {
    v.name: v for v in (V256, V512, V1024, V512_INTERP, CIL_512, CIL_1024, TOON_512, SMALL, TINY)
}
"""Every known variant by name."""


def variant_to_json(variant: Variant) -> dict[str, Any]:
    """Plain values that :func:`variant_from_json` turns back into the same variant (stored in file metadata)."""
    return asdict(variant)


def variant_from_json(values: Mapping[str, Any]) -> Variant:
    """The variant written by :func:`variant_to_json`.

    Raises ``ValueError`` that names the offending field when a field is missing, unknown or of the wrong type.
    """
    sections = {
        "preset": Preset,
        "diffusion": DiffusionConfig,
        "unet": UNetConfig,
        "vae": VaeConfig,
        "resampler": ResamplerConfig,
        "text": TextConfig,
        "vision": VisionConfig,
    }
    plain = _checked(Variant, values)
    for name, kind in sections.items():
        section = plain[name]
        if not isinstance(section, Mapping):
            raise ValueError(f"{name} must be an object, not {type(section).__name__}")
        plain[name] = kind(**_checked(kind, cast(Mapping[str, Any], section)))
    return Variant(**plain)


def _checked(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with lists as tuples, after its keys and types were compared with the fields of dataclass ``kind``."""
    hints = get_type_hints(kind)
    wrong = sorted(set(hints).symmetric_difference(values))
    if wrong:
        raise ValueError(f"{kind.__name__} does not fit: {', '.join(wrong)} missing or unknown")
    plain = {key: with_tuples(value) for key, value in values.items()}
    for key, value in plain.items():
        if not is_dataclass(hints[key]) and not fits(hints[key], value):
            raise ValueError(f"{kind.__name__}.{key} cannot be {value!r}")
    return plain
