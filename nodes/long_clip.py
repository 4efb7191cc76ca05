"""The options node for the length of a clip, and for how true it stays to its image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .choices import choice, require
from .generate import techniques_input
from .sockets import CATEGORY, LENGTH, schema

_SHOWN = ("length_method", "overlap", "continue_from", "reanchor", "colour_match", "lock_frames")


class DynamiCrafterLongClip(io.ComfyNode):
    """The settings of length and faithfulness, for a node that generates a whole clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterLongClip",
            display_name="DynamiCrafter Long Clip",
            category=CATEGORY,
            description="How a clip longer (or shorter) than 16 frames is generated, and how its colours and its first "
            "frame are kept true to the image. The length itself is frames of the node that it is connected to.",
            search_aliases=["long video", "continue", "context windows", "colour match", "first frame lock"],
            inputs=[
                *[
                    choice(
                        name,
                        optional=False,
                        extra_dict={},
                        **({"default": "continue"} if name == "length_method" else {}),
                    )
                    for name in _SHOWN
                ],
                techniques_input(),
            ],
            outputs=[
                LENGTH.Output(
                    "length", tooltip="For length of Animate (DynamiCrafter) and DynamiCrafter Generate."
                ),
            ],
        )

    @classmethod
    def execute(cls, techniques: dict[str, Any] | None = None, **choices: Any) -> io.NodeOutput:
        """Check the values and pass them on; raises ValueError for the first one that is not valid."""
        require(**choices)
        return io.NodeOutput({**choices, **(techniques or {})})
