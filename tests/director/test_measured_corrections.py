"""The measurement of corrections: its faults, its judge, and that it continues where it was interrupted."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch

from dynamicrafter.model.variants import TINY
from dynamicrafter.settings import make_settings
from dynamicrafter.toy.world import DIRECTIONS, sample_scenes, with_motion
from tools import measure_corrections
from tools.measure_corrections import FIRST, KINDS, as_told, draw, true_frames


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_changes_one_setting_and_not_the_aim(kind: str) -> None:
    for number in range(6):
        case, again = (draw(kind, random.Random(number)) for _ in range(2))
        assert (case.settings, case.fault) == (again.settings, again.fault)
        usual = make_settings(
            TINY, "animate", prompt=case.aim.prompt, fs=int(case.scene.fs), seed=case.settings.seed
        )
        changed = {name for name, value in vars(case.settings).items() if value != getattr(usual, name)}
        assert changed <= {kind}
        single = not bool(case.scene.present[0, 1])
        assert single == (kind != "seed")
        assert (case.aim.way is not None) == (single and bool(case.aim.directions))


def test_the_judge_tells_true_clips_from_others() -> None:
    for seed, motion in enumerate(("right", "shrink", "still")):
        generator = torch.Generator().manual_seed(seed)
        scene = sample_scenes(1, generator, "held_out", motions=(motion,), fs=(10, 10))
        assert as_told(true_frames(scene), scene)
        other = "still" if motion in DIRECTIONS else "left"
        assert not as_told(true_frames(with_motion(scene, other)), scene)
        assert not as_told((true_frames(scene) // 2), scene)
    slow = sample_scenes(1, torch.Generator().manual_seed(1), "held_out", motions=("up",), fs=(10, 10))
    assert not as_told(true_frames(with_motion(slow, "up", 28)), slow)


def test_rows_that_are_there_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def measured(_: object, number: int) -> dict[str, object]:
        asked.append(number)
        return {
            "number": number,
            "kind": "cfg",
            "fault": "cfg 20",
            "after": [False, number > FIRST, True, True],
        }

    monkeypatch.setattr(measure_corrections, "measured", measured)
    monkeypatch.setattr(measure_corrections, "load", lambda *_, **__: None)
    rows = tmp_path / "rows.jsonl"
    for count in (1, 3):
        monkeypatch.setattr(sys, "argv", ["measure_corrections", str(rows), "--prompts", str(count)])
        measure_corrections.main()
    assert asked == [FIRST, FIRST + 1, FIRST + 2]
    assert [json.loads(line)["number"] for line in rows.read_text().splitlines()] == [
        FIRST,
        FIRST + 1,
        FIRST + 2,
    ]
    assert "| cfg | 3 | 0 | 2 | 3 | 3 |" in capsys.readouterr().out
    monkeypatch.setattr(
        sys, "argv", ["measure_corrections", str(tmp_path / "dev.jsonl"), "--develop", "--prompts", "1"]
    )
    measure_corrections.main()
    assert 1_000 <= asked[-1] < FIRST
