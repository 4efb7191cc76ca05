"""The node that decodes latents into frames."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .choices import advanced
from .encode import LOOP, PICTURES
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
            ],
            outputs=[io.Image.Output("images", tooltip="The frames, as a batch of images.")],
        )

    @classmethod
    def execute(cls, vae: Any, latent: dict[str, Any], chunk: int = 0) -> io.NodeOutput:
        """Decode; the last frame of a loop, which repeats the first, is dropped if the sampler has kept it."""
        frames = decode_frames(vae, latent["samples"], latent.get(PICTURES), chunk)
        return io.NodeOutput(frames[:-1] if latent.get(LOOP) else frames)
