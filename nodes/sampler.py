"""The node with the exact sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.diffusion.guidance import make_guidance
from .choices import checks, choices_of, settings_of
from .encode import LOOP, variant_of
from .host.sampler import sample_exactly
from .sockets import CATEGORY, schema

_NOT_HERE = ("noise_device",)
"""Noise is always drawn on the CPU."""


class DynamiCrafterSampler(io.ComfyNode):
    """DDIM exactly as the models were released with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterSampler",
            display_name="DynamiCrafter Sampler",
            category=CATEGORY,
            description="The sampler the models were released with: DDIM with its own noise levels, dynamic "
            "rescale and guidance. The same seed gives the same clip as the dynamicrafter command, on every "
            "device.",
            search_aliases=["ddim", "dynamicrafter ksampler"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="MODEL of the loader, with LoRA or other patches if you like."
                ),
                io.Conditioning.Input("positive", tooltip="positive of one of our conditioning nodes."),
                io.Conditioning.Input("negative", tooltip="negative of the same node."),
                io.Latent.Input(
                    "latent", tooltip="latent of the same node; its size and length are the clip's."
                ),
                *choices_of("sampling", advanced=False, without=_NOT_HERE),
                io.Conditioning.Input(
                    "image_only",
                    optional=True,
                    tooltip="image_only of the same node: gives the picture a scale of its own (image_cfg), "
                    "at half as much time again.",
                ),
                *choices_of("sampling", advanced=True, without=_NOT_HERE),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="Finished frames as a batch of latents; for our or core's VAE decode."
                )
            ],
        )

    validate_inputs = checks("steps", "cfg", "eta", "image_cfg", "guidance_rescale")

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        image_only: Any = None,
        **choices: Any,
    ) -> io.NodeOutput:
        """Sample; the last frame of a loop, which repeats the first, is dropped."""
        if latent.get("noise_mask") is not None:
            raise ValueError(
                "the latent has a noise mask, which this sampler does not take yet; remove it, or use a "
                "core sampler on this model"
            )
        variant = variant_of(model)
        chosen = settings_of(variant, variant.modes[0], **choices)
        image_scale = chosen.cfg if chosen.image_cfg is None else chosen.image_cfg
        guidance = make_guidance(
            chosen.cfg, None if image_only is None else image_scale, chosen.guidance_rescale
        )
        branches = {"full": positive, "unconditional": negative, "image_only": image_only}
        sampled = sample_exactly(
            model,
            {name: branches[name] for name in guidance.branches},
            guidance,
            latent["samples"],
            steps=chosen.steps,
            sampler=chosen.sampler,
            spacing=chosen.spacing,
            eta=chosen.eta,
            seed=chosen.seed,
        )
        out = {**latent, "samples": sampled}
        if out.pop(LOOP, False):
            out["samples"] = sampled[:-1]
        return io.NodeOutput(out)
