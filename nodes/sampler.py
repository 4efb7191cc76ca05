"""The node with the sampler the models were released with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.diffusion.guidance import Branch
from .choices import choices_of, missing, require, settings_of
from .encode import HELD, LOOP, variant_of
from .host.sampler import sample_exactly
from .sockets import CATEGORY, TECHNIQUES, schema

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
                TECHNIQUES.Input(
                    "techniques",
                    optional=True,
                    lazy=True,
                    tooltip="Techniques of DynamiCrafter Techniques; without it, all of them are off.",
                ),
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
        return missing(shown, ("positive", "negative", "latent", "image_only", "techniques")) or missing(
            shown, ("model",)
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        image_only: Any = None,
        techniques: dict[str, Any] | None = None,
        **choices: Any,
    ) -> io.NodeOutput:
        """Sample; the last frame of a loop, which repeats the first, is dropped."""
        variant = variant_of(model)
        chosen = settings_of(
            variant, variant.modes[0], **choices, **(techniques or {}), frames=latent["samples"].shape[0]
        )
        if image_only is not None and chosen.image_cfg is None:
            chosen = replace(chosen, image_cfg=chosen.cfg)
        branches: dict[Branch, Any] = {"full": positive, "unconditional": negative}
        if image_only is None:
            chosen = replace(chosen, image_cfg=None)
        else:
            branches["image_only"] = image_only
        sampled = sample_exactly(
            model,
            branches,
            latent["samples"],
            chosen,
            mask=latent.get("noise_mask"),
            held=HELD in latent,
        )
        out = {**latent, "samples": sampled}
        if out.pop(LOOP, False):
            out["samples"] = sampled[:-1]
        return io.NodeOutput(out)
