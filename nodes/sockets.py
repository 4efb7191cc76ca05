"""Inputs that several nodes share, with the words of their tooltips."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from .choices import choice

CATEGORY = "DynamiCrafter"


def schema(**values: Any) -> io.Schema:
    """A schema without what this host does not know yet (an unknown word would lose the whole pack)."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def image(name: str, tooltip: str, **more: Any) -> Any:
    """A picture input."""
    return io.Image.Input(name, tooltip=tooltip, **more)


def text_inputs() -> list[Any]:
    """Prompts of our own, or conditioning from elsewhere."""
    return [
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="Text encoder for the prompts below: the loader's CLIP, or core CLIPLoader with the SD "
            "2.1 text encoder. Not needed when positive and negative are connected.",
        ),
        choice("prompt", "Not used when positive is connected."),
        choice("negative", "Not used when negative is connected."),
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
