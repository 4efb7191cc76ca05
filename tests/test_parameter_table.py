"""The page about Python lists the parameters as they are."""

from __future__ import annotations

import pytest

from dynamicrafter.parameters import PARAMETERS, Parameter
from tools.make_parameter_table import PAGE, with_table

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_lists_the_parameters_as_they_are() -> None:
    assert with_table(TEXT) == TEXT, "python -m tools.make_parameter_table"


def test_a_table_that_is_old_or_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    old = TEXT.replace("| 1 to 1000 |", "| 1 to 999 |")
    assert old != TEXT == with_table(old)
    grain = Parameter("film_grain", float, "sampling", "Grain", "how grainy", default=0.5, low=0, high=9)
    monkeypatch.setitem(PARAMETERS, "film_grain", grain)
    assert "| `film_grain` | 0 to 9 | `0.5` | how grainy |\n" in with_table(TEXT)
    with pytest.raises(ValueError, match="has no table of parameters"):
        with_table("# A page\n")
