"""The nodes that draw poses, and that fit them to the person of a reference image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.animate_anyone.alignment import Alignment, filled, fit_to, fitted, place_of, smoothed
from ..dynamicrafter.animate_anyone.api import MOST_FRAMES
from ..dynamicrafter.animate_anyone.drawing import draw
from ..dynamicrafter.animate_anyone.keypoints import NOBODY, Person, Points
from ..dynamicrafter.animate_anyone.pipeline import resized
from ..dynamicrafter.animate_anyone.pose_files import poses_of_json
from .choices import advanced
from .decode import played
from .encode import single
from .host.run import Progress, intermediate
from .person import RATE, as_image
from .sockets import CATEGORY, schema
from .words import in_words_of_the_graph

Keypoints = io.Custom("POSE_KEYPOINT")
"""Keypoints as OpenPose writes them, an object for each frame: core's and other packs' type."""
Poses = io.Custom("IMAGE,POSE_KEYPOINT")
"""A socket for either."""

_TRAINED_SIDE = 512
"""Short side of the drawings that the released models were trained with, whose long side is a multiple of 64."""
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
        across, along = (width, height) if width else _trained_size(canvas_of(poses))
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
            shown = next(one for one in people_of(reference, "reference") if one is not NOBODY)
            people = _undistorted(people, canvas, other)
            canvas = other
            people = fitted(people, fit_to(shown, people, canvas[0] / canvas[1]))
        first = next(person for person in people if person is not NOBODY)
        people = fitted(people, Alignment(scale, place_of(first), (shift_x, shift_y)))
        made = [_frame_of(person, canvas) for person in people]
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


def canvas_of(poses: Any) -> tuple[int, int]:
    """Width and height of the image that keypoints were found in; raises ValueError if they do not say it."""
    frame = poses[0] if isinstance(poses, list) else poses
    held: Mapping[str, Any] = cast(Mapping[str, Any], frame) if isinstance(frame, Mapping) else {}
    sides = [held.get(f"canvas_{side}", held.get(side)) for side in ("width", "height")]
    if not all(isinstance(side, int | float) and 1 <= side < 1e6 for side in sides):
        raise ValueError(
            "the keypoints do not say the size of their image (canvas_width and canvas_height); use those of core "
            "SDPose Keypoint Extractor or another node that does"
        )
    return int(cast(float, sides[0])), int(cast(float, sides[1]))


def _trained_size(canvas: tuple[int, int]) -> tuple[int, int]:
    scale = _TRAINED_SIDE / min(canvas)
    width, height = (min(2048, max(64, 64 * round(side * scale / 64))) for side in canvas)
    return width, height


def _undistorted(people: Sequence[Person], canvas: tuple[int, int], other: tuple[int, int]) -> list[Person]:
    """Fractions of a canvas as fractions of one of another shape and the same height."""
    ratio = canvas[0] / canvas[1] * other[1] / other[0]

    def moved(points: Points) -> Points:
        return tuple(None if point is None else (point[0] * ratio, point[1]) for point in points)

    return [
        one if one is NOBODY else Person(moved(one.body), tuple(map(moved, one.hands)), moved(one.face))
        for one in people
    ]


def _frame_of(person: Person, canvas: tuple[int, int]) -> dict[str, Any]:
    """A frame as OpenPose writes it; a person that was not found is none."""
    width, height = canvas

    def flat(points: Points) -> list[float]:
        return [
            value
            for point in points
            for value in ((0.0, 0.0, 0.0) if point is None else (point[0] * width, point[1] * height, 1.0))
        ]

    hands = [*person.hands, (), ()]
    one = {
        "pose_keypoints_2d": flat(person.body),
        "face_keypoints_2d": flat(person.face),
        "hand_left_keypoints_2d": flat(hands[0]),
        "hand_right_keypoints_2d": flat(hands[1]),
    }
    found = any(point is not None for point in person.body)
    return {"people": [one] if found else [], "canvas_width": width, "canvas_height": height}


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
        made[index] = resized(as_image(one), width, height).movedim(0, -1).float() / 255
        progress.update(index + 1)
    return intermediate(made)


def _preview(people: Sequence[Person], canvas: tuple[int, int], image: Tensor | None) -> Tensor:
    """Every pose, drawn small; on black, or over a darkened image."""
    from PIL.Image import fromarray

    scale = _PREVIEW_SIDE / min(canvas)
    width, height = (max(8, 8 * round(side * scale / 8)) for side in canvas)
    size = _trained_size(canvas)
    below = torch.zeros(3, height, width, dtype=torch.uint8)
    if image is not None:
        picture = resized(as_image(single(image, "image")), width, height)
        below = (picture * 0.5).to(torch.uint8)
    made = torch.empty(len(people), height, width, 3)
    progress = Progress(len(people))
    for index, person in enumerate(people):
        pose = resized(fromarray(draw(person, size[1], size[0])), width, height)
        made[index] = torch.maximum(pose, below).movedim(0, -1).float() / 255
        progress.update(index + 1)
    return intermediate(made)
