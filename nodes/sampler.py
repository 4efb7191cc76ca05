"""The node with the exact sampler."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io

from ..dynamicrafter.diffusion.config import Spacing
from ..dynamicrafter.diffusion.guidance import make_guidance
from .encode import LOOP, variant_of
from .host.sampler import sample_exactly
from .own_values import LARGEST_CFG, OWN, OWN_COUNT, problem_of, settings_of
from .sockets import CATEGORY, CFG_TIP, STEPS_TIP, advanced, schema

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
                    default=OWN_COUNT,
                    min=OWN_COUNT,
                    max=1000,
                    tooltip=STEPS_TIP,
                ),
                io.Float.Input(
                    "cfg",
                    default=OWN,
                    min=OWN,
                    max=LARGEST_CFG,
                    step=0.1,
                    tooltip=CFG_TIP,
                ),
                io.Float.Input(
                    "eta",
                    default=OWN,
                    min=OWN,
                    max=1.0,
                    step=0.05,
                    tooltip="Fresh noise in each step: 0 none, 1 as much as there can be. -1 takes the model's own "
                    "share (1 for released models).",
                ),
                io.Conditioning.Input(
                    "image_only",
                    optional=True,
                    tooltip="image_only of the same node: gives the picture a scale of its own (image_cfg), "
                    "at half as much time again.",
                ),
                io.Float.Input(
                    "image_cfg",
                    default=OWN,
                    min=OWN,
                    max=LARGEST_CFG,
                    step=0.1,
                    optional=True,
                    tooltip="Scale of the picture when image_only is connected; cfg is then the prompt's alone. -1 "
                    "takes the value of cfg.",
                    extra_dict=advanced(),
                ),
                io.Float.Input(
                    "guidance_rescale",
                    default=OWN,
                    min=OWN,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Against over-exposure by a high cfg, 0 off to 1. -1 takes the model's own (0.7; "
                    "0 for 256). A core RescaleCFG on the model has no effect here.",
                    extra_dict=advanced(),
                ),
                io.Combo.Input(
                    "spacing",
                    options=[AUTO, *get_args(Spacing)],
                    default=AUTO,
                    optional=True,
                    tooltip="Which of the 1000 noise levels are visited: from the least noise up (uniform), from the "
                    "most down (uniform_trailing), or evenly between the two (linspace). auto takes the model's own.",
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
    def validate_inputs(
        cls,
        cfg: float | None = None,
        eta: float | None = None,
        image_cfg: float | None = None,
        guidance_rescale: float | None = None,
    ) -> bool | str:
        """Refuse a wrong number before anything runs; what is linked is checked when it is known.

        Naming an input switches the host's own check of its range off, so that is done here too.
        """
        return problem_of(cfg=cfg, eta=eta, image_cfg=image_cfg, guidance_rescale=guidance_rescale) or True

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
        image_cfg: float = OWN,
        guidance_rescale: float = OWN,
        spacing: str = AUTO,
    ) -> io.NodeOutput:
        """Sample; the last frame of a loop, which repeats the first, is dropped."""
        if latent.get("noise_mask") is not None:
            raise ValueError(
                "the latent has a noise mask, which this sampler does not take yet; remove it, or use a "
                "core sampler on this model"
            )
        chosen = settings_of(
            variant_of(model),
            steps=steps,
            cfg=cfg,
            image_cfg=image_cfg,
            eta=eta,
            guidance_rescale=guidance_rescale,
            spacing=None if spacing == AUTO else spacing,
            seed=seed,
        )
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
