"""Exports for OpenVINO: the same numbers as PyTorch, and nothing read that was not checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from cli_runs import paint
from torch import Tensor

from dynamicrafter.api import (
    Lora,
    ModelFiles,
    animate,
    export_model,
    export_of,
    exported_files,
    find_model,
    load,
    pick_device,
    variant_of,
)
from dynamicrafter.backends.choice import parse_backend
from dynamicrafter.backends.openvino import export
from dynamicrafter.backends.openvino.compiled import CompiledGraph, memory_limit
from dynamicrafter.backends.openvino.graphs import Signature
from dynamicrafter.backends.openvino.library import openvino
from dynamicrafter.backends.openvino.manifest import MANIFEST, Accuracy, read_manifest
from dynamicrafter.backends.openvino.quantise import operations_of
from dynamicrafter.backends.openvino.running import ExportedTextEncoder
from dynamicrafter.backends.openvino.sensitivity import LayerError
from dynamicrafter.backends.openvino.untrusted import check_graph
from dynamicrafter.cli import main
from dynamicrafter.errors import Cancelled, CheckpointError, DynamiCrafterError, UsageError
from dynamicrafter.evaluation.clip_score import find_towers
from dynamicrafter.evaluation.comparison import ClipWay, disk_bytes
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.variants import SMALL
from dynamicrafter.pipeline import Model, TorchModel
from dynamicrafter.records import read_record
from dynamicrafter.settings import make_settings
from dynamicrafter.shots import Means
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.detect import VARIANT_KEY
from dynamicrafter.weights.random_model import write_random_checkpoint

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")

MINI = replace(
    SMALL,
    name="mini",
    unet=replace(SMALL.unet, model_channels=16, channel_mult=(1,), attention_factors=(1,)),
    vae=replace(SMALL.vae, channels=16, channel_mult=(1, 1, 1, 1)),
    text=replace(SMALL.text, layers=1),
    vision=replace(SMALL.vision, layers=1),
    resampler=replace(SMALL.resampler, depth=1),
)
"""The smallest model with every kind of layer; tracing takes seconds."""


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("DYNAMICRAFTER_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def weights(own_home: Path) -> Path:
    path = own_home / "mini.safetensors"
    # Exact in the half precision in which an export stores it.
    write_random_checkpoint(path, MINI, dtype=torch.float16)
    return path


@pytest.fixture(scope="module")
def exported(weights: Path) -> Path:
    """The export in the weights folder; not to be changed."""
    torch.set_num_threads(1)
    return export_model(weights)[0]


@pytest.fixture(scope="module")
def torch_model(weights: Path) -> TorchModel:
    return load(weights, device="cpu")


@pytest.fixture(scope="module")
def model(exported: Path, weights: Path) -> Model:
    return load(weights, backend="openvino")


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "copied")


def psnr(found: Tensor, wanted: Tensor) -> float:
    peak = wanted.max() - wanted.min()
    return float(10 * torch.log10(peak**2 / ((found - wanted) ** 2).mean()))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SAME = 100.0
"""dB; the weights are the same, and the order of additions differs."""


@needs_openvino
@pytest.mark.parametrize(
    ("batch", "frames", "height", "width", "groups"), [(1, 16, 8, 8, 16), (2, 5, 6, 10, 16), (1, 1, 4, 4, 1)]
)
def test_one_graph_serves_every_size(
    model: Model, torch_model: TorchModel, batch: int, frames: int, height: int, width: int, groups: int
) -> None:
    x = normal(batch, 8, frames, height, width)
    context = Context(normal(batch, 77, 64, seed=1), normal(batch, groups, 16, 64, seed=2))
    given = (x, torch.full((batch,), 400), context, torch.full((batch,), 8))
    with torch.inference_mode():
        assert psnr(model.unet(*given), torch_model.unet(*given)) > SAME


@needs_openvino
def test_the_other_networks_agree_too(model: Model, torch_model: TorchModel) -> None:
    picture, tokens = normal(2, 3, 48, 80).clamp(-1, 1), normal(3, 9, 64)
    with torch.inference_mode():
        assert psnr(model.text(["a boat", ""]), torch_model.text(["a boat", ""])) > SAME
        assert psnr(model.vision(picture), torch_model.vision(picture)) > SAME
        assert psnr(model.resampler(tokens), torch_model.resampler(tokens)) > SAME
        ours, theirs = model.vae.encode(picture), torch_model.vae.encode(picture)
        assert psnr(ours.mean, theirs.mean) > SAME and psnr(ours.logvar, theirs.logvar) > SAME
        latents = normal(3, 4, 4, 6)
        made = torch.cat(list(model.vae.frames(latents)))
        assert psnr(made, torch.cat(list(torch_model.vae.frames(latents)))) > SAME


@needs_openvino
def test_a_decoder_that_uses_the_images_is_exported_with_them(tmp_path: Path) -> None:
    from dynamicrafter.backends.openvino.export import trace
    from dynamicrafter.backends.openvino.library import openvino

    variant = replace(MINI, modes=("interpolate", "loop"), vae=replace(MINI.vae, video_decoder=True))
    write_random_checkpoint(tmp_path / "toon.safetensors", variant)
    found = load(tmp_path / "toon.safetensors", device="cpu")
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    encoder, decoder = (
        openvino().Core().compile_model(trace(found, name), "CPU", config)
        for name in ("vae_encoder", "vae_decoder")
    )
    pictures, latents = normal(2, 3, 64, 32).clamp(-1, 1), normal(5, 4, 8, 4)
    features = list(encoder([pictures.numpy()]).values())[1:]
    (made,) = decoder([latents.numpy(), *features]).values()
    with torch.inference_mode():
        assert psnr(torch.as_tensor(made), torch.cat(list(found.vae.frames(latents, pictures)))) > 90


@needs_openvino
def test_a_clip_in_bf16_is_near_the_one_in_float32(
    weights: Path, torch_model: TorchModel, tmp_path: Path
) -> None:
    image = paint(tmp_path / "image.png", 64, 64)
    wanted = animate(torch_model, image, frames=3, steps=2).frames.float()
    fast = load(weights, backend="openvino:CPU", dtype="bfloat16")
    assert psnr(animate(fast, image, frames=3, steps=2).frames.float(), wanted) > 30


@needs_openvino
@needs_nncf
def test_weights_of_8_bits_take_half_the_space_and_the_manifest_says_how_they_were_made(
    weights: Path,
    exported: Path,
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def quantised(graph: Any, layers: list[LayerError], *_: Any) -> Any:
        assert all(operations_of(graph, layers).values())
        return export.int8_weights(graph), layers[:1], Accuracy(12.0, 21.0), Accuracy(20.0, 31.0)

    monkeypatch.setattr(export, "quantise_layers", quantised)
    monkeypatch.setattr("dynamicrafter.backends.openvino.calibration._STEPS", 2)
    folder = tmp_path / "int8"
    paint(tmp_path / "boat.png", 64, 64)
    words = ["export", str(weights), "--weights", "int8", "--calibrate", str(tmp_path), "-o", str(folder)]
    assert main(words) == 0
    said = capsys.readouterr().out
    size = sum(file.stat().st_size for file in folder.glob("*.[bx]*"))
    assert f"int8: weights in int8_full, {size / 1e9:.2f} GB\n" in said and size > 5e6
    assert "all layers in int8: 21.0 dB an evaluation, lowest 12.0 dB\n" in said
    assert re.search(r"left in fp32, \d\.\d% of the work: time_embed\.0$", said, re.M)
    found, half = read_manifest(folder), read_manifest(exported)
    assert (found.stored, half.stored) == ("int8_full", "fp16")
    assert found.calibration is not None and half.calibration is None
    assert (found.calibration.clips, found.calibration.size) == (1, (64, 64, 16))
    assert found.calibration.kept == ("time_embed.0",) and found.calibration.after == Accuracy(20.0, 31.0)
    assert found.bytes_of("text") < 0.6 * half.bytes_of("text")
    assert found.bytes_of("unet") < 0.8 * half.bytes_of("unet")
    small = load(folder, backend="openvino")
    with torch.inference_mode():
        assert 25 < psnr(small.text(["a boat"]), model.text(["a boat"])) < 70


# The command


@needs_openvino
def test_a_clip_is_made_and_made_again(
    weights: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = paint(tmp_path / "boat.png", 64, 64)
    words = ["animate", str(image), "--model", str(weights), "--frames", "2", "--steps", "1", "-o", "clip/"]
    assert main([*words, "--backend", "openvino", "-q"]) == 0
    record = read_record(tmp_path / "clip")
    assert record.model.backend == "openvino:CPU" and record.model.exported == "fp16"
    shutil.copy(weights, tmp_path)
    assert main(["again", "clip", "-q", "-o", "more/"]) == 0
    assert read_record(tmp_path / "more").model == record.model
    frames = sorted((tmp_path / "clip").glob("*.png"))
    assert frames and [(tmp_path / "more" / one.name).read_bytes() for one in frames] == [
        one.read_bytes() for one in frames
    ]


@needs_openvino
def test_an_export_elsewhere_is_a_model_of_its_own(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = paint(tmp_path / "boat.png", 64, 64)
    words = ["animate", str(image), "--model", str(copied), "--dry-run", "--json"]
    assert main(words) == 2
    assert "is an export for OpenVINO; pass --backend openvino" in capsys.readouterr().out
    assert main([*words, "--backend", "openvino"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["device"] == "openvino:CPU" and plan["model"]["variant"] == "mini"
    assert (plan["weights"], plan["memory"]) == ("fp16", None) and plan["activations_bytes"] > 10**6
    # In float32, and in half precision in the files.
    assert plan["weights_bytes"] == 2 * sum(file.stat().st_size for file in copied.glob("*.bin"))
    assert main([*words[:-1], "--backend", "openvino"]) == 0
    assert re.search(
        r"^memory: about \d+ MB for weights and \d+ MB for activations, besides PyTorch and OpenVINO themselves$",
        capsys.readouterr().out,
        re.M,
    )
    assert main([*words, "--backend", "openvino", "--lora", "some.safetensors"]) == 2
    assert "export the model with the ones to use" in capsys.readouterr().out


@needs_openvino
def test_export_says_what_it_wrote(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    target = tmp_path / "out"
    monkeypatch.setattr(
        "dynamicrafter.backends.openvino.export.trace", lambda *_: (_ for _ in ()).throw(Cancelled)
    )
    assert main(["export", str(weights), "-o", str(target)]) == 130
    assert not target.exists() and not list(tmp_path.iterdir())
    capsys.readouterr()
    target.mkdir()
    (target / "mine.txt").touch()
    assert main(["export", str(weights), "-o", str(target)]) == 2
    assert "exists and is not an export; choose another folder" in capsys.readouterr().err


@needs_openvino
def test_what_openvino_does_not_have_is_told_before_it_starts(
    weights: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, other = str(paint(tmp_path / "boat.png", 64, 64)), tmp_path / "other.safetensors"
    write_random_checkpoint(other, MINI, seed=6)
    options = ["--backend", "openvino", "--dry-run"]
    words = ["animate", image, "--model", str(weights), *options]
    assert main([*words, "--weights", "int8", "--memory", "low"]) == 2
    told = (
        "openvino keeps weights and memory its own way and compiles its own, but weights int8, memory low and"
    )
    assert told in capsys.readouterr().err
    assert main(["compare", str(weights), str(other), image, *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dynamicrafter: B, {other}: ") and "has not been exported for OpenVINO" in said
    assert main(["evaluate", "folder", str(tmp_path), "--model", str(other), *options[:2], "--plain"]) == 2
    assert "has not been exported for OpenVINO" in capsys.readouterr().err


@needs_openvino
def test_a_comparison_counts_the_export(weights: Path, exported: Path) -> None:
    files = find_model(weights)
    told = sum(file.bytes for file in read_manifest(exported).files)
    way = ClipWay(
        "exported", files, make_settings(variant_of(files), "animate"), (), Means(backend="openvino")
    )
    assert disk_bytes(way.paths()) == told + (exported / MANIFEST).stat().st_size
    assert disk_bytes(replace(way, means=Means()).paths()) == weights.stat().st_size


def test_layers_in_8_bits_are_exported_as_whole_ones(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small.safetensors"
    convert(weights, small, dtype="int8")
    assert load(small, device="cpu").quantised == "int8"
    kept: list[TorchModel] = []
    monkeypatch.setattr("dynamicrafter.api.write_export", lambda model, *_, **__: kept.append(model))
    export_model(small, tmp_path / "out")
    assert [model.quantised for model in kept] == [None]


def test_metrics_do_not_look_for_encoders_in_an_export(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).touch()
    assert find_towers(ModelFiles(tmp_path)) == find_towers(None)


@needs_openvino
def test_an_error_of_the_device_is_a_sentence(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Check failed at src/plugin.cpp:7:\nout of memory\n")

    graph = cast(ExportedTextEncoder, model.text).graph
    monkeypatch.setattr(graph, "_compiled", fail)
    with pytest.raises(
        DynamiCrafterError, match=r"^OpenVINO cannot run text on CPU \(out of memory\); gener"
    ):
        model.text(["a boat"])


# What is refused


@pytest.mark.parametrize("name", ["onnx", "openvino:TPU", "openvino:", "torch:CPU", "openvino:GPU.1234"])
def test_a_backend_has_one_of_a_few_names(name: str) -> None:
    with pytest.raises(UsageError, match="backend must be torch, openvino, openvino:CPU"):
        parse_backend(name)


@needs_openvino
def test_a_device_that_is_not_there() -> None:
    assert str(parse_backend("openvino")) == "openvino:CPU"
    with pytest.raises(UsageError, match=r"OpenVINO finds no device GPU\.77 .* use one of openvino:CPU"):
        pick_device("auto", "openvino:GPU.77")
    with pytest.raises(
        UsageError, match="'cuda' is a device of PyTorch, but the networks are to run on openvino:CPU"
    ):
        pick_device("cuda", "openvino")


@needs_openvino
def test_a_precision_that_the_device_has_not(
    weights: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicrafter.backends.openvino.compiled._HINTS", _Shifting())
    with pytest.raises(UsageError, match="computes in f32 here, not in bf16; choose another precision"):
        load(weights, backend="openvino")


class _Shifting(dict[Any, str]):
    """Asks for one precision and expects another."""

    def __init__(self) -> None:
        self._names = iter(["f32", "bf16", "bf16"])

    def __getitem__(self, key: Any) -> str:
        return next(self._names)


def test_a_model_that_was_not_exported(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_random_checkpoint(other, MINI, seed=5)
    if find_spec("openvino") is None:
        with pytest.raises(
            UsageError, match="needs openvino, which is not installed; install it with pip install"
        ):
            load(other, backend="openvino")
        return
    with pytest.raises(
        UsageError, match=r"other.* has not been exported for OpenVINO; export it with dynamicrafter"
    ):
        load(other, backend="openvino")
    files = replace(find_model(other), loras=(Lora(other),), text_encoder=other)
    with pytest.raises(
        UsageError,
        match="OpenVINO with its adapters and encoders, which exporting takes in the same way; export",
    ):
        export_of(files, "openvino")


@needs_openvino
def test_an_export_is_not_exported(copied: Path) -> None:
    with pytest.raises(UsageError, match="is an export already; pass the weights that it was made of"):
        export_model(copied)


@needs_openvino
@pytest.mark.parametrize("part", ["sources", "variant"])
def test_the_export_of_another_model(
    weights: Path, exported: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    values = json.loads((copied / MANIFEST).read_text())
    if part == "sources":
        values["sources"][0]["sha256"] = "0" * 64
    else:
        key = next(key for key in values["variant"] if key.endswith(".variant"))
        values["variant"][key] = values["variant"][key].replace('"name":"mini"', '"name":"512_interp_v1"', 1)
    (copied / MANIFEST).write_text(json.dumps(values))
    monkeypatch.setattr("dynamicrafter.api.exports_folder", lambda _: copied)
    with pytest.raises(CheckpointError, match="is the export of another model; export it with"):
        load(weights, backend="openvino")


@needs_openvino
def test_the_exports_that_are_there_are_known_by_their_files(weights: Path, exported: Path) -> None:
    damaged = exported.with_name("damaged")
    damaged.mkdir()
    (damaged / MANIFEST).write_text("{")
    try:
        assert exported_files() == {weights.name: exported}
    finally:
        shutil.rmtree(damaged)


def _change(name: str, how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(how((folder / name).read_bytes()))

    return change


def _link(folder: Path) -> None:
    (folder / "unet.bin").rename(folder.parent / "elsewhere.bin")
    os.symlink(folder.parent / "elsewhere.bin", folder / "unet.bin")


def _manifest(**values: Any) -> Callable[[Path], None]:
    return _change(MANIFEST, lambda text: json.dumps({**json.loads(text), **values}).encode())


@needs_openvino
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "text.bin").unlink(),
            r"text\.bin of the export cannot be used \(No such file",
        ),
        pytest.param(
            _link,
            r"unet\.bin of the export cannot be used \(it is a link or not a regular file\); export the model again",
            marks=pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows"),
        ),
        (_change("unet.bin", lambda data: data[:-1]), r"unet\.bin has \d+ bytes, but the manifest says \d+"),
        (
            _change("unet.bin", lambda data: bytes([data[0] ^ 1]) + data[1:]),
            r"unet\.bin is not the file that was",
        ),
        (
            _change(MANIFEST, lambda data: data[:-9]),
            r"the manifest of .* cannot be read \(.*\); export the model again",
        ),
        (
            _change(MANIFEST, lambda _: b" " * (1 << 20) + b"{}"),
            r"cannot be read \(it is larger than 1 MiB\)",
        ),
        (
            _manifest(format=2),
            "is an export in format 2, but this version reads format 1; export the model again, or",
        ),
        (_manifest(format="1"), r"cannot be read \(it states no format\)"),
        (
            _manifest(files=[]),
            r"must list unet\.xml, unet\.bin, .* and the sources of the model; export it again",
        ),
        (_manifest(variant={}), "copied is not an export of DynamiCrafter; use one, or export such a model"),
        (
            _manifest(variant={VARIANT_KEY: 1}),
            "has an invalid description of its variant; export the model again",
        ),
        (
            _manifest(extra=1),
            r"contains extra, which this version .* does not know; it was written by version",
        ),
        (
            _manifest(stored="int2"),
            "stored in the manifest of .* must be one of fp16, int8, int8_full, not 'int2'",
        ),
    ],
)
def test_a_damaged_export_is_refused(copied: Path, change: Callable[[Path], None], message: str) -> None:
    change(copied)
    with pytest.raises(CheckpointError, match=message):
        load(copied, backend="openvino")


GRAPH = """<?xml version="1.0"?><net name="m" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>-1</dim></port></output></layer>
<layer id="1" name="c" type="Const" version="opset1"><data element_type="f16" shape="2, 3" offset="8" size="12"/>
<rt_info><anything value="1"/></rt_info></layer></layers><edges><edge from-layer="0" from-port="0" to-layer="1"
to-port="0"/></edges><rt_info><anything><more/></anything></rt_info></net>"""


def test_a_graph_of_known_operations_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "unet.xml").write_text(GRAPH)
    check_graph(tmp_path / "unet.xml", 20)


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        (
            'type="Parameter" version="opset1"',
            'type="Mine" version="extension"',
            "Mine is of extension, which is an",
        ),
        (
            'type="Parameter" version="opset1"',
            'type="Add"',
            "the operation Add is of None, which is an extension",
        ),
        (
            'type="Parameter"',
            'type="ReadValue"',
            "contains the operation ReadValue, which these networks do not need",
        ),
        ('type="Parameter"', 'type="TensorIterator"', "contains the operation TensorIterator"),
        ("<net ", '<!DOCTYPE n [<!ENTITY a "b">]><net ', "it has a document type, which a graph has not"),
        ('offset="8"', 'offset="9"', "a constant ends at byte 21 of 20"),
        ('offset="8"', 'offset="-8"', "'-8' is not a size"),
        ('offset="8"', 'offset="99999999999999999999"', "is not a size"),
        ('size="12"', 'size="20"', "a constant of shape 2, 3 has 20 bytes"),
        ('offset="8" size="12"', 'offset="8"', "'' is not a size"),
        ("2, 3", "?", r"'\?' is not a size"),
        ('"f16"', '"string"', "a constant of shape 2, 3 has 12 bytes"),
        ("<edges>", '<pre_process mean="a.bin"/><edges>', "it contains the element pre_process inside net"),
        ("<edges>", "<layer/><edges>", "it contains the element layer inside net"),
        ('version="11"', 'version="10"', "its format is version 10, not 11"),
        ("</net>", "", "no element found"),
        ("<more/>", "<a>" * 20 + "</a>" * 20, "more than 16 levels"),
    ],
)
def test_any_other_graph_is_refused(tmp_path: Path, found: str, instead: str, message: str) -> None:
    assert found in GRAPH
    (tmp_path / "unet.xml").write_text(GRAPH.replace(found, instead, 1))
    with pytest.raises(
        CheckpointError, match=rf"unet\.xml cannot be used \(.*{message}.*use no export whose source"
    ):
        check_graph(tmp_path / "unet.xml", 20)


@needs_openvino
def test_a_graph_of_another_network_is_refused(copied: Path) -> None:
    """Its files may be whole and safe, but not what the variant says."""
    values = json.loads((copied / MANIFEST).read_text())
    key = next(key for key in values["variant"] if key.endswith(".variant"))
    values["variant"][key] = values["variant"][key].replace('"context_dim":64', '"context_dim":48', 1)
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(
        CheckpointError, match="is not the graph of this network, whose interface is x, time, text"
    ):
        load(copied, backend="openvino")


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_small_graph_cannot_take_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamicrafter.backends.openvino.compiled.memory_limit", lambda size: size + 2**29)
    before = resource_limits()
    write_product(tmp_path / "small.xml", 64)
    CompiledGraph(tmp_path / "small.xml", PRODUCT, "CPU", torch.float32, None)
    write_product(tmp_path / "large.xml", 16384)
    check_graph(tmp_path / "large.xml", (tmp_path / "large.bin").stat().st_size)
    with pytest.raises(
        CheckpointError,
        match=r"compiling .*large\.xml takes more than 0\.5 GB of memory, which the graph of no",
    ):
        CompiledGraph(tmp_path / "large.xml", PRODUCT, "CPU", torch.float32, None)
    assert resource_limits() == before and memory_limit(10**9) > 18 * 10**9


PRODUCT = Signature({"x": (None, None)}, {"out": (None, None)})


def write_product(path: Path, side: int) -> None:
    """A graph that contains the product of a column and a row, ``side * side`` numbers when OpenVINO compiles it."""
    ov = openvino()
    ops = ov.opset13
    x = ops.parameter([-1, -1], ov.Type.f32, "x")
    column, row = (ops.constant(np.ones(shape, np.float32)) for shape in ((side, 1), (1, side)))
    out = ops.add(x, ops.multiply(column, row))
    x.output(0).get_tensor().set_names({"x"})
    out.output(0).get_tensor().set_names({"out"})
    ov.save_model(ov.Model([out], [x], "m"), path)


def resource_limits() -> tuple[int, int]:
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)


# The cache of compiled networks


@needs_openvino
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_cache_is_private_and_of_this_version(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    older = tmp_path / "openvino_compiled" / "2020.1"
    older.mkdir(parents=True, mode=0o700)
    older.parent.chmod(0o700)
    (older / "some.blob").write_bytes(b"an older build's")
    load(copied, backend="openvino")
    (folder,) = older.parent.iterdir()
    assert folder != older and list(folder.glob("*.blob"))
    assert {place.stat().st_mode & 0o777 for place in (older.parent, folder)} == {0o700}
    folder.chmod(0o770)
    with pytest.raises(
        UsageError, match="where compiled networks are cached, is open to other users; remove it"
    ):
        load(copied, backend="openvino")
    shutil.rmtree(folder)
    folder.write_text("in the way")
    load(copied, backend="openvino")  # Without a cache.
