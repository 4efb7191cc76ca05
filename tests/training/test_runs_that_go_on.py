"""A run folder belongs to one run: what may change, what may not, and what is said when there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamicrafter.api import load
from dynamicrafter.cli import main
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.training.config import FinetuneConfig
from dynamicrafter.training.finetune import finetune
from dynamicrafter.training.lora import Adapters, add_adapters
from dynamicrafter.training.trainer import TrainerConfig

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

QUICK = TrainerConfig(steps=2, learning_rate=1e-3, log_every=1, save_every=1)


@pytest.fixture
def run(small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """Trains the small model in one folder, again and again; returns the notes."""
    data = str(clip_folder())

    def train(**choices: Any) -> list[str]:
        notes: list[str] = []
        values = {"model": "small", "data": data, "frames": 4, "strides": (1, 1), "target": "image_proj"}
        config = FinetuneConfig(**{**values, "trainer": QUICK, **choices})
        finetune(load(small_weights, device="cpu"), config, tmp_path / "run", note=notes.append)
        return notes

    return train


def test_a_finished_run_says_that_nothing_is_trained(run: Callable[..., list[str]]) -> None:
    assert run() == []
    (note,) = run()
    assert "run is already at step 2 of 2, so nothing is trained; increase steps to continue" in note
    assert run(trainer=replace(QUICK, steps=3)) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "other"}, "belongs to a run with model small, not other; use another folder for this run"),
        ({"target": "temporal"}, "belongs to a run with target image_proj, not temporal"),
        ({"mode": "interpolate"}, "belongs to a run with mode animate, not interpolate"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    run: Callable[..., list[str]], changed: dict[str, Any], message: str
) -> None:
    run()
    with pytest.raises(CheckpointError, match=message):
        run(**changed)


def test_adapters_of_another_rank_are_another_run(run: Callable[..., list[str]]) -> None:
    pytest.importorskip("peft", reason="adapters are made by peft")
    run(target="lora", rank=4)
    with pytest.raises(CheckpointError, match="belongs to a run with rank 4, not 8"):
        run(target="lora", rank=8)


def test_a_rank_that_no_layer_has_is_refused(small_weights: Path) -> None:
    model = load(small_weights, device="cpu")
    with pytest.raises(
        UsageError, match=r"rank must be at most \d+, that of the widest layer, but 100000 was given"
    ):
        add_adapters(model.unet, Adapters(100_000))


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_run_folder_that_cannot_be_made_is_told(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    config = FinetuneConfig(model="small", data=str(clip_folder()), frames=4, strides=(1, 1), trainer=QUICK)
    with pytest.raises(UsageError, match=r"the folder .* could not be created \(.*\); choose another folder"):
        finetune(load(small_weights, device="cpu"), config, tmp_path / place)


def test_a_config_names_what_a_pruned_model_lacks(
    clip_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: dict[str, Any] = {}

    def stand_in(model: str, **options: Any) -> None:
        asked.update(options, model=model)
        raise UsageError("enough")

    monkeypatch.setattr("dynamicrafter.cli.learning.load", stand_in)
    path = tmp_path / "it.json"
    path.write_text(
        f'{{"recipe": "finetune", "model": "p.safetensors", "data": {str(clip_folder())!r}, "variant": "tiny",'
        ' "text_encoder": "t", "image_encoder": "i"}'.replace("'", '"'),
        encoding="utf-8",
    )
    assert main(["train", str(path), "--folder", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "dynamicrafter: enough\n"
    assert {key: asked[key] for key in ("model", "variant", "text_encoder", "image_encoder")} == {
        "model": "p.safetensors",
        "variant": "tiny",
        "text_encoder": "t",
        "image_encoder": "i",
    }
