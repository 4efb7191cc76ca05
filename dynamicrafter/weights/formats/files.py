"""Opens weights files of any format by their content: single, sharded or in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...bounded_json import parse_json
from ...errors import CheckpointError
from .entries import PIECE_BYTES, ByteProgress, Entry, Piece, WeightsFile, raw_bytes, unreadable
from .safetensors_file import open_safetensors
from .torch_file import open_torch

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Suffixes of weights files, for listing a folder."""

_INDEX = ".index.json"
_FILE_NAME = re.compile(r"[^/\\:\0]{0,254}[^/\\:\0.]")
"""The name of a file in the same folder: not empty, not "..", without folder or drive."""
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


@dataclass(frozen=True)
class ShardedFile:
    """Several files that together contain one set of tensors."""

    path: Path
    shards: tuple[WeightsFile, ...]
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @property
    def files(self) -> tuple[Path, ...]:
        """All shards."""
        return tuple(path for shard in self.shards for path in shard.files)

    @property
    def kind(self) -> str:
        """The format of the shards and their number."""
        return f"{self.shards[0].kind} in {len(self.shards)} shards"

    def pieces(self, names: Collection[str]) -> Iterator[Piece]:
        """The values of the named tensors, shard after shard."""
        wanted = set(names)
        for shard in self.shards:
            yield from shard.pieces(wanted.intersection(shard.entries))


def open_weights(path: Path | str) -> WeightsFile:
    """Open a weights file, any shard or the index of a sharded one, or a folder that contains one of these.

    Reads only names, shapes and metadata. Raises CheckpointError if the file is missing, damaged, incomplete or unsafe.
    """
    path = Path(path)
    if _is_folder(path):
        path = _only_weights_in(path)
    if path.name.endswith(_INDEX):
        return _sharded(path, [path.with_name(name) for name in _indexed(path)])
    shard = _SHARD.fullmatch(path.name)
    if shard is not None and int(shard[3]) > 1:
        names = [f"{shard[1]}-{i + 1:05d}-of-{shard[3]}{shard[4]}" for i in range(int(shard[3]))]
        return _sharded(path, [path.with_name(name) for name in names])
    return _single(path)


def weights_sha256(path: Path | str, progress: ByteProgress | None = None) -> str:
    """Lower-case hexadecimal hash of a weights file, or of the concatenated shards of one."""
    files = open_weights(path).files
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.sha256()
    done = 0
    for file in files:
        try:
            with file.open("rb") as stream:
                while block := stream.read(PIECE_BYTES):
                    digest.update(block)
                    done += len(block)
                    if progress is not None:
                        progress(done, total)
        except OSError as error:
            raise unreadable(file, error) from error
    return digest.hexdigest()


def tensors_sha256(path: Path | str, progress: ByteProgress | None = None) -> str:
    """Lower-case hexadecimal hash of a weights file's tensors: their names, dtypes, shapes and values.

    It does not depend on metadata, the order in the file or the division into shards. ``progress`` gets the bytes
    read.
    """
    file = open_weights(path)
    total = sum(entry.nbytes for entry in file.entries.values())
    digests = {name: hashlib.sha256() for name in file.entries}
    done = 0
    for piece in file.pieces(file.entries):
        digests[piece.name].update(raw_bytes(piece.values))
        done += piece.values.nbytes
        if progress is not None:
            progress(done, total)
    whole = hashlib.sha256()
    for name, entry in sorted(file.entries.items()):
        described = [name, str(entry.dtype), *entry.shape, digests[name].hexdigest()]
        whole.update(json.dumps(described).encode())
    return whole.hexdigest()


def _is_folder(path: Path) -> bool:
    """Whether the path is a folder; raises CheckpointError unless it is a folder or a regular file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise CheckpointError(
            f"there is no file {path}; check the path, or download the model with 'download'"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        # Reading a pipe or a device may never end.
        raise CheckpointError(f"{path} is not a regular file; save the weights to a file and use that")
    return stat.S_ISDIR(mode)


def _single(path: Path) -> WeightsFile:
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise unreadable(path, error) from error
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; download the file")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is a web page, not weights; download the file itself")
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{path} is in GGUF format, which is not supported; use a safetensors file")
    if start.startswith(b"PK"):
        return open_torch(path, zipped=True)
    # A safetensors file begins with a length followed by JSON, a pickle with an opcode.
    if start[8:9] != b"{" and (start[0] == 0x80 or path.suffix in SUFFIXES[1:]):
        return open_torch(path, zipped=False)
    return open_safetensors(path)


def _only_weights_in(folder: Path) -> Path:
    """The only weights file of a folder; an index stands for its shards."""
    try:
        files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    except OSError as error:
        raise unreadable(folder, error) from error
    found = [p for p in files if p.name.endswith(_INDEX)] or [p for p in files if p.suffix in SUFFIXES]
    shards = [match for p in found if (match := _SHARD.fullmatch(p.name))]
    if len(found) == len(shards) and len({match[1] for match in shards}) == 1:
        found = found[:1]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found[:4])
        raise CheckpointError(
            f"the folder {folder} contains {len(found)} weights files ({names}); choose one of them"
        )
    raise CheckpointError(
        f"the folder {folder} contains no weights file ({', '.join(SUFFIXES)}); use the path of the file itself"
    )


def _indexed(path: Path) -> list[str]:
    """Names of the shards that an index lists."""
    try:
        index = parse_json(path.read_bytes())
        shards = set(index["weight_map"].values())
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a readable index of a sharded file; download it again"
        ) from error
    if not shards or not all(isinstance(name, str) and _FILE_NAME.fullmatch(name) for name in shards):
        raise CheckpointError(f"{path} does not list files in its own folder; download it again")
    return sorted(shards)


def _sharded(path: Path, files: Sequence[Path]) -> WeightsFile:
    absent = [file.name for file in files if not os.path.isfile(file)]
    if absent:
        raise CheckpointError(
            f"{path} belongs to a model of {len(files)} files, of which {len(absent)} are missing "
            f"({', '.join(absent[:3])}); put all of them in one folder"
        )
    shards = tuple(_single(file) for file in files)
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        twice = entries.keys() & shard.entries.keys()
        if twice:
            raise CheckpointError(
                f"{path} belongs to a sharded model that contains {min(twice)!r} twice; download all of it again"
            )
        entries.update(shard.entries)
        metadata.update(shard.metadata)
    return ShardedFile(path, shards, entries, metadata)
