"""Inputs of the nodes that move a person, with the ranges and defaults of the package's settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.animate_anyone import api
from ..dynamicrafter.animate_anyone.api import MOST_FRAMES, PersonSettings
from ..dynamicrafter.animate_anyone.config import MAX_WINDOW, PersonPreset
from .choices import advanced
from .words import in_words_of_the_graph

OWN = {"steps": 0, "cfg": -1.0, "window": 0, "overlap": -1}
"""The value of an input that selects the model's own setting."""


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    step: float
    tooltip: str


RANGES: dict[str, _Range] = {
    "steps": _Range(1, 1000, 1, "Denoising steps."),
    "cfg": _Range(
        1, 30, 0.1, "Guidance scale for reference and context; 1 disables guidance and is twice as fast."
    ),
    "eta": _Range(0, 1, 0.05, "Noise added at each step, 0 to 1; the original adds none."),
    "seed": _Range(
        0,
        2**63 - 1,
        1,
        "Noise is generated on the CPU, so a seed gives the same clip on every device. "
        "Another seed gives another clip.",
    ),
    "window": _Range(
        2, MAX_WINDOW, 1, "Frames that the network sees together; longer clips are joined from windows."
    ),
    "overlap": _Range(0, MAX_WINDOW - 1, 1, "Frames that neighbouring windows share; less than window."),
}
"""Settings that nodes offer as they are."""

_OWN_SIZE = "0 follows the image: its size, reduced to the area of the model's own (512x768) if it is larger."
_DEFAULTS = {field.name: field.default for field in fields(PersonSettings)}


def setting(name: str, **options: Any) -> Any:
    """The input of a setting."""
    found, default = RANGES[name], OWN.get(name, _DEFAULTS[name])
    kind: Any = type(_DEFAULTS[name])
    left = f" {default:g} uses the model's own." if name in OWN else ""
    options = {
        "default": default,
        "min": kind(min(default, found.low)),
        "max": kind(found.high),
        "step": kind(found.step),
        "tooltip": found.tooltip + left,
        **options,
    }
    if kind is float:
        return io.Float.Input(name, **options)
    return io.Int.Input(name, control_after_generate=True if name == "seed" else None, **options)


def size_inputs() -> list[Any]:
    """Width and height of the clip, and how image and poses of another shape are made to fit."""
    side = {"default": 0, "min": 0, "max": 2048, "step": 8, "optional": True, "extra_dict": advanced()}
    return [
        io.Int.Input("width", tooltip=f"Width of the clip in pixels, a multiple of 8. {_OWN_SIZE}", **side),
        io.Int.Input("height", tooltip=f"Height of the clip in pixels, a multiple of 8. {_OWN_SIZE}", **side),
        io.Combo.Input(
            "fit",
            options=["stretch", "crop", "pad"],
            default="stretch",
            optional=True,
            tooltip="How image and poses with another aspect ratio than the clip's are made to fit: stretch, as in "
            "the original, crop, or pad with black bars.",
            extra_dict=advanced(),
        ),
    ]


def frames_input() -> Any:
    """The number of poses to use."""
    return io.Int.Input(
        "frames",
        default=0,
        min=0,
        max=MOST_FRAMES,
        optional=True,
        tooltip="Length of the clip: the first so many poses. 0 uses all of them.",
    )


def clip_settings(preset: PersonPreset, **chosen: Any) -> PersonSettings:
    """The package's settings; raises ValueError with one sentence for a value out of range."""
    given = {name: value for name, value in chosen.items() if name not in OWN or value != OWN[name]}
    with in_words_of_the_graph():
        return api.person_settings(preset, **given)


def check_settings(**chosen: Any) -> None:
    """Raise ValueError for a value out of range, before the model and its own settings are known."""
    clip_settings(_ROOMY, **chosen)


_ROOMY = PersonPreset(window=MAX_WINDOW, overlap=0)
"""Neither a window nor an overlap alone is wrong with the other of these."""


def clip_size(width: int, height: int, across: int, along: int, preset: PersonPreset) -> tuple[int, int]:
    """Width and height of a clip, where 0 leaves a side to an image of ``across`` x ``along`` pixels."""
    if not width and not height:
        scale = min(1.0, (preset.width * preset.height / (across * along)) ** 0.5)
        return _nearest(across * scale), _nearest(along * scale)
    return width or _nearest(height * across / along), height or _nearest(width * along / across)


def _nearest(side: float) -> int:
    return min(2048, max(64, 8 * round(side / 8)))
