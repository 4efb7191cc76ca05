"""Every name and shape of the released checkpoints, without any weights."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from dynamicrafter.errors import CheckpointError
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.variants import TOON_512, V256, V512, V512_INTERP, V1024, VARIANTS
from dynamicrafter.weights.accounting import require, take_stock
from dynamicrafter.weights.detect import choose, detect
from dynamicrafter.weights.formats.entries import Entry, Piece
from dynamicrafter.weights.networks import COMPONENTS, CORE, Component, build

FOLDER = Path(__file__).parents[1] / "data" / "manifests"
RELEASED = ("256_v1", "512_v1", "1024_v1", "512_interp_v1")
BASE_SCALES = {"512_v1": 0.7, "1024_v1": 0.3, "512_interp_v1": 0.7}
SAME_WEIGHTS = {
    "256_v1": ["256_v1"],
    "512_v1": ["512_v1", "512_interp_v1", "cil_512"],
    "1024_v1": ["1024_v1", "cil_1024", "viewcrafter_25"],
    "512_interp_v1": ["512_v1", "512_interp_v1", "cil_512"],
}


@dataclass(frozen=True)
class Listed:
    """A file of which only the list of tensors is there."""

    entries: Mapping[str, Entry]
    scale: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path = Path("listed.ckpt")
    files: tuple[Path, ...] = ()
    kind: str = "list"

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        assert list(names) == ["scale_arr"], "nothing else is read to tell the variant"
        yield Piece("scale_arr", 0, torch.linspace(1, self.scale, 1400))


def manifest(name: str) -> dict[str, Entry]:
    with gzip.open(FOLDER / f"{name}.json.gz", "rt", encoding="utf-8") as text:
        return {
            key: Entry(tuple(shape), getattr(torch, dtype)) for key, (shape, dtype) in json.load(text).items()
        }


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_tensor_has_its_place(name: str) -> None:
    entries = manifest(name)
    stock = take_stock(entries, VARIANTS[name], COMPONENTS)
    assert {component: len(missing) for component, missing in stock.missing.items()} == dict.fromkeys(
        COMPONENTS, 0
    )
    assert stock.misfits == ()
    assert stock.unexpected == ()
    buffers = 12 if name == "256_v1" else 13
    last_text_block, after_text, after_vision, leftovers = 12, 2, 3, 6
    assert len(stock.unused) == buffers + last_text_block + after_text + after_vision + leftovers
    assert sum(map(len, stock.placed.values())) + len(stock.unused) == len(entries)


def test_tooncrafters_first_stage_fits() -> None:
    stock = take_stock(manifest("tooncrafter_first_stage"), TOON_512, ["vae"])
    assert (stock.missing["vae"], stock.misfits, stock.unexpected, stock.unused) == ((), (), (), ())
    assert len(stock.placed["vae"]) == 396


def test_parameters_add_up_to_the_published_numbers() -> None:
    entries = manifest("512_v1")
    stock = take_stock(entries, V512, COMPONENTS)
    counted = {name: sum(entries[key].numel for key in keys) for name, keys in stock.placed.items()}
    assert counted["unet"] == 1_438_854_980
    assert counted["vae"] == 83_653_863
    assert counted["resampler"] == 48_787_456


@pytest.mark.parametrize("name", RELEASED)
def test_variant_is_told_by_content(name: str) -> None:
    file = Listed(manifest(name), BASE_SCALES.get(name, 0.0))
    assert [variant.name for variant in detect(file)] == SAME_WEIGHTS[name]


@pytest.mark.parametrize("stored", [0.3125, 0.25])
def test_base_scale_is_told_even_from_fp8(stored: float) -> None:
    assert detect(Listed(manifest("1024_v1"), stored))[0] == V1024


def test_tooncrafter_is_told_by_its_decoder() -> None:
    entries = {k: e for k, e in manifest("512_interp_v1").items() if not k.startswith("first_stage_model.")}
    fits = detect(Listed({**entries, **manifest("tooncrafter_first_stage")}, 0.7))
    assert fits == (TOON_512,)


def test_256_is_told_without_the_schedule_and_under_its_published_names() -> None:
    entries = {
        key.replace("fps_embedding", "framestride_embed"): entry
        for key, entry in manifest("256_v1").items()
        if key.startswith("model.")
    }
    assert sum("framestride_embed" in key for key in entries) == 4
    assert detect(Listed(entries)) == (V256,)
    assert take_stock(entries, V256, ["unet"]).missing["unet"] == ()


def test_pruned_files_can_be_several_variants() -> None:
    entries = {key: e for key, e in manifest("1024_v1").items() if key.startswith(("model.", "first_stage"))}
    names = {variant.name for variant in detect(Listed(entries))}
    assert names == {"512_v1", "1024_v1", "512_interp_v1", "cil_512", "cil_1024", "viewcrafter_25"}


def test_a_caller_is_asked_only_what_makes_a_difference() -> None:
    file = Listed(manifest("1024_v1"), 0.3)
    assert choose(detect(file), None, file) == V1024
    file = Listed(manifest("512_v1"), 0.7)
    wanted = (
        r"can be any of 512_v1 \(.*\), 512_interp_v1 \(.*\), and its weights are ambiguous; pass variant="
    )
    with pytest.raises(CheckpointError, match=wanted):
        choose(detect(file), None, file)
    assert choose(detect(file), "512_interp", file) == V512_INTERP
    assert choose(detect(file), "CIL-512", file) == VARIANTS["cil_512"]


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_other_prefixes_of_the_network_are_known(prefix: str) -> None:
    entries = {
        key.replace("model.diffusion_model.", prefix): entry
        for key, entry in manifest("512_v1").items()
        if key.startswith("model.")
    }
    stock = take_stock(entries, V512, ["unet"])
    assert (stock.missing["unet"], stock.unexpected, stock.misfits) == ((), (), ())


def test_a_misshapen_tensor_is_named_with_both_shapes() -> None:
    entries = manifest("512_v1")
    entries["model.diffusion_model.out.2.bias"] = Entry((5,), torch.float32)
    stock = take_stock(entries, V512, CORE)
    with pytest.raises(
        CheckpointError, match=r"1 do not fit \(model.diffusion_model.out.2.bias is \[5\] instead of \[4\]\)"
    ):
        require(stock, CORE, Path("a.ckpt"), V512)


@pytest.mark.parametrize("component", COMPONENTS)
def test_networks_keep_nothing_that_no_checkpoint_holds(component: Component) -> None:
    """A buffer outside the checkpoint would stay on the meta device."""
    for variant in (V256, TOON_512):
        network = build(variant, component, Operations(dtype=torch.bfloat16, device="meta"))
        assert [name for name, _ in network.named_buffers()] == []
        assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
        assert {name for name, _ in network.named_parameters()} == set(network.state_dict())
