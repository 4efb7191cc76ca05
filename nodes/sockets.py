"""Inputs that several nodes share, with the words of their tooltips."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "DynamiCrafter"
LARGEST_SIZE = 4096
"""Largest width and height in pixels."""

STEPS_TIP = (
    "Denoising steps; more is finer and slower. 0 takes the model's own number (50 for released models, for "
    "which 25 is good too and 10 a sketch)."
)
CFG_TIP = (
    "How strongly prompt and picture are followed. -1 takes the model's own value (7.5 for released models); "
    "1 switches guidance off and is twice as fast."
)

FRAMES_TIP = (
    "Length of the clip in frames. The models were trained on 16 and are best at it; with any other length "
    "every frame looks at all image tokens."
)
MOTION_TIP = (
    "How lively the clip is: 0 still, 1 lively, -1 the model's own default. Sets the frame rate (or, for "
    "256, the frame stride) that the model is told, in the direction that fits it."
)
FS_TIP = (
    "The raw number behind motion: frame stride for the 256 model (1 to 6, more is livelier), frames per "
    "second for all others (5 to 30, less is livelier). 0 leaves it to motion."
)
SIZE_TIP = "In pixels, a multiple of 64. 0 takes the model's own size, turned upright for an upright picture."
FIT_TIP = (
    "How a picture of another shape is brought to size: crop fills and cuts, pad shows all with black bars, "
    "stretch distorts."
)


def schema(**values: Any) -> io.Schema:
    """A schema without what this host does not know yet (an unknown word would lose the whole pack)."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def image(name: str, tooltip: str, **more: Any) -> Any:
    """A picture input."""
    return io.Image.Input(name, tooltip=tooltip, **more)


def advanced() -> dict[str, Any]:
    """What marks an input as one that is rarely changed, for hosts that fold these away."""
    return {"advanced": True}


def clip_inputs() -> list[Any]:
    """Length, motion and shape: the inputs of all conditioning nodes."""
    return [
        io.Int.Input("frames", default=16, min=1, max=1024, tooltip=FRAMES_TIP),
        io.Float.Input("motion", default=-1.0, min=-1.0, max=1.0, step=0.05, tooltip=MOTION_TIP),
        io.Int.Input("width", default=0, min=0, max=LARGEST_SIZE, step=64, tooltip=SIZE_TIP),
        io.Int.Input("height", default=0, min=0, max=LARGEST_SIZE, step=64, tooltip=SIZE_TIP),
        io.Combo.Input("fit", options=["crop", "pad", "stretch"], default="crop", tooltip=FIT_TIP),
        io.Int.Input("fs", default=0, min=0, max=1000, tooltip=FS_TIP, optional=True, extra_dict=advanced()),
    ]


def text_inputs() -> list[Any]:
    """Prompts of our own, or conditioning from elsewhere."""
    return [
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="Text encoder for the prompts below: the loader's CLIP, or core CLIPLoader with the SD "
            "2.1 text encoder. Not needed when positive and negative are connected.",
        ),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What should happen, in English. Not used when positive is connected.",
        ),
        io.String.Input(
            "negative_prompt",
            default="",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What should not. Empty is what the models were trained with. Not used when negative is connected.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="Text from a core CLIP Text Encode in place of the prompt.",
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="Text from a core CLIP Text Encode in place of the negative prompt.",
        ),
    ]


def conditioning_outputs() -> list[Any]:
    """What all conditioning nodes give."""
    return [
        io.Conditioning.Output("positive", tooltip="Prompt and picture; for any sampler's positive."),
        io.Conditioning.Output(
            "negative", tooltip="Negative prompt and a grey picture; for any sampler's negative."
        ),
        io.Conditioning.Output(
            "image_only",
            tooltip="Negative prompt and picture: the middle condition of two-scale guidance (our sampler's "
            "image_only, or cond2 of core DualCFGGuider).",
        ),
        io.Latent.Output(
            "latent", tooltip="Empty latent of the right size and length; for any sampler's latent."
        ),
    ]
