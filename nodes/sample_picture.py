"""The node with the pack's own images, so that a workflow runs before any image was uploaded."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io, ui

from ..dynamicrafter.media.pictures import read_picture
from .host.run import intermediate
from .sockets import CATEGORY, schema

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
PICTURES = (
    "red_circle",
    "red_circle_left",
    "red_circle_right",
    "blue_square",
    "green_triangle",
    "yellow_cross",
    "harbour",
    "hill_day",
    "hill_dusk",
)
"""Names of the images: coloured shapes for the built-in model first, then drawings for released models."""


class DynamiCrafterSamplePicture(io.ComfyNode):
    """Outputs one of the images that ship with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterSamplePicture",
            display_name="DynamiCrafter Sample Picture",
            category=CATEGORY,
            description="Outputs an image that ships with the pack, for a first clip without a file of your own. "
            "For your own images, use core Load Image instead, and a downloaded model.",
            search_aliases=["example picture", "test image", "demo"],
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(PICTURES),
                    default=PICTURES[0],
                    tooltip="The coloured shapes are for the built-in model (prompt: a red circle moves right). "
                    "harbour, hill_day and hill_dusk are for released models.",
                )
            ],
            outputs=[io.Image.Output("image", tooltip="The image, as core Load Image would output it.")],
        )

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        """Read the file and show it on the node."""
        path = FOLDER / f"{picture}.png"
        if picture not in PICTURES or not path.is_file():
            raise ValueError(
                f"the pack has no image {picture}; select another one, or reinstall the pack if files are missing"
            )
        image = intermediate(read_picture(path).pixels[None].float() / 255)
        return io.NodeOutput(image, ui=ui.PreviewImage(image))
