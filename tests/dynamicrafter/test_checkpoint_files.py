"""Weights files of every format are opened by content, and everything that is no such file is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dynamicrafter.errors import CheckpointError
from dynamicrafter.weights.formats.entries import PIECE_BYTES, Entry, Piece, read_tensor
from dynamicrafter.weights.formats.files import open_weights, tensors_sha256, weights_sha256
from dynamicrafter.weights.formats.safetensors_file import write_safetensors
from dynamicrafter.weights.inspect import inspect

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.arange(4).to(torch.float8_e4m3fn),
    "c": torch.tensor(2.5, dtype=torch.bfloat16),
    "d": torch.zeros(0, 4),
}


def assert_same(path: Path, tensors: dict[str, Tensor]) -> None:
    file = open_weights(path)
    assert file.entries == {name: Entry(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(read_tensor(file, name).float(), tensor.float()), name


def test_safetensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", {"note": "hello"})
    assert_same(tmp_path / "a.safetensors", TENSORS)
    assert open_weights(tmp_path / "a.safetensors").metadata == {"note": "hello"}


def test_what_we_write_the_reference_library_reads(tmp_path: Path) -> None:
    from safetensors import safe_open

    entries = {name: Entry(tuple(t.shape), t.dtype) for name, t in TENSORS.items()}
    pieces = [Piece(name, 0, tensor.reshape(-1)) for name, tensor in TENSORS.items()]
    write_safetensors(tmp_path / "a.safetensors", entries, reversed(pieces), {"note": "hello"})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"note": "hello"}
        for name, tensor in TENSORS.items():
            assert torch.equal(file.get_tensor(name).float(), tensor.float())
    assert_same(tmp_path / "a.safetensors", TENSORS)


def test_tensors_that_are_not_aligned_are_read(tmp_path: Path) -> None:
    header = {"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    header["y"] = {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}
    values = torch.tensor([1.5, -2.0])
    raw = json.dumps(header).encode()
    body = b"\7" + values.numpy().tobytes()
    (tmp_path / "a.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    assert torch.equal(read_tensor(open_weights(tmp_path / "a.safetensors"), "y"), values)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin"])
def test_pickles_are_read(tmp_path: Path, zipped: bool, suffix: str) -> None:
    tensors = {name: t for name, t in TENSORS.items() if name != "b"}  # old pickles know no fp8
    torch.save(tensors, tmp_path / f"a.{suffix}", _use_new_zipfile_serialization=zipped)
    assert_same(tmp_path / f"a.{suffix}", tensors)


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_large_tensors_come_in_pieces_and_in_order(tmp_path: Path, kind: str) -> None:
    large = torch.arange(PIECE_BYTES // 4 + 5, dtype=torch.float32)
    tensors = {"large": large, "small": torch.ones(3), "other": torch.zeros(2)}
    path = tmp_path / f"a.{kind}"
    save_file(tensors, path) if kind == "safetensors" else torch.save(tensors, path)
    found = [(p.name, p.start, p.values.numel()) for p in open_weights(path).pieces(["small", "large"])]
    assert sorted(found) == [("large", 0, PIECE_BYTES // 4), ("large", PIECE_BYTES // 4, 5), ("small", 0, 3)]
    assert torch.equal(read_tensor(open_weights(path), "large"), large)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_hold_what_pytorch_reads_from_them(tmp_path: Path, zipped: bool) -> None:
    large = torch.arange(2 * PIECE_BYTES // 4, dtype=torch.float32)
    tensors: dict[str, Any] = {
        "a.weight": torch.randn(3, 4).half(),
        "transposed": large.reshape(-1, 1024).T,
        "part": large[5:9],
        "every other": large[:20].reshape(4, 5)[:, ::2],
        "ones in the shape": torch.arange(6).reshape(1, 2, 1, 3).transpose(1, 2),
        "shown twice": torch.ones(1).expand(7),
        "a number": torch.tensor(True),
        "nothing": torch.zeros(3, 0, 2),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "with an attribute": torch.randn(2),
    }
    tensors["with an attribute"].note = "kept by PyTorch"
    if zipped:
        tensors |= {"f8": torch.randn(5).to(torch.float8_e5m2)}
    held = torch.nn.Linear(2, 2).state_dict()  # An OrderedDict with an attribute.
    held.update(tensors)
    extra = {"epoch": 3, "range": (1, [2.5, None]), "set": {1}, "size": torch.Size([2]), "bytes": b"ab"}
    torch.save({"state_dict": held, **extra}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    assert_same(tmp_path / "a.ckpt", {name: tensor.detach() for name, tensor in held.items()})


def write_shards(folder: Path, suffix: str = ".safetensors") -> list[Path]:
    names = list(TENSORS)
    paths = [folder / f"model-{i + 1:05d}-of-00002{suffix}" for i in range(2)]
    for path, part in zip(paths, (names[:2], names[2:]), strict=True):
        tensors = {name: TENSORS[name] for name in part}
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    return paths


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_sharded_file_is_found_by_shard_index_and_folder(tmp_path: Path, suffix: str) -> None:
    shards = write_shards(tmp_path, suffix)
    assert_same(shards[1], TENSORS)
    assert_same(tmp_path, TENSORS)
    index = tmp_path / f"model{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0].name, "c": shards[1].name}}), encoding="utf-8")
    for path in (index, tmp_path):
        assert_same(path, TENSORS)
        assert open_weights(path).files == tuple(shards)
    assert inspect(index).format.endswith("in 2 shards")


def test_a_folder_with_one_file_stands_for_it(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert_same(tmp_path, TENSORS)


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    shards = write_shards(tmp_path)
    together = b"".join(path.read_bytes() for path in shards)
    assert weights_sha256(shards[0], lambda *done: seen.append(done)) == hashlib.sha256(together).hexdigest()
    assert seen[-1] == (len(together), len(together))


def refuse(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        open_weights(path)


def test_nothing_there(tmp_path: Path) -> None:
    refuse(tmp_path / "a.ckpt", "there is no file .*a.ckpt; check the path")
    refuse(tmp_path, "contains no weights file")
    (tmp_path / "a.ckpt").touch()
    refuse(tmp_path / "a.ckpt", "is empty; download it again")


def test_several_files_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(TENSORS, tmp_path / name)
    refuse(tmp_path, r"contains 2 weights files \(a.safetensors, b.safetensors\); choose one of them")


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    shards[0].unlink()
    refuse(shards[1], r"of 2 files, of which 1 are missing \(model-00001-of-00002.safetensors\)")


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for path in write_shards(tmp_path):
        save_file(TENSORS, path)
    refuse(tmp_path, "contains 'a' twice")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not a readable index"),
        ("{}", "not a readable index"),
        ('{"weight_map": {}}', "does not list files in its own folder"),
        ('{"weight_map": {"a": "../elsewhere.safetensors"}}', "does not list files in its own folder"),
    ],
)
def test_a_broken_index(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    refuse(tmp_path, match)


@pytest.mark.parametrize("kept", [4, 20, 300, -1])
def test_truncated_safetensors(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.safetensors"
    save_file({**TENSORS, "big": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    refuse(path, "is truncated: |does not begin like a safetensors file")


def change_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        changed = change(header)
        raw = json.dumps(changed if isinstance(changed, list) else header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[8 + length :])

    return apply


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h["a"].update(dtype="F4"), "stores 'a' as F4, which is not supported"),
        (lambda h: h["a"].update(shape=[2, 4]), "the size of 'a' in its header does not match its shape"),
        (lambda h: h["a"].update(shape=[-2, -3]), "does not describe 'a'"),
        (lambda h: h["a"].update(data_offsets=[100, 124]), "overlap or leave a gap before"),
        (lambda h: h["a"].pop("shape") and None, "does not describe 'a'"),
        (lambda h: h.update(a=3), "does not describe 'a'"),
        (lambda h: h.pop("a"), "overlap or leave a gap before|longer than its header says"),
        (lambda h: [h], "header is not a list of tensors"),
        (lambda h: h.update(__metadata__=[1]), "metadata is not an object of strings"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, change: Any, match: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    change_header(change)(path)
    refuse(path, match)


def test_a_header_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    data = bytearray(path.read_bytes())
    data[9:12] = b"\xff\xff\xff"
    path.write_bytes(data)
    refuse(path, "header is not JSON")


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes() + b"12345")
    refuse(path, "it is 5 bytes longer than its header says")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(100_000)}, path)
    file = open_weights(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        read_tensor(file, "a")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"GGUF\3\0\0\0", "is in GGUF format"),
        (b"anything else at all", "is not a readable|is damaged or truncated"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_what_is_found_instead_of_weights(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name, match)


class Malicious:
    """Would write a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run_it(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(
        {"state_dict": {}, "extra": Malicious(tmp_path / "mark")}, path, _use_new_zipfile_serialization=zipped
    )
    refuse(path, r"was not loaded because it refers to \w+\.mkdir, .* safetensors")
    assert not (tmp_path / "mark").exists()


def test_a_pickle_of_a_newer_protocol_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": Malicious(tmp_path / "mark")}, protocol=4))
    refuse(tmp_path / "a.pt", "was not loaded because its pickle contains more than plain tensors")
    assert not (tmp_path / "mark").exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    refuse(tmp_path / "a.pt", r"was not loaded because it refers to torch\.nn\.modules\.linear\.Linear")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickles(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refuse(path, "is damaged or truncated")


def test_pickles_without_tensors(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "a.pt")
    refuse(tmp_path / "a.pt", "contains a list")
    torch.save({"a": torch.zeros(2), "b": 3}, tmp_path / "b.pt")
    refuse(tmp_path / "b.pt", "contains 'b', which is not a plain tensor")


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    entries = {"a": Entry((2,), torch.float32)}
    pieces = [Piece("a", 0, torch.zeros(2))]
    with pytest.raises(CheckpointError, match="cannot be written .* choose another folder"):
        write_safetensors(tmp_path / "missing" / "a.safetensors", entries, pieces, {})
    with pytest.raises(CheckpointError, match=r"needs 4000000\d\d.* GB but .* free; free some space"):
        write_safetensors(tmp_path / "a.safetensors", {"a": Entry((10**17,), torch.float32)}, pieces, {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Any:
        yield Piece("a", 0, torch.zeros(1))
        raise KeyboardInterrupt

    (tmp_path / "a.safetensors").write_bytes(b"what was there")
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "a.safetensors", {"a": Entry((2,), torch.float32)}, interrupted(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == b"what was there"


# Hashes


def hashed(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> str:
    save_file(tensors, path, metadata)
    return tensors_sha256(path)


def test_the_hash_of_tensors_is_that_of_names_types_shapes_and_values(tmp_path: Path) -> None:
    """In the order of the names, however they lie in the file."""
    whole = hashlib.sha256()
    for name, value in sorted(TENSORS.items()):
        inner = hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        whole.update(json.dumps([name, str(value.dtype), *value.shape, inner]).encode())
    assert hashed(tmp_path / "a.safetensors", TENSORS) == whole.hexdigest()


def test_what_does_not_change_the_hash_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashed(tmp_path / "a.safetensors", TENSORS)
    assert hashed(tmp_path / "b.safetensors", TENSORS, {"more": "text"}) == expected
    torch.save(dict(reversed(TENSORS.items())), tmp_path / "c.ckpt")
    assert tensors_sha256(tmp_path / "c.ckpt") == expected
    for number, names in enumerate((("a", "d"), ("b", "c")), 1):
        save_file({name: TENSORS[name] for name in names}, tmp_path / f"d-0000{number}-of-00002.safetensors")
    assert tensors_sha256(tmp_path / "d-00001-of-00002.safetensors") == expected
    monkeypatch.setattr("dynamicrafter.weights.formats.safetensors_file.PIECE_BYTES", 8)
    assert tensors_sha256(tmp_path / "a.safetensors") == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"a": TENSORS["a"].view(3, 2)},
        {"a": TENSORS["a"].int()},
        {"a": TENSORS["a"] + torch.tensor([0.0, 0.0, 1.0])},
        {"e": TENSORS["d"]},
        {"a": TENSORS["b"], "b": TENSORS["a"]},
    ],
    ids=["shape", "type", "value", "name", "places"],
)
def test_what_changes_the_hash_of_tensors(tmp_path: Path, changes: dict[str, torch.Tensor]) -> None:
    changed = {name: value.clone() for name, value in {**TENSORS, **changes}.items()}
    assert hashed(tmp_path / "b.safetensors", changed) != hashed(tmp_path / "a.safetensors", TENSORS)


def test_the_hash_of_tensors_tells_its_progress_and_can_be_stopped(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    told: list[tuple[int, int]] = []
    tensors_sha256(tmp_path / "a.safetensors", lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        tensors_sha256(tmp_path / "a.safetensors", stop)
