"""Exports for OpenVINO that compute in 8 bits: what they are calibrated on, and which layers are left out."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import paint
from torch import Tensor, nn

from dynamicrafter.api import calibration_bytes, export_model, load
from dynamicrafter.backends.openvino import quantise as quantising
from dynamicrafter.backends.openvino.calibration import Call, Shown, record_calls
from dynamicrafter.backends.openvino.export import converted
from dynamicrafter.backends.openvino.graphs import function_of
from dynamicrafter.backends.openvino.quantise import quantise_layers
from dynamicrafter.backends.openvino.sensitivity import LayerError, choose_kept, layer_errors
from dynamicrafter.cli import main
from dynamicrafter.errors import UsageError
from dynamicrafter.media.examples import read_examples
from dynamicrafter.media.video import write_clip
from dynamicrafter.model.variants import V512
from dynamicrafter.pipeline import KeyPictures
from dynamicrafter.weights.footprint import ClipSize, footprint, network_bytes

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("nncf") is None, reason="openvino or nncf is not installed"
)


class Network(nn.Module):
    """Two branches, of which one has an input with an outlier that takes all of the 256 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Linear(16, 16)
        self.bad = nn.Linear(16, 16)
        self.last = nn.Conv1d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        spread = torch.cat([x[..., :1] * 3000, x[..., 1:]], -1)
        return self.last((self.good(x) + self.bad(spread)).transpose(1, 2))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = Network().requires_grad_(False).train(False)
    made.bad.weight[:, 0] /= 3000
    return made


def calls_of(network: nn.Module, count: int, seed: int) -> list[Call]:
    torch.manual_seed(seed)
    inputs = [torch.randn(1, 40, 16) for _ in range(count)]
    return [Call((x.numpy(),), network(x).numpy()) for x in inputs]


def test_the_layer_that_hurts_is_found(network: Network) -> None:
    layers = {layer.name: layer for layer in layer_errors(network, calls_of(network, 2, 1))}
    assert layers.keys() == {"good", "bad", "last"}
    assert layers["bad"].noise > 0.99 and sum(layer.noise for layer in layers.values()) == pytest.approx(1)
    assert layers["good"].work == layers["last"].work == 2 * 40 * 16 * 16
    assert not any(module._forward_hooks for module in network.modules())


def test_an_estimate_agrees_with_the_layer_quantised_alone(network: Network) -> None:
    """What the gradient says of a layer's error, and what its error does."""
    plain = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16)).requires_grad_(False)
    calls = calls_of(plain, 3, 2)
    estimated = {layer.name: layer.noise for layer in layer_errors(plain, calls)}
    measured: dict[str, float] = {}
    for name in estimated:
        changed = {key: value.clone() for key, value in plain.state_dict().items()}
        weight = changed[f"{name}.weight"]
        scale = weight.abs().amax(1, keepdim=True) / 127
        weight.copy_((weight / scale).round() * scale)
        found = [
            torch.func.functional_call(plain, changed, (torch.as_tensor(call.inputs[0]),)) for call in calls
        ]
        measured[name] = sum(
            float((one - torch.as_tensor(call.output)).square().sum())
            for one, call in zip(found, calls, strict=True)
        )
    # The weights alone are a part of it.
    assert 0.2 < (estimated["0"] / estimated["2"]) / (measured["0"] / measured["2"]) < 5


def test_layers_are_left_by_what_they_spoil_for_their_work() -> None:
    layers = [LayerError("dear", 90.0, 0.5), LayerError("cheap", 1.0, 0.3), LayerError("harmless", 9.0, 0.2)]
    assert [layer.name for layer in choose_kept(layers, 0.75)] == ["cheap"]
    assert [layer.name for layer in choose_kept(layers, 0.5)] == ["cheap", "harmless"]
    assert choose_kept(layers, 1.0) == [] and len(choose_kept(layers, 0.0)) == 3


@needs_openvino
def test_the_layer_that_hurts_stays_in_floating_point(network: Network) -> None:
    graph = converted(network, (torch.randn(1, 40, 16),))
    calls = calls_of(network, 4, 3)
    layers = layer_errors(network, calls)
    made, kept, before, after = quantise_layers(
        graph, layers, calls, calls_of(network, 2, 4), lambda *_: None
    )
    assert before.mean < quantising.WANTED <= after.mean and before.lowest <= before.mean
    assert [layer.name for layer in kept] == ["bad"]
    kinds = [each.get_type_name() for each in made.get_ops()]
    assert kinds.count("FakeQuantize") >= 2 and kinds.count("MatMul") == 2


# What it is calibrated on


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "clips"
    made.mkdir()
    paint(made / "a.png", 64, 64)
    (made / "a.txt").write_text("a boat\n rocks", encoding="utf-8")
    frames = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    frames[-1] = 200
    write_clip(frames, made / "b.webm", 8, {})
    (made / "notes.md").touch()
    return made


def test_a_folder_has_images_and_prompts(folder: Path) -> None:
    image, clip = read_examples(folder, 8)
    assert (image.prompt, clip.prompt) == ("a boat rocks", "")
    assert image.first is image.last and image.first.size == (64, 64)
    assert int(clip.first.pixels.float().mean()) < 30 < 170 < int(clip.last.pixels.float().mean())
    for index in range(7):
        paint(folder / f"c{index}.png", 8, 8)
    (folder / "c2.txt").write_text("the third", encoding="utf-8")
    assert [each.prompt for each in read_examples(folder, 3)] == ["a boat rocks", "", ""]
    (folder / "c2.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match=r"c2\.txt is not a text file in UTF-8; save it as one"):
        read_examples(folder, 9)


def test_evaluations_are_those_of_sampled_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamicrafter.backends.openvino.calibration._STEPS", 3)
    model = load("random", device="cpu")
    pictures = KeyPictures(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    told: list[tuple[int, int]] = []
    calibrating, measuring = record_calls(model, [Shown(pictures, "a boat")], lambda *now: told.append(now))
    assert told == [(0, 2), (1, 2)]
    assert len(calibrating) == len(measuring) and len({call.inputs[1].tobytes() for call in measuring}) == 3
    assert not any((one.inputs[0] == other.inputs[0]).all() for one in calibrating for other in measuring)
    network = function_of(model, "unet")
    call = measuring[2]
    with torch.inference_mode():
        again = network(*map(torch.as_tensor, call.inputs))
    assert torch.equal(again, torch.as_tensor(call.output))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda folder: folder.with_name("none"),
            [],
            "there is no folder .*none; choose one with images or clips",
        ),
        (
            lambda folder: folder.parent,
            [],
            r"contains no images and clips \(.*\.jpg, .*\.webm.*\); put some into it that are like those",
        ),
        (
            lambda folder: folder,
            ["--weights", "fp16"],
            "a calibration is for weights in int8, but fp16 was requested; use int8 or omit",
        ),
        (lambda folder: folder, ["--backend", "torch"], "argument --backend: invalid choice: 'torch'"),
    ],
)
@needs_openvino
def test_what_cannot_be_calibrated_is_told_before_it_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Any, options: list[str], message: str
) -> None:
    words = ["export", "random", "--weights", "int8", "--calibrate", str(change(folder)), *options, "--json"]
    try:
        code = main(words)
    except SystemExit as problem:
        code = problem.code
    assert code == 2
    said = capsys.readouterr()
    assert re.search(message, said.out + said.err)


@needs_openvino
def test_memory_is_told_and_must_be_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dynamicrafter.api.free_memory", lambda: 10**6)
    assert main(["export", "random", "--weights", "int8", "--calibrate", str(folder)]) == 2
    assert re.search(
        r"calibrating random takes about \d\.\d GB of main memory\n(.*\n)*.*quantising random completely needs about "
        r"\d\.\d GB of main memory, but 0\.0 GB are free; close other programs, or quantise the weights alone",
        capsys.readouterr().err,
    )
    size = footprint(V512, ClipSize(1, 16, 512, 320), torch.float32, None, "high")
    unet = network_bytes(V512, "unet", torch.float32)
    assert calibration_bytes(V512) == pytest.approx(size.total + 4 * unet, rel=0.01)


def test_nncf_must_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(
        UsageError, match="this needs nncf, which is not installed; install it with pip install"
    ):
        export_model("random", folder.parent / "out", stored="int8", calibrate=folder)
