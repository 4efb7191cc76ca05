"""The command doctor: what it tells of an installation that works, and of one that does not."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import Ran, Run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dynamicrafter import api
from dynamicrafter.cli.doctor import CHECKS, PACKAGES, without_folders
from dynamicrafter.cli.trial import GOLDEN, MOST_ERROR
from dynamicrafter.model.variants import SMALL, VARIANTS, Variant
from dynamicrafter.weights.catalogue import Release, find
from dynamicrafter.weights.random_model import write_random_checkpoint

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
    ran = run("doctor", "--quick")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [f"{name}: ok" for name in CHECKS]
    told = dict(line.split(maxsplit=1) for line in lines if line.startswith(" "))
    assert told["torch"] == torch.__version__
    assert told["numpy"] == np.__version__
    assert told["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert told["cpu"].startswith(f"threads {torch.get_num_threads()}, memory_gb ")
    assert told["folder"] == "DYNAMICRAFTER_HOME"
    assert told["models"] == "none"


def test_programs_are_told_the_same(run: Run, home: Path, any_torch: None) -> None:
    ran = run("doctor", "--quick", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert list(ran.json) == ["checks"]
    assert [(check["name"], check["verdict"]) for check in ran.json["checks"]] == [
        (name, "ok") for name in CHECKS
    ]
    assert finding(ran, "packages")["details"]["torch"] == torch.__version__
    assert finding(ran, "weights")["details"]["folder"] == "DYNAMICRAFTER_HOME"


def test_the_memory_is_that_of_this_machine(run: Run) -> None:
    psutil = pytest.importorskip("psutil")
    told = finding(run("doctor", "--quick", "--json"), "devices")["details"]["cpu"]["memory_gb"]
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
    ran = run("doctor", "--quick")
    assert ran.code == 1
    assert "\ntiny: failed\n" in ran.out
    assert "tiny.safetensors" in ran.out.partition("\ntiny: failed\n")[2]
    assert str(tmp_path) not in ran.out
    told = run("doctor", "--quick", "--json")
    assert (told.code, told.err) == (1, "")
    assert (told.json["error"], told.json["kind"]) == ("failed: tiny", "failure")
    assert finding(told, "tiny")["details"] == {}


def test_the_traceback_is_shown_on_request(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(api, "_TINY_WEIGHTS", tmp_path / "gone.safetensors")
    assert "Traceback" not in run("doctor", "--quick").err
    assert "CheckpointError: there is no file" in run("doctor", "--quick", "--debug").err


def test_a_package_that_cannot_be_imported_is_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    ran = run("doctor", "--quick", "--json")
    assert ran.code == 1
    found = finding(ran, "packages")
    assert (found["verdict"], found["details"]["kornia"]) == ("failed", None)
    assert found["details"]["torch"] == torch.__version__
    assert found["problem"].startswith("cannot be imported: kornia (ModuleNotFoundError: ")


def test_it_answers_without_pytorch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = run("doctor", "--quick", "--json")
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
    ran = run("doctor", "--quick", "--json")
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

    properties = SimpleNamespace(name="A Card", total_memory=24 * 10**9, major=7, minor=5)
    ones = torch.ones
    # A product of a GPU's size takes half a minute where the processor has no float16.
    monkeypatch.setattr(torch, "ones", lambda *shape, **options: ones(16, 16, **{**options, "device": "cpu"}))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch, "zeros", made)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)


def test_a_gpu_is_described(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, works=True)
    (line,) = [line for line in run("doctor", "--quick").out.splitlines() if line.startswith("  cuda:0 ")]
    wanted = "name A Card, memory_gb 24.0, free_gb 20.0, architecture sm_75, native_bf16 no, gflops float32 "
    assert line.split(maxsplit=1)[1].startswith(wanted)


def test_a_gpu_that_cannot_compute_is_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, works=False)
    ran = run("doctor", "--quick", "--json")
    assert ran.code == 1
    found = finding(ran, "devices")
    assert found["details"]["cuda:0"] is None
    assert "cuda:0 (RuntimeError: CUDA error: no kernel image is available); update" in found["problem"]
    assert "threads" in found["details"]["cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_of_this_machine_is_described(run: Run) -> None:
    found = finding(run("doctor", "--quick", "--json"), "devices")
    assert found["verdict"] == "ok"
    assert found["details"]["cuda:0"]["name"] == torch.cuda.get_device_name(0)
    assert found["details"]["cuda:0"]["memory_gb"] > 1


def released(name: str, variant: str | None, towers: bool = True, **known: Any) -> Release:
    """A release of the catalogue in a small size."""
    return replace(
        find("512"),
        name=name,
        variant=variant,
        contains_towers=towers,
        repository=".",
        filename=f"{name}.safetensors",
        **{"sha256": None, "size_bytes": None, **known},
    )


def catalogue(monkeypatch: pytest.MonkeyPatch, folder: Path, *releases: Release) -> None:
    """Let these be all releases, and ``folder`` the weights folder."""
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(folder))
    for module in ("weights.catalogue", "weights.download", "cli.doctor"):
        monkeypatch.setattr(f"dynamicrafter.{module}.ALL_RELEASES", releases)
    monkeypatch.setattr("dynamicrafter.cli.doctor.RELEASES", releases)


def downloaded(folder: Path, name: str, variant: Variant = SMALL) -> Path:
    """A small model of a variant in a weights folder."""
    path = folder / f"{name}.safetensors"
    write_random_checkpoint(path, variant)
    return path


def variants() -> list[Variant]:
    """Every released variant, with the sizes of small networks but what else makes it differ."""
    made: list[Variant] = []
    for released in VARIANTS.values():
        unet = replace(SMALL.unet, learned_image_scale=released.unet.learned_image_scale)
        vae = replace(SMALL.vae, video_decoder=released.vae.video_decoder)
        preset = replace(SMALL.preset, spacing=released.preset.spacing)
        made.append(
            replace(
                SMALL,
                name=released.name,
                modes=released.modes,
                diffusion=released.diffusion,
                unet=unet,
                vae=vae,
                preset=preset,
            )
        )
    return made


@pytest.mark.parametrize("variant", variants(), ids=lambda variant: variant.name)
def test_one_step_of_every_variant_is_compared(
    variant: Variant, run: Run, tmp_path: Path, any_torch: None, one_thread: None
) -> None:
    """Small, but with everything else as released."""
    path = tmp_path / f"my {variant.name}.safetensors"
    write_random_checkpoint(path, variant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "home"))
        patch.setattr("dynamicrafter.cli.doctor.CHECKS", {})
        ran = run("doctor", "--json", "--model", str(path), "--dtype", "bf16", "--device", "cpu")
    assert ran.code == 0, ran.out
    (found,) = ran.json["checks"]
    assert (found["name"], found["verdict"]) == (f"model {path.name}", "ok")
    told = found["details"]
    assert told["variant"] == variant.name
    assert (told["device"], told["dtype"]) == ("cpu", "bfloat16")
    assert 25 < told["psnr"] < 80
    assert told["seconds"] > 0 and told["cpu_float32_seconds"] > 0
    assert str(tmp_path) not in ran.out


@pytest.fixture
def only_models(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Without the checks of the machine itself."""
    monkeypatch.setattr("dynamicrafter.cli.doctor.CHECKS", {"weights": CHECKS["weights"]})


def test_downloaded_models_are_checked_and_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_models: None
) -> None:
    path = downloaded(tmp_path, "whole")
    whole = released(
        "whole", "small", sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size_bytes=path.stat().st_size
    )
    catalogue(monkeypatch, tmp_path, whole, released("absent", "small"))
    ran = run("doctor", "--json", "--device", "cpu")
    assert ran.code == 0, ran.out
    assert [check["name"] for check in ran.json["checks"]] == ["weights", "file whole", "model whole"]
    assert finding(ran, "weights")["details"]["models"] == ["whole"]
    assert finding(ran, "file whole")["details"]["hash"] == "that of the catalogue"
    told = finding(ran, "model whole")["details"]
    assert (told["dtype"], "psnr" in told) == ("float32", False)
    assert [check["name"] for check in run("doctor", "--json", "--quick").json["checks"]] == [
        "weights",
        "file whole",
    ]


def test_a_model_without_its_towers_is_warned_of_and_not_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_models: None
) -> None:
    downloaded(tmp_path, "pruned")
    catalogue(monkeypatch, tmp_path, released("pruned", "small", towers=False), released("towers", None))
    ran = run("doctor")
    assert ran.code == 0
    assert "weights: warning\n" in ran.out
    assert "  pruned needs towers, not downloaded yet; run 'dynamicrafter download pruned'\n" in ran.out
    assert "model pruned" not in ran.out


def test_a_file_of_another_size_is_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_models: None
) -> None:
    downloaded(tmp_path, "cut")
    catalogue(monkeypatch, tmp_path, released("cut", "small", size_bytes=10**9))
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert finding(ran, "weights")["problem"] == (
        "cut is incomplete: the file does not have the size of the released one; delete it and run "
        "'dynamicrafter download cut'"
    )


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrite a file with other tensors."""
    save_file(change(load_file(path)), path, metadata=metadata_of(path))


OUT = "model.diffusion_model.out.2.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        "file broken",
        "truncated",
    ),
    "no longer a weights file": (
        lambda path: path.write_bytes(b"<html>"),
        "file broken",
        "broken.safetensors",
    ),
    "another hash": (
        lambda path: changed(path, lambda tensors: {**tensors, OUT: tensors[OUT] * 2}),
        "file broken",
        "broken.safetensors is damaged or is not the released file; delete it and run 'dynamicrafter download broken'",
    ),
    "missing": (
        lambda path: changed(path, lambda tensors: {name: tensors[name] for name in tensors if name != OUT}),
        "model broken",
        "1 tensors are missing",
    ),
    "misshapen": (
        lambda path: changed(path, lambda tensors: {**tensors, OUT: tensors[OUT][:, :-1].contiguous()}),
        "model broken",
        "do not fit",
    ),
    "not finite": (
        lambda path: changed(path, lambda tensors: {**tensors, OUT: tensors[OUT] / 0}),
        "model broken",
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_fails_in_one_line_and_the_rest_goes_on(
    damage: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_models: None
) -> None:
    harm, name, problem = DAMAGE[damage]
    broken, sound = downloaded(tmp_path, "broken"), downloaded(tmp_path, "sound")
    hashes = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (broken, sound)}
    harm(broken)
    catalogue(monkeypatch, tmp_path, *(released(name, "small", sha256=hashes[name]) for name in hashes))
    ran = run("doctor", "--json")
    assert (ran.code, ran.err) == (1, "")
    assert finding(ran, name)["verdict"] == "failed"
    assert problem in finding(ran, name)["problem"]
    assert "\n" not in finding(ran, name)["problem"]
    assert finding(ran, "file sound")["verdict"] == finding(ran, "model sound")["verdict"] == "ok"
    assert name in ran.json["error"] and ran.json["kind"] == "failure"
    assert str(tmp_path) not in ran.out


def test_a_device_that_computes_something_else_is_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, only_models: None
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.doctor.CHECKS", {"tiny": CHECKS["tiny"]})
    convolve = torch.nn.functional.conv2d

    def wrong(x: torch.Tensor, *others: Any) -> torch.Tensor:
        made = convolve(x, *others)
        return made.flip(-1) if x.dtype == torch.bfloat16 else made

    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    ran = run("doctor", "--json", "--dtype", "bf16", "--device", "cpu")
    assert ran.code == 1
    found = finding(ran, "tiny")
    assert found["details"]["cpu_float32_error"] <= MOST_ERROR
    assert re.match(
        r"the frames have a PSNR of -?\d+\.\d dB against the CPU in float32, less than 25; try ",
        found["problem"],
    )


def test_the_built_in_model_is_run_in_the_chosen_precision(
    run: Run, monkeypatch: pytest.MonkeyPatch, only_models: None
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.doctor.CHECKS", {"tiny": CHECKS["tiny"]})
    ran = run("doctor", "--json", "--dtype", "bf16", "--device", "cpu")
    found = finding(ran, "tiny")
    assert (ran.code, found["verdict"]) == (0, "ok")
    assert found["details"]["cpu_float32_error"] <= MOST_ERROR
    assert found["details"]["dtype"] == "bfloat16"
    assert 50 < found["details"]["psnr"] < 75
    assert found["details"]["seconds"] > 0


def test_the_built_in_model_is_run_as_its_weights_are_to_be_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, only_models: None
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.doctor.CHECKS", {"tiny": CHECKS["tiny"]})
    ran = run("doctor", "--json", "--device", "cpu", "--weights", "int8", "--memory", "low")
    found = finding(ran, "tiny")
    assert (ran.code, found["verdict"]) == (0, "ok")
    assert (found["details"]["weights"], found["details"]["memory"]) == ("int8", "low")
    assert 50 < found["details"]["psnr"] < 80


def test_what_the_built_in_model_cannot_be_run_by_is_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, only_models: None
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.doctor.CHECKS", {"tiny": CHECKS["tiny"]})
    for options, told in (
        (
            ("--compile", "reduce-overhead"),
            "compile reduce-overhead records CUDA graphs, which cpu does not have",
        ),
        (("--backend", "openvino", "--weights", "int8"), "openvino keeps weights and memory its own way"),
    ):
        ran = run("doctor", "--json", "--device", "cpu", *options)
        assert ran.code == 1
        assert finding(ran, "tiny")["problem"].startswith(told)


def test_numbers_that_are_not_those_recorded_are_a_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_models: None
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.doctor.CHECKS", {"tiny": CHECKS["tiny"]})
    golden = {name: tensor * 1.001 for name, tensor in load_file(GOLDEN).items()}
    save_file(golden, tmp_path / "golden.safetensors")
    monkeypatch.setattr("dynamicrafter.cli.trial.GOLDEN", tmp_path / "golden.safetensors")
    found = finding(run("doctor", "--json"), "tiny")
    assert found["verdict"] == "failed"
    assert (
        "differ from the recorded ones by 0.001 of their largest magnitude, more than 5e-05"
        in found["problem"]
    )


def test_the_files_of_comfyui_are_told_by_their_contents(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only_models: None
) -> None:
    folder = tmp_path / "models"
    (folder / "checkpoints" / "video").mkdir(parents=True)
    downloaded(folder / "checkpoints" / "video", "whatever")
    save_file({"a": torch.zeros(1)}, folder / "checkpoints" / "another.safetensors")
    (folder / "checkpoints" / "junk.ckpt").write_bytes(b"junk")
    catalogue(monkeypatch, tmp_path / "home", released("mine", "small", size_bytes=10**9))
    ran = run("doctor", "--json", "--quick", "--comfyui", str(folder))
    assert finding(ran, "comfyui") == {
        "name": "comfyui",
        "verdict": "ok",
        "details": {"whatever.safetensors": "small"},
        "problem": None,
    }
    downloaded(folder / "checkpoints", "mine")
    ran = run("doctor", "--json", "--quick", "--comfyui", str(folder))
    assert ran.code == 1
    assert (
        "mine.safetensors (its size is not that of the released file)" in finding(ran, "comfyui")["problem"]
    )
    ran = run("doctor", "--json", "--quick", "--comfyui", str(tmp_path / "none"))
    assert (
        finding(ran, "comfyui")["problem"]
        == "there is no folder none; pass ComfyUI's models folder to --comfyui"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("there is no file /srv/john/models/a.ckpt; check", "there is no file a.ckpt; check"),
        (r"C:\Users\john\a.ckpt is damaged", "a.ckpt is damaged"),
        ("'/a/b/c' and (/d/e)", "'c' and (e)"),
        ("1/8 and/or https://example.org/a/b", "1/8 and/or https://example.org/a/b"),
    ],
)
def test_a_report_names_no_folders(text: str, shown: str) -> None:
    assert without_folders(text) == shown
    assert without_folders(f"{Path.home() / 'a b' / 'c.ckpt'} is damaged").count(str(Path.home())) == 0


def test_a_weights_folder_that_cannot_be_written_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "taken"
    file.touch()
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(file / "weights"))
    ran = run("doctor", "--quick", "--json")
    assert ran.code == 0
    assert finding(ran, "weights")["problem"].startswith("the weights folder weights is not writable; set ")


def test_the_room_is_that_of_a_folder_not_made_yet(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "a" / "b"))
    found = finding(run("doctor", "--quick", "--json"), "weights")
    assert found["verdict"] == "ok"
    assert found["details"]["free_gb"] > 0
    assert not (tmp_path / "a").exists()
