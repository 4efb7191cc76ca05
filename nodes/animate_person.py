"""The one-node workflow of a person: an image and poses in, a clip out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .choices import advanced
from .host.loading import AUTO
from .host.person_files import fingerprint_person, list_people
from .person import CHECKPOINT_TIP, RATE
from .person_choices import check_settings, frames_input, setting, size_inputs
from .poses import Keypoints, Poses
from .sockets import CATEGORY, image, schema


class DynamiCrafterAnimatePerson(io.ComfyNode):
    """Expands into loader, pose nodes, conditioning, sampler and decode, so that the host caches each of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterAnimatePerson",
            display_name="Animate a Person (DynamiCrafter)",
            category=CATEGORY,
            description="Generates a clip of the person in an image, in the poses of a clip, with AnimateAnyone: one "
            "frame for each pose.",
            search_aliases=["animate anyone", "pose to video", "dance", "character", "person", "openpose"],
            enable_expand=True,
            inputs=[
                image("image", "The person to move; a single image, not a batch.", raw_link=True),
                Poses.Input(
                    "poses",
                    raw_link=True,
                    tooltip="POSE_KEYPOINT of core SDPose Keypoint Extractor or another pose node, one person for each "
                    "frame; or IMAGE of poses that are drawn already.",
                ),
                io.Combo.Input("checkpoint", options=list_people(), tooltip=CHECKPOINT_TIP),
                setting("seed"),
                setting("steps"),
                setting("cfg"),
                frames_input(),
                io.Float.Input(
                    "fps",
                    default=RATE,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    optional=True,
                    tooltip="Playback rate in frames per second: that of the clip of poses.",
                ),
                Keypoints.Input(
                    "reference",
                    optional=True,
                    raw_link=True,
                    tooltip="Keypoints of the image. If connected, poses must be keypoints too; they get the size "
                    "and place of its person.",
                ),
                io.Boolean.Input(
                    "hands", default=True, optional=True, tooltip="Draw the hands of keypoints."
                ),
                io.Boolean.Input(
                    "face", default=True, optional=True, tooltip="Draw the points of the face of keypoints."
                ),
                *size_inputs(),
                setting("window", optional=True, extra_dict=advanced()),
                setting("overlap", optional=True, extra_dict=advanced()),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The clip, for core Save Video."),
                io.Image.Output("images", tooltip="The frames of the clip, as a batch of images."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> str:
        """Changes when a file of the model does."""
        return fingerprint_person(checkpoint)

    @classmethod
    def execute(
        cls,
        image: Any,
        poses: Any,
        checkpoint: str,
        seed: int,
        steps: int,
        cfg: float,
        frames: int = 0,
        fps: float = RATE,
        reference: Any = None,
        hands: bool = True,
        face: bool = True,
        width: int = 0,
        height: int = 0,
        fit: str = "stretch",
        window: int = 0,
        overlap: int = -1,
    ) -> io.NodeOutput:
        """Build the graph of separate nodes; links are passed on, so that only what changed runs again."""
        sides = {name: side for name, side in (("width", width), ("height", height)) if side}
        check_settings(seed=seed, steps=steps, cfg=cfg, window=window, overlap=overlap, **sides)
        graph = GraphBuilder()
        loader = graph.node("DynamiCrafterPersonLoader", checkpoint=checkpoint, weight_dtype=AUTO)
        if reference is not None:
            poses = graph.node("DynamiCrafterPoseAlignment", poses=poses, reference=reference).out(0)
        drawn = graph.node("DynamiCrafterPoseDrawing", poses=poses, hands=hands, face=face)
        conditioning = graph.node(
            "DynamiCrafterPersonConditioning",
            model=loader.out(0),
            vae=loader.out(1),
            image=image,
            poses=drawn.out(0),
            frames=frames,
            width=width,
            height=height,
            fit=fit,
            window=window,
            overlap=overlap,
        )
        sampled = graph.node(
            "DynamiCrafterPersonSampler",
            model=loader.out(0),
            positive=conditioning.out(0),
            negative=conditioning.out(1),
            latent=conditioning.out(2),
            seed=seed,
            steps=steps,
            cfg=cfg,
        )
        decoded = graph.node(
            "DynamiCrafterVAEDecode", vae=loader.out(1), latent=sampled.out(0), fps=fps, preview=True
        )
        return io.NodeOutput(decoded.out(1), decoded.out(0), expand=graph.finalize())
