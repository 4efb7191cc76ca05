"""The node that renders a guide clip."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.camera.choices import FAR, KINDS, MOVES, NEAR, GuideCamera, read_moves
from ..dynamicrafter.camera.depth import check_depth_size
from ..dynamicrafter.camera.guide import render_guide
from ..dynamicrafter.media.pictures import as_picture, fit_picture, place_of_fitted
from ..dynamicrafter.model.variants import VIEWCRAFTER_25
from ..dynamicrafter.settings import default_size
from ..dynamicrafter.weights.fill import single_thread
from .choices import choices_of, full_size, require
from .encode import single
from .host.run import intermediate
from .sockets import CATEGORY, image, schema
from .words import in_words_of_the_graph

_USUAL = GuideCamera("orbit:0")


class DynamiCrafterCameraGuide(io.ComfyNode):
    """The scene of an image with a depth map, along a camera path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterCameraGuide",
            display_name="DynamiCrafter Camera Guide",
            category=CATEGORY,
            description="Renders what a moving camera sees of an image with a depth map, black where the image shows "
            "nothing: a guide clip for DynamiCrafter Views.",
            search_aliases=["viewcrafter", "camera path", "orbit", "dolly", "point cloud", "depth"],
            inputs=[
                image("image", "The image, the first frame of the guide; a single image, not a batch."),
                image(
                    "depth", "Its depth map from any depth node, of the same size; the first channel is used."
                ),
                io.String.Input(
                    "path",
                    default="orbit:20",
                    tooltip=f"Moves joined by plus signs, such as orbit:20+dolly:-0.2, from {', '.join(MOVES)}. Values "
                    "that begin with 0, such as orbit:0,20,0, are spread over the clip. The pad below draws it.",
                ),
                io.Int.Input(
                    "frames",
                    default=VIEWCRAFTER_25.preset.frames,
                    min=2,
                    max=1024,
                    tooltip="Number of frames; ViewCrafter was trained on 25.",
                ),
                io.Combo.Input(
                    "depth_kind",
                    options=list(KINDS),
                    default=_USUAL.depth_kind,
                    tooltip="What the depth map contains. disparity: near is bright (Depth Anything, MiDaS). depth: "
                    "far is bright. metric: distances in metres.",
                ),
                _number(
                    "fov",
                    _USUAL.fov,
                    (5, 150),
                    1,
                    "Angle in degrees that the image shows across its width.",
                ),
                _number(
                    "near",
                    0,
                    (0, 1e6),
                    0.1,
                    f"Distance of the nearest point; a lower limit for metric. 0 is {NEAR:g}, and none for metric.",
                ),
                _number(
                    "far",
                    0,
                    (0, 1e6),
                    0.1,
                    f"Distance of the farthest point; an upper limit for metric. 0 is {FAR:g}, and none for metric.",
                ),
                _number(
                    "elevation",
                    _USUAL.elevation,
                    (-80, 80),
                    1,
                    "Angle in degrees by which the image looks down.",
                ),
                _number(
                    "centre",
                    _USUAL.centre,
                    (0.1, 10),
                    0.05,
                    "Distance of the centre of the scene, as a multiple of that in the middle of the image.",
                ),
                _number(
                    "radius", _USUAL.radius, (0.5, 16), 0.5, "Radius in pixels of the discs that are drawn."
                ),
                *choices_of("shape", advanced=False),
                *choices_of("shape", advanced=True),
            ],
            outputs=[
                io.Image.Output("guide", tooltip="The guide clip, for DynamiCrafter Views."),
                io.Image.Output(
                    "last_frame",
                    tooltip="Its last frame, for last_image of DynamiCrafter Interpolation with other models.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        depth: Tensor,
        path: str,
        frames: int,
        depth_kind: Any,
        fov: float = _USUAL.fov,
        near: float = 0.0,
        far: float = 0.0,
        elevation: float = _USUAL.elevation,
        centre: float = _USUAL.centre,
        radius: float = _USUAL.radius,
        width: int = 0,
        height: int = 0,
        fit: Any = "crop",
    ) -> io.NodeOutput:
        """Render on the CPU; raises ValueError with one sentence for what is wrong with depth or path."""
        require(width=width, height=height, fit=fit)
        picture, values = as_picture(single(image, "image").cpu()), single(depth, "depth").cpu()
        with in_words_of_the_graph(), single_thread():
            # Before a name of a file is taken from a workflow, which may be anybody's.
            read_moves(path)
            camera = GuideCamera(
                path, depth_kind, near or None, far or None, fov, elevation, centre, radius=radius
            )
            check_depth_size((values.shape[1], values.shape[0]), picture.size)
            size = full_size(width, height, picture.size) or default_size(VIEWCRAFTER_25, picture.size)
            fitted = ((fit_picture(picture, *size, fit).movedim(0, -1) + 1) * 127.5).round().to(torch.uint8)
            place = place_of_fitted(picture.size, *size, fit)
            guide = render_guide(fitted, values[..., 0].float(), camera, frames, fitted=place)
        made = intermediate(guide.float() / 255)
        return io.NodeOutput(made, made[-1:])


def _number(name: str, default: float, limits: tuple[float, float], step: float, tooltip: str) -> Any:
    return io.Float.Input(
        name, default=default, min=limits[0], max=limits[1], step=step, optional=True, tooltip=tooltip
    )
