"""The page about evaluation has a row for every figure there is, with the direction the code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynamicrafter.cli.parser import make_parser
from dynamicrafter.evaluation.figures import WEIGHT_FREE
from dynamicrafter.evaluation.learned import LEARNED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
OPTION = re.compile(r"--[a-z0-9][a-z0-9-]*")


def test_every_figure_is_in_the_tables_in_order() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    listed = [(cells[0].strip(), cells[2].strip()) for cells in rows if cells[2:] and "PSNR" not in cells[0]]
    known = [(figure.name, figure.better) for figure in (*WEIGHT_FREE, *LEARNED)]
    assert [row for row in listed if row[1] in ("higher", "lower", "neither")] == known


def test_the_page_names_only_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known: set[str] = set()
    for subject in ("toy", "person", "folder", "videos"):
        with pytest.raises(SystemExit):
            make_parser("1").parse_args(["evaluate", subject, "--help"])
        known |= set(OPTION.findall(capsys.readouterr().out))
    named = set(OPTION.findall(PAGE))
    assert len(named) > 8
    assert named <= known
