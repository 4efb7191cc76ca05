"""What editors and type checkers know of the Python interface."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """\
import dynamicrafter
from dynamicrafter import Choices

model = dynamicrafter.load("tiny")
common: Choices = {"steps": 4, "size": (64, 64), "fps": 7.5, "seed": None}
dynamicrafter.animate(model, "a.png", "a boat", **common)
dynamicrafter.make_settings(model.variant, "loop", prompt="a boat", motion=0.5)
dynamicrafter.animate(model, "a.png", stepz=1)
dynamicrafter.loop(model, "a.png", size=64)
dynamicrafter.interpolate(model, "a.png", "b.png", fit="tile")
dynamicrafter.make_settings(model.variant, "animate", steps="4")
wrong: Choices = {"stepz": 1}
"""
WRONG = {8: "stepz", 9: "size", 10: "fit", 11: "steps", 12: "stepz"}
"""The lines of the program that have an error, and what it names."""


def test_a_type_checker_tells_wrong_names_and_types_of_choices(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("needs pyright; pip install -e '.[dev]' brings it")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    config = {"include": ["program.py"], "extraPaths": [str(ROOT)], "pythonVersion": "3.10"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    told = json.loads(ran.stdout)["generalDiagnostics"]
    lines = {one["range"]["start"]["line"] + 1: one["message"] for one in told}
    assert lines.keys() == WRONG.keys(), lines
    assert all(name in lines[line] for line, name in WRONG.items()), lines


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "dynamicrafter" / "py.typed").is_file()
