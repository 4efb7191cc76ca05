"""Conversion between nodes and the package: inputs from the table of parameters, and settings from inputs.

The model's default is None inside the package. Inputs cannot be None, so here it is a reserved number or word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.errors import UsageError
from ..dynamicrafter.model.variants import Mode, Variant
from ..dynamicrafter.parameters import PARAMETERS, Group, of_group
from ..dynamicrafter.settings import Settings, make_settings
from .words import in_words_of_the_graph

OWN: dict[type, Any] = {int: 0, float: -1.0, str: "auto"}
"""The value of an input of each type that selects the model's default."""
INPUT_NAMES = {"negative": "negative_prompt"}
"""Inputs whose name differs from their parameter's, because ``negative`` is a conditioning here."""

_MORE = {
    "frames": "Without DynamiCrafter Long Clip, every frame of another length attends to all image tokens.",
    "width": "If only one of width and height is set, the other follows the image's aspect ratio.",
    "height": "If only one of width and height is set, the other follows the image's aspect ratio.",
    "seed": "Noise is generated on the CPU, so it does not depend on the device.",
    "image_cfg": "DynamiCrafter Sampler uses it only if image_only is connected.",
    "guidance_rescale": "Core RescaleCFG on the model has no effect on this sampler.",
}
"""Additions to the tooltips that apply to the nodes only."""


def advanced() -> dict[str, Any]:
    """Options that mark an input as rarely changed, for hosts that hide such inputs by default."""
    return {"advanced": True}


def _said(own: Any) -> str:
    return own if isinstance(own, str) else f"{own:g}"


def choice(name: str, more: str = "", **options: Any) -> Any:
    """The input of a parameter; ``more`` is added to its tooltip, ``options`` are passed to the host."""
    parameter = PARAMETERS[name]
    kind, own = parameter.kind, OWN[parameter.kind]
    left = parameter.default is None
    text = parameter.description
    parts = (
        f"{text[0].upper()}{text[1:]}.",
        _MORE.get(name, ""),
        more,
        f"{_said(own)} uses {parameter.own}." if left else "",
    )
    options = {
        "default": own if left else parameter.default,
        "tooltip": " ".join(filter(None, parts)),
        **({"optional": True, "extra_dict": advanced()} if parameter.advanced else {}),
        **options,
    }
    id_ = INPUT_NAMES.get(name, name)
    if parameter.numbers:
        return io.String.Input(id_, **options)
    if parameter.choices:
        return io.Combo.Input(id_, options=[*([own] if left else []), *parameter.choices], **options)
    if kind is str:
        return io.String.Input(id_, multiline=True, dynamic_prompts=True, **options)
    low, high = own if left else parameter.low or 0, parameter.high or 0
    options = {"min": kind(low), "max": kind(high), "step": parameter.step, **options}
    if kind is float:
        return io.Float.Input(id_, **options)
    return io.Int.Input(id_, control_after_generate=True if name == "seed" else None, **options)


def choices_of(*groups: Group, advanced: bool, without: Collection[str] = ()) -> list[Any]:
    """The inputs of whole groups, either the advanced ones or the others."""
    return [
        choice(parameter.name)
        for group in groups
        for parameter in of_group(group)
        if parameter.advanced == advanced and parameter.name not in without
    ]


def problem_of(**shown: Any) -> str | None:
    """One sentence about the first invalid value among the inputs, or None; values that are None are skipped."""
    for name, parameter in PARAMETERS.items():
        value = shown.get(INPUT_NAMES.get(name, name))
        own, left = OWN[parameter.kind], parameter.default is None
        if value is None or (left and value == own):
            continue
        try:
            parameter.check(value, f", or {_said(own)} for {parameter.own}" if left else "")
        except UsageError as problem:
            return str(problem)
    return None


def require(**shown: Any) -> None:
    """Raise ValueError with the result of :func:`problem_of`, if there is one."""
    wrong = problem_of(**shown)
    if wrong:
        raise ValueError(wrong)


def chosen_by(**shown: Any) -> dict[str, Any]:
    """The value of every parameter that the inputs select; None is the model's default, or no input at all."""
    chosen: dict[str, Any] = {}
    for name, parameter in PARAMETERS.items():
        value = shown.get(INPUT_NAMES.get(name, name))
        chosen[name] = None if parameter.default is None and value == OWN[parameter.kind] else value
    return chosen


def whole_numbers(name: str, text: str, low: int, advice: str) -> list[int]:
    """The numbers that an input lists; raises ValueError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < low:
        raise ValueError(
            f"{name} must be whole numbers from {low}, separated by commas, but {text!r} was given; {advice}"
        )
    return numbers


def missing(shown: dict[str, Any], lazy: Sequence[str]) -> list[str]:
    """The connected inputs among ``lazy`` that have no value (yet), as ``check_lazy_status`` returns them.

    A node checks its other inputs there, before a checkpoint is loaded for it. ``validate_inputs`` would be earlier,
    but the host repeats its message for every input it names, and no longer checks their ranges itself.
    """
    return [name for name in lazy if name in shown and shown[name] is None]


def full_size(width: int, height: int, picture_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """(width, height) of a clip; if one is 0 it follows the image's aspect ratio, and None is the default of both."""
    if not (width or height) or picture_size is None:
        return None
    across, along = picture_size
    return (
        width or PARAMETERS["width"].nearest(height * across / along),
        height or PARAMETERS["height"].nearest(width * along / across),
    )


def settings_of(
    variant: Variant, mode: Mode, picture_size: tuple[int, int] | None = None, **shown: Any
) -> Settings:
    """The settings selected by the inputs, with the variant's presets for the defaults, as in the command.

    ``fs`` takes precedence over ``motion``. Raises ValueError with one sentence for a value out of range and for a
    mode that the variant was not trained for.
    """
    require(**shown)
    chosen = chosen_by(**shown)
    width, height = chosen.pop("width"), chosen.pop("height")
    if chosen["fs"] is not None:
        chosen["motion"] = None
    size = full_size(width or 0, height or 0, picture_size)
    with in_words_of_the_graph():
        return make_settings(variant, mode, picture_size=picture_size, size=size, **chosen)
