"""The node that decodes latents into frames."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from comfy_api.latest import InputImpl, Types, io, ui
from torch import Tensor

from ..dynamicrafter.model.variants import Preset
from .choices import advanced, choice
from .encode import FPS, HELD, LOOP, PICTURES
from .host.vae import decode_frames
from .sockets import CATEGORY, schema


class DynamiCrafterVAEDecode(io.ComfyNode):
    """Decodes a clip in chunks that fit into memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterVAEDecode",
            display_name="DynamiCrafter VAE Decode",
            category=CATEGORY,
            description="Decodes latents into frames, a few at a time, with progress and cancellation. Works "
            "with the loader's VAE and with any SD 1.x/2.x VAE; ToonCrafter's decoder also uses the key frames.",
            search_aliases=["vae decode video", "decode frames"],
            inputs=[
                io.Vae.Input("vae", tooltip="VAE of the loader, or any SD 1.x/2.x VAE."),
                io.Latent.Input(
                    "latent",
                    tooltip="Latents from DynamiCrafter Sampler, or from a core sampler with the same model.",
                ),
                io.Int.Input(
                    "chunk",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="Frames decoded at once; 0 decodes as many as fit. Lower values need less memory.",
                    extra_dict=advanced(),
                ),
                choice(
                    "fps",
                    "0 uses the model's default.",
                    default=0,
                    min=0,
                    optional=True,
                    extra_dict=advanced(),
                ),
                io.Boolean.Input(
                    "preview",
                    default=False,
                    optional=True,
                    tooltip="Play the clip on this node when it is finished.",
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The frames, as a batch of images."),
                io.Video.Output("video", tooltip="The clip, for core Save Video."),
            ],
        )

    @classmethod
    def execute(
        cls, vae: Any, latent: dict[str, Any], chunk: int = 0, fps: float = 0, preview: bool = False
    ) -> io.NodeOutput:
        """Decode; the last frame of a loop, which repeats the first, is dropped if the sampler has kept it."""
        frames = decode_frames(vae, latent["samples"], latent.get(PICTURES), chunk)
        if latent.get(LOOP):
            frames = frames[:-1]
        if HELD in latent:
            image, mask = (value.to(frames) for value in latent[HELD])
            frames = mask[:, :, None] * frames + (1 - mask[:, :, None]) * image
        rate = fps or latent.get(FPS, Preset.fps)
        clip = InputImpl.VideoFromComponents(
            Types.VideoComponents(
                images=frames, frame_rate=Fraction(rate).limit_denominator(1001), audio=None
            )
        )
        return io.NodeOutput(frames, clip, ui=played(frames, rate) if preview else None)


def played(frames: Tensor, fps: float) -> ui.SavedImages:
    """The clip on its node, as an animated image; other than a video, it plays by itself."""
    saved = ui.ImageSaveHelper.save_animated_webp(
        frames,
        filename_prefix="dynamicrafter",
        folder_type=io.FolderType.temp,
        cls=None,
        fps=fps,
        lossless=False,
        quality=90,
        method=2,
    )
    return ui.SavedImages([saved], is_animated=True)
