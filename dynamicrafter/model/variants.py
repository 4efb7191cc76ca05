"""The released DynamiCrafter checkpoints: sizes of the networks, the diffusion process and recommended defaults.

Configs are values. Each variant is defined by its differences from another, so reading this file from top to bottom
shows how the releases differ. Numbers are those of the released inference configurations and scripts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..diffusion.config import DiffusionConfig, Spacing
from .configs import ResamplerConfig, TextConfig, UNetConfig, VaeConfig, VisionConfig

Mode = Literal["animate", "interpolate", "loop", "views"]
"""views: every frame of a guide clip conditions the frame in its place."""
VIEWS_PROMPT = "Rotating view of a scene"
"""The one prompt with which ViewCrafter was trained."""


@dataclass(frozen=True)
class Preset:
    """Recommended defaults of a variant (the released scripts' values)."""

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


def nameless(variant: Variant) -> Variant:
    """What decides how a variant is computed: a release and its retrained successor differ in the rest alone."""
    return replace(variant, name="", purpose="")


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
VIEWCRAFTER_25 = replace(
    V1024,
    name="viewcrafter_25",
    purpose="picture and guide clip of a camera to clip, 1024x576",
    modes=("views",),
    # The released model has one fs.
    preset=replace(V1024.preset, frames=25, fs_still=10, fs_lively=10),
)
SMALL = Variant(
    name="small",
    purpose="plumbing and tests: all modes at 64x64, same code, few weights",
    modes=("animate", "interpolate", "loop", "views"),
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
    modes=("animate", "interpolate", "loop"),
    preset=replace(SMALL.preset, fs=10, steps=12, cfg=1.0, eta=0.0, spacing="linspace"),
    unet=replace(SMALL.unet, model_channels=64, channel_mult=(1, 1), num_head_channels=16),
    vae=replace(SMALL.vae, channel_mult=(1, 1, 2, 4)),
)

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (V256, V512, V1024, V512_INTERP, CIL_512, CIL_1024, TOON_512, VIEWCRAFTER_25, SMALL, TINY)
}
"""Every known variant by name."""

LATENT_STATISTICS = {"tiny": "-0.0095,0.0339,-0.002,-0.0444,1.06"}
"""For Analytic-Init, by variant: means of the latents' channels and their variance, by 'dynamicrafter statistics'."""
