"""The one-node workflow of keyframes: images in order, with a prompt and a duration for each gap, to a clip."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .choices import advanced, choice, require
from .generate import DEFAULT_DURATION, durations_input, gaps_in, techniques_input
from .host.files import fingerprint, list_checkpoints
from .loader import AUTO, BUILT_IN_TIP, checkpoint_extras, require_encoders, variant_for
from .sockets import CATEGORY, image, schema


class DynamiCrafterKeyframes(io.ComfyNode):
    """Expands into a loader and DynamiCrafter Generate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterKeyframes",
            display_name="DynamiCrafter Keyframes",
            category=CATEGORY,
            description="Generates a clip through two or more images, which appear once each, with a prompt and a "
            "duration for each gap. Needs an interpolation model (512_interp).",
            search_aliases=["storyboard", "in-between", "interpolation", "multiple images", "prompt travel"],
            enable_expand=True,
            inputs=[
                image(
                    "images",
                    "The keyframes in order, as a batch; core Batch Images makes one.",
                    raw_link=True,
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What happens in each gap, one line each; a single line applies to all gaps.",
                ),
                durations_input(),
                io.Combo.Input(
                    "checkpoint",
                    options=list_checkpoints(),
                    tooltip=f"{BUILT_IN_TIP} The encoders that a pruned checkpoint needs are downloaded with it.",
                ),
                *[choice(name) for name in ("motion", "seed")],
                *[
                    choice(name, optional=True, extra_dict={})
                    for name in ("colour_match", "lock_frames", "cut_still", "steps", "cfg", "fps")
                ],
                techniques_input(),
                choice("negative", optional=True, extra_dict=advanced()),
                choice("fs"),
                *checkpoint_extras(),
                *[choice(name, optional=True, extra_dict=advanced()) for name in ("width", "height", "fit")],
            ],
            outputs=[
                io.Video.Output("video", tooltip="The clip, for core Save Video."),
                io.Image.Output("images", tooltip="The frames of the clip, as a batch of images."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> str:
        """Changes when the checkpoint's file does."""
        return fingerprint(checkpoint)

    @classmethod
    def execute(
        cls,
        images: Any,
        prompts: str,
        durations: str,
        checkpoint: str,
        clip: Any = None,
        clip_vision: Any = None,
        variant: str = AUTO,
        techniques: dict[str, Any] | None = None,
        **choices: Any,
    ) -> io.NodeOutput:
        """Build the graph of separate nodes; links are passed on, so that only what changed runs again."""
        require(**choices)
        gaps_in(durations)
        if variant == AUTO:
            variant = variant_for(checkpoint, "interpolate")
        require_encoders(checkpoint, variant, clip, clip_vision)
        graph = GraphBuilder()
        loader = graph.node(
            "DynamiCrafterCheckpointLoader", checkpoint=checkpoint, variant=variant, weight_dtype=AUTO
        )
        length = {name: choices.pop(name) for name in ("colour_match", "lock_frames") if name in choices}
        made = graph.node(
            "DynamiCrafterGenerate",
            model=loader.out(0),
            clip=loader.out(1) if clip is None else clip,
            clip_vision=loader.out(2) if clip_vision is None else clip_vision,
            vae=loader.out(3),
            keyframes=images,
            prompt=" | ".join(line.strip() for line in prompts.strip().splitlines() if line.strip()),
            durations=durations or DEFAULT_DURATION,
            loop=False,
            length=length,
            **({} if techniques is None else {"techniques": techniques}),
            **choices,
        )
        return io.NodeOutput(made.out(1), made.out(0), expand=graph.finalize())
