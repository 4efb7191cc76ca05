"""Files of AnimateAnyone: every released name has its place, one file holds all, and what is wrong is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamicrafter.animate_anyone.config import PERSON_KEY, RELEASED_SIZES
from dynamicrafter.animate_anyone.layout import PARTS, locate_person
from dynamicrafter.animate_anyone.weights import (
    PERSON_PREFIXES,
    convert_person,
    kind_of,
    load_person,
    person_tensors,
)
from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.weights.accounting import account
from dynamicrafter.weights.formats.entries import Entry
from dynamicrafter.weights.formats.files import open_weights
from tests.animate_anyone.small_person import our_names, small_person, write_person

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
FILES = {
    "aa_reference_unet": "reference",
    "aa_denoising_unet": "denoising",
    "aa_motion_module": "denoising",
    "aa_pose_guider": "pose_guider",
    "aa_sd_vae_ft_mse": "vae",
    "aa_image_encoder": "embedder",
}


def manifest(name: str) -> dict[str, Entry]:
    with gzip.open(MANIFESTS / f"{name}.json.gz", "rt", encoding="utf-8") as text:
        return {
            key: Entry(tuple(shape), getattr(torch, dtype)) for key, (shape, dtype) in json.load(text).items()
        }


def test_every_released_tensor_has_its_place() -> None:
    """The denoising network's two files are one network of 1274 tensors."""
    entries: dict[str, Entry] = {}
    for name, part in FILES.items():
        entries.update({PERSON_PREFIXES[part] + key: entry for key, entry in manifest(name).items()})

    def place_of(full: str) -> Any:
        part = next(part for part in PARTS if full.startswith(PERSON_PREFIXES[part]))
        return locate_person(part, full.removeprefix(PERSON_PREFIXES[part]), RELEASED_SIZES)

    stock = account(
        entries, {part: person_tensors(RELEASED_SIZES, part) for part in PARTS}, place_of, PERSON_PREFIXES
    )
    assert (stock.misfits, stock.unexpected) == ((), ())
    assert set(stock.missing.values()) == {()}
    # Query, key and norm of 16 cross-attentions to one token, in both networks, and 42 tables of positions.
    assert len(stock.unused) == 2 * 16 * 4 + 42
    assert {part: len(places) for part, places in stock.placed.items()} == {
        "reference": 682 - 64,
        "denoising": 1274 - 64 - 42,
        "pose_guider": 16,
        "vae": 248,
        "embedder": 392,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_person(tmp_path_factory.mktemp("person") / "person.safetensors", small_person())


def test_one_file_holds_all(whole: Path) -> None:
    assert kind_of(open_weights(whole)) == "all"
    seen: list[tuple[int, int]] = []
    loaded = load_person(whole, progress=lambda done, total: seen.append((done, total)))
    theirs = our_names(small_person())
    ours = our_names(loaded)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert seen[-1][0] == seen[-1][1] > 0
    assert not any(parameter.requires_grad for parameter in loaded.denoising.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_conversion_keeps_what_is_loaded(whole: Path, tmp_path: Path, dtype: torch.dtype | None) -> None:
    made = tmp_path / "made.safetensors"
    convert_person(whole, made, dtype=dtype)
    assert {values.dtype for values in load_file(made).values()} == {dtype or torch.float32}
    ours, theirs = our_names(load_person(made)), our_names(small_person())
    for name, values in theirs.items():
        assert torch.equal(ours[name], values.to(dtype or torch.float32).float()), name


def test_conversion_leaves_out_what_has_no_effect(tmp_path: Path) -> None:
    unused = "reference_unet.down_blocks.0.attentions.0.transformer_blocks.0.norm2.weight"
    whole = write_person(tmp_path / "person.safetensors", small_person(), **{unused: torch.ones(32)})
    convert_person(whole, tmp_path / "made.safetensors")
    assert unused not in load_file(tmp_path / "made.safetensors")


def original_tree(folder: Path) -> Path:
    """The released layout with empty tensors of the released shapes would take 10 GB; these are told by name alone."""
    shapes = {
        "denoising_unet.pth": {"conv_norm_out.weight": 4},
        "reference_unet.pth": {"time_embedding.linear_1.weight": 4},
        "motion_module.pth": {"mid_block.motion_modules.0.temporal_transformer.norm.weight": 4},
        "pose_guider.pth": {"blocks.0.weight": 4},
        "sd-vae-ft-mse/diffusion_pytorch_model.bin": {"encoder.conv_in.weight": 4},
        "image_encoder/pytorch_model.bin": {"vision_model.embeddings.class_embedding": 4},
    }
    for name, sizes in shapes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: torch.ones(size) for key, size in sizes.items()}, path)
    return folder


def test_a_folder_of_the_original_is_taken_as_one_model(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"does not contain exactly AnimateAnyone: \d+ tensors are missing"
    ):
        load_person(original_tree(tmp_path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (original_tree(tmp_path) / "motion_module.pth").unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks the motion modules \(motion_module.pth\); put all files"
    ):
        load_person(tmp_path)


def test_stable_diffusion_beside_it_is_not_taken_for_it(tmp_path: Path) -> None:
    """Its network has the names of the denoising one."""
    other = original_tree(tmp_path) / "stable-diffusion-v1-5" / "unet" / "diffusion_pytorch_model.bin"
    other.parent.mkdir(parents=True)
    torch.save({"conv_norm_out.weight": torch.ones(4)}, other)
    with pytest.raises(CheckpointError, match="tensors are missing"):
        load_person(tmp_path)


def test_two_of_a_kind_are_told(tmp_path: Path) -> None:
    torch.save({"blocks.0.weight": torch.ones(4)}, original_tree(tmp_path) / "pose_guider_2.pth")
    message = (
        r"holds the pose guider \(pose_guider.pth\) twice, in pose_guider.pth and pose_guider_2.pth; keep one"
    )
    with pytest.raises(CheckpointError, match=message):
        load_person(tmp_path)


def test_one_file_of_six_is_told(tmp_path: Path) -> None:
    folder = original_tree(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds only the pose guider .* name the folder with all of its files"
    ):
        load_person(folder / "pose_guider.pth")


def test_another_model_is_told(small_weights: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match="is not a file of AnimateAnyone but .*; name its folder or a converted file",
    ):
        load_person(small_weights)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("denoising_unet.conv_in.weight", None, "1 tensors are missing .denoising_unet.conv_in.weight"),
        (
            "pose_guider.conv_in.weight",
            torch.ones(3),
            r"1 do not fit .pose_guider.conv_in.weight is \[3\] instead",
        ),
        ("vae.more", torch.ones(3), "1 are unexpected .vae.more"),
        ("image_encoder.logit_scale", torch.ones(()), None),
        ("other", torch.ones(3), "has an unknown tensor, other; convert the original files again"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_named(
    tmp_path: Path, name: str, values: torch.Tensor | None, message: str | None
) -> None:
    path = write_person(tmp_path / "person.safetensors", small_person(), **{name: values})
    if message is None:
        load_person(path)
    else:
        with pytest.raises(CheckpointError, match=message):
            load_person(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "has damaged metadata; make it from the original files again"),
        ('{"pair": {"widths": [30, 30]}}', "names sizes that its networks cannot have"),
        ('{"pair": {"widths": [32, 99999999]}}', "names sizes that its networks cannot have"),
        ('{"size": 3}', "contains size, which this version"),
        ('{"pair": {"heads": "many"}}', "pair.heads in .* must be an integer, not 'many'"),
    ],
)
def test_metadata_that_no_version_wrote_is_told(
    whole: Path, tmp_path: Path, metadata: str, message: str
) -> None:
    path = tmp_path / "person.safetensors"
    save_file(load_file(whole), path, {PERSON_KEY: metadata})
    with pytest.raises(CheckpointError, match=message):
        load_person(path)


def test_the_output_of_a_conversion_is_checked_first(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must end in .safetensors"):
        convert_person(whole, tmp_path / "made.ckpt")
    with pytest.raises(UsageError, match="is also the input file"):
        convert_person(whole, whole)


def test_the_release_of_the_catalogue_is_taken_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match="the files of animate_anyone are not downloaded; download them with"
    ):
        load_person("animate_anyone")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {
                "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(
                    2, 768
                )
            },
            "is not a file of AnimateAnyone but Stable Diffusion 1.5; name its folder",
        ),
        (
            {"down_blocks.0.attentions.0.to_q.lora_down.weight": torch.ones(2, 2)},
            "is not a file of AnimateAnyone but a LoRA, which extends a model",
        ),
        (
            {"mid_block.motion_modules.0.temporal_transformer.norm.weight": torch.ones(2)},
            r"holds only the motion modules \(motion_module.pth\) of AnimateAnyone; name the folder",
        ),
    ],
)
def test_a_file_of_another_family_is_told(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_person(tmp_path / "other.safetensors")


def test_a_pose_guider_of_other_widths_is_told(tmp_path: Path) -> None:
    wide = {f"pose_guider.{name}": torch.ones(9, 3, 3, 3) for name in ("conv_in.weight",)}
    path = write_person(tmp_path / "person.safetensors", small_person(), **wide)
    message = r"1 do not fit \(pose_guider.conv_in.weight is \[9, 3, 3, 3\] instead of \[4, 3, 3, 3\]\)"
    with pytest.raises(CheckpointError, match=message):
        load_person(path)
