"""The node with the sampler the models were released with."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.diffusion.guidance import make_guidance
from .choices import choices_of, missing, require, settings_of
from .encode import LOOP, variant_of
from .host.sampler import sample_exactly
from .sockets import CATEGORY, schema

_NOT_HERE = ("noise_device",)
"""Noise is always generated on the CPU."""


class DynamiCrafterSampler(io.ComfyNode):
    """DDIM exactly as the models were released with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterSampler",
            display_name="DynamiCrafter Sampler",
            category=CATEGORY,
            description="The sampler the models were released with: DDIM with the models' own noise schedule, "
            "dynamic rescale and guidance. A seed gives the same clip as the dynamicrafter command, on every "
            "device.",
            search_aliases=["ddim", "dynamicrafter ksampler"],
            inputs=[
                io.Model.Input(
                    "model", lazy=True, tooltip="MODEL of the loader, optionally with LoRA or other patches."
                ),
                io.Conditioning.Input(
                    "positive", lazy=True, tooltip="positive of a DynamiCrafter conditioning node."
                ),
                io.Conditioning.Input("negative", lazy=True, tooltip="negative of the same node."),
                io.Latent.Input(
                    "latent",
                    lazy=True,
                    tooltip="latent of the same node; sets the size and length of the clip.",
                ),
                *choices_of("sampling", advanced=False, without=_NOT_HERE),
                io.Conditioning.Input(
                    "image_only",
                    optional=True,
                    lazy=True,
                    tooltip="image_only of the same node. Enables a separate guidance scale for the image "
                    "(image_cfg) and takes 1.5 times as long.",
                ),
                *choices_of("sampling", advanced=True, without=_NOT_HERE),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    tooltip="The denoised frames as a batch of latents, for DynamiCrafter or core VAE Decode.",
                )
            ],
        )

    @classmethod
    def check_lazy_status(cls, **shown: Any) -> list[str]:
        """Reject what is wrong before anything is computed; the conditioning comes first, as it has such checks too."""
        require(**shown)
        return missing(shown, ("positive", "negative", "latent", "image_only")) or missing(shown, ("model",))

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
        refuse_mask(latent)
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
            guided=(chosen.guidance_start, chosen.guidance_end),
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


def refuse_mask(latent: dict[str, Any]) -> None:
    """Raise ValueError for a LATENT of which only a part is to be sampled."""
    if latent.get("noise_mask") is not None:
        raise ValueError(
            "the latent has a noise mask, which this sampler does not support yet; remove the mask, or use "
            "a core sampler with this model"
        )
