"""The page about training lists the settings as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from dynamicrafter.training.config import FinetuneConfig
from dynamicrafter.training.options import Option
from tools import make_training_table
from tools.make_training_table import PAGE, with_table

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_lists_the_settings_as_they_are() -> None:
    assert with_table(TEXT) == TEXT, "python -m tools.make_training_table"


def test_a_table_that_is_old_or_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Grown(FinetuneConfig):
        grain: Annotated[float, Option("how grainy", low=0, high=9, hint="5 is usual")] = 0.5

    monkeypatch.setattr(make_training_table, "FinetuneConfig", Grown)
    assert "| `grain` | a number, 0 to 9 | `0.5` | how grainy; 5 is usual |\n" in with_table(TEXT)
    with pytest.raises(ValueError, match="has no table of settings"):
        with_table("# A page\n")
