"""Conversion between nodes and the package: inputs from the table of parameters, and settings from inputs.

The model's default is None inside the package. Inputs cannot be None, so here it is a reserved number or word.
"""

from __future__ import annotations

from collections.abc import Collection
from inspect import Parameter as Argument
from inspect import Signature
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
    "frames": "At any other length, every frame attends to all image tokens.",
    "seed": "Noise is generated on the CPU, so it does not depend on the device.",
    "image_cfg": "Used only if image_only is connected.",
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
    width, height = shown.get("width"), shown.get("height")
    if width is not None and height is not None and bool(width) != bool(height):
        return (
            f"only one of width ({width}) and height ({height}) is set; set both, or leave both at 0 for the "
            f"model's default size"
        )
    return None


def require(**shown: Any) -> None:
    """Raise ValueError with the result of :func:`problem_of`, if there is one."""
    wrong = problem_of(**shown)
    if wrong:
        raise ValueError(wrong)


def checks(*names: str) -> classmethod[Any, Any, bool | str]:
    """A node's ``validate_inputs`` that rejects invalid values of these inputs before anything runs.

    The host reads the names of the inputs from its signature, and then does not check their ranges itself.
    """

    def validate_inputs(cls: Any, **shown: Any) -> bool | str:
        return problem_of(**shown) or True

    inputs = [Argument(name, Argument.POSITIONAL_OR_KEYWORD, default=None) for name in names]
    cls = Argument("cls", Argument.POSITIONAL_OR_KEYWORD)
    validate_inputs.__signature__ = Signature([cls, *inputs])  # pyright: ignore[reportFunctionMemberAccess]
    return classmethod(validate_inputs)


def settings_of(
    variant: Variant, mode: Mode, picture_size: tuple[int, int] | None = None, **shown: Any
) -> Settings:
    """The settings selected by the inputs, with the variant's presets for the defaults, as in the command.

    ``fs`` takes precedence over ``motion``. Raises ValueError with one sentence for a value out of range and for a
    mode that the variant was not trained for.
    """
    require(**shown)
    chosen: dict[str, Any] = {}
    for name, parameter in PARAMETERS.items():
        value = shown.get(INPUT_NAMES.get(name, name))
        chosen[name] = None if parameter.default is None and value == OWN[parameter.kind] else value
    width, height = chosen.pop("width"), chosen.pop("height")
    if chosen["fs"] is not None:
        chosen["motion"] = None
    size = (width, height) if width else None
    with in_words_of_the_graph():
        return make_settings(variant, mode, picture_size=picture_size, size=size, **chosen)
