"""The command doctor: what it tells of an installation that works, and of one that does not."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import Ran, Run

from dynamicrafter import api
from dynamicrafter.cli.doctor import CHECKS, PACKAGES
from dynamicrafter.weights.catalogue import Release, find

ROOT = Path(__file__).resolve().parents[2]


def finding(ran: Ran, name: str) -> dict[str, Any]:
    """What one check says in the JSON of a run."""
    (found,) = [check for check in ran.json["checks"] if check["name"] == name]
    return found


@pytest.fixture
def any_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PyTorch of the tests may be an old one."""
    monkeypatch.setattr("dynamicrafter.cli.doctor.SAFE_TORCH", (0, 0))


def test_a_working_installation_is_described(run: Run, home: Path, any_torch: None) -> None:
    ran = run("doctor")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [f"{name}: ok" for name in CHECKS]
    told = dict(line.split(maxsplit=1) for line in lines if line.startswith(" "))
    assert told["torch"] == torch.__version__
    assert told["numpy"] == np.__version__
    assert told["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert told["cpu"].startswith(f"threads {torch.get_num_threads()}, memory_gb ")
    assert told["folder"] == str(home)
    assert told["models"] == "none"


def test_programs_are_told_the_same(run: Run, home: Path, any_torch: None) -> None:
    ran = run("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert list(ran.json) == ["checks"]
    assert [(check["name"], check["verdict"]) for check in ran.json["checks"]] == [
        (name, "ok") for name in CHECKS
    ]
    assert finding(ran, "packages")["details"]["torch"] == torch.__version__
    assert finding(ran, "weights")["details"]["folder"] == str(home)


def test_the_memory_is_that_of_this_machine(run: Run) -> None:
    psutil = pytest.importorskip("psutil")
    told = finding(run("doctor", "--json"), "devices")["details"]["cpu"]["memory_gb"]
    assert told == pytest.approx(psutil.virtual_memory().total / 1e9, abs=0.1)


def test_every_requirement_is_looked_at() -> None:
    """torchvision is open_clip's, but a build of it that does not fit to torch is what breaks most often."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    # Those of older versions of Python stand in for modules of the newer ones.
    requirements = {line for line in lines if not line.startswith("#") and "python_version" not in line}
    assert set(PACKAGES) == {*requirements, "torchvision"}


def test_a_model_that_does_not_load_is_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.safetensors"
    file.write_bytes((b"\x08" + b"\0" * 7) + b'{"a": 1}')
    monkeypatch.setattr(api, "_TINY_WEIGHTS", file)
    ran = run("doctor")
    assert ran.code == 1
    assert "\ntiny: failed\n" in ran.out
    assert str(file) in ran.out.partition("\ntiny: failed\n")[2]
    told = run("doctor", "--json")
    assert (told.code, told.err) == (1, "")
    assert (told.json["error"], told.json["kind"]) == ("failed: tiny", "failure")
    assert finding(told, "tiny")["details"] == {}


def test_the_traceback_is_shown_on_request(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(api, "_TINY_WEIGHTS", tmp_path / "gone.safetensors")
    assert "Traceback" not in run("doctor").err
    assert "CheckpointError: there is no file" in run("doctor", "--debug").err


def test_a_package_that_cannot_be_imported_is_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    ran = run("doctor", "--json")
    assert ran.code == 1
    found = finding(ran, "packages")
    assert (found["verdict"], found["details"]["kornia"]) == ("failed", None)
    assert found["details"]["torch"] == torch.__version__
    assert found["problem"].startswith("cannot be imported: kornia (ModuleNotFoundError: ")


def test_it_answers_without_pytorch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert finding(ran, "system")["verdict"] == "ok"
    assert finding(ran, "weights")["verdict"] == "ok"
    assert "torch (ModuleNotFoundError: " in finding(ran, "packages")["problem"]
    assert finding(ran, "devices")["verdict"] == "failed"


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("2.5.1", "warning"), ("2.9.1+cu128", "warning"), ("2.10.0", "ok"), ("2.11.0a0+git1", "ok")],
)
def test_a_pytorch_with_known_holes_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, version: str, verdict: str
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    ran = run("doctor", "--json")
    assert ran.code == 0
    found = finding(ran, "packages")
    assert found["verdict"] == verdict
    assert found["problem"] is None or f"PyTorch {version} has known vulnerabilities" in found["problem"]


def gpus(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """One stand-in of a GPU, which is usable or not."""
    zeros = torch.zeros

    def made(*shape: int, **options: Any) -> Any:
        if options.get("device") != "cuda:0":
            return zeros(*shape, **options)
        if works:
            return zeros(*shape)
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")

    properties = SimpleNamespace(name="A Card", total_memory=24 * 10**9)
    monkeypatch.setattr(torch, "zeros", made)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)


def test_a_gpu_is_described(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, works=True)
    assert "\n  cuda:0           name A Card, memory_gb 24.0, bf16 no\n" in run("doctor").out


def test_a_gpu_that_cannot_compute_is_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, works=False)
    ran = run("doctor", "--json")
    assert ran.code == 1
    found = finding(ran, "devices")
    assert found["details"]["cuda:0"] is None
    assert "cuda:0 (RuntimeError: CUDA error: no kernel image is available); update" in found["problem"]
    assert "threads" in found["details"]["cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_of_this_machine_is_described(run: Run) -> None:
    found = finding(run("doctor", "--json"), "devices")
    assert found["verdict"] == "ok"
    assert found["details"]["cuda:0"]["name"] == torch.cuda.get_device_name(0)
    assert found["details"]["cuda:0"]["memory_gb"] > 1


def here(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these models be in the weights folder."""
    rows: list[tuple[Release, Path | None]] = [(find(name), Path(name)) for name in names]
    monkeypatch.setattr("dynamicrafter.cli.doctor.status_rows", lambda: rows)


def test_models_that_are_here_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, "256", "512", "towers")
    ran = run("doctor")
    assert "weights: ok\n" in ran.out
    assert "  models           256, 512, towers\n" in ran.out


def test_a_model_without_its_towers_is_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, "256", "512")
    ran = run("doctor")
    assert ran.code == 0
    assert "weights: warning\n" in ran.out
    assert "  512 needs towers, not downloaded yet; run 'dynamicrafter download 512'\n" in ran.out


def test_a_weights_folder_that_cannot_be_written_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "taken"
    file.touch()
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(file / "weights"))
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert f"the weights folder {file / 'weights'} is not writable" in finding(ran, "weights")["problem"]


def test_the_room_is_that_of_a_folder_not_made_yet(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "a" / "b"))
    found = finding(run("doctor", "--json"), "weights")
    assert found["verdict"] == "ok"
    assert found["details"]["free_gb"] > 0
    assert not (tmp_path / "a").exists()
