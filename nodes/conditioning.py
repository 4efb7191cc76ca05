"""The nodes that convert images and prompts into conditioning: one image, two images, a loop, a guide clip."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.model.variants import VIEWS_PROMPT
from .choices import choices_of, missing, require
from .encode import NO_TEXT, encode, single
from .sockets import CATEGORY, conditioning_outputs, image, schema, text_inputs

_MODEL_TIP = "MODEL of DynamiCrafter Checkpoint Loader."
_VAE_TIP = (
    "VAE of the loader, or any SD 1.x/2.x VAE (the image's latents are then the mean instead of a sample)."
)
_VISION_TIP = (
    "CLIP_VISION of the loader or, for pruned checkpoints, core CLIPVisionLoader with CLIP-ViT-H-14."
)

_LAZY = ("model", "vae", "clip_vision", "clip", "positive", "negative")
"""Inputs that are computed only when everything else is valid."""


def _models() -> list[Any]:
    return [
        io.Model.Input("model", tooltip=_MODEL_TIP, lazy=True),
        io.Vae.Input("vae", tooltip=_VAE_TIP, lazy=True),
        io.ClipVision.Input("clip_vision", tooltip=_VISION_TIP, lazy=True),
    ]


def _clip_inputs() -> list[Any]:
    """Length, motion and size."""
    return [
        *choices_of("content", "shape", advanced=False, without=("prompt", "negative")),
        *choices_of("content", "shape", advanced=True),
    ]


def _mask() -> Any:
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="What may move, of the image's size: 1 (painted) may move, 0 stays as it is in the image. Needs "
        "DynamiCrafter VAE Decode to put the pixels back.",
    )


class _Conditioning(io.ComfyNode):
    """The checks that the nodes share."""

    @classmethod
    def check_lazy_status(cls, **shown: Any) -> list[str]:
        """Reject what is wrong before the checkpoint is loaded."""
        require(**shown)
        for name in ("positive", "negative"):
            if name not in shown and "clip" not in shown:
                raise ValueError(NO_TEXT.format(name))
        return missing(shown, _LAZY)


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
                _mask(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, clip_vision: Any, image: Any, **choices: Any) -> io.NodeOutput:
        """Encode the image and the prompt."""
        made, notes = encode("animate", model, vae, clip_vision, single(image, "image"), None, **choices)
        return io.NodeOutput(*made, ui=notes)


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
        made, notes = encode("interpolate", model, vae, clip_vision, first, last, **choices)
        return io.NodeOutput(*made, ui=notes)


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
                _mask(),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, clip_vision: Any, image: Any, **choices: Any) -> io.NodeOutput:
        """Encode the image and the prompt."""
        made, notes = encode("loop", model, vae, clip_vision, single(image, "image"), None, **choices)
        return io.NodeOutput(*made, ui=notes)


class DynamiCrafterViews(_Conditioning):
    """Conditioning for a clip that follows a guide clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterViews",
            display_name="DynamiCrafter Views",
            category=CATEGORY,
            description="Converts a guide clip of a camera and a prompt into conditioning and an empty latent. Needs a "
            "ViewCrafter model, loaded as variant viewcrafter_25.",
            search_aliases=["viewcrafter", "camera control", "novel view", "guide video"],
            inputs=[
                *_models(),
                image(
                    "guide",
                    "The guide clip, such as that of DynamiCrafter Camera Guide: a batch of images, of which the first "
                    "is the image itself. The clip has as many frames.",
                ),
                *text_inputs(VIEWS_PROMPT),
                *choices_of("shape", advanced=False),
                *choices_of("shape", advanced=True),
            ],
            outputs=conditioning_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, clip_vision: Any, guide: Any, **choices: Any) -> io.NodeOutput:
        """Encode all frames of the guide, and the prompt."""
        frames = guide.shape[0]
        if frames < 2:
            raise ValueError(
                "guide is a single image, but must be a batch of at least 2; connect a guide clip"
            )
        made, notes = encode(
            "views", model, vae, clip_vision, guide[0], None, guide=guide, frames=frames, **choices
        )
        return io.NodeOutput(*made, ui=notes)
