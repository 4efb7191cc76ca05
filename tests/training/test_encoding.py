"""Encoded clips on disk: which networks they are of, and clear words for what is none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_clips import write_rows

from dynamicrafter.errors import CheckpointError, UsageError
from dynamicrafter.pipeline import Model
from dynamicrafter.training import encoding
from dynamicrafter.training.config import FinetuneConfig
from dynamicrafter.training.data import read_list
from dynamicrafter.training.encoding import encode_items, fingerprints, load_item, locked_cache
from dynamicrafter.training.finetune import finetune
from dynamicrafter.training.trainer import TrainerConfig

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")


def config(folder: Path, **choices) -> FinetuneConfig:
    values = {"frames": 4, "strides": (1, 1), "trainer": TrainerConfig(steps=1), **choices}
    return FinetuneConfig(model="small", data=str(folder), target="image_proj", **values)


@pytest.mark.parametrize(
    "part", ["text.token_embedding", "vision.conv1", "vae.encoder.conv_in", "vae.quant_conv"]
)
def test_the_last_value_of_every_encoding_network_counts(small_model: Model, part: str) -> None:
    before = fingerprints(small_model)
    network, _, layer = part.partition(".")
    with torch.no_grad():
        getattr(small_model, network).get_submodule(layer).weight.flatten()[-1] += 0.5
    assert fingerprints(small_model) != before


def test_what_does_not_encode_does_not_count(small_model: Model) -> None:
    before = fingerprints(small_model)
    with torch.no_grad():
        for weight in small_model.vae.decoder.parameters():
            weight += 0.5
    assert fingerprints(small_model) == before


def test_weights_of_any_kind_have_a_fingerprint() -> None:
    module = torch.nn.Linear(3, 2).bfloat16()
    module.scale = torch.nn.Parameter(torch.tensor(2.0))
    before = encoding._fingerprint(module)
    module.weight.data = module.weight.data.t().contiguous().t()
    assert encoding._fingerprint(module) == before
    module.scale.data += 1
    assert encoding._fingerprint(module) != before


def test_the_networks_are_digested_once(
    small_model: Model, clip_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    digest = encoding._fingerprint
    monkeypatch.setattr(encoding, "_fingerprint", lambda module: (calls.append(module), digest(module))[1])
    finetune(small_model, config(clip_folder(), held_out=1), tmp_path / "run")
    assert len(calls) == 4


def test_clips_of_another_format_are_encoded_again(
    small_model: Model, clip_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clip_folder(count=1)
    first = encode_items(small_model, read_list(folder), config(folder))
    monkeypatch.setattr(encoding, "_FORMAT", encoding._FORMAT + 1)
    assert encode_items(small_model, read_list(folder), config(folder)) != first


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are not everywhere")
def test_a_pipe_is_left_out(small_model: Model, clip_folder: Callable, tmp_path: Path) -> None:
    folder = clip_folder(count=2)
    (folder / "0.mp4").unlink()
    os.mkfifo(folder / "0.mp4")
    told: list[str] = []
    items = encode_items(small_model, read_list(folder), config(folder), told.append)
    assert len(items) == 1
    assert told == [f"{folder / '0.mp4'} cannot be read (it is not a regular file)"]


@pytest.mark.parametrize("content", [b"", b"half", "whole"])
def test_a_file_that_is_no_encoded_clip_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"step": 3}, path)
    with pytest.raises(
        CheckpointError, match=r"a\.pt is not a complete encoded clip; delete it, and the clip"
    ):
        load_item(path)


def test_a_cut_file_of_the_cache_is_named_in_training(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder()
    finetune(small_model, config(folder), tmp_path / "run")
    for kind, name in (("caption", "texts"), ("clip", "clips")):
        path = next((folder / "cache" / name).glob("*.pt"))
        whole = path.read_bytes()
        path.write_bytes(whole[:200])
        message = (
            rf"{path.name} is not a complete encoded {kind}; delete it, and the {kind} will be encoded again"
        )
        with pytest.raises(CheckpointError, match=message):
            finetune(small_model, config(folder), tmp_path / "run")
        path.write_bytes(whole)


def test_another_run_on_the_same_clips_encodes_nothing(
    small_model: Model, clip_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clip_folder()
    finetune(small_model, config(folder, held_out=1), tmp_path / "run")
    written = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.pt")}
    assert len(written) == 6
    # Folder and cache are moved together, to another working directory.
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    other = replace(config(Path("moved")), batch=2, trainer=TrainerConfig(steps=1, seed=5))
    finetune(small_model, other, tmp_path / "other")
    found = {path: path.stat().st_mtime_ns for path in (moved / "cache").rglob("*.pt")}
    assert sorted(found.values()) == sorted(written.values())
    assert not (tmp_path / "run" / "cache").exists()


def test_the_cache_can_be_elsewhere(small_model: Model, clip_folder: Callable, tmp_path: Path) -> None:
    folder = clip_folder()
    finetune(small_model, config(folder, cache=str(tmp_path / "fast")), tmp_path / "run")
    assert len(list((tmp_path / "fast" / "clips").glob("*.pt"))) == 3
    assert not (folder / "cache").exists()


def test_a_cache_that_cannot_be_written_is_told(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder()
    (folder / "cache").write_bytes(b"a file")
    with pytest.raises(
        UsageError, match=r"the cache .*cache cannot be written to \(.*\); set cache to another folder$"
    ):
        finetune(small_model, config(folder), tmp_path / "run")


def test_a_cache_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    told: list[str] = []
    with locked_cache(tmp_path, told.append):
        half = tmp_path / "texts" / ".0123456789abcdef.part"
        half.write_bytes(b"half")
        other = threading.Thread(target=lambda: locked_cache(tmp_path, told.append).__enter__())
        other.start()
        other.join(0.5)
        assert other.is_alive() and half.exists()
    other.join(60)
    assert not other.is_alive() and not half.exists()
    assert told == [f"another run is encoding clips into {tmp_path}; this one waits until it is done"]


def test_held_out_clips_that_cannot_be_used_are_told_as_such(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder(count=3)
    (folder / "2.mp4").write_bytes(b"broken")
    message = (
        r"none of the 1 held-out clip\(s\) at the end of the list can be used; "
        r"end the list with usable clips, or set held_out to 0; the first one: .*2\.mp4 cannot be read \("
    )
    with pytest.raises(UsageError, match=message):
        finetune(small_model, config(folder, held_out=1), tmp_path / "run")
    assert len(list((folder / "cache" / "clips").glob("*.pt"))) == 2


def test_rows_that_lack_something_are_noted(
    small_model: Model, clip_folder: Callable, tmp_path: Path
) -> None:
    folder = clip_folder(count=1)
    write_rows(folder / "captions.csv", ["path", "caption"], [["0.mp4", "a boat"], ["1.mp4", ""]])
    told: list[str] = []
    finetune(small_model, config(folder), tmp_path / "run", note=told.append)
    assert told == [
        f"1 row(s) of {folder / 'captions.csv'} lack a path or a caption and are skipped; "
        "the first one ends on line 3"
    ]
