"""Layers in 8 bits: what they store and give, their files, and how far a network with them is from float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import QUICK, Run, complaint
from networks import context, normal, tiny_unet
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from small_checkpoints import save, small
from torch import Tensor, nn

from dynamicrafter.api import animate, load
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.evaluation.figures import psnr
from dynamicrafter.media.pictures import as_picture, fit_picture
from dynamicrafter.model.configs import QUANTISED, Quantised
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.quantised import QuantisedLayer, quantise, quantise_layer, quantised, widen
from dynamicrafter.model.variants import V512, V1024, Variant
from dynamicrafter.pipeline import KeyPictures, encode, make_generators
from dynamicrafter.records import read_record
from dynamicrafter.settings import make_settings
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.inspect import inspect
from dynamicrafter.weights.load import load_components
from dynamicrafter.weights.lora import merge_adapters
from dynamicrafter.weights.networks import described

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = "model.diffusion_model."
"""Prefix of the denoising network in files."""


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Power of what was wanted over that of the error."""
    return 10 * math.log10(float(wanted.square().mean() / (found - wanted).square().mean()))


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name].float(), theirs[name].float())
        for name in ours
    )


# What is stored


def test_stored_integers_by_hand() -> None:
    weight = torch.tensor([[0.5, -127.0, 63.6, 0.4], [0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 3.0, -254.0]])
    values, scale = quantise(weight, "int8")
    assert values.tolist() == [[0, -127, 64, 0], [0, 0, 0, 0], [0, -1, 2, -127]]
    assert scale.tolist() == [1.0, 1.0, 2.0]
    assert widen(values, scale, torch.float32)[2].tolist() == [0.0, -2.0, 4.0, -254.0]


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.51 / 127), ("fp8_scaled", 0.0626)])
def test_no_weight_is_further_off_than_half_a_step(kind: Quantised, worst: float) -> None:
    weight = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-6, 3, 64).view(-1, 1, 1, 1)
    made = widen(*quantise(weight, kind), torch.float32)
    largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    # An integer is off by half a step of its channel, a float by half of its last bit.
    allowed = worst * (largest if kind == "int8" else weight.abs().clamp(min=largest * 2**-6 / 448))
    assert ((made - weight).abs() <= allowed).all()


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stored_weights_stand_for_is_stored_the_same(kind: Quantised, dtype: torch.dtype) -> None:
    values, scale = quantise(torch.randn(40, 50, generator=torch.Generator().manual_seed(0)), kind)
    exact = values.double() * scale.double()[:, None]
    assert torch.equal(widen(values, scale, dtype), exact.to(dtype)), "rounded more than once"


@pytest.mark.parametrize("kind", QUANTISED)
def test_small_weights_are_not_lost_in_float16(kind: Quantised) -> None:
    values, scale = quantise(1e-4 * torch.randn(40, 50, generator=torch.Generator().manual_seed(0)), kind)
    exact = values.double() * scale.double()[:, None]
    assert torch.equal(widen(values, scale, torch.float16), exact.half()), "a scale was rounded"
    again, same = quantise(widen(values, scale, torch.float32), kind)
    assert torch.equal(again.float(), values.float()) and torch.equal(same, scale)


# Layers

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 40), (3, 5, 24)),
    "linear without bias": (lambda: nn.Linear(24, 40, bias=False), (5, 24)),
    "conv2d": (lambda: nn.Conv2d(24, 40, 3, stride=2, padding=1), (2, 24, 8, 6)),
    "conv3d": (lambda: nn.Conv3d(24, 40, (3, 1, 1), padding=(1, 0, 0)), (2, 24, 5, 3, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_a_plain_one_with_its_weights_gives(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    plain: Any = build()
    quantised = build()
    quantised.load_state_dict(plain.state_dict())
    assert quantise_layer(quantised, "int8") is quantised and isinstance(quantised, QuantisedLayer)
    with torch.no_grad():
        plain.weight.copy_(quantised.widened(torch.float32))
    x = torch.randn(shape)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = quantised(one), plain(other)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn_like(ours)
    ours.backward(gradient)
    theirs.backward(gradient)
    torch.testing.assert_close(one.grad, other.grad)
    with torch.no_grad():
        assert torch.equal(quantised(x), ours), "with and without gradients"


def test_nothing_is_kept_for_the_gradient_but_the_stored_weight() -> None:
    layer = quantise_layer(nn.Linear(64, 64), "int8")
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(8, 64, requires_grad=True))
    assert kept == []


def test_a_layer_computes_in_the_dtype_of_autocast() -> None:
    layer = quantise_layer(nn.Linear(32, 32), "int8")
    x = torch.randn(4, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().sum().backward()
    assert (out.dtype, x.grad is not None and x.grad.dtype) == (torch.bfloat16, torch.float32)


def test_layers_at_the_ends_and_other_kinds_stay_plain() -> None:
    for layer in (nn.Conv2d(8, 320, 3), nn.Conv2d(320, 4, 3), nn.Conv1d(64, 64, 1), nn.GroupNorm(4, 64)):
        before = type(layer)
        assert type(quantise_layer(layer, "int8")) is before


# Networks


@pytest.mark.parametrize(("kind", "call", "clip"), [("int8", 42.0, 50.0), ("fp8_scaled", 32.0, 45.0)])
def test_how_far_tiny_is_from_float32(home: Path, kind: Quantised, call: float, clip: float) -> None:
    plain, stored = load("tiny", device="cpu"), load("tiny", device="cpu", weights=kind)
    assert stored.quantised == kind and plain.quantised is None
    picture = Image.new("RGB", (64, 64), (40, 60, 90))
    ImageDraw.Draw(picture).ellipse((20, 24, 44, 48), fill=(220, 40, 40))
    settings = make_settings(
        plain.variant, "animate", picture_size=(64, 64), prompt="a red circle moves right"
    )
    shown = KeyPictures(fit_picture(as_picture(picture), 64, 64, settings.fit)[None])
    conditioning = encode(plain, shown, [settings], make_generators(plain, [settings]))
    noise = torch.randn(1, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    given = torch.cat([noise, conditioning.concat], dim=1)
    for timestep in (900, 500, 20):
        for branch in (conditioning.full, conditioning.unconditional):
            with torch.inference_mode():
                made, wanted = (
                    model.unet(given, torch.tensor([timestep]), branch, conditioning.fs)
                    for model in (stored, plain)
                )
            assert decibels(made, wanted) >= call
    frames = [animate(model, picture, settings.prompt, steps=6).frames for model in (stored, plain)]
    assert psnr(*(each / 127.5 for each in frames)).min() >= clip


@pytest.mark.parametrize("variant", [V512, V1024], ids=lambda variant: variant.name)
def test_a_full_sized_network_takes_less_than_a_gigabyte_and_a_half(variant: Variant) -> None:
    for kind in QUANTISED:
        stored = sum(
            math.prod(shape) * dtype.itemsize for _, shape, dtype in described(variant, "unet", kind)
        )
        assert 1.439e9 < stored < 1.5e9


@pytest.mark.parametrize("kind", [None, *QUANTISED])
def test_networks_are_copied_and_saved_as_a_whole(kind: Quantised | None, tmp_path: Path) -> None:
    unet = tiny_unet(operations=Operations() if kind is None else quantised(Operations(), kind))
    torch.save(unet, tmp_path / "unet.pt")
    saved = torch.load(tmp_path / "unet.pt", weights_only=False)
    for other in (copy.deepcopy(unet), saved):
        assert equal(other, unet)
        assert [type(layer) for layer in other.modules()] == [type(layer) for layer in unet.modules()]
        assert all(a is not b for a, b in zip(other.parameters(), unet.parameters(), strict=True))
        x, tokens = normal(1, 8, 3, 8, 8), context(1, 3)
        with torch.no_grad():
            made, wanted = (
                each(x, torch.tensor([500]), tokens, torch.tensor([10])) for each in (other, unet)
            )
        assert torch.equal(made, wanted)


# Files


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_converted_file_is_what_loading_would_make(tmp_path: Path, kind: Quantised) -> None:
    path = save(tmp_path / "a.safetensors", small(dtype=torch.float16))
    convert(path, tmp_path / "b.safetensors", dtype=kind)
    converted, loaded = load_components(tmp_path / "b.safetensors"), load_components(path, weights=kind)
    assert converted.quantised == loaded.quantised == kind
    assert equal(converted.unet, loaded.unet)
    before, after = load_file(path), load_file(tmp_path / "b.safetensors")
    changed = {name for name in before if before[name].dtype != after[name].dtype}
    assert {name for name in after if name not in before} == {f"{name}_scale" for name in changed}
    assert changed and all(name.startswith(UNET) for name in changed)
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - changed)


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_file_can_be_kept_restored_and_quantised_otherwise(
    tmp_path: Path, kind: Quantised
) -> None:
    convert(save(tmp_path / "a.safetensors", small()), tmp_path / "b.safetensors", dtype=kind)
    stored = load_components(tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "same.safetensors")
    assert equal(load_components(tmp_path / "same.safetensors").unet, stored.unet)
    convert(tmp_path / "b.safetensors", tmp_path / "plain.safetensors", dtype=torch.float32)
    plain = load_components(tmp_path / "plain.safetensors")
    assert plain.quantised is None
    assert equal(plain.unet, load_components(tmp_path / "b.safetensors", weights="full").unet)
    assert equal(load_components(tmp_path / "plain.safetensors", weights=kind).unet, stored.unet)
    other: Quantised = "int8" if kind == "fp8_scaled" else "fp8_scaled"
    convert(tmp_path / "b.safetensors", tmp_path / "other.safetensors", dtype=other)
    found = load_components(tmp_path / "other.safetensors")
    assert found.quantised == other
    assert equal(found.unet, load_components(tmp_path / "b.safetensors", weights=other).unet)


def test_inspection_tells_quantised_layers(tmp_path: Path) -> None:
    plain = inspect(save(tmp_path / "a.safetensors", small()))
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="int8")
    found = inspect(tmp_path / "b.safetensors")
    assert (plain.quantised, found.quantised) == (None, "int8")
    assert found.parameters == plain.parameters, "scales are none"
    assert [part.parameters for part in found.components] == [part.parameters for part in plain.components]
    assert found.dtypes["int8"] > 0.9 * plain.components[0].parameters
    assert all(part.complete for part in found.components) and not found.misfits


def test_a_file_that_mixes_kinds_is_rejected(tmp_path: Path) -> None:
    convert(save(tmp_path / "a.safetensors", small()), tmp_path / "b.safetensors", dtype="int8")
    tensors = load_file(tmp_path / "b.safetensors")
    name = next(
        name for name in tensors if name.endswith("proj_in.weight") and tensors[name].dtype == torch.int8
    )
    mixed = save(tmp_path / "c.safetensors", tensors | {name: tensors[name].half()})
    with pytest.raises(CheckpointError, match=r"stored as float16 instead of int8, like the other layers"):
        load_components(mixed, variant="small")
    lost = save(tmp_path / "d.safetensors", {n: t for n, t in tensors.items() if n != f"{name}_scale"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(.*proj_in.weight_scale\)"):
        load_components(lost, variant="small")


def test_a_scale_that_is_not_finite_is_rejected(tmp_path: Path) -> None:
    convert(save(tmp_path / "a.safetensors", small()), tmp_path / "b.safetensors", dtype="int8")
    tensors = load_file(tmp_path / "b.safetensors")
    name = next(name for name in tensors if name.endswith("_scale"))
    tensors[name][0] = math.nan
    with pytest.raises(CheckpointError, match="has NaN or infinite values"):
        load_components(save(tmp_path / "c.safetensors", tensors), variant="small")


def test_there_is_no_other_way_to_keep_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small())
    with pytest.raises(UsageError, match="weights must be auto, full, int8, fp8_scaled, not 'int4'"):
        load_components(path, weights="int4")  # pyright: ignore[reportArgumentType]


def test_a_lora_is_merged_into_quantised_layers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", small())
    plain, stored = load_components(path), load_components(path, weights="int8")
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    target: Any = plain.unet.get_submodule(name)
    rows, columns = target.weight.shape
    draw = torch.Generator().manual_seed(0)
    lora = {
        f"diffusion_model.{name}.lora_A.weight": torch.randn(4, columns, generator=draw),
        f"diffusion_model.{name}.lora_B.weight": torch.randn(rows, 4, generator=draw),
    }
    merge_adapters(plain.unet, lora, 0.5, "it")
    merge_adapters(stored.unet, lora, 0.5, "it")
    layer = stored.unet.get_submodule(name)
    assert isinstance(layer, QuantisedLayer) and layer.weight.dtype == torch.int8
    assert decibels(layer.widened(torch.float32), target.weight) > 38


# The command


def test_a_clip_of_quantised_weights_is_recorded_and_made_again(run: Run, pictures: dict[str, Path]) -> None:
    assert run("animate", pictures["wide"], *QUICK, "--weights", "int8", "-o", "a.mp4").code == 0
    assert run("animate", pictures["wide"], *QUICK, "-o", "b.mp4").code == 0
    assert read_record(Path("a.mp4")).model.stored == "int8"
    assert read_record(Path("b.mp4")).model.stored == "full"
    assert run("again", "a.mp4", "--quiet", "--picture", pictures["wide"], "-o", "c.mp4").code == 0
    assert read_record(Path("c.mp4")).model == read_record(Path("a.mp4")).model


def test_the_command_converts_and_tells(run: Run, random_weights: Path) -> None:
    assert run("convert", random_weights, "a.safetensors", "--dtype", "int8", "--quiet").code == 0
    assert "layers      int8 with a scale for each output channel" in run("inspect", "a.safetensors").out
    assert run("inspect", "a.safetensors", "--json").json["quantised"] == "int8"
    assert "must be fp32, bf16" in complaint(
        run("convert", "a.safetensors", "b.safetensors", "--dtype", "int4"), 2
    )
