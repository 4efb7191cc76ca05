"""The one-node workflow: an image and a prompt in, a clip out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..dynamicrafter.model.variants import Mode
from .choices import OWN, advanced, choice, require
from .generate import MASK_TIP, length_input
from .host.files import fingerprint, list_checkpoints
from .loader import AUTO, BUILT_IN_TIP, checkpoint_extras, require_encoders, variant_for
from .sockets import CATEGORY, image, schema

_LAST_TIP = "The last frame, from which another clip can continue."


class DynamiCrafterAnimate(io.ComfyNode):
    """Expands into loader, conditioning, sampler and decode, so that the host caches each of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterAnimate",
            display_name="Animate (DynamiCrafter)",
            category=CATEGORY,
            description="Generates a clip from an image and a prompt. With last_image it interpolates between "
            "the two images, with loop it generates a seamless loop; both need an interpolation model.",
            search_aliases=["animate", "image to video", "i2v", "animate picture", "dynami crafter"],
            enable_expand=True,
            inputs=[
                image("image", "The image to animate; a single image, not a batch.", raw_link=True),
                choice("prompt"),
                io.Combo.Input(
                    "checkpoint",
                    options=list_checkpoints(),
                    tooltip=f"{BUILT_IN_TIP} The encoders that a pruned checkpoint needs are downloaded with it.",
                ),
                choice("motion"),
                choice("seed"),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="Generate a seamless loop. Cannot be combined with last_image.",
                ),
                image(
                    "last_image",
                    "The image to end with; the clip interpolates between the two images.",
                    optional=True,
                    raw_link=True,
                ),
                *[choice(name, optional=True) for name in ("steps", "cfg", "frames", "fps")],
                choice("negative", optional=True, extra_dict=advanced()),
                choice("fs"),
                *checkpoint_extras(),
                *[choice(name, optional=True, extra_dict=advanced()) for name in ("width", "height", "fit")],
                length_input(),
                io.Mask.Input("mask", optional=True, raw_link=True, tooltip=MASK_TIP),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The clip, for core Save Video."),
                io.Image.Output("images", tooltip="The frames of the clip, as a batch of images."),
                io.Image.Output("last_frame", tooltip=_LAST_TIP),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> str:
        """Changes when the checkpoint's file does."""
        return fingerprint(checkpoint)

    @classmethod
    def execute(
        cls,
        image: Any,
        prompt: str,
        checkpoint: str,
        motion: float,
        seed: int,
        loop: bool,
        last_image: Any = None,
        steps: int = OWN[int],
        cfg: float = OWN[float],
        frames: int = 16,
        fps: float = 8,
        negative_prompt: str = "",
        fs: int = OWN[int],
        clip: Any = None,
        clip_vision: Any = None,
        variant: str = AUTO,
        width: int = OWN[int],
        height: int = OWN[int],
        fit: str = "crop",
        length: dict[str, Any] | None = None,
        mask: Any = None,
    ) -> io.NodeOutput:
        """Build the graph of separate nodes; links are passed on, so that only what changed runs again."""
        if loop and last_image is not None:
            raise ValueError(
                "loop and last_image cannot be combined, because a loop ends with its first image; remove one of them"
            )
        require(
            motion=motion, steps=steps, cfg=cfg, frames=frames, fps=fps, fs=fs, width=width, height=height
        )
        mode: Mode = "interpolate" if last_image is not None else "loop" if loop else "animate"
        if variant == AUTO:
            windowed = length is not None and length["length_method"] == "windows"
            variant = variant_for(checkpoint, "animate" if windowed else mode)
        require_encoders(checkpoint, variant, clip, clip_vision)
        graph = GraphBuilder()
        loader = graph.node(
            "DynamiCrafterCheckpointLoader", checkpoint=checkpoint, variant=variant, weight_dtype=AUTO
        )
        shared = {
            "model": loader.out(0),
            "clip": loader.out(1) if clip is None else clip,
            "clip_vision": loader.out(2) if clip_vision is None else clip_vision,
            "vae": loader.out(3),
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "frames": frames,
            "motion": motion,
            "fs": fs,
            "width": width,
            "height": height,
            "fit": fit,
        }
        sampling = {
            "seed": seed,
            "steps": steps,
            "cfg": cfg,
            "eta": OWN[float],
        }
        shown = frames - 1 if loop else frames
        if length is not None or (mask is not None and last_image is not None):
            made = graph.node(
                "DynamiCrafterGenerate",
                image=image,
                loop=loop,
                fps=fps,
                **_given(last_image=last_image, mask=mask, length=length),
                **shared,
                **sampling,
            )
            last = graph.node("ImageFromBatch", image=made.out(0), batch_index=shown - 1, length=1)
            return io.NodeOutput(made.out(1), made.out(0), last.out(0), expand=graph.finalize())
        if last_image is not None:
            kind, pictures = "DynamiCrafterInterpolation", {"first_image": image, "last_image": last_image}
        else:
            kind = "DynamiCrafterLooping" if loop else "DynamiCrafterImageConditioning"
            pictures = {"image": image}
        conditioning = graph.node(kind, **shared, **pictures, **_given(mask=mask))
        sampled = graph.node(
            "DynamiCrafterSampler",
            model=loader.out(0),
            positive=conditioning.out(0),
            negative=conditioning.out(1),
            latent=conditioning.out(3),
            **sampling,
        )
        decoded = graph.node(
            "DynamiCrafterVAEDecode", vae=loader.out(3), latent=sampled.out(0), fps=fps, preview=True
        )
        last = graph.node("ImageFromBatch", image=decoded.out(0), batch_index=shown - 1, length=1)
        return io.NodeOutput(decoded.out(1), decoded.out(0), last.out(0), expand=graph.finalize())


def _given(**values: Any) -> dict[str, Any]:
    """The inputs that are connected; a lazy input that is None would be waited for."""
    return {name: value for name, value in values.items() if value is not None}
