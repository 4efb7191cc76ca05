"""Damages files at random and reads them: every one must end in a value or in an error of the package.

    python -m tools.fuzz --seconds 600
    python -m tools.fuzz --seed 7 --parser pictures --case 123

Takes the parsers in turn. A case that ends in another error, takes more than ten seconds or lets the process grow by
more than 600 MB is written to a folder and told with its number, by which the second command runs it again. The tests
run some hundred cases of each parser; the first command goes on for longer, with another seed each time.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from dynamicrafter.api import find_model, variant_of
from dynamicrafter.cli.again import times_usual
from dynamicrafter.errors import DynamiCrafterError
from dynamicrafter.forms import to_json
from dynamicrafter.media.pictures import fit_picture, read_picture
from dynamicrafter.media.video import check_clip_path, read_frames, read_metadata, write_clip
from dynamicrafter.model.variants import SMALL, TINY
from dynamicrafter.records import (
    KnownFile,
    KnownLora,
    KnownModel,
    Record,
    find_model_of,
    find_pictures,
    know_pictures,
    read_record,
)
from dynamicrafter.settings import make_settings
from dynamicrafter.training.config import load_config, shipped_configs
from dynamicrafter.weights.detect import variant_metadata
from dynamicrafter.weights.formats.entries import read_tensor
from dynamicrafter.weights.formats.files import open_weights, tensors_sha256
from dynamicrafter.weights.inspect import inspect

LONGEST_SECONDS = 10
LARGEST_GROWTH = 600_000_000

Seeds = dict[str, bytes]
"""Whole files by name; a name with a folder is one of several that belong together."""


class TooLong(BaseException):
    """Not an Exception, which the readers of broken files catch."""


# What is damaged


def weights_seeds() -> Seeds:
    """Weights of every format, alone and in folders."""
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.randn(4, 8, 3, 3),
        "scale_arr": torch.linspace(1, 0.7, 9).half(),
        "transposed": torch.arange(12.0).reshape(3, 4).T,
    }
    shown = {"state_dict": tensors, "epoch": 1, "list": [1, (2.5, None)], "bytes": b"ab", "set": {1}}
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(shown, zipped)
    torch.save(shown, old, _use_new_zipfile_serialization=False)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    whole = save(plain, variant_metadata(SMALL))
    index = json.dumps({"weight_map": dict.fromkeys(plain, "a-00001-of-00002.safetensors")}).encode()
    return {
        "a.safetensors": whole,
        "a.ckpt": zipped.getvalue(),
        "b.ckpt": old.getvalue(),
        "a/a.safetensors.index.json": index,
        "a/a-00001-of-00002.safetensors": whole,
        "b/a.ckpt": zipped.getvalue(),
    }


def picture_seeds() -> Seeds:
    """Pictures of every format that this Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 16, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        ("a.png", "RGBA", {}),
        ("p.png", "P", {"transparency": 0}),
        ("a.jpg", "RGB", {"exif": exif}),
        ("p.jpg", "L", {"progressive": True}),
        ("a.webp", "RGBA", {"exif": exif}),
        ("a.gif", "P", {}),
        ("a.bmp", "RGB", {}),
        ("a.tif", "RGB", {"exif": exif}),
        ("l.tif", "RGB", {"compression": "tiff_lzw"}),
        ("f.tif", "F", {"compression": "tiff_adobe_deflate"}),
        ("b.tif", "1", {"compression": "group4"}),
        ("a.tga", "RGB", {"compression": "tga_rle"}),
        ("a.ppm", "RGB", {}),
        ("a.ico", "RGBA", {}),
        ("a.icns", "RGBA", {}),
        ("a.jp2", "RGB", {}),
        ("a.avif", "RGB", {}),
        ("a.pcx", "P", {}),
        ("a.sgi", "RGB", {}),
        ("a.qoi", "RGB", {}),
        ("a.dds", "RGBA", {}),
        ("a.xbm", "1", {}),
    ]
    seeds: Seeds = {}
    for name, mode, choices in wanted:
        stream = io.BytesIO()
        try:
            image.convert(mode).save(stream, Image.registered_extensions()[Path(name).suffix], **choices)
        except (OSError, KeyError):
            continue  # Not every Pillow was built with every format.
        seeds[name] = stream.getvalue()
    deep = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 99).save(deep, "PNG")
    return {**seeds, "d.png": deep.getvalue()}


def clip_seeds() -> Seeds:
    """A clip in every format."""
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    metadata = {"program": "x", "settings": {"seed": 1, "cfg": 7.5, "list": [1, None]}, "pictures": []}
    seeds: Seeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.gif", "a.webp", "a.mp4", "a.webm", "a"):
            write_clip(frames, Path(folder) / name, 8, metadata)
        for path in sorted(Path(folder).rglob("*.*")):
            seeds[path.relative_to(folder).as_posix()] = path.read_bytes()
    return seeds


def record_seeds() -> Seeds:
    """Clips with a whole record of how they were made, and the pictures and the LoRA that it names."""
    pixels = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    weights = find_model(TINY.name).weights
    lora = save({"a": torch.zeros(2, 2)})
    seeds: Seeds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "l.safetensors").write_bytes(lora)
        lora_hash = tensors_sha256(folder / "l.safetensors")
        pictures: list[Path] = []
        for number in range(2):
            pictures.append(folder / f"{number}.png")
            Image.fromarray(pixels[0] + number).save(pictures[-1])
        model = KnownModel(
            asked=TINY.name,
            variant=TINY.name,
            dtype="float32",
            weights=KnownFile(weights.name, tensors_sha256(weights), "tensors"),
            loras=(KnownLora("l.safetensors", lora_hash, "tensors", 0.5),),
        )
        for mode, used in (("interpolate", pictures), ("loop", pictures[:1])):
            record = Record(make_settings(TINY, mode), know_pictures(used), model)
            made = write_clip(pixels, folder / mode, 8, to_json(record))
            for path in (*made.iterdir(), *pictures, folder / "l.safetensors"):
                seeds[f"{mode}/{path.name}"] = path.read_bytes()
    return seeds


def config_seeds() -> Seeds:
    """The shipped configs of training."""
    folder = Path(__file__).resolve().parents[1] / "dynamicrafter" / "training" / "configs"
    return {f"{name}.json": (folder / f"{name}.json").read_bytes() for name in shipped_configs()}


# What reads it


def read_weights(path: Path) -> None:
    """Open a weights file, describe it and read its small tensors."""
    inspect(path)
    file = open_weights(path)
    for name, entry in file.entries.items():
        if entry.nbytes < 10**6:
            read_tensor(file, name)


def read_one_picture(path: Path) -> None:
    """Read a picture and bring it to size."""
    fit_picture(read_picture(path), 64, 64)


def read_clip(path: Path) -> None:
    """Read what a clip says of itself and its frames."""
    try:
        read_metadata(path)
    except DynamiCrafterError:
        pass
    if path.is_dir():
        try:
            check_clip_path(path)
        except DynamiCrafterError:
            pass
    read_frames(path)


def read_to_repeat(path: Path) -> None:
    """What ``again`` does before it generates a clip; what a clip names is looked for in the clip's folder."""
    record = read_record(path)
    find_pictures(record, None, path)
    times_usual(record.settings, variant_of(find_model_of(record.model, path)))


PARSERS: dict[str, tuple[Callable[[], Seeds], Callable[[Path], object]]] = {
    "weights": (weights_seeds, read_weights),
    "pictures": (picture_seeds, read_one_picture),
    "clips": (clip_seeds, read_clip),
    "records": (record_seeds, read_to_repeat),
    "configs": (config_seeds, lambda path: load_config(str(path))),
}


# How it is damaged

NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    1e308,
    "",
    "a" * 6000,
    "..",
    "\0",
    [],
    {},
    [[]],
    {"a": {}},
]
NASTY += [0.5, "NaN", [0, 2**62], [2] * 100, "\ud800", {"": None}]
NASTY_TEXTS = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b'"\\ud800"',
    b"\xff\xfe",
]
NASTY_BYTES = [
    b"\0" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\x7f\xff\xff\xff",
    b"\0\x01\0\0",
    b".",
]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """``data`` with some bytes other, more, fewer or elsewhere; the beginning, where headers are, is hit more often."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 12))):
        size = max(1, len(changed))
        at = int(size * chance.random() ** chance.choice((1, 3)))
        length = chance.choice((1, 2, 4, 8, 60))
        kind = chance.randrange(7)
        if kind == 0:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            piece = chance.choice(NASTY_BYTES)
            changed[at : at + len(piece)] = piece
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = chance.randbytes(length)
        elif kind == 4:
            start = chance.randrange(size)
            changed[at:at] = changed[start : start + length]
        elif kind == 5:
            del changed[at:]
        else:
            changed[at : at + 1] = bytes([(changed[at : at + 1] or b"\0")[0] ^ 1 << chance.randrange(8)])
    return bytes(changed)


def with_other_values(data: bytes, chance: random.Random) -> bytes:
    """A JSON text with one or more of its values replaced, or keys added."""
    value = {"": json.loads(data)}
    for _ in range(chance.choice((1, 1, 3))):
        places: list[tuple[Any, Any]] = []
        level: list[Any] = [value]
        while level:
            outer = level.pop()
            if isinstance(outer, (dict, list)):
                keys = list(outer) if isinstance(outer, dict) else range(len(outer))
                places += [(outer, key) for key in keys]
                level += [outer[key] for key in keys]
        outer, key = chance.choice(places)
        # A copy, as what is replaced next may lie inside it.
        outer[key] = deepcopy(chance.choice(NASTY))
        if isinstance(outer, dict) and chance.random() < 0.2:
            outer[chance.choice(("a" * 6000, "x", "\ud800", "\n"))] = deepcopy(chance.choice(NASTY))
    text = json.dumps(value.get("")).encode()
    if chance.random() < 0.3:
        old = json.dumps(chance.choice(NASTY)).encode()
        text = text.replace(old, chance.choice(NASTY_TEXTS), 1)
    return text


def other(name: str, data: bytes, chance: random.Random) -> bytes:
    """A damaged file; of JSON and of safetensors' headers half of the cases stay JSON."""
    if chance.random() < 0.5:
        if name.endswith(".json"):
            return with_other_values(data, chance)
        if name.endswith(".safetensors"):
            length = int.from_bytes(data[:8], "little")
            header = with_other_values(data[8 : 8 + length], chance)
            return len(header).to_bytes(8, "little") + header + data[8 + length :]
        record = data.find(b'{"fps"')
        if record >= 0:
            end = data.index(b'"version": 1}', record) + 13
            text = with_other_values(data[record:end], chance)
            # Of the same length, so that the container stays whole.
            return data[:record] + text[: end - record].ljust(end - record) + data[end:]
    return damaged(data, chance)


# Running


def largest_so_far() -> int:
    """Bytes of the process at its peak; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def run_case(parser: str, seeds: Seeds, seed: int, case: int, folder: Path) -> str | None:
    """Run one case in an empty folder; what is wrong, or None."""
    chance = random.Random(f"{seed} {parser} {case}")
    name = chance.choice(sorted(seeds))
    room, _, _ = name.rpartition("/")
    for more, data in seeds.items():
        if room and more.startswith(f"{room}/") or more == name:
            place = folder / more
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(other(name, data, chance) if more == name else data)
    before, begun = largest_so_far(), time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    try:
        PARSERS[parser][1](folder / (room or name))
    except DynamiCrafterError as error:
        if len(str(error)) > 5000 or "\n" in str(error).strip():
            return f"{name}: not a sentence: {str(error)[:300]!r}"
    except TooLong:
        return f"{name}: takes more than {LONGEST_SECONDS} seconds\n{traceback.format_exc()}"
    except BaseException:
        return f"{name}: {traceback.format_exc()}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.perf_counter() - begun > LONGEST_SECONDS:
        return f"{name}: took {time.perf_counter() - begun:.0f} seconds"
    if largest_so_far() - before > LARGEST_GROWTH:
        return f"{name}: grew by {(largest_so_far() - before) // 10**6} MB"
    return None


def main(words: list[str] | None = None) -> int:
    """Run what the command asks for; 1 when a case is wrong."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--parser", choices=PARSERS, help="only this one")
    options.add_argument("--seed", type=int, help="of all damage; another one each time if not given")
    options.add_argument("--case", type=int, help="only this one")
    options.add_argument("--cases", type=int, help="of each parser")
    options.add_argument("--seconds", type=float, default=60, help="in all, where --cases is not given")
    options.add_argument(
        "--keep", type=Path, default=Path("fuzzed"), help="folder for files of cases that are wrong"
    )
    given = options.parse_args(words)

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    av.logging.set_level(av.logging.PANIC)
    torch.manual_seed(0)
    seed = random.randrange(10**6) if given.seed is None else given.seed
    seeds = {name: make() for name, (make, _) in PARSERS.items() if given.parser in (None, name)}
    end = time.monotonic() + given.seconds
    done: Counter[str] = Counter()
    wrong = 0
    case = given.case or 0
    while (case < given.cases) if given.cases else (time.monotonic() < end):
        for parser in seeds:
            with tempfile.TemporaryDirectory() as folder:
                problem = run_case(parser, seeds[parser], seed, case, Path(folder))
                done[parser] += 1
                if problem is not None:
                    wrong += 1
                    kept = given.keep / f"{parser}_{seed}_{case}"
                    shutil.copytree(folder, kept, dirs_exist_ok=True)
                    sys.stdout.write(f"--seed {seed} --parser {parser} --case {case} ({kept}): {problem}\n")
                    sys.stdout.flush()
        case += 1
        if given.case is not None:
            break
    signal.signal(signal.SIGALRM, before)
    counted = ", ".join(f"{count} {parser}" for parser, count in done.items())
    sys.stdout.write(f"seed {seed}: {counted}; {wrong} wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
