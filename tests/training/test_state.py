"""Files that are whole or not there: killed writers, full disks, what they leave and how a run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
import torch
from small_run import Layer, draw

from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.training.run_log import CSV, TRACKERS, Report, RunLog
from dynamicrafter.training.state import load_state, save_state

ROOT = Path(__file__).resolve().parents[2]

FULL = """
import resource, sys
from pathlib import Path
import torch
from dynamicrafter.errors import UsageError
from dynamicrafter.training.state import save_state

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_state({"many": torch.zeros(100_000)}, Path(sys.argv[1]))
except UsageError as problem:
    print(problem)
"""


def start(*words: str) -> subprocess.Popen[str]:
    known = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, *words], env={**os.environ, **known}, stdout=subprocess.PIPE, text=True
    )


def test_a_run_killed_in_a_write_goes_on_from_the_state_before(tmp_path: Path, on_the_cpu: None) -> None:
    pytest.importorskip("accelerate", reason="training needs accelerate")
    folder = tmp_path / "run"
    folder.mkdir()
    with start(str(Path(small_run.__file__)), str(folder), "6") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "halfway\n"
        # SIGKILL, or what Windows has instead: nothing is cleaned up.
        writer.kill()
    (left,) = folder.glob("*.part")
    with pytest.raises(CheckpointError, match="is not a complete training state"):
        load_state(left)
    assert load_state(folder / "state.pt")["step"] == 2
    # The log is ahead of the state.
    assert (folder / CSV).read_text(encoding="utf-8").count("\n") == 4

    broken = small_run.run(folder, 6)
    assert not list(folder.glob("*.part"))
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    assert torch.equal(broken.weight, small_run.run(unbroken, 6).weight)
    logs = [(place / CSV).read_text(encoding="utf-8").splitlines() for place in (folder, unbroken)]
    steps = [[row.split(",")[0] for row in rows] for rows in logs]
    assert steps == [["step", "1", "2", "3", "4", "5", "6"]] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a process's files")
def test_a_file_that_does_not_fit_is_told_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "item.pt"
    with start("-c", FULL, str(path)) as writer:
        told = writer.communicate(timeout=300)[0]
    assert writer.returncode == 0
    assert told.startswith(f"{path} could not be written (")
    assert told.endswith("free some space, then start again\n")
    assert told.count("\n") == 1
    assert not list(path.parent.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(
        UsageError, match=r"the folder .*cache could not be created \(File exists\); choose another folder"
    ):
        save_state({}, tmp_path / "cache" / "item.pt")


def line(step: int) -> Report:
    return Report(step, 0.5, 0.01, 3.0, {"held_out": 0.25})


def test_a_log_forgets_what_is_trained_again(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        RunLog(tmp_path, "csv", step - 2).write(line(step))
    whole = (tmp_path / CSV).read_bytes()
    with (tmp_path / CSV).open("ab") as file:
        file.write(b"8,0.5")
    RunLog(tmp_path, "csv", 8)
    assert (tmp_path / CSV).read_bytes() == whole
    RunLog(tmp_path, "csv", 4)
    assert (tmp_path / CSV).read_text(encoding="utf-8").splitlines() == [
        "step,loss,learning_rate,seconds,held_out,measured",
        "2,0.5,0.01,3.0,0.25,",
        "4,0.5,0.01,3.0,0.25,",
    ]
    RunLog(tmp_path, "csv", 0).write(line(0))
    RunLog(tmp_path, "csv", 0).write(line(0))
    assert len((tmp_path / CSV).read_text(encoding="utf-8").splitlines()) == 2


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "csv", 0)
    (tmp_path / CSV).mkdir()
    with pytest.raises(UsageError, match=r"log\.csv could not be written"):
        log.write(line(1))


@pytest.mark.filterwarnings("default")
def test_tensorboard_gets_what_the_csv_gets(tmp_path: Path) -> None:
    """TensorBoard's own packages warn of each other, which is not ours to mend."""
    pytest.importorskip("tensorboard", reason="the TensorBoard log needs tensorboard")
    from tensorboard.operations.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, "tensorboard", 0)
    log.write(line(1))
    log.write(line(2))
    log.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 0.5), (2, 0.5)]
    assert read.Scalars("measured/held_out")[1].value == 0.25
    assert (tmp_path / CSV).read_text(encoding="utf-8").count("\n") == 3


def test_a_missing_tensorboard_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match='pip install tensorboard, or set log to "csv"'):
        RunLog(tmp_path, "tensorboard", 0)


class Tracked:
    """Stands for accelerate's Accelerator with a tracker."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.trackers = [self]

    def init_trackers(self, name: str, config: object) -> None:
        self.told.append((name, config))

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


def test_a_tracker_gets_what_the_csv_gets(tmp_path: Path) -> None:
    tracked = Tracked()
    log = RunLog(tmp_path, "wandb", 0, tracked, {"steps": 3})
    log.write(Report(0, None, 0.01, 3.0, {"held_out": 0.25}))
    log.write(line(1))
    log.close()
    assert tracked.told == [
        ("dynamicrafter", {"steps": 3}),
        (0, {"learning_rate": 0.01, "held_out": 0.25}),
        (1, {"loss": 0.5, "learning_rate": 0.01, "held_out": 0.25}),
        "finished",
    ]
    assert (tmp_path / CSV).read_text(encoding="utf-8").count("\n") == 3


def test_the_trackers_are_those_of_accelerate() -> None:
    known = pytest.importorskip("accelerate.tracking").LOGGER_TYPE_TO_CLASS
    assert TRACKERS <= set(known)


def test_a_missing_tracker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    from dynamicrafter.training import processes

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match='the log wandb needs the wandb package; install it with pip install wandb, or set log to "csv"',
    ):
        processes.make_accelerator("no", "wandb")


@pytest.mark.filterwarnings("default")
def test_a_run_logs_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: what it would send stays in the run's folder."""
    pytest.importorskip("accelerate")
    pytest.importorskip("wandb", reason="the log needs wandb")
    from dynamicrafter.training.trainer import Trainer, TrainerConfig

    for name, value in (("ACCELERATE_USE_CPU", "true"), ("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    config = TrainerConfig(steps=2, log="wandb", log_every=1)
    Trainer(Layer(4, 4), draw, config, tmp_path / "run").run()
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = stored.read_bytes()
    assert all(name in content for name in (b"learning_rate", b"loss", b"save_every"))
