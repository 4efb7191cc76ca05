"""Make the same clips with two checkouts and compare them bit for bit.

Usage: ``python -m tools.compare_checkouts OLD NEW [--python PYTHON] [--save FILE]``. OLD and NEW are folders of
checkouts. Only public names of the package and its command are used, so the two may differ in everything inside.
Each checkout runs in a process of its own, on the CPU in float32 with one thread. One line is printed for each clip;
the exit status is 1 if any differs. ``--save`` keeps the clips of OLD in an .npz file, which is read instead of
making them again as long as neither OLD nor the list of clips has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

WIDE, OTHER, TALL = "wide.png", "other.png", "tall.png"
SIZES = {WIDE: (150, 90), OTHER: (120, 100), TALL: (90, 150)}
LORA = "lora.safetensors"
LORA_LAYERS = ("attn1.to_q.weight", "attn2.to_v.weight", "proj_in.weight", "conv1.2.weight")
"""Ends of the names of the layers that the adapters change: linear layers and a convolution."""
RANK = 2
SOURCE = "source"
"""The array that says what a saved file was made from."""


@dataclass(frozen=True)
class Request:
    """Clips made by one call of the Python interface."""

    model: str
    mode: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    firsts: tuple[str, ...] = (WIDE,)
    last: str | None = None
    """The last picture of all clips of an interpolation."""
    seeds: tuple[int, ...] = ()
    """Of a batch; a single clip has its seed in ``choices``."""


REQUESTS = {
    "tiny, defaults": Request("tiny", "animate", {"prompt": "a red circle moves right"}),
    "tiny, guided": Request("tiny", "animate", {"cfg": 4.0, "negative": "blue", "seed": 1}),
    "tiny, rescaled": Request("tiny", "animate", {"cfg": 7.5, "guidance_rescale": 0.3, "seed": 2}),
    "tiny, two scales": Request("tiny", "animate", {"cfg": 3.0, "image_cfg": 1.5, "eta": 0.5, "seed": 3}),
    "tiny, wide and padded": Request("tiny", "animate", {"size": (128, 64), "fit": "pad", "seed": 4}),
    "tiny, upright and stretched": Request(
        "tiny", "animate", {"size": (64, 128), "fit": "stretch", "frames": 7}, (TALL,)
    ),
    "tiny, still": Request("tiny", "animate", {"motion": 0.0, "steps": 5, "seed": 2**63 - 1}),
    "tiny, lively": Request("tiny", "animate", {"motion": 1.0, "spacing": "uniform", "fps": 12, "steps": 7}),
    "tiny, one frame": Request("tiny", "animate", {"frames": 1, "fs": 20, "steps": 6, "eta": 1.0}),
    "tiny, between two": Request(
        "tiny", "interpolate", {"prompt": "a blue square", "seed": 5, "cfg": 2.0}, last=OTHER
    ),
    "tiny, between two, short": Request("tiny", "interpolate", {"frames": 5, "fit": "stretch"}, last=TALL),
    "tiny, loop": Request("tiny", "loop", {"prompt": "a green triangle turns", "frames": 9, "cfg": 2.5}),
    "tiny, batch": Request("tiny", "animate", {"prompt": "moves"}, (WIDE, TALL), seeds=(6, 7)),
    "random, defaults": Request("random", "animate", {"prompt": "a boat"}),
    "random, noise of the device": Request("random", "animate", {"noise_device": "device", "steps": 3}),
    "random, loop": Request("random", "loop", {"spacing": "linspace", "steps": 4, "image_cfg": 2.0}),
    "random, batch between two": Request(
        "random", "interpolate", {"steps": 3, "frames": 4}, (WIDE, OTHER), TALL, (8, 9)
    ),
}
COMMANDS = {
    "command, seeds": ["animate", TALL, "--model", "random", "--seed", "1,2", "--batch", "2", "--steps", "3"],
    "command, LoRA": ["animate", WIDE, "--lora", f"{LORA}:0.7", "--prompt", "a red circle", "--steps", "5"],
    "command, LoRA in a loop": ["loop", OTHER, "--lora", LORA, "--frames", "6", "--steps", "4"],
}


def write_inputs(folder: Path, checkout: Path) -> None:
    """Pictures, and adapters of random numbers for the shapes of the model ``tiny`` of a checkout."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    for hue, (name, (width, height)) in enumerate(SIZES.items()):
        y, x = np.mgrid[:height, :width]
        channels = [128 + 100 * np.sin((x + 2 * y + 40 * hue) / (11 + channel)) for channel in range(3)]
        Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(folder / name)

    (weights,) = (checkout / "dynamicrafter").rglob("tiny.safetensors")
    generator = np.random.default_rng(0)
    adapters: Arrays = {}
    with safe_open(weights, framework="np") as file:
        for name in sorted(file.keys()):
            if name.startswith("model.diffusion_model.") and name.endswith(LORA_LAYERS):
                rows, *columns = file.get_slice(name).get_shape()
                stem = name.removeprefix("model.").removesuffix(".weight")
                down = generator.standard_normal((RANK, *columns)) * 0.1
                up = generator.standard_normal((rows, RANK, *(1 for _ in columns[1:]))) * 0.1
                adapters[f"{stem}.lora_A.weight"] = down.astype(np.float32)
                adapters[f"{stem}.lora_B.weight"] = up.astype(np.float32)
    save_file(adapters, folder / LORA)


def clips_of(checkout: Path, python: str) -> Arrays:
    """All clips as a checkout makes them: what it wrote with :func:`write_clips`, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, checkout)
        environment = {"DYNAMICRAFTER_HOME": name, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run(
            [python, str(Path(__file__).resolve()), "--make", name],
            cwd=checkout,
            env={**os.environ, **environment},
            check=True,
        )
        with np.load(folder / "clips.npz") as file:
            return dict(file)


def write_clips(folder: Path) -> None:
    """Make all clips with the package in the working directory and write them to ``folder / "clips.npz"``."""
    # In place of the folder of this file, so that the package is the checkout's.
    sys.path[0] = os.getcwd()
    import dynamicrafter

    assert Path(dynamicrafter.__file__).parent.parent == Path.cwd(), dynamicrafter.__file__
    models = {name: dynamicrafter.load(name, device="cpu", dtype="float32") for name in ("tiny", "random")}
    made: Arrays = {}
    for name, request in REQUESTS.items():
        latents: list[Tensor] = []
        clips = call(dynamicrafter, models[request.model], request, folder, latents)
        made[f"{name}/latents"] = latents[-1].numpy()
        made[f"{name}/frames"] = np.stack([clip.frames.numpy() for clip in clips])
    for name, words in COMMANDS.items():
        output = folder / name / "clip"
        output.parent.mkdir()
        paths = [str(folder / word) if word.startswith((*SIZES, LORA)) else word for word in words]
        options = ["--device", "cpu", "--dtype", "fp32", "--quiet", "--output", str(output)]
        command = [sys.executable, "-m", "dynamicrafter", *paths, *options]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(f"{name}: {ran.stderr}")
        # Several clips are folders beside each other, numbered.
        pictures = sorted(output.parent.rglob("*.png"))
        made[f"{name}/frames"] = np.stack([np.asarray(Image.open(picture)) for picture in pictures])
    np.savez(folder / "clips.npz", **made)


def call(package: Any, model: Any, request: Request, folder: Path, latents: list[Tensor]) -> list[Any]:
    """The clips of a request; the latents after every step are added to ``latents``."""
    pictures = [folder / name for name in request.firsts]
    last = None if request.last is None else folder / request.last
    asked: dict[str, Any] = {"callback": lambda step: latents.append(step.x)}
    if request.seeds:
        settings = package.make_settings(model.variant, request.mode, **request.choices)
        lasts = None if last is None else [last] * len(pictures)
        return package.render(model, settings, pictures, lasts, request.seeds, **asked)
    (first,) = pictures
    if last is not None:
        return [package.interpolate(model, first, last, **request.choices, **asked)]
    return [getattr(package, request.mode)(model, first, **request.choices, **asked)]


def source_of(checkout: Path) -> str:
    """A digest of all that the clips of a checkout depend on, this file included."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((checkout / "dynamicrafter").rglob("*")):
        if path.suffix in (".py", ".safetensors"):
            digest.update(path.relative_to(checkout).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def saved_clips(file: Path, checkout: Path, python: str) -> Arrays:
    """The clips of a checkout from a file, which is made anew when the checkout is not the one it was made from."""
    source = source_of(checkout)
    with contextlib.suppress(FileNotFoundError), np.load(file) as saved:
        if saved[SOURCE] == source:
            return {name: saved[name] for name in saved.files if name != SOURCE}
    clips = clips_of(checkout, python)
    np.savez(file, **clips, **{SOURCE: np.array(source)})
    return clips


def difference(old: Array | None, new: Array | None) -> str:
    """How two arrays differ; nothing where they are equal to the bit."""
    if old is None or new is None:
        return f"only {'NEW' if old is None else 'OLD'} has it"
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return f"{old.dtype}{old.shape} became {new.dtype}{new.shape}"
    if old.tobytes() == new.tobytes():
        return ""
    apart = np.abs(old.astype(np.float64) - new)
    return f"{np.count_nonzero(apart)} of {apart.size} values differ, by {apart.max():g} at most"


def differences(old: Arrays, new: Arrays) -> dict[str, str]:
    """How the clips of each name differ; nothing for those that are equal to the bit."""
    found: dict[str, list[str]] = {}
    for name in {**old, **new}:
        clip, _, part = name.rpartition("/")
        said = difference(old.get(name), new.get(name))
        found.setdefault(clip, []).extend([f"{part}: {said}"] if said else [])
    return {clip: "; ".join(said) for clip, said in found.items()}


def main(arguments: list[str] | None = None) -> int:
    """Compare two checkouts; 1 if any clip differs."""
    parser = argparse.ArgumentParser(prog="tools.compare_checkouts", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--python", type=os.path.abspath, default=sys.executable, help="(default: this one)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the clips of OLD here")
    chosen = parser.parse_args(arguments)
    old_checkout, new_checkout = chosen.old.resolve(), chosen.new.resolve()
    if chosen.save is None:
        old = clips_of(old_checkout, chosen.python)
    else:
        old = saved_clips(chosen.save, old_checkout, chosen.python)
    found = differences(old, clips_of(new_checkout, chosen.python))
    for clip, said in found.items():
        print(f"DIFFERS  {clip}: {said}" if said else f"equal  {clip}")
    return int(any(found.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        write_clips(Path(sys.argv[2]))
    else:
        sys.exit(main())
