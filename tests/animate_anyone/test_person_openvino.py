"""AnimateAnyone in OpenVINO: the same numbers as PyTorch at any size, with and without a reference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dynamicrafter.animate_anyone.api import PersonSettings, person
from dynamicrafter.animate_anyone.attention import temporal_positions
from dynamicrafter.animate_anyone.exported import WORKING_TOGETHER, Turns
from dynamicrafter.animate_anyone.exporting import export_person_model
from dynamicrafter.animate_anyone.graphs import PERSON_FAMILY
from dynamicrafter.animate_anyone.pipeline import PersonModel, TorchPersonModel
from dynamicrafter.animate_anyone.weights import load_person
from dynamicrafter.backends.openvino.compiled import CompiledGraph
from dynamicrafter.backends.openvino.export import int8_weights, save_graph, trace_function
from dynamicrafter.backends.openvino.graphs import Signature
from dynamicrafter.backends.openvino.library import openvino
from dynamicrafter.backends.openvino.manifest import MANIFEST, read_manifest
from dynamicrafter.cli import main
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.media.video import read_frames, read_metadata, write_clip
from tests.animate_anyone.small_person import small_person, write_person

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")

SAME = 100.0
"""dB; the weights are the same, and the order of additions differs."""


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("DYNAMICRAFTER_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def torch_model() -> TorchPersonModel:
    model = small_person()
    for network in (model.reference, model.denoising, model.pose_guider, model.vae, model.embedder):
        for parameter in network.parameters():
            # Exact in the half precision in which an export stores it.
            parameter.copy_(parameter.half().float())
    return model


@pytest.fixture(scope="module")
def whole(own_home: Path, torch_model: TorchPersonModel) -> Path:
    return write_person(own_home / "person.safetensors", torch_model)


@pytest.fixture(scope="module")
def exported(whole: Path) -> Path:
    """The export in the weights folder; not to be changed."""
    torch.set_num_threads(1)
    return export_person_model(whole)[0]


@pytest.fixture(scope="module")
def model(exported: Path, whole: Path) -> PersonModel:
    return load_person(whole, backend="openvino")


def psnr(found: Tensor, wanted: Tensor) -> float:
    peak = wanted.max() - wanted.min()
    return float(10 * torch.log10(peak**2 / ((found - wanted) ** 2).mean()))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_openvino
@torch.inference_mode()
def test_one_graph_serves_every_size_with_and_without_a_reference(
    model: PersonModel, torch_model: TorchPersonModel
) -> None:
    context = normal(1, 1, 16, seed=1)
    for frames, height, width in ((24, 9, 7), (1, 4, 6)):
        latents = normal(1, 4, height, width, seed=2)
        features = torch_model.reference(latents, context)
        seen = model.reference(latents, context)
        assert list(seen) == list(features)
        assert min(psnr(seen[path], features[path]) for path in features) > SAME
        theirs, ours = torch_model.denoising.project(features), model.denoising.project(features)
        assert min(psnr(ours[path][i], theirs[path][i]) for path in theirs for i in (0, 1)) > SAME
        x, pose = normal(1, 4, frames, height, width), normal(1, 32, frames, height, width, seed=3)
        t = torch.full((1,), 400)
        wanted = [
            torch_model.denoising(x, t, context, pose, theirs),
            torch_model.denoising(x, t, context, pose),
        ]
        found = [model.denoising(x, t, context, pose, theirs), model.denoising(x, t, context, pose)]
        assert all(psnr(*pair) > SAME for pair in zip(found, wanted, strict=True))
        assert psnr(wanted[0], wanted[1]) < 60, "a reference makes a difference"
    assert psnr(model.denoising(x, t, context), torch_model.denoising(x, t, context)) > SAME


class Positions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + temporal_positions(x.shape[1], x.shape[2])


@needs_openvino
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_lose_nothing_in_the_half_precision_of_a_file(tmp_path: Path, dtype: torch.dtype) -> None:
    found = Signature({"x": (None, None, 64)}, {"out": (None, None, 64)})
    save_graph(trace_function(Positions(), (torch.zeros(2, 3, 64),), found), tmp_path, "positions")
    compiled = CompiledGraph(tmp_path / "positions.xml", found, "CPU", dtype, None)
    (table,) = compiled(torch.zeros(1, 24, 64))[0]
    # bfloat16 rounds the sum.
    assert (table - temporal_positions(24, 64)).abs().max() < (1e-5 if dtype == torch.float32 else 4e-3)


@needs_openvino
@torch.inference_mode()
def test_the_other_networks_agree_too(model: PersonModel, torch_model: TorchPersonModel) -> None:
    pixels, poses = normal(2, 3, 224, 224), torch.rand(1, 3, 2, 40, 24)
    assert psnr(model.embedder(pixels), torch_model.embedder(pixels)) > SAME
    assert psnr(model.pose_guider(poses), torch_model.pose_guider(poses)) > SAME
    picture, latents = normal(1, 3, 40, 24).clamp(-1, 1), normal(2, 4, 5, 3)
    assert psnr(model.vae.encode(picture).mean, torch_model.vae.encode(picture).mean) > SAME
    made = torch.cat(list(model.vae.frames(latents)))
    assert psnr(made, torch.cat(list(torch_model.vae.frames(latents)))) > SAME


def picture(seed: int) -> Image.Image:
    pixels = torch.randint(
        0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(pixels.numpy()).resize((64, 64))


def rendered(model: PersonModel, cfg: float = 2.0) -> Tensor:
    settings = PersonSettings(width=64, height=64, steps=2, cfg=cfg, window=2, overlap=1)
    return person(model, picture(0), [picture(seed) for seed in (1, 2, 3)], settings)


@needs_openvino
@pytest.mark.parametrize("cfg", [2.0, 1.0])
def test_a_clip_is_that_of_pytorch(model: PersonModel, torch_model: TorchPersonModel, cfg: float) -> None:
    ours, theirs = rendered(model, cfg).int(), rendered(torch_model, cfg).int()
    # A number near the border between two of the 256 may fall on its other side.
    assert (ours - theirs).abs().max() <= 1 and (ours != theirs).float().mean() < 1e-3


@needs_openvino
def test_a_clip_in_bf16_is_near(whole: Path, exported: Path, torch_model: TorchPersonModel) -> None:
    fast = load_person(whole, backend="openvino:CPU", dtype=torch.bfloat16)
    assert psnr(rendered(fast).float(), rendered(torch_model).float()) > 30


@needs_openvino
def test_networks_that_work_in_turn_are_not_in_memory_together() -> None:
    assert sorted(PERSON_FAMILY.graphs) == sorted(name for stage in WORKING_TOGETHER for name in stage)
    made: list[str] = []

    def compiled(name: str) -> Any:
        made.append(name)
        return lambda *_: [torch.zeros(1)]

    graphs = Turns(compiled)
    for name in (
        "reference",
        "reference",
        "denoising",
        "pose_guider",
        "denoising",
        "vae_decoder",
        "denoising",
    ):
        graphs.run(name)
    assert made == ["reference", "denoising", "pose_guider", "vae_decoder", "denoising"]


@needs_openvino
@needs_nncf
def test_weights_of_8_bits_take_half_the_space(exported: Path, tmp_path: Path) -> None:
    graph = openvino().Core().read_model(exported / "reference.xml")
    save_graph(int8_weights(graph), tmp_path, "reference")
    half, small = ((folder / "reference.bin").stat().st_size for folder in (exported, tmp_path))
    assert small < 0.6 * half


# The command


@pytest.fixture(scope="module")
def folder(own_home: Path, whole: Path) -> Path:
    picture(0).save(own_home / "dancer.png")
    frames = torch.stack([torch.as_tensor(np.array(picture(seed))) for seed in (1, 2)])
    write_clip(frames, own_home / "drawn", 8, {})
    return own_home


def run(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    words = ["person", str(folder / "dancer.png"), "--poses", str(folder / "drawn"), "--size", "64x64"]
    words += ["--steps", "1", "--backend", "openvino", "--json", *more]
    code = main(words)
    return code, json.loads(capsys.readouterr().out)


@needs_openvino
def test_a_clip_is_made_and_made_again(
    folder: Path, whole: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, more = tmp_path / "clip", tmp_path / "more"
    code, told = run(folder, capsys, "--model", str(whole), "-o", str(clip))
    assert (code, told["device"], told["weights"], told["memory"]) == (0, "openvino:CPU", "fp16", None)
    model = read_metadata(clip)["model"]
    assert (model["file"], model["backend"], model["exported"]) == (whole.name, "openvino:CPU", "fp16")
    for name in ("person.safetensors", "dancer.png"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "drawn", tmp_path / "drawn")
    assert main(["again", str(clip), "-o", str(more), "-q"]) == 0
    assert read_metadata(more)["model"] == model and torch.equal(read_frames(clip), read_frames(more))


@needs_openvino
@pytest.mark.usefixtures("in_this_process")
def test_it_is_compared_with_pytorch(
    folder: Path, whole: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare-person", ":backend=torch", ":backend=openvino", str(folder / "dancer.png")]
    words += ["--poses", str(folder / "drawn"), "--model", str(whole), "--size", "64x64", "--steps", "1"]
    assert main([*words, "-o", str(tmp_path / "both"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["a"]["dtype"], told["b"]["device"]) == ("float32", "openvino:CPU")
    assert told["b"]["disk"] == sum(file.stat().st_size for file in exported.iterdir())
    assert SAME < told["likeness"]["latents_psnr"] < 126


@needs_openvino
def test_an_export_is_a_model_of_its_own(
    folder: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ("-o", str(tmp_path / "clip.mp4"), "--dry-run")
    code, told = run(folder, capsys, "--model", str(exported), *dry)
    assert (code, told["device"], told["weights"]) == (0, "openvino:CPU", "fp16")
    # The largest network, whose weights are in half precision in the file and float32 in memory.
    names = ("denoising", "pose_guider")
    assert told["weights_bytes"] == 2 * sum((exported / f"{name}.bin").stat().st_size for name in names)
    assert told["activations_bytes"] > 10**5
    code, told = run(folder, capsys, "--model", str(exported), *dry, "--backend", "torch")
    assert code == 2 and "is an export for OpenVINO; pass --backend openvino" in told["error"]
    code, told = run(folder, capsys, "--model", str(exported), *dry, "--memory", "low")
    assert code == 2 and "openvino keeps weights and memory its own way" in told["error"]
    code, told = run(folder, capsys, "--model", str(tmp_path), *dry)
    assert code == 1 and "lacks the reference network" in told["error"]
    assert main(["export", str(exported)]) == 2
    assert "is an export already; pass the weights that it was made of" in capsys.readouterr().err
    words = ["animate", str(folder / "dancer.png"), "--model", str(exported), "--backend", "openvino"]
    assert main(words) == 1
    assert "is not an export of DynamiCrafter; use one, or export such a model" in capsys.readouterr().err


@needs_openvino
def test_what_was_not_exported_or_is_of_another_model_is_told(
    whole: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_person(tmp_path / "other.safetensors", small_person())
    with pytest.raises(
        UsageError, match=r"other.* has not been exported for OpenVINO; export it with dynamicr"
    ):
        load_person(other, backend="openvino")
    copied = shutil.copytree(exported, tmp_path / "copied")
    values = json.loads((copied / MANIFEST).read_text())
    values["sources"][0]["sha256"] = "0" * 64
    (copied / MANIFEST).write_text(json.dumps(values))
    monkeypatch.setattr("dynamicrafter.animate_anyone.weights.exports_folder", lambda _: copied)
    with pytest.raises(CheckpointError, match="copied is the export of another model; export it with"):
        load_person(whole, backend="openvino")
    (copied / "reference.bin").unlink()
    with pytest.raises(CheckpointError, match=r"reference\.bin of the export cannot be used \(No such file"):
        load_person(copied, backend="openvino")
    values["variant"] = {"dynamicrafter.variant": "{}"}
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match="copied is not an export of AnimateAnyone; use one, or export such"
    ):
        load_person(copied, backend="openvino")


@needs_openvino
def test_options_of_dynamicrafter_are_refused(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(whole), "--lora", "some.safetensors"]) == 2
    assert "--lora is for DynamiCrafter, but " in capsys.readouterr().err
    assert main(["export", str(whole), "--weights", "int8", "--calibrate", "clips"]) == 2
    assert "--calibrate is for DynamiCrafter, but " in capsys.readouterr().err


@needs_openvino
def test_export_says_what_it_wrote(
    whole: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = openvino().Core().read_model(exported / "pose_guider.xml")
    monkeypatch.setattr("dynamicrafter.animate_anyone.exporting.trace_function", lambda *_: graph)
    assert main(["export", str(whole), "-o", str(tmp_path / "out")]) == 0
    size = sum(file.bytes for file in read_manifest(tmp_path / "out", PERSON_FAMILY).files)
    assert f"out: weights in fp16, {size / 1e9:.2f} GB" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").touch()
    assert main(["export", str(whole), "-o", str(tmp_path / "mine")]) == 2
    assert "exists and is not an export; choose another folder" in capsys.readouterr().err
