"""The node with the exact sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.guidance import make_guidance
from .encode import LOOP, variant_of
from .host.sampler import sample_exactly
from .sockets import CATEGORY, advanced, schema

AUTO = "auto"


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
                io.Int.Input(
                    "seed",
                    default=123,
                    min=0,
                    max=0x7FFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Another seed, another clip. Noise is drawn on the CPU, so it does not depend on "
                    "the device.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps: 25 to 50 are usual, 10 for a sketch.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How strongly prompt and picture are followed. 1 switches guidance off and is "
                    "twice as fast.",
                ),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Fresh noise in each step: 0 none, 1 as much as the models were released with.",
                ),
                io.Conditioning.Input(
                    "image_only",
                    optional=True,
                    tooltip="image_only of the same node: gives the picture a scale of its own (image_cfg), "
                    "at half as much time again.",
                ),
                io.Float.Input(
                    "image_cfg",
                    default=7.5,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    optional=True,
                    tooltip="Scale of the picture when image_only is connected; cfg is then the prompt's alone.",
                    extra_dict=advanced(),
                ),
                io.Float.Input(
                    "guidance_rescale",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Against over-exposure by a high cfg, 0 off to 1. -1 takes the model's own (0.7; "
                    "0 for 256).",
                    extra_dict=advanced(),
                ),
                io.Combo.Input(
                    "spacing",
                    options=[AUTO, "uniform_trailing", "uniform"],
                    default=AUTO,
                    optional=True,
                    tooltip="Which of the 1000 noise levels are visited. auto takes the model's own.",
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="Finished frames as a batch of latents; for our or core's VAE decode."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        eta: float,
        image_only: Any = None,
        image_cfg: float = 7.5,
        guidance_rescale: float = -1.0,
        spacing: str = AUTO,
    ) -> io.NodeOutput:
        """Sample; the last frame of a loop, which repeats the first, is dropped."""
        preset = variant_of(model).preset
        guidance = make_guidance(
            cfg,
            None if image_only is None else image_cfg,
            preset.guidance_rescale if guidance_rescale < 0 else guidance_rescale,
        )
        branches = {"full": positive, "unconditional": negative, "image_only": image_only}
        sampled = sample_exactly(
            model,
            {name: branches[name] for name in guidance.branches},
            guidance,
            latent["samples"],
            steps=steps,
            spacing=preset.spacing if spacing == AUTO else spacing,  # pyright: ignore[reportArgumentType]
            eta=eta,
            seed=seed,
        )
        out = {**latent, "samples": sampled}
        if out.pop(LOOP, False):
            out["samples"] = sampled[:-1]
        return io.NodeOutput(out)
