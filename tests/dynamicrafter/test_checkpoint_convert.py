"""Conversion changes precision and layout, and nothing else; inspection says what is in a file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import hugging_face, outputs, save, small
from torch import Tensor

from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.formats.entries import read_tensor
from dynamicrafter.weights.formats.files import open_weights
from dynamicrafter.weights.inspect import inspect
from dynamicrafter.weights.load import load_components

BUFFERS = {"betas": torch.linspace(0.001, 0.01, 1000), "scale_arr": torch.full((1400,), 0.7)}
LEFTOVERS = {"embedder.model.logit_scale": torch.zeros(())}


def read(path: Path) -> dict[str, Tensor]:
    file = open_weights(path)
    return {name: read_tensor(file, name) for name in file.entries}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].float(), tensor.float()), name


def test_a_converted_file_gives_the_same_numbers(tmp_path: Path) -> None:
    torch.save({"state_dict": {**small(), **BUFFERS}}, tmp_path / "model.ckpt")
    assert convert(tmp_path / "model.ckpt", tmp_path / "new.safetensors") == SMALL
    before = load_components(tmp_path / "model.ckpt")
    after = load_components(tmp_path / "new.safetensors")
    for ours, theirs in zip(outputs(after), outputs(before), strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_is_lost_without_pruning(tmp_path: Path) -> None:
    everything = {**small(), **BUFFERS, **LEFTOVERS}
    convert(save(tmp_path / "a.safetensors", everything), tmp_path / "b.safetensors")
    assert_equal(read(tmp_path / "b.safetensors"), everything)


def test_unused_tensors_keep_their_precision(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {**small(), **BUFFERS})
    convert(path, tmp_path / "b.safetensors", dtype=torch.bfloat16)
    assert_equal(read(tmp_path / "b.safetensors"), {**small(dtype=torch.bfloat16), **BUFFERS})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pruning_leaves_what_every_model_has_of_its_own(tmp_path: Path, dtype: torch.dtype) -> None:
    path = save(tmp_path / "a.safetensors", {**small(), **BUFFERS, **LEFTOVERS})
    convert(path, tmp_path / "b.safetensors", dtype=dtype, prune=True)
    assert_equal(read(tmp_path / "b.safetensors"), small("unet", "vae", "resampler", dtype=dtype))
    loaded = load_components(tmp_path / "b.safetensors", text_encoder=path, image_encoder=path)
    assert loaded.variant == SMALL


def test_fp8_is_for_matrices_only(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small())
    convert(path, tmp_path / "b.safetensors", dtype=torch.float8_e4m3fn, prune=True)
    wanted = {
        name: tensor.to(torch.float8_e4m3fn if tensor.ndim > 1 else torch.bfloat16)
        for name, tensor in small("unet", "vae", "resampler").items()
    }
    assert_equal(read(tmp_path / "b.safetensors"), wanted)


def test_released_names_are_written_whatever_was_read(tmp_path: Path) -> None:
    bare = {k.replace("model.diffusion_model.", "diffusion_model."): v for k, v in small().items()}
    renamed = {k.replace("fps_embedding", "framestride_embed"): v for k, v in bare.items()}
    convert(save(tmp_path / "b.safetensors", renamed), tmp_path / "c.safetensors")
    assert_equal(read(tmp_path / "c.safetensors"), small())


def test_towers_in_hugging_face_naming_can_still_be_loaded(tmp_path: Path) -> None:
    merged = {**small("unet", "vae", "resampler"), **hugging_face("text"), **hugging_face("vision")}
    path = save(tmp_path / "a.safetensors", merged)
    convert(path, tmp_path / "b.safetensors", dtype=torch.bfloat16)
    loaded = load_components(tmp_path / "b.safetensors", dtype=torch.bfloat16)
    whole = load_components(save(tmp_path / "c.safetensors", small()), dtype=torch.bfloat16)
    assert loaded.text is not None and whole.text is not None
    for name, tensor in whole.text.state_dict().items():
        assert torch.equal(loaded.text.state_dict()[name], tensor)


def test_the_variant_is_remembered(tmp_path: Path) -> None:
    convert(save(tmp_path / "a.safetensors", small()), tmp_path / "b.safetensors", prune=True)
    stored = open_weights(tmp_path / "b.safetensors").metadata
    assert json.loads(stored["dynamicrafter.variant"])["name"] == "small"
    assert inspect(tmp_path / "b.safetensors").variants == ("small",)


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = save(tmp_path / "a.safetensors", small("unet", "vae", "resampler"))
    convert(path, tmp_path / "b.safetensors", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_file_is_never_converted_onto_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small())
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is also the input file; choose another output name"):
        convert(path, tmp_path / "." / "a.safetensors")
    assert path.read_bytes() == before


def test_only_safetensors_are_written(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small())
    with pytest.raises(UsageError, match=r"b\.ckpt must end in \.safetensors"):
        convert(path, tmp_path / "b.ckpt")


def refuse(tmp_path: Path, tensors: dict[str, Tensor], match: str, **choices: Any) -> None:
    """Conversion fails with a message, and leaves nothing behind."""
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match=match):
        convert(path, tmp_path / "b.safetensors", **choices)
    assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_loaded_is_not_converted(tmp_path: Path) -> None:
    bias = "image_proj_model.norm_out.bias"
    tensors = small()
    refuse(tmp_path, {**tensors, bias: torch.full((64,), torch.nan)}, f"{bias} in .* NaN or infinite")
    large = {**tensors, bias: torch.full((64,), 1e5)}
    refuse(tmp_path, large, "too large for float16", dtype=torch.float16)
    refuse(tmp_path, {**tensors, "extra": torch.zeros(1)}, r"1 are unexpected \(extra\)")
    refuse(tmp_path, small("unet", "vae"), "it does not contain the image token resampler")
    partly = {name: t for name, t in tensors.items() if "visual.class_embedding" not in name}
    refuse(tmp_path, partly, r"1 tensors are missing \(embedder.model.visual.class_embedding\)")


def test_inspection_counts(tmp_path: Path) -> None:
    tensors = {**small("unet", "vae", dtype=torch.bfloat16), **BUFFERS, "extra": torch.zeros(3)}
    tensors["first_stage_model.quant_conv.bias"] = torch.zeros(2)
    del tensors["model.diffusion_model.out.2.bias"]
    path = save(tmp_path / "a.safetensors", tensors)
    report = inspect(path)
    assert report.variants == ("small",)
    assert (report.architecture, report.format) == ("a DynamiCrafter checkpoint", "safetensors")
    assert (report.files, report.size_bytes) == (1, path.stat().st_size)
    assert report.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert report.dtypes["float32"] == 1000 + 1400 + 3 + 2
    assert sum(report.dtypes.values()) == report.parameters
    assert report.unexpected == ("extra",)
    assert report.misfits == ("first_stage_model.quant_conv.bias is [2] instead of [8]",)
    assert report.unused == 2
    unet, vae, resampler, text, vision = report.components
    assert (unet.title, unet.missing, unet.complete) == ("denoising network", 1, False)
    assert unet.parameters == sum(t.numel() for name, t in tensors.items() if name.startswith("model."))
    assert (vae.tensors, vae.missing, vae.complete) == (len(small("vae")), 0, True)
    for absent in (resampler, text, vision):
        assert (absent.tensors, absent.parameters, absent.complete) == (0, 0, False)
    json.dumps(asdict(report))


def test_inspection_of_a_whole_file(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "a.ckpt")
    report = inspect(tmp_path / "a.ckpt")
    assert all(component.complete for component in report.components)
    assert report.format == "PyTorch pickle"
    assert report.dtypes == {"float32": report.parameters}
