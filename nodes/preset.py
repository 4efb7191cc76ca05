"""The node that outputs the recommended settings of a model for ComfyUI's own nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .encode import variant_of
from .sockets import CATEGORY, schema


class DynamiCrafterPreset(io.ComfyNode):
    """The model's defaults, to be linked to core samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterPreset",
            display_name="DynamiCrafter Preset",
            category=CATEGORY,
            description="Outputs the recommended settings of a model, for ComfyUI's own samplers. They change "
            "automatically with the checkpoint. DynamiCrafter Sampler does not need this node.",
            search_aliases=["model defaults", "recommended settings"],
            inputs=[io.Model.Input("model", tooltip="MODEL of DynamiCrafter Checkpoint Loader.")],
            outputs=[
                io.Int.Output("steps", tooltip="Denoising steps, for KSampler or a scheduler."),
                io.Float.Output("cfg", tooltip="Guidance scale, for KSampler or a guider."),
                io.Float.Output("guidance_rescale", tooltip="For multiplier of core RescaleCFG."),
            ],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        """Return the preset of the model's variant."""
        preset = variant_of(model).preset
        return io.NodeOutput(preset.steps, preset.cfg, preset.guidance_rescale)
