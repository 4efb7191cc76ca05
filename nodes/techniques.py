"""The options node for what can be added to sampling."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .choices import choices_of, require
from .sockets import CATEGORY, TECHNIQUES, schema


class DynamiCrafterTechniques(io.ComfyNode):
    """The settings of the group techniques, for the sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterTechniques",
            display_name="DynamiCrafter Techniques",
            category=CATEGORY,
            description="Techniques that change how DynamiCrafter Sampler samples, each off by default: part of the "
            "steps from a source clip, guidance over steps and frames, projected guidance, noise on the image. "
            "docs/techniques describes each and what it costs.",
            search_aliases=[
                "apg",
                "stg",
                "pag",
                "perturbed attention",
                "low-pass guidance",
                "denoise",
                "start time",
                "guidance schedule",
                "noise augmentation",
            ],
            inputs=choices_of("techniques", advanced=True),
            outputs=[
                TECHNIQUES.Output("techniques", tooltip="For techniques of DynamiCrafter Sampler."),
            ],
        )

    @classmethod
    def execute(cls, **choices: Any) -> io.NodeOutput:
        """Check the values and pass them on; raises ValueError for the first one that is not valid."""
        require(**choices)
        return io.NodeOutput(choices)
