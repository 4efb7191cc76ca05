"""The nodes that convert images and prompts into conditioning: one image, two images, a loop."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .choices import checks, choices_of
from .encode import encode, single
from .sockets import CATEGORY, conditioning_outputs, image, schema, text_inputs

_MODEL_TIP = "MODEL of DynamiCrafter Checkpoint Loader."
_VAE_TIP = (
    "VAE of the loader, or any SD 1.x/2.x VAE (the image's latents are then the mean instead of a sample)."
)
_VISION_TIP = (
    "CLIP_VISION of the loader or, for pruned checkpoints, core CLIPVisionLoader with CLIP-ViT-H-14."
)


def _models() -> list[Any]:
    return [
        io.Model.Input("model", tooltip=_MODEL_TIP),
        io.Vae.Input("vae", tooltip=_VAE_TIP),
        io.ClipVision.Input("clip_vision", tooltip=_VISION_TIP),
    ]


def _clip_inputs() -> list[Any]:
    """Length, motion and size."""
    return [
        *choices_of("content", "shape", advanced=False, without=("prompt", "negative")),
        *choices_of("content", "shape", advanced=True),
    ]


class _Conditioning(io.ComfyNode):
    """The checks that the three nodes share."""

    validate_inputs = checks("frames", "motion", "fs", "width", "height")


class DynamiCrafterImageConditioning(_Conditioning):
    """Conditioning that animates an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterImageConditioning",
            display_name="DynamiCrafter Image Conditioning",
            category=CATEGORY,
            description="Converts an image and a prompt into conditioning and an empty latent for image-to-video.",
            search_aliases=["image to video", "i2v", "animate"],
            inputs=[
                *_models(),
                image("image", "The image to animate; a single image, not a batch."),
                *text_inputs(),
                *_clip_inputs(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, clip_vision: Any, image: Any, **choices: Any) -> io.NodeOutput:
        """Encode the image and the prompt."""
        made = encode("animate", model, vae, clip_vision, single(image, "image"), None, **choices)
        return io.NodeOutput(*made)


class DynamiCrafterInterpolation(_Conditioning):
    """Conditioning for interpolation between two images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterInterpolation",
            display_name="DynamiCrafter Interpolation",
            category=CATEGORY,
            description="Converts two images and a prompt into conditioning and an empty latent for "
            "interpolation. Needs an interpolation model (512_interp).",
            search_aliases=["in-between", "tween", "first last frame", "interpolate"],
            inputs=[
                *_models(),
                image("first_image", "The image the clip starts with; a single image, not a batch."),
                image(
                    "last_image",
                    "The image the clip ends with; a single image, not a batch. Resized to the clip's size "
                    "according to fit.",
                ),
                *text_inputs(),
                *_clip_inputs(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, clip_vision: Any, first_image: Any, last_image: Any, **choices: Any
    ) -> io.NodeOutput:
        """Encode both images and the prompt."""
        first, last = single(first_image, "first_image"), single(last_image, "last_image")
        made = encode("interpolate", model, vae, clip_vision, first, last, **choices)
        return io.NodeOutput(*made)


class DynamiCrafterLooping(_Conditioning):
    """Conditioning for a clip that ends where it starts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterLooping",
            display_name="DynamiCrafter Looping",
            category=CATEGORY,
            description="Converts an image and a prompt into conditioning and an empty latent for a seamless "
            "loop. Needs an interpolation model (512_interp). The last frame, which repeats the first, is "
            "dropped by DynamiCrafter Sampler or DynamiCrafter VAE Decode.",
            search_aliases=["seamless loop", "cinemagraph", "loop video"],
            inputs=[
                *_models(),
                image("image", "The image the clip starts and ends with; a single image, not a batch."),
                *text_inputs(),
                *_clip_inputs(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, clip_vision: Any, image: Any, **choices: Any) -> io.NodeOutput:
        """Encode the image and the prompt."""
        made = encode("loop", model, vae, clip_vision, single(image, "image"), None, **choices)
        return io.NodeOutput(*made)
