"""DynamiCrafter: still pictures set in motion.

import dynamicrafter

model = dynamicrafter.load("512")
clip = dynamicrafter.animate(model, "picture.png", "a boat rocks on the waves", seed=7)
dynamicrafter.save(clip, "clip.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import Clip as Clip
    from .api import animate as animate
    from .api import interpolate as interpolate
    from .api import load as load
    from .api import loop as loop
    from .api import render as render
    from .api import save as save
    from .errors import CheckpointError as CheckpointError
    from .errors import DynamiCrafterError as DynamiCrafterError
    from .errors import UsageError as UsageError
    from .pipeline import Model as Model
    from .settings import Settings as Settings
    from .settings import make_settings as make_settings

_HOMES = {
    "Clip": "api",
    "animate": "api",
    "interpolate": "api",
    "load": "api",
    "loop": "api",
    "render": "api",
    "save": "api",
    "CheckpointError": "errors",
    "DynamiCrafterError": "errors",
    "UsageError": "errors",
    "Model": "pipeline",
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
