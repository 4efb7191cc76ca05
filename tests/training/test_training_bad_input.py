"""What goes wrong with training data is told in one sentence, before anything is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from training_clips import write_rows

from dynamicrafter.cli import learning, main

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Trains one step on the folder of clips; the exit code, what was printed, and the errors."""

    def run(*words: str, **choices: object) -> tuple[int, str, str]:
        values = {
            "recipe": "finetune",
            "model": str(small_weights),
            "data": str(tmp_path / "clips"),
            "target": "image_proj",
            "frames": 4,
            "strides": [1, 1],
            "checkpointing": False,
            "trainer": {"steps": 1},
            **choices,
        }
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        code = main(["train", str(path), "--folder", str(tmp_path / "run"), "--device", "cpu", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_an_empty_folder(train: Train, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    code, _, told = train()
    assert code == 2
    assert told == (
        f"dynamicrafter: the data folder {tmp_path / 'clips'} is empty; put the clips and a captions.csv into it\n"
    )
    assert not (tmp_path / "run").exists()


def test_clips_that_are_all_unreadable(train: Train, clip_folder: Callable[..., Path]) -> None:
    folder = clip_folder(count=2)
    for number in (0, 1):
        (folder / f"{number}.mp4").write_bytes(b"broken")
    code, said, told = train()
    assert code == 2
    assert said.count("skipped: ") == 2
    assert told.startswith("dynamicrafter: none of the 2 clip(s) of the list can be used; the first one: ")
    assert "0.mp4 cannot be read (" in told
    assert told.count("\n") == 1


def test_one_clip_that_is_unreadable(train: Train, clip_folder: Callable[..., Path]) -> None:
    (clip_folder(count=2) / "0.mp4").write_bytes(b"broken")
    code, said, _ = train("--json")
    assert code == 0
    (reason,) = json.loads(said)["left_out"]
    assert "0.mp4 cannot be read (" in reason


def test_a_list_without_the_columns(train: Train, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_rows(tmp_path / "clips" / "captions.csv", ["file", "text"], [["a.mp4", "a boat"]])
    code, _, told = train()
    assert code == 2
    assert told.startswith(
        f"dynamicrafter: {tmp_path / 'clips' / 'captions.csv'} needs the columns path and "
    )
    assert told.endswith("it has file, text\n")


def test_a_caption_of_a_thousand_words(train: Train, clip_folder: Callable[..., Path]) -> None:
    folder = clip_folder(count=2)
    rows = [["0.mp4", " ".join(["word"] * 1000)], ["1.mp4", "a boat"]]
    write_rows(folder / "captions.csv", ["path", "caption"], rows)
    code, said, _ = train()
    assert code == 0
    assert said.splitlines()[0] == (
        "note: 1 caption(s) are longer than the limit of 75 tokens and are truncated; "
        f"the first one, that of {folder / '0.mp4'}, has 1000"
    )


def test_a_device_that_is_not_there(train: Train, clip_folder: Callable[..., Path]) -> None:
    clip_folder(count=1)
    code, _, told = train("--device", "cuda:77")
    assert code == 2
    assert "the device 'cuda:77' is not available" in told


def test_ctrl_c_says_where_it_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(learning, "listed_clips", stop)
    code, _, told = train()
    assert code == 130
    assert told.endswith("cancelled; repeat the command to resume from the last saved state\n")
