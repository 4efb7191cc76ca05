"""The nodes that draw poses, and that fit them to the person of a reference image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.animate_anyone.alignment import by_hand, filled, fit_to, fitted, smoothed
from ..dynamicrafter.animate_anyone.api import MOST_FRAMES
from ..dynamicrafter.animate_anyone.drawing import draw
from ..dynamicrafter.animate_anyone.framing import framed
from ..dynamicrafter.animate_anyone.keypoints import Person, moved
from ..dynamicrafter.animate_anyone.pipeline import resized
from ..dynamicrafter.animate_anyone.pose_clips import drawing_size
from ..dynamicrafter.animate_anyone.pose_files import canvas_of as canvas_in
from ..dynamicrafter.animate_anyone.pose_files import openpose_frame, poses_of_json
from .choices import advanced
from .decode import played
from .encode import single
from .host.run import Progress, intermediate
from .person import RATE, as_picture
from .sockets import CATEGORY, schema
from .words import in_words_of_the_graph

Keypoints = io.Custom("POSE_KEYPOINT")
"""Keypoints as OpenPose writes them, an object for each frame: core's and other packs' type."""
Poses = io.Custom("IMAGE,POSE_KEYPOINT")
"""A socket for either."""

_LONGEST_GAP = 100
_PREVIEW_SIDE = 256


class DynamiCrafterPoseDrawing(io.ComfyNode):
    """Keypoints as the models were trained to see them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        side = {"default": 0, "min": 0, "max": 2048, "step": 8, "optional": True, "extra_dict": advanced()}
        own = "0: keypoints are drawn with a short side of 512 pixels, as in training, and images keep their size."
        return schema(
            node_id="DynamiCrafterPoseDrawing",
            display_name="DynamiCrafter Pose Drawing",
            category=CATEGORY,
            description="Draws keypoints as AnimateAnyone was trained to see them: body, hands and face on black. "
            "Images of drawn poses pass through, resized.",
            search_aliases=["openpose", "dwpose", "draw pose", "skeleton", "keypoints", "sdpose"],
            inputs=[
                Poses.Input(
                    "poses",
                    tooltip="POSE_KEYPOINT of core SDPose Keypoint Extractor, of DynamiCrafter Pose Alignment or of "
                    "another pose node, one person for each frame; or IMAGE of poses that are drawn already.",
                ),
                io.Boolean.Input("hands", default=True, tooltip="Draw the hands of keypoints."),
                io.Boolean.Input("face", default=True, tooltip="Draw the points of the face of keypoints."),
                io.Int.Input("width", tooltip=f"Width of the images in pixels. {own}", **side),
                io.Int.Input("height", tooltip=f"Height of the images in pixels. {own}", **side),
            ],
            outputs=[
                io.Image.Output(
                    "images", tooltip="One image for each frame, for DynamiCrafter Person Conditioning."
                )
            ],
        )

    @classmethod
    def execute(
        cls, poses: Any, hands: bool = True, face: bool = True, width: int = 0, height: int = 0
    ) -> io.NodeOutput:
        """Draw, or resize."""
        if bool(width) != bool(height):
            raise ValueError(
                f"width and height are {width} and {height}; set both, or 0 for both to have them chosen"
            )
        if isinstance(poses, Tensor):
            return io.NodeOutput(_resized(poses, width, height) if width else poses)
        people = people_of(poses, "poses")
        across, along = (width, height) if width else drawing_size(*canvas_of(poses))
        return io.NodeOutput(_drawn(people, across, along, hands, face))


class DynamiCrafterPoseAlignment(io.ComfyNode):
    """Keypoints with the size and place of the person in the reference image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        shift = {"default": 0.0, "min": -2.0, "max": 2.0, "step": 0.01, "optional": True}
        return schema(
            node_id="DynamiCrafterPoseAlignment",
            display_name="DynamiCrafter Pose Alignment",
            category=CATEGORY,
            description="Gives a clip of keypoints the size and place of the person in the reference image, fills "
            "gaps and smooths the motion. A skeleton of other proportions changes the person's build.",
            search_aliases=["retarget", "align pose", "smooth keypoints", "fit skeleton"],
            inputs=[
                Keypoints.Input("poses", tooltip="Keypoints of the clip, one person for each frame."),
                Keypoints.Input(
                    "reference",
                    optional=True,
                    tooltip="Keypoints of the reference image. The clip gets the size and place of its person, and "
                    "the shape of its canvas. Without it, only scale and shift apply.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The reference image, to be shown below the poses of the preview.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    tooltip="Size of the person by hand, after the reference; about the middle of neck and hips.",
                ),
                io.Float.Input(
                    "shift_x",
                    tooltip="Shift to the right by hand, as a fraction of the canvas.",
                    **shift,
                ),
                io.Float.Input(
                    "shift_y", tooltip="Shift down by hand, as a fraction of the canvas.", **shift
                ),
                io.Int.Input(
                    "fill",
                    default=5,
                    min=0,
                    max=_LONGEST_GAP,
                    optional=True,
                    tooltip="Points that are missing for so many frames or fewer are filled in.",
                ),
                io.Int.Input(
                    "smooth",
                    default=1,
                    min=1,
                    max=31,
                    step=2,
                    optional=True,
                    tooltip="Average each point over so many frames, an odd number; 1 changes nothing.",
                ),
            ],
            outputs=[
                Keypoints.Output("poses", tooltip="The aligned keypoints, for DynamiCrafter Pose Drawing."),
                io.Image.Output(
                    "preview", tooltip="The aligned poses, small, over the image if there is one."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        poses: Any,
        reference: Any = None,
        image: Tensor | None = None,
        scale: float = 1.0,
        shift_x: float = 0.0,
        shift_y: float = 0.0,
        fill: int = 5,
        smooth: int = 1,
    ) -> io.NodeOutput:
        """Align, and play the result on the node."""
        if smooth % 2 == 0:
            raise ValueError(f"smooth must be an odd number of frames, but is {smooth}; set {smooth + 1}")
        people, canvas = people_of(poses, "poses"), canvas_of(poses)
        people = smoothed(filled(people, fill), smooth)
        if reference is not None:
            other = canvas_of(reference)
            shown = next(one for one in people_of(reference, "reference") if any(one.body))
            people = _undistorted(people, canvas, other)
            canvas = other
            people = fitted(people, fit_to(shown, people, canvas[0] / canvas[1]))
        people = fitted(people, by_hand(people, scale, (shift_x, shift_y)))
        made = [openpose_frame(person, canvas) for person in people]
        preview = _preview(people, canvas, image)
        return io.NodeOutput(made, preview, ui=played(preview, RATE))


def people_of(poses: Any, name: str) -> list[Person]:
    """One person for each frame; raises ValueError with one sentence for what is no clip of keypoints."""
    with in_words_of_the_graph():
        people = poses_of_json(poses, name)
    if len(people) > MOST_FRAMES:
        raise ValueError(
            f"{name} has {len(people)} frames, but a clip has at most {MOST_FRAMES}; use a part of the clip"
        )
    return people


def canvas_of(poses: Any) -> tuple[float, float]:
    """Width and height of the image that keypoints were found in; raises ValueError if they do not say it."""
    canvas = canvas_in(poses)
    if canvas is None:
        raise ValueError(
            "the keypoints do not say the size of their image (canvas_width and canvas_height); use those of core "
            "SDPose Keypoint Extractor or another node that does"
        )
    return canvas


def _undistorted(
    people: Sequence[Person], canvas: tuple[float, float], other: tuple[float, float]
) -> list[Person]:
    """Fractions of a canvas as fractions of one of another shape and the same height."""
    ratio = canvas[0] / canvas[1] * other[1] / other[0]
    return [moved(one, lambda point: (point[0] * ratio, point[1])) for one in people]


def _drawn(people: Sequence[Person], width: int, height: int, hands: bool, face: bool) -> Tensor:
    progress = Progress(len(people))
    images = torch.empty(len(people), height, width, 3)
    for index, person in enumerate(people):
        images[index] = torch.from_numpy(draw(person, height, width, hands, face)).float() / 255
        progress.update(index + 1)
    return intermediate(images)


def _resized(images: Tensor, width: int, height: int) -> Tensor:
    progress = Progress(len(images))
    made = torch.empty(len(images), height, width, 3)
    for index, one in enumerate(images):
        made[index] = _sized(one, width, height).movedim(0, -1).float() / 255
        progress.update(index + 1)
    return intermediate(made)


def _preview(people: Sequence[Person], canvas: tuple[float, float], image: Tensor | None) -> Tensor:
    """Every pose, drawn small; on black, or over a darkened image."""
    from PIL.Image import fromarray

    scale = _PREVIEW_SIDE / min(canvas)
    width, height = (max(8, 8 * round(side * scale / 8)) for side in canvas)
    size = drawing_size(*canvas)
    below = torch.zeros(3, height, width, dtype=torch.uint8)
    if image is not None:
        picture = _sized(single(image, "image"), width, height)
        below = (picture * 0.5).to(torch.uint8)
    made = torch.empty(len(people), height, width, 3)
    progress = Progress(len(people))
    for index, person in enumerate(people):
        pose = resized(fromarray(draw(person, size[1], size[0])), width, height)
        made[index] = torch.maximum(pose, below).movedim(0, -1).float() / 255
        progress.update(index + 1)
    return intermediate(made)


def _sized(frame: Tensor, width: int, height: int) -> Tensor:
    """A frame ``[h, w, c]`` in [0, 1] as uint8 ``[3, height, width]``, stretched."""
    return resized(framed(as_picture(frame), width, height, "stretch"), width, height)
