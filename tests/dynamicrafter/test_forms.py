"""Stored forms: a dataclass comes back from JSON, may have gained fields since, and says what does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, Literal

import pytest

from dynamicrafter.forms import Form, shortened, to_json
from dynamicrafter.model.variants import V512, VARIANTS, Variant

FORM = Form("the note", ValueError, "0.9.0")


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["round", "square"] = "round"


@dataclass(frozen=True)
class Outer:
    name: str
    share: float
    inner: Inner
    usual: Inner = field(default_factory=lambda: Inner(3, "square"))
    other: Inner | None = None
    many: tuple[Inner, ...] = ()
    pair: tuple[int, int] = (1, 2)
    loose: Mapping[str, Any] = field(default_factory=dict[str, Any])
    flag: bool = False
    shape: Literal["round", "square"] | None = None


LEAST: dict[str, Any] = {"name": "a", "share": 0.5, "inner": {"size": 1}}


def stored(value: object) -> Any:
    return json.loads(json.dumps(to_json(value)))


@pytest.mark.parametrize(
    "value",
    [
        Outer("a", 0.5, Inner(1)),
        Outer("a", 1, Inner(1), Inner(2), Inner(5), (Inner(1), Inner(2)), (3, 4), {"x": [1]}, True, "round"),
        *VARIANTS.values(),
        replace(V512, unet=replace(V512.unet, channel_mult=(1, 3), context_dim=96)),
    ],
    ids=lambda value: value.name,
)
def test_what_was_stored_comes_back(value: Any) -> None:
    assert FORM.read(type(value), stored(value)) == value


def test_what_is_absent_takes_its_default() -> None:
    assert FORM.read(Outer, LEAST) == Outer("a", 0.5, Inner(1))


def test_what_an_inner_object_leaves_out_is_as_without_the_object() -> None:
    assert FORM.read(Outer, {**LEAST, "usual": {"size": 7}}).usual == Inner(7, "square")
    assert FORM.read(Outer, {**LEAST, "usual": {}}).usual == Inner(3, "square")


def test_a_new_field_with_a_default_leaves_what_was_stored_readable() -> None:
    grown = make_dataclass("Outer", [("mood", str, field(default="calm"))], bases=(Outer,), frozen=True)
    assert FORM.read(grown, stored(Outer("a", 0.5, Inner(1)))) == grown("a", 0.5, Inner(1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "the note must be an object, not [1]"),
        ({"name": "a"}, "the note must contain share, inner"),
        ({**LEAST, "inner": {}}, "the note must contain inner.size"),
        ({**LEAST, "many": [{"size": 1}, {}]}, "the note must contain many.size"),
        ({**LEAST, "name": 3}, "name in the note must be a string, not 3"),
        ({**LEAST, "share": True}, "share in the note must be a number, not True"),
        ({**LEAST, "share": "1"}, "share in the note must be a number, not '1'"),
        ({**LEAST, "flag": 1}, "flag in the note must be true or false, not 1"),
        ({**LEAST, "shape": "oval"}, "shape in the note must be one of round, square or null, not 'oval'"),
        ({**LEAST, "inner": 3}, "inner in the note must be an object, not 3"),
        ({**LEAST, "inner": {"size": 1.5}}, "inner.size in the note must be an integer, not 1.5"),
        (
            {**LEAST, "inner": {"size": 1, "kind": "flat"}},
            "inner.kind in the note must be one of round, square, not 'flat'",
        ),
        (
            {**LEAST, "other": "x"},
            "other in the note must be an object or null, not 'x'",
        ),
        ({**LEAST, "pair": [1]}, "pair in the note must be a list of 2, each an integer, not [1]"),
        (
            {**LEAST, "pair": [1, "2"]},
            "pair in the note must be a list of 2, each an integer, not [1, '2']",
        ),
        (
            {**LEAST, "many": "x"},
            "many in the note must be a list, each an object, not 'x'",
        ),
        ({**LEAST, "loose": 1}, "loose in the note must be an object, not 1"),
    ],
)
def test_what_does_not_fit_is_named(values: object, message: str) -> None:
    with pytest.raises(ValueError) as told:
        FORM.read(Outer, values)
    assert str(told.value) == f"{message}; it is damaged, write it again"
    with pytest.raises(KeyError) as told_by_hand:
        Form("the note", KeyError).read(Outer, values)
    assert told_by_hand.value.args == (message,)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({**LEAST, "mood": 1, "hue": 2}, "hue, mood"),
        ({**LEAST, "inner": {"size": 1, "mood": 1}}, "inner.mood"),
        ({**LEAST, "many": [{"size": 1, "mood": 1}]}, "many.mood"),
    ],
)
def test_what_is_unknown_is_named_with_the_version_that_wrote_it(values: object, named: str) -> None:
    with pytest.raises(ValueError) as told:
        FORM.read(Outer, values)
    said = str(told.value)
    assert said.startswith(f"the note contains {named}, which this version (")
    assert said.endswith(") does not know; it was written by version 0.9.0, use that version or a newer one")
    with pytest.raises(
        ValueError, match=f"^it has unknown settings: {named}; (remove them|the nearest known one is .*)$"
    ):
        Form("it", ValueError).read(Outer, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 512}, r"name in the note must be a string, not 512"),
        (
            {"modes": ["animate", "dance"]},
            r"modes in the note must be a list, each one of animate, .*'dance'",
        ),
        (
            {"unet": {"model_channels": "320"}},
            r"unet\.model_channels in .* must be an integer, not '320'",
        ),
        (
            {"unet": {"channel_mult": [1, "2"]}},
            r"unet\.channel_mult in .* must be a list, each an integer",
        ),
        (
            {"unet": {"learned_image_scale": 1}},
            r"unet\.learned_image_scale in .* must be true or false, not 1",
        ),
        ({"diffusion": {"prediction": "x0"}}, r"diffusion\.prediction in .* must be one of eps, v, not 'x0'"),
        ({"diffusion": {"base_scale": "0.7"}}, r"diffusion\.base_scale in .* must be a number or null, not"),
        ({"preset": {"fs": True}}, r"the note must contain preset\.height, preset\.width, "),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FORM.read(Variant, {**stored(V512), **changes})


def test_text_of_a_file_is_one_short_line() -> None:
    assert shortened("a boat \u00e4 \u6e2f \U0001f6a4") == "a boat \u00e4 \u6e2f \U0001f6a4"
    assert shortened("a\nb\x1b[2J\ud800") == r"a\nb\x1b[2J\ud800"
    assert shortened("x" * 201) == "x" * 200 + "..."
