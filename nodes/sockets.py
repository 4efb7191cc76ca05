"""Inputs that several nodes share, with their tooltips."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from .choices import choice

CATEGORY = "DynamiCrafter"
TECHNIQUES = io.Custom("DYNAMICRAFTER_TECHNIQUES")
"""The socket of settings of the group techniques, by the names of the inputs."""
LENGTH = io.Custom("DYNAMICRAFTER_LENGTH")
"""The same of settings of the groups length and faithfulness."""

FILM = io.Custom("DYNAMICRAFTER_FILM")
"""The socket of the clips of a film, a tuple of :class:`~.film.FilmPart`."""


def schema(**values: Any) -> io.Schema:
    """A schema without fields that this host does not know yet (one unknown field would disable the whole pack)."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in values.items() if name in known})


def image(name: str, tooltip: str, **more: Any) -> Any:
    """An image input."""
    return io.Image.Input(name, tooltip=tooltip, **more)


def text_inputs(prompt: str = "") -> list[Any]:
    """Prompts, by default ``prompt`` and none, or conditioning from core nodes instead."""
    return [
        io.Clip.Input(
            "clip",
            optional=True,
            lazy=True,
            tooltip="Text encoder for the prompts below: CLIP of the loader, or core CLIPLoader with the SD "
            "2.1 text encoder. Not needed if positive and negative are connected.",
        ),
        choice("prompt", "Ignored if positive is connected.", default=prompt),
        choice("negative", "Ignored if negative is connected."),
        io.Conditioning.Input(
            "positive",
            optional=True,
            lazy=True,
            tooltip="Conditioning from core CLIP Text Encode, instead of prompt.",
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            lazy=True,
            tooltip="Conditioning from core CLIP Text Encode, instead of negative_prompt.",
        ),
    ]


def conditioning_outputs() -> list[Any]:
    """The outputs of all conditioning nodes."""
    return [
        io.Conditioning.Output("positive", tooltip="Prompt and image, for positive of any sampler."),
        io.Conditioning.Output(
            "negative", tooltip="Negative prompt and a grey image, for negative of any sampler."
        ),
        io.Conditioning.Output(
            "image_only",
            tooltip="Negative prompt and image, for separate guidance scales: image_only of DynamiCrafter "
            "Sampler, or cond2 of core DualCFGGuider.",
        ),
        io.Latent.Output("latent", tooltip="Empty latent with the clip's size and length, for any sampler."),
    ]
