"""Small files that ask for much memory or time, or for values that nothing expects, end in a sentence at once."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bounded_runs import run_bounded
from safetensors.torch import save_file

from dynamicrafter.errors import CheckpointError
from dynamicrafter.forms import to_json
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights.detect import variant_metadata
from dynamicrafter.weights.formats.entries import read_tensor
from dynamicrafter.weights.formats.files import open_weights
from dynamicrafter.weights.inspect import inspect

Make = Callable[[Path], None]


def repacked(
    path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    """Write a PyTorch file anew with other contents of its records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def with_pickle(path: Path, steps: bytes) -> None:
    """A PyTorch file whose pickle is ``steps``."""
    torch.save({"a": torch.zeros(1)}, path)
    repacked(path, lambda name, data: b"\x80\x02" + steps + b"." if name.endswith("/data.pkl") else data)


def deep_tuple(count: int = 200) -> bytes:
    """A tuple of twice the same tuple, and so on: 2 to the ``count`` values, if one counts them."""
    steps = b")q\0"
    for _ in range(count):
        steps += b"h\0\x86q\0"
    return steps


def tuples_as_a_key(path: Path) -> None:
    with_pickle(path, b"}" + deep_tuple() + b"K\1s")


def tuples_as_an_argument(path: Path) -> None:
    with_pickle(path, b"}X\1\0\0\0ac_codecs\nencode\n" + deep_tuple() + b"Rs")


def tuples_as_a_function(path: Path) -> None:
    with_pickle(path, deep_tuple() + b")R")


def tuples_as_a_storage(path: Path) -> None:
    with_pickle(path, deep_tuple() + b"Q")


def tuples_as_a_shape(path: Path) -> None:
    steps = b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
    steps += b"X\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQK\0" + deep_tuple() + b")\x89}tRs"
    with_pickle(path, steps)


def a_huge_bytearray(path: Path) -> None:
    with_pickle(path, b"}X\1\0\0\0ac__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85Rs")


def a_tensor_without_values(path: Path) -> None:
    with_pickle(path, b"}X\1\0\0\0actorch\nTensor\n(J\xff\xff\0\0J\xff\xff\0\0tRs")


def millions_of_tables(path: Path) -> None:
    with_pickle(path, b"(" + b"}" * 20_000_000 + b"t")


def a_table_again_and_again(path: Path) -> None:
    pairs = b"](" + b"".join(b"K\1K\1\x86" for _ in range(100_000)) + b"eq\0"
    with_pickle(path, pairs + b"ccollections\nOrderedDict\nh\0\x85R" * 100_000)


def a_zip_bomb(path: Path) -> None:
    with_pickle(path, b"X" + (300_000_000).to_bytes(4, "little") + bytes(300_000_000))
    repacked(path, lambda _, data: data, zipfile.ZIP_DEFLATED)


def a_shown_tensor(path: Path) -> None:
    torch.save({"a": torch.ones(1, 1).expand(60_000, 60_000)}, path)


def a_tensor_that_is_larger_than_its_values(path: Path) -> None:
    torch.save({"a": torch.zeros(2, 3)}, path)
    repacked(path, lambda name, data: data[:8] if "/data/" in name else data)


def header(path: Path, values: dict[str, Any] | str, body: bytes = b"") -> None:
    raw = (values if isinstance(values, str) else json.dumps(values)).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)


def described(**changes: Any) -> Make:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return lambda path: header(path, {"a": entry}, bytes(8))


def in_words(text: str) -> Make:
    return lambda path: header(path, text, bytes(8))


def a_long_shape(path: Path) -> None:
    header(path, {"a": {"dtype": "F32", "shape": [2] * 1_000_000, "data_offsets": [0, 8]}}, bytes(8))


def many_tensors(path: Path) -> None:
    header(path, {f"x.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)})


def long_names(path: Path) -> None:
    header(path, {"diffusion_model." * 100_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})


def many_lists(path: Path) -> None:
    header(path, '{"a":[' + "[]," * 5_000_000 + "1]}")


def variant(change: Callable[[dict[str, Any]], object]) -> Make:
    def make(path: Path) -> None:
        values = to_json(SMALL)
        change(values)
        metadata = variant_metadata(SMALL) | {"dynamicrafter.variant": json.dumps(values)}
        save_file({"a": torch.zeros(1)}, path, metadata)

    return make


def index(value: Any) -> Make:
    return lambda path: path.write_text(
        value if isinstance(value, str) else json.dumps(value), encoding="utf-8"
    )


NESTED = "[" * 100_000 + "]" * 100_000
PICKLES: list[tuple[Make, str]] = [
    (tuples_as_a_key, "contains a dictionary whose keys are not names; use a file in safetensors format"),
    (tuples_as_an_argument, "contains 'a', which is not a plain tensor"),
    (tuples_as_a_function, "is damaged or truncated; download it again"),
    (tuples_as_a_storage, "is damaged or truncated; download it again"),
    (tuples_as_a_shape, "is damaged or truncated; download it again"),
    (a_huge_bytearray, "contains 'a', which is not a plain tensor"),
    (a_tensor_without_values, "contains 'a', which is not a plain tensor"),
    (millions_of_tables, "list of tensors is longer than that of any known model"),
    (a_table_again_and_again, "list of tensors is longer than that of any known model"),
    (a_shown_tensor, "is damaged or truncated; download it again"),
    (
        a_tensor_that_is_larger_than_its_values,
        "is damaged or truncated: 'a' is incomplete; download it again",
    ),
]
HEADERS: list[tuple[Make, str]] = [
    (a_long_shape, "its header does not describe 'a'"),
    (long_names, "'diffusion_model.*' is not a valid tensor name"),
    (many_lists, "its header is not JSON .it has more than 2,000,000 parts"),
    (described(dtype=[]), "its header does not describe 'a'"),
    (described(dtype={}), "its header does not describe 'a'"),
    (described(shape=[float("inf")]), "its header is not JSON .Infinity in it is not valid JSON"),
    (described(shape=[2.0]), "its header does not describe 'a'"),
    (described(shape=[True]), "its header does not describe 'a'"),
    (described(shape=[2**62] * 16), "its header does not describe 'a'"),
    (
        in_words('{"a": {"shape": [1' + "0" * 5000 + "]}}"),
        "its header is not JSON .an integer in it has more than 20 digits",
    ),
    (described(data_offsets=[0, float("inf")]), "its header is not JSON .Infinity in it"),
    (described(data_offsets=[0, float("nan")]), "its header is not JSON .NaN in it"),
    (described(data_offsets=[-8, 0]), "its header does not describe 'a'"),
    (described(data_offsets=8), "its header does not describe 'a'"),
    (
        in_words('{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}'),
        "a number in it is too large",
    ),
    (
        in_words('{"__metadata__": {"a": ' + NESTED + "}}"),
        "its header is not JSON .it is nested more than 32",
    ),
    (in_words('{"__metadata__": {"a": 1}}'), "its metadata is not an object of strings"),
    (in_words('{"__metadata__": "text"}'), "its metadata is not an object of strings"),
    (in_words('{"\\ud800": 1}'), r"'.ud800' is not a valid tensor name"),
]
VARIANTS: list[tuple[Make, str]] = [
    (
        variant(lambda v: v["unet"].update(model_channels=10**18)),
        "model_channels must be 0 to 1048576, but is 1000",
    ),
    (variant(lambda v: v["text"].update(layers=10**6)), "layers must be 0 to 64, but is 1000000"),
    (variant(lambda v: v["vae"].update(num_res_blocks=10**4)), "num_res_blocks must be 0 to 8"),
    (variant(lambda v: v["unet"].update(channel_mult=[1] * 99)), "channel_mult has 99 values, of at most 8"),
    (
        variant(lambda v: v["unet"].update(norm_groups=0)),
        "gives sizes of its denoising network that cannot be built",
    ),
    (
        variant(lambda v: v["vae"].update(norm_groups=7)),
        "gives sizes of its autoencoder that cannot be built",
    ),
    (
        variant(lambda v: v["resampler"].update(dim=10**6 + 1, heads=0)),
        "gives sizes of its image token resampler that cannot",
    ),
    (
        variant(lambda v: v["preset"].update(cfg=1e308 * 10)),
        "invalid description of its variant .Infinity in it is not valid JSON",
    ),
    (
        variant(lambda v: v["unet"].update(channel_mult={})),
        "channel_mult in the variant of .* must be a list",
    ),
]
INDICES: list[tuple[Make, str]] = [
    (index({"weight_map": {"a": ""}}), "does not list files in its own folder"),
    (index({"weight_map": {"a": "."}}), "does not list files in its own folder"),
    (index({"weight_map": {"a": ".."}}), "does not list files in its own folder"),
    (index({"weight_map": {"a": "\0"}}), "does not list files in its own folder"),
    (index({"weight_map": {"a": "x" * 5000}}), "does not list files in its own folder"),
    (index({"weight_map": {"a": "é" * 250}}), "of which 1 are missing"),
    (index({"weight_map": {"a": 1}}), "does not list files in its own folder"),
    (index({"weight_map": {"a": []}}), "is not a readable index of a sharded file"),
    (index({"weight_map": []}), "is not a readable index of a sharded file"),
    (index(f'{{"weight_map": {NESTED}}}'), "is not a readable index of a sharded file"),
    (index("9" * 5000), "is not a readable index of a sharded file"),
]
CASES = [
    *((make, match, "a.ckpt") for make, match in PICKLES),
    *((make, match, "a.safetensors") for make, match in HEADERS + VARIANTS),
    *((make, match, "a.safetensors.index.json") for make, match in INDICES),
]


@pytest.mark.parametrize(("make", "match", "name"), CASES)
def test_they_are_refused_in_a_sentence(tmp_path: Path, make: Make, match: str, name: str) -> None:
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=match) as told:
        inspect(tmp_path / name)
    assert len(str(told.value)) < 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it")
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (tuples_as_a_key, "a.ckpt"),
        (millions_of_tables, "a.ckpt"),
        (a_zip_bomb, "a.ckpt"),
        (a_shown_tensor, "a.ckpt"),
        (a_long_shape, "a.safetensors"),
        (many_tensors, "a.safetensors"),
        (many_lists, "a.safetensors"),
    ],
)
def test_they_take_neither_memory_nor_time(tmp_path: Path, make: Make, name: str) -> None:
    make(tmp_path / name)
    ran = run_bounded(inspect, tmp_path / name)
    assert ran.ended.startswith(("CheckpointError: ", "Inspection(")), ran
    assert ran.grown < 250e6, ran
    assert ran.seconds < 20, ran  # Most of it is the computer's being busy with other things.


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.ckpt")
    repacked(tmp_path / "a.ckpt", lambda _, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is a compressed archive, not a PyTorch file; unpack it"):
        open_weights(tmp_path / "a.ckpt")


def test_a_file_of_another_order_of_bytes_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.ckpt")
    other = b"big" if sys.byteorder == "little" else b"little"
    repacked(tmp_path / "a.ckpt", lambda name, data: other if name.endswith("byteorder") else data)
    with pytest.raises(CheckpointError, match="was written on a computer with another byte order"):
        open_weights(tmp_path / "a.ckpt")


def test_an_old_file_without_its_values_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(100)}, stream, _use_new_zipfile_serialization=False)
    (tmp_path / "a.ckpt").write_bytes(stream.getvalue()[:-200])
    with pytest.raises(
        CheckpointError, match="is damaged or truncated: 'a' is incomplete; download it again"
    ):
        open_weights(tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(CheckpointError, match="is damaged or truncated; download it again"):
        open_weights(tmp_path / "b.ckpt")


def test_a_pickle_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.zeros(100_000)}, path)
    file = open_weights(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        read_tensor(file, "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors.index.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="is not a regular file; save the weights to a file"):
        open_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="contains no weights file"):
        open_weights(tmp_path)


def test_a_path_that_no_disk_has(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read .File name too long.; check the path"):
        open_weights(tmp_path / ("a" * 5000))
    with pytest.raises(CheckpointError, match="there is no file"):
        open_weights(tmp_path / "a\0b")
