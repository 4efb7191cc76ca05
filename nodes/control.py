"""The node for hints of chosen frames, between core's loader and its node that applies a ControlNet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .choices import choice, require, whole_numbers
from .host.control import with_hint_frames
from .sockets import CATEGORY, schema


class DynamiCrafterHintFrames(io.ComfyNode):
    """The frames whose hints a ControlNet is given, such as sketches of a few frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterHintFrames",
            display_name="DynamiCrafter Hint Frames",
            category=CATEGORY,
            description="Names the frames of the hints that a ControlNet is given, such as sketches of a few frames "
            "for ToonCrafter's sketch encoder. Goes before core Apply ControlNet; works with DynamiCrafter models.",
            search_aliases=[
                "sketch",
                "sketch encoder",
                "sparse controlnet",
                "tooncrafter",
                "keyframe sketches",
            ],
            inputs=[
                io.ControlNet.Input("control_net", tooltip="CONTROL_NET of core Load ControlNet Model."),
                io.String.Input(
                    "hint_frames",
                    default="0",
                    tooltip="The frame of each image given to Apply ControlNet, in their order, separated by commas, "
                    "such as 0,8,15. The first frame is 0.",
                ),
                choice("control_gaps", extra_dict={}),
            ],
            outputs=[
                io.ControlNet.Output("control_net", tooltip="For control_net of core Apply ControlNet."),
            ],
        )

    @classmethod
    def execute(cls, control_net: Any, hint_frames: str, control_gaps: str = "blank") -> io.NodeOutput:
        """Attach the frames; raises ValueError for anything but a list of them."""
        require(control_gaps=control_gaps)
        frames = whole_numbers("hint_frames", hint_frames, 0, "use one for each hint, such as 0,8,15")
        return io.NodeOutput(with_hint_frames(control_net, tuple(frames), control_gaps))
