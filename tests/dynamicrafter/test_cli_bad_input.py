"""Pictures, weights and places that cannot be used are refused in one clear sentence, and nothing is left."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import QUICK, Run, complaint, left, paint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# Pictures


def png(path: Path) -> bytes:
    return paint(path, 64, 64).read_bytes()


PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no image {}; check its name and folder"),
    "empty": (lambda path: path.touch(), "{} is empty (0 bytes); copy or export the image again"),
    "truncated": (lambda path: path.write_bytes(png(path)[:-300]), "{} is damaged ("),
    "corrupt": (
        lambda path: path.write_bytes(b"\x89PNG\r\n" + b"?" * 99),
        "{} is not an image, or it is too damaged",
    ),
    "folder": (lambda path: path.mkdir(), "{} is a folder; choose one image in it"),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("command", ["animate", "loop", "interpolate"])
def test_unusable_pictures_are_refused(
    run: Run, pictures: dict[str, Path], tmp_path: Path, command: str, kind: str
) -> None:
    make, expected = PICTURES[kind]
    picture = tmp_path / "picture.png"
    make(picture)
    words = [pictures["wide"], picture] if command == "interpolate" else [picture]
    assert expected.format(picture) in complaint(run(command, *words, *QUICK), 1)
    assert left() == []


def test_one_unusable_picture_of_many_is_told_before_the_work(run: Run, pictures: dict[str, Path]) -> None:
    ran = run("animate", pictures["wide"], "gone.png", *QUICK)
    assert complaint(ran, 1).startswith("there is no image gone.png")
    assert left() == []


# Weights

ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
OTHERS = {
    "Stable Diffusion 1.5": {ATTENTION: (320, 768)},
    "Stable Diffusion 2.1": {ATTENTION: (320, 1024)},
    "Stable Video Diffusion": {
        "model.diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_k.weight": (320, 320),
        ATTENTION: (320, 1024),
    },
    "a LoRA, which extends a model": {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (320, 4),
    },
    "only an autoencoder (VAE)": {"encoder.conv_in.weight": (128, 3, 3, 3), "quant_conv.bias": (8,)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_weights_of_another_architecture_are_named(
    run: Run, pictures: dict[str, Path], tmp_path: Path, what: str
) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in OTHERS[what].items()}, file)
    ran = run("animate", pictures["wide"], *QUICK, "--model", file)
    assert f"{file} is not a DynamiCrafter checkpoint but {what}" in complaint(ran, 1)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def rewrite(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(source)
    change(tensors)
    with safe_open(source, "pt") as file:
        save_file(tensors, target, file.metadata())


def spoil(source: Path, target: Path, how: str) -> None:
    if how == "truncated":
        target.write_bytes(source.read_bytes()[:-1000])
    elif how == "empty":
        target.touch()
    elif how == "NaN":
        name = "model.diffusion_model.out.2.weight"
        rewrite(source, target, lambda tensors: tensors[name].view(-1)[7:8].fill_(torch.nan))
    elif how == "missing":
        rewrite(source, target, lambda tensors: tensors.pop("model.diffusion_model.out.2.weight"))
    elif how == "pruned":
        towers = ("cond_stage_model.", "embedder.")
        rewrite(
            source,
            target,
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(towers)],
        )


SPOILT = {
    "truncated": "is truncated: ",
    "empty": "is empty; download it again",
    "NaN": "model.diffusion_model.out.2.weight",
    "missing": "does not contain exactly small: 1 tensors are missing (model.diffusion_model.out.2.weight)",
    "pruned": "it was pruned and lacks the CLIP text encoder and the CLIP image encoder; pass --text-encoder FILE and "
    "pass --image-encoder FILE",
}


@pytest.mark.parametrize("how", SPOILT)
def test_damaged_weights_are_refused(
    run: Run, pictures: dict[str, Path], tmp_path: Path, random_weights: Path, how: str
) -> None:
    file = tmp_path / "weights.safetensors"
    spoil(random_weights, file, how)
    sentence = complaint(run("animate", pictures["wide"], *QUICK, "--model", file), 1)
    assert str(file) in sentence and SPOILT[how] in sentence
    assert left() == []


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_runs_no_code(run: Run, pictures: dict[str, Path], tmp_path: Path, old: bool) -> None:
    file, mark = tmp_path / "weights.ckpt", tmp_path / "mark"
    if old:
        file.write_bytes(pickle.dumps({"state_dict": Evil(mark)}))
    else:
        torch.save({"state_dict": Evil(mark)}, file)
    for words in (("animate", pictures["wide"], *QUICK, "--model", file), ("inspect", file)):
        assert str(file) in complaint(run(*words), 1)
    assert not mark.exists()


def test_a_weights_folder_that_cannot_be_made(
    run: Run, pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "file" / "home"))
    sentence = complaint(run("animate", pictures["wide"], *QUICK), 1)
    assert "set DYNAMICRAFTER_HOME to a writable folder" in sentence


# Output


@pytest.mark.parametrize(
    ("name", "expected", "code"),
    [
        (
            "clip.avi",
            "clip.avi has the extension .avi, but a clip can be .mp4, .webm, .gif, .webp, or a folder",
            2,
        ),
        ("gone/clip.mp4", "there is no folder ", 1),
    ],
)
def test_impossible_outputs_are_told_before_the_work(
    run: Run,
    pictures: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    expected: str,
    code: int,
) -> None:
    monkeypatch.setattr("dynamicrafter.api.load_components", None)
    assert expected in complaint(run("animate", pictures["wide"], *QUICK, "--output", name), code)


def test_a_read_only_folder_is_told_before_the_work(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected: neither Windows nor a privileged user is kept from writing by a folder's mode."""

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("dynamicrafter.api.load_components", None)
    monkeypatch.setattr(Path, "touch", refuse)
    sentence = complaint(run("animate", pictures["wide"], *QUICK, "--output", "clip.mp4"), 1)
    assert sentence.endswith(f"the folder {Path.cwd()} is not writable; choose another one")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webp", "clip"])
def test_a_full_disk_leaves_nothing(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("av.open" if name == "clip.mp4" else "PIL.Image.Image.save", full)
    sentence = complaint(run("animate", pictures["wide"], *QUICK, "--output", name), 1)
    assert sentence.endswith("the disk is full; free some space or choose another disk")
    assert left() == []


@pytest.mark.parametrize(
    ("lora", "code", "expected"),
    [
        ("gone.safetensors", 1, "gone.safetensors cannot be read as a LoRA ("),
        ("gone.safetensors:0.5", 1, "gone.safetensors cannot be read as a LoRA ("),
        (
            "adapters.safetensors:nan",
            2,
            "argument --lora: the strength must be a number such as 0.8, not 'nan'",
        ),
    ],
)
def test_unusable_adapters_are_refused(
    run: Run, pictures: dict[str, Path], lora: str, code: int, expected: str
) -> None:
    assert expected in complaint(run("animate", pictures["wide"], *QUICK, "--lora", lora), code)
