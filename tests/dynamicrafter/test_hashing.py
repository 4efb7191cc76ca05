"""Hashes are right, computed once for each state of a file, and never in the way."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from dynamicrafter.hashing import file_sha256, remembered_sha256


class Counting:
    """A hash function that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> str:
        self.calls += 1
        return f"hash {self.calls}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("content", [b"", b"boat", b"boat" * (1 << 22)], ids=["empty", "short", "long"])
def test_sha256_is_that_of_the_content(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert file_sha256(file) == hashlib.sha256(content).hexdigest()
    assert remembered_sha256(file, file.with_name("memory")) == hashlib.sha256(content).hexdigest()


def test_a_hash_is_computed_once(file: Path) -> None:
    memory, compute = file.parent / "new" / "memory.json", Counting()
    assert [remembered_sha256(file, memory, compute) for _ in range(2)] == ["hash 1", "hash 1"]
    assert [path.name for path in memory.parent.iterdir()] == ["memory.json"]


def test_another_spelling_of_the_path_is_the_same_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, compute = file.with_name("memory"), Counting()
    remembered_sha256(file, memory, compute)
    monkeypatch.chdir(file.parent)
    assert remembered_sha256(Path(file.name), memory, compute) == "hash 1"


@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_a_changed_file_is_hashed_again(file: Path, change: str) -> None:
    memory, compute = file.with_name("memory"), Counting()
    remembered_sha256(file, memory, compute)
    if change == "size":
        status = file.stat()
        file.write_bytes(b"more weights")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(file, (1, 1))
    else:
        file = file.rename(file.with_name("other"))
    assert remembered_sha256(file, memory, compute) == "hash 2"


def test_a_changed_part_is_noticed(file: Path) -> None:
    """A folder's own size and time stay when a file in it is written to."""
    memory, compute = file.with_name("memory"), Counting()
    parts = [file, file.with_name("shard")]
    parts[1].write_bytes(b"one")
    assert remembered_sha256(file.parent, memory, compute, parts) == "hash 1"
    assert remembered_sha256(file, memory, compute, parts) == "hash 2"
    parts[1].write_bytes(b"three")
    assert remembered_sha256(file, memory, compute, parts) == "hash 3"


def test_several_files_are_remembered(file: Path) -> None:
    memory, compute = file.with_name("memory"), Counting()
    other = file.with_name("other")
    other.write_bytes(b"other")
    for _ in range(2):
        assert remembered_sha256(file, memory, compute) == "hash 1"
        assert remembered_sha256(other, memory, compute) == "hash 2"


def test_what_another_process_added_meanwhile_stays(file: Path) -> None:
    memory = file.with_name("memory")

    def slow(path: Path) -> str:
        memory.write_text('{"theirs": "kept"}', encoding="utf-8")
        return "ours"

    remembered_sha256(file, memory, slow)
    assert sorted(json.loads(memory.read_text(encoding="utf-8")).values()) == ["kept", "ours"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "\x00"])
def test_a_damaged_memory_is_begun_anew(file: Path, content: str) -> None:
    memory, compute = file.with_name("memory"), Counting()
    memory.write_text(content, encoding="utf-8")
    assert [remembered_sha256(file, memory, compute) for _ in range(2)] == ["hash 1", "hash 1"]


def test_a_remembered_value_that_is_no_hash_is_computed_again(file: Path) -> None:
    memory, compute = file.with_name("memory"), Counting()
    remembered_sha256(file, memory, compute)
    (key,) = json.loads(memory.read_text(encoding="utf-8"))
    memory.write_text(json.dumps({key: 7}), encoding="utf-8")
    assert remembered_sha256(file, memory, compute) == "hash 2"


def test_without_a_place_for_the_memory_it_is_computed_each_time(file: Path) -> None:
    blocked, compute = file / "memory", Counting()
    assert [remembered_sha256(file, blocked, compute) for _ in range(2)] == ["hash 1", "hash 2"]


def test_a_memory_that_cannot_be_replaced_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("os.replace", full)
    assert remembered_sha256(file, file.with_name("memory"), Counting()) == "hash 1"
    assert [path.name for path in file.parent.iterdir()] == ["weights"]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        remembered_sha256(tmp_path / "gone", tmp_path / "memory")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        file_sha256(tmp_path / "pipe")
