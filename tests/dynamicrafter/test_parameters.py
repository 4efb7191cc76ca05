"""The table of parameters agrees with Settings and the presets, and what is added to it appears by itself."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import Any, cast, get_args, get_type_hints

import pytest

from dynamicrafter import settings
from dynamicrafter.cli.parser import make_parser
from dynamicrafter.errors import UsageError
from dynamicrafter.model.variants import SMALL, V512, VARIANTS, Preset
from dynamicrafter.parameters import PARAMETERS, Parameter
from dynamicrafter.settings import Settings, make_settings, settings_to_json

BOUNDED = [parameter for parameter in PARAMETERS.values() if parameter.low is not None]


def test_the_table_and_the_settings_name_the_same() -> None:
    assert {field.name for field in fields(Settings)} == (PARAMETERS.keys() - {"motion"}) | {"mode"}


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_types_choices_and_defaults_are_those_of_the_settings(parameter: Parameter) -> None:
    hint = get_type_hints(Settings).get(parameter.name, float | None)
    default = {field.name: field.default for field in fields(Settings)}.get(parameter.name)
    if parameter.choices and not parameter.numbers and parameter.name != "sampler":
        assert tuple(parameter.choices) == get_args(hint)
    else:
        assert parameter.kind in (hint, *get_args(hint))
    if isinstance(default, str):
        assert default == parameter.default


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_presets_are_named_and_agree_with_the_default_that_is_shown(parameter: Parameter) -> None:
    assert parameter.preset is (parameter.name in {field.name for field in fields(Preset)})
    for variant in VARIANTS.values() if parameter.preset else ():
        value = getattr(variant.preset, parameter.name)
        parameter.check(value)
        if parameter.name != "frames" or "views" not in variant.modes or variant is SMALL:
            # Views have as many frames as their guide clip.
            assert parameter.default in (None, value)


@pytest.mark.parametrize("parameter", BOUNDED, ids=lambda parameter: parameter.name)
def test_ends_are_allowed_and_what_lies_beyond_is_not(parameter: Parameter) -> None:
    assert parameter.low is not None and parameter.high is not None
    step = 1 if parameter.kind is int else 0.001
    parameter.check(parameter.kind(parameter.low))
    parameter.check(parameter.kind(parameter.high))
    for value in (parameter.low - step, parameter.high + step):
        with pytest.raises(UsageError, match=rf"^{parameter.name} must be .*, but .* was given"):
            parameter.check(parameter.kind(value))


def test_texts_can_be_put_into_a_sentence() -> None:
    for parameter in PARAMETERS.values():
        for text in (parameter.meaning, parameter.hint, parameter.own, *parameter.choices.values()):
            assert not text.endswith(".") and text[:1] in text[:1].lower() + "D", text


def test_a_new_parameter_needs_an_entry_and_a_field_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    grain = Parameter("film_grain", float, "sampling", "Grain", "how grainy", default=0.0, low=0, high=9)
    monkeypatch.setitem(PARAMETERS, "film_grain", grain)
    kind = make_dataclass("Settings", [("film_grain", float, 0.0)], bases=(Settings,), frozen=True)
    monkeypatch.setattr(settings, "Settings", kind)
    from dynamicrafter.cli.clips import clip_settings

    given = make_parser("").parse_args(["animate", "a.png", "--film-grain", "2.5", "--rescale", "0.5"])
    made = clip_settings(given, V512, "animate", (640, 480))
    assert settings_to_json(made)["film_grain"] == 2.5
    assert made.guidance_rescale == 0.5
    with pytest.raises(UsageError, match="film_grain must be 0 to 9, but 10 was given"):
        make_settings(V512, "animate", **cast(Any, {"film_grain": 10}))
