"""Clips to be made: rendered in batches, written with a record of their making."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

from ..api import TINY, ModelFiles, load, render
from ..errors import Cancelled
from ..hashing import file_sha256, remembered_sha256
from ..media.pictures import read_picture
from ..media.video import write_clip
from ..model.configs import TEXT_TOKENS
from ..model.encoders import count_tokens
from ..model.variants import Mode
from ..pipeline import Model
from ..settings import Settings, clip_metadata
from ..weights.download import weights_folder
from ..weights.fill import single_thread
from ..weights.formats.files import file_sha256 as weights_sha256
from ..weights.formats.files import open_weights
from .progress import Bars

_RELEASED: dict[Mode, str] = {"animate": "512", "interpolate": "512_interp", "loop": "512_interp"}
"""A model of the catalogue for each mode."""


@dataclass(frozen=True)
class Source:
    """The model of a run as a clip remembers it."""

    asked: str
    files: ModelFiles


@dataclass(frozen=True)
class Shot:
    """One clip to make: its pictures' files, its settings and where it goes."""

    settings: Settings
    pictures: tuple[Path, ...]
    target: str
    """Absolute; with a slash at its end it is a folder whatever its name."""


def make(shots: Sequence[Shot], source: Source, given: Namespace, dtype: str, written: list[str]) -> object:
    """Make all clips, each written as soon as its batch is ready; returns what ``--json`` prints.

    ``given`` holds the options that all commands share; ``written`` gets each finished clip.
    """
    hidden = given.quiet or given.json
    said = shots[0].settings
    notes = what_is_cut("prompt", said.prompt) + what_is_cut("negative prompt", said.negative)
    if source.asked == TINY:
        notes.append(tiny_knows(said.mode))
    if not given.json:
        for note in notes:
            # In one piece: what stops the program may come between a line and its end.
            print(f"note: {note}\n", end="", file=sys.stderr)
    with Bars(source.asked, hidden) as bars:
        model = load(source.files, device=given.device, dtype=dtype, progress=bars.loading)
    results: list[dict[str, Any]] = []
    with Hashes(source.files) as hashes:
        for batch in _batches(shots, getattr(given, "batch", 1)):
            for result in _make_batch(batch, model, source, hashes, hidden, written):
                results.append(result)
                if not given.json:
                    print(_line(result), flush=True)
    return {"clips": results, "notes": notes}


class Hashes:
    """Hashes of the weights files, taken in a thread of their own while the networks work.

    Gigabytes take a while, so that leaving the context stops one that is not done.
    """

    def __init__(self, files: ModelFiles) -> None:
        adapters = tuple(lora.path for lora in files.loras)
        paths = (files.weights, files.text_encoder, files.image_encoder, *adapters)
        self._stopped = Event()
        self._pool = ThreadPoolExecutor(1)
        self._pending: dict[Path, Future[str]] = {
            path: self._pool.submit(weights_hash, path, self._stopped)
            for path in dict.fromkeys(paths)
            if path is not None
        }

    def __enter__(self) -> Hashes:
        """Use as a context, so that no thread outlives the work."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what is not done."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def known(self, path: Path | None) -> dict[str, str] | None:
        """A file as a clip's record names it; waits for its hash."""
        if path is None:
            return None
        return {"file": str(path.resolve()), "sha256": self._pending[path].result()}


def weights_hash(path: Path, stopped: Event | None = None) -> str:
    """SHA-256 of a weights file or of all its shards, remembered; raises Cancelled soon after ``stopped`` is set."""

    def check(done: int, total: int) -> None:
        if stopped is not None and stopped.is_set():
            raise Cancelled("the hash is no longer wanted")

    memory = weights_folder() / "hashes.json"
    parts = open_weights(path).files
    return remembered_sha256(path, memory, lambda file: weights_sha256(file, check), parts)


def _batches(shots: Sequence[Shot], size: int) -> Iterator[list[Shot]]:
    """Shots in order, at most ``size`` at once, and only those of equal settings together."""
    batch: list[Shot] = []
    for shot in shots:
        alike = batch and replace(shot.settings, seed=0) == replace(batch[0].settings, seed=0)
        if batch and (not alike or len(batch) == size):
            yield batch
            batch = []
        batch.append(shot)
    yield batch


_SMALL_NETWORK = 50_000_000
"""Parameters below which a network's layers are too short to be worth sharing among threads."""


def threads_that_pay(model: Model) -> AbstractContextManager[None]:
    """One thread for a small network on the CPU: its thousands of short layers lose more to waiting for each other,
    above all on a busy machine, than they gain."""
    parameters = sum(parameter.numel() for parameter in model.unet.parameters())
    small = model.device.type == "cpu" and parameters < _SMALL_NETWORK
    return single_thread() if small else nullcontext()


def _make_batch(
    batch: list[Shot], model: Model, source: Source, hashes: Hashes, hidden: bool, written: list[str]
) -> Iterator[dict[str, Any]]:
    started = time.monotonic()
    settings = batch[0].settings
    # Read (and hashed) only now: hundreds of large pictures would not fit into memory together.
    pictures = [[read_picture(file) for file in shot.pictures] for shot in batch]
    records = [_record(shot) for shot in batch]
    firsts = [shown[0] for shown in pictures]
    lasts = [shown[1] for shown in pictures] if settings.mode == "interpolate" else None
    name = Path(batch[0].target).name + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
    with Bars(name, hidden) as bars, threads_that_pay(model):
        clips = render(
            model, settings, firsts, lasts, [shot.settings.seed for shot in batch], progress=bars.stage
        )
    seconds = round(time.monotonic() - started, 3)
    for shot, record, clip in zip(batch, records, clips, strict=True):
        metadata = {**record, "model": _model_record(model, source, hashes)}
        path = write_clip(clip.frames, shot.target, clip.settings.fps, metadata)
        written.append(str(path))
        frames, height, width = clip.frames.shape[:3]
        yield {
            "output": str(path),
            "frames": frames,
            "width": width,
            "height": height,
            "fps": clip.settings.fps,
            "seconds": seconds,
            "settings": record["settings"],
        }


def _line(result: dict[str, Any]) -> str:
    size = f"{result['width']}x{result['height']}, {result['frames']} frame(s) at {result['fps']} fps"
    return f"{result['output']}: {size}, seed {result['settings']['seed']}, {result['seconds']:.1f} s"


def _record(shot: Shot) -> dict[str, Any]:
    """What a clip's file says of its making, but for the model; enough for ``again``."""
    return {
        **clip_metadata(shot.settings),
        "pictures": [{"file": str(file.resolve()), "sha256": file_sha256(file)} for file in shot.pictures],
    }


def _model_record(model: Model, source: Source, hashes: Hashes) -> dict[str, Any]:
    return {
        "asked": source.asked,
        "variant": model.variant.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": hashes.known(source.files.weights),
        "text_encoder": hashes.known(source.files.text_encoder),
        "image_encoder": hashes.known(source.files.image_encoder),
        "loras": [
            {**(hashes.known(lora.path) or {}), "strength": lora.strength} for lora in source.files.loras
        ],
    }


def tiny_knows(mode: Mode) -> str:
    """The note that the built-in model is none for real pictures, with one that is trained for ``mode``."""
    name = _RELEASED[mode]
    return (
        f"the built-in tiny model knows coloured shapes only; to {mode} real pictures fetch a released one with "
        f"'dynamicrafter download {name}' and add --model {name}"
    )


def what_is_cut(name: str, prompt: str) -> list[str]:
    """A note if ``prompt``, called ``name``, is longer than what the model reads."""
    most = TEXT_TOKENS - 2  # All but the start and the end.
    count = count_tokens(prompt)
    if count <= most:
        return []
    return [f"the {name} has {count} word pieces; the model reads the first {most}"]
