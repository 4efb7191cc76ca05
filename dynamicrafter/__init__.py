"""DynamiCrafter: animates still images.

import dynamicrafter

model = dynamicrafter.load("tiny")
clip = dynamicrafter.animate(model, "pictures/red_circle.png", "a red circle moves right", seed=7)
dynamicrafter.save(clip, "clip.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .animate_anyone.api import PersonSettings, person
    from .animate_anyone.pose_clips import PoseChoices, read_poses
    from .animate_anyone.weights import load_person
    from .api import (
        Clip,
        animate,
        interpolate,
        keyframes,
        load,
        load_control,
        loop,
        render,
        save,
        switch,
        views,
    )
    from .director.film import Film, story
    from .director.scenes import Story, StoryScene
    from .errors import CheckpointError, DynamiCrafterError, UsageError
    from .jobs.run import batch
    from .pipeline import Model
    from .settings import Choices, Settings, make_settings

__all__ = [
    "CheckpointError",
    "Choices",
    "Clip",
    "DynamiCrafterError",
    "Film",
    "Model",
    "PersonSettings",
    "PoseChoices",
    "Settings",
    "Story",
    "StoryScene",
    "UsageError",
    "animate",
    "batch",
    "interpolate",
    "keyframes",
    "load",
    "load_control",
    "load_person",
    "loop",
    "make_settings",
    "person",
    "read_poses",
    "render",
    "save",
    "story",
    "switch",
    "views",
]

_HOMES = {
    "Clip": "api",
    "animate": "api",
    "interpolate": "api",
    "keyframes": "api",
    "load": "api",
    "load_control": "api",
    "loop": "api",
    "render": "api",
    "save": "api",
    "switch": "api",
    "views": "api",
    "Film": "director.film",
    "story": "director.film",
    "Story": "director.scenes",
    "StoryScene": "director.scenes",
    "CheckpointError": "errors",
    "DynamiCrafterError": "errors",
    "UsageError": "errors",
    "PersonSettings": "animate_anyone.api",
    "person": "animate_anyone.api",
    "PoseChoices": "animate_anyone.pose_clips",
    "read_poses": "animate_anyone.pose_clips",
    "load_person": "animate_anyone.weights",
    "batch": "jobs.run",
    "Model": "pipeline",
    "Choices": "settings",
    "Settings": "settings",
    "make_settings": "settings",
}
"""The public names and the modules they come from."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``dynamicrafter --help`` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """The public names, those not imported yet included."""
    return sorted({*globals(), *_HOMES})
