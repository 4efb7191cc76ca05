"""evaluate person from the shell's point of view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamicrafter.animate_anyone.config import PersonConfig
from dynamicrafter.cli import evaluation, main


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the measuring function, which measures nothing, was called with."""
    calls: list[dict[str, Any]] = []

    def measure(model: object, *, report: Any, **given: Any) -> dict[str, float]:
        calls.append(given)
        figures = {"share": 0.5 + given["seed"] / 10}
        for name, value in figures.items():
            report(name, value)
        return figures

    monkeypatch.setattr(evaluation, "check_person", lambda path: PersonConfig())
    monkeypatch.setattr(evaluation, "load_person", lambda path, **_: object())
    monkeypatch.setattr(evaluation, "measure_person", measure)
    return calls


def test_medians_over_seeds_are_reported(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "person", "--model", "m.safetensors", "--items", "3", "--seed", "0,1,4"]
    assert main([*words, "--steps", "5", "--window", "6", "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"] == {"share": pytest.approx(0.6)}
    assert [row["share"] for row in told["single"]] == pytest.approx([0.5, 0.6, 0.9])
    assert (told["model"], told["items"], told["seeds"]) == ("m.safetensors", 3, [0, 1, 4])
    assert {(call["items"], call["settings"].steps, call["settings"].window) for call in measured} == {
        (3, 5, 6)
    }
    assert (measured[0]["settings"].width, measured[0]["settings"].height) == (128, 192)


def test_metrics_of_one_seed_are_printed(
    measured: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "person", "--model", "m.safetensors", "--device", "cpu", "--quiet"]) == 0
    assert capsys.readouterr().out.split() == ["share", "0.500"]
    assert measured[0]["items"] == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--items", "1"), "items must be at least 2, but 1 was given"),
        (("--window", "40"), "window must be"),
        (("--seed", "1,1"), "seed 1 is specified more than once"),
    ],
)
def test_wrong_values_are_told(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "person", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "person", "--model", str(tmp_path / "gone.safetensors")]) == 1
    told = capsys.readouterr().err
    assert "gone.safetensors" in told
    assert told.count("\n") == 1
