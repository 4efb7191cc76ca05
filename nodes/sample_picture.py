"""The nodes with the pack's own images and poses, so that a workflow runs before anything was uploaded."""

from __future__ import annotations

import json
from pathlib import Path

from comfy_api.latest import io, ui

from ..dynamicrafter.media.pictures import read_picture
from .host.run import intermediate
from .poses import Keypoints
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
    "character",
)
"""Names of the images: coloured shapes for the built-in model first, then drawings for released models, then the
character for the built-in model of persons."""
CLIPS = ("walking", "jumping_jacks")
"""Names of the clips of poses."""


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
                    "harbour, hill_day and hill_dusk are for released models, character for Animate a Person.",
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


class DynamiCrafterSamplePoses(io.ComfyNode):
    """Outputs one of the clips of poses that ship with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterSamplePoses",
            display_name="DynamiCrafter Sample Poses",
            category=CATEGORY,
            description="Outputs the keypoints of a moving person that ship with the pack, for a first clip without "
            "a video of your own. For your own video, use core SDPose Keypoint Extractor instead.",
            search_aliases=["example poses", "test keypoints", "demo", "openpose"],
            inputs=[
                io.Combo.Input(
                    "poses", options=list(CLIPS), default=CLIPS[0], tooltip="The motion, 40 frames of it."
                )
            ],
            outputs=[
                Keypoints.Output(
                    "poses", tooltip="One person for each frame, for the nodes that take POSE_KEYPOINT."
                )
            ],
        )

    @classmethod
    def execute(cls, poses: str) -> io.NodeOutput:
        """Read the file."""
        path = FOLDER / f"{poses}.json"
        if poses not in CLIPS or not path.is_file():
            raise ValueError(
                f"the pack has no poses {poses}; select others, or reinstall the pack if files are missing"
            )
        return io.NodeOutput(json.loads(path.read_text(encoding="utf-8")))
