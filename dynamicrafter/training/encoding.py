"""Encodes clips and captions once with the frozen networks and caches the results on disk for training.

The cache is in the data folder, so that all runs on the same clips share it. Excerpts and captions are separate files:
an edited caption does not make its clip be encoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..atomic import check_writable, clear_unfinished
from ..errors import CheckpointError, UsageError
from ..model.conditioning import place_keyframes, repeat_picture
from ..model.configs import TEXT_TOKENS
from ..model.encoders import count_tokens
from ..pipeline import TorchModel
from .config import FinetuneConfig
from .data import Row, bucket, piece_size, read_piece
from .movies import UnusableClip, movie_file
from .processes import process_count, process_index, wait_for_all
from .state import load_state, save_state
from .trainer import StepProgress

CACHE = "cache"
"""Name of the cache in a data folder."""
_CLIPS, _TEXTS, _LOCK = "clips", "texts", ".lock"
"""Names in a cache."""
_FORMAT = 3
"""Version of the encoding and naming of clips; encoded clips of other versions are not used."""
_MOST_PIECES = TEXT_TOKENS - 2
"""Tokens of a caption that are used; start and end take the other two."""


@dataclass(frozen=True)
class EncodedPiece:
    """One encoded excerpt of a clip."""

    latents: Tensor
    """Scaled latents ``[4, t, h, w]``."""
    concat: Tensor
    """Image latents ``[4, t, h, w]`` that the network is conditioned on."""
    text: Tensor
    """``[77, c]``."""
    vision: Tensor
    """``[tokens, c]`` of the condition frame."""
    fs: int
    mask: Tensor | None = None
    """Weights ``[1, t, h, w]`` of the loss in 0..1; None weights all places equally."""


class ItemFiles(NamedTuple):
    """The files of one encoded excerpt."""

    clip: Path
    text: Path


def load_item(clip: Path, text: Path | None = None) -> EncodedPiece:
    """Load an encoded excerpt and the text of its caption, which files of version 0.1 contain themselves.

    Raises CheckpointError for any other file.
    """
    values = _load(clip, "clip")
    if text is not None:
        values |= _load(text, "caption")
    try:
        return EncodedPiece(**values)
    except TypeError as problem:
        raise _incomplete(clip, "clip") from problem


def _load(path: Path, kind: str) -> dict[str, Any]:
    try:
        return load_state(path)
    except CheckpointError as problem:
        raise _incomplete(path, kind) from problem


def _incomplete(path: Path, kind: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a complete encoded {kind}; delete it, and the {kind} will be encoded again"
    )


def cache_folder(row: Row, config: FinetuneConfig) -> Path:
    """The folder of the row's encoded clip and caption."""
    return row.folder / CACHE if config.cache is None else Path(config.cache)


@contextmanager
def locked_cache(folder: Path, note: Callable[[str], None] | None = None) -> Generator[None]:
    """A context in which this run alone writes to a cache; removes the unfinished files of killed runs.

    ``note`` is called with a message if another run is writing to it, which is then waited for. Raises UsageError if
    the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = cast(Any, FileLock(folder / _LOCK))
    try:
        for name in (_CLIPS, _TEXTS):
            (folder / name).mkdir(parents=True, exist_ok=True)
            check_writable(folder / name / "item.pt")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if note is not None:
                note(f"another run is encoding clips into {folder}; this one waits until it is done")
            lock.acquire()
    except OSError as problem:
        raise UsageError(
            f"the cache {folder} cannot be written to ({problem.strerror or problem}); set cache to another folder"
        ) from problem
    try:
        for name in (_CLIPS, _TEXTS):
            clear_unfinished(folder / name)
        yield
    finally:
        lock.release()


@contextmanager
def frozen_networks(model: TorchModel, device: torch.device) -> Generator[TorchModel]:
    """The model with its frozen networks on ``device`` and the trained ones on the CPU.

    After the context, the main process keeps the frozen networks on the CPU, to save them at the end and to decode
    samples; in all other processes they have no values.
    """
    for part in (model.unet, model.resampler):
        part.to("cpu")
    frozen = (model.vae, model.text, model.vision)
    for part in frozen:
        part.to(device)
    try:
        yield replace(model, device=device)
    finally:
        for part in frozen:
            part.to("cpu" if process_index() == 0 else "meta")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def encode_together(
    model: TorchModel,
    rows: Sequence[Row],
    config: FinetuneConfig,
    skipped: Callable[[str], None] | None = None,
    progress: StepProgress | None = None,
    *,
    who: Sequence[str] | None = None,
    held_out: bool = False,
) -> list[ItemFiles]:
    """:func:`encode_items` with the work split among the processes; each returns the files of all rows."""
    count, index = process_count(), process_index()
    who = fingerprints(model) if who is None else who
    if count > 1:
        _encode_rows(model, who, rows[index::count], config, None, progress)
        wait_for_all()
        progress = None
    return encode_items(model, rows, config, skipped, progress, who=who, held_out=held_out)


def encode_items(
    model: TorchModel,
    rows: Sequence[Row],
    config: FinetuneConfig,
    skipped: Callable[[str], None] | None = None,
    progress: StepProgress | None = None,
    *,
    who: Sequence[str] | None = None,
    held_out: bool = False,
) -> list[ItemFiles]:
    """Encode every excerpt and caption that is not in the cache yet; returns the files of all usable excerpts.

    Those of a row are repeated as often as the row says.

    A file's name depends on the clip or its caption, the networks that encode it and every relevant setting.
    ``skipped`` is called with a message for every clip that is skipped, ``progress`` after every clip. ``who`` is the
    model's fingerprints, if known; ``held_out`` marks the rows as the validation clips. Raises UsageError if no clip is
    usable or the disk is full.
    """
    reasons: list[str] = []

    def left_out(reason: str) -> None:
        reasons.append(reason)
        if skipped is not None:
            skipped(reason)

    who = fingerprints(model) if who is None else who
    found = _encode_rows(model, who, rows, config, left_out, progress)
    if not found and held_out:
        raise UsageError(
            f"none of the {len(rows)} held-out clip(s) at the end of the list can be used; end the list with usable "
            f"clips, or set held_out to 0; the first one: {reasons[0]}"
        )
    if not found:
        raise UsageError(
            f"none of the {len(rows)} clip(s) of the list can be used; the first one: {reasons[0]}"
        )
    return found


@torch.inference_mode()
def _encode_rows(
    model: TorchModel,
    who: Sequence[str],
    rows: Sequence[Row],
    config: FinetuneConfig,
    skipped: Callable[[str], None] | None,
    progress: StepProgress | None,
) -> list[ItemFiles]:
    found: list[ItemFiles] = []
    for done, row in enumerate(rows, 1):
        cache = cache_folder(row, config)
        try:
            for view in range(config.views):
                clip = cache / _CLIPS / f"{_clip_key(model, who, row, config, view, cache)}.pt"
                if not clip.exists():
                    save_state(_encode(model, row, config, view), clip)
                item = ItemFiles(clip, _encode_text(model, who, _caption(row, config), cache))
                found.extend([item] * row.repeats)
        except UnusableClip as problem:
            if skipped is not None:
                skipped(str(problem))
        if progress is not None:
            progress(done, len(rows))
    return found


def _encode_text(model: TorchModel, who: Sequence[str], caption: str, cache: Path) -> Path:
    path = cache / _TEXTS / f"{_digest(_FORMAT, caption, who[-1])}.pt"
    if not path.exists():
        save_state({"text": model.text([caption])[0].float().cpu()}, path)
    return path


def cut_captions(rows: Sequence[Row], config: FinetuneConfig) -> str | None:
    """One sentence about the captions that are truncated, None if there are none."""
    lengths = [(row, count_tokens(_caption(row, config))) for row in rows]
    long = [(row, pieces) for row, pieces in lengths if pieces > _MOST_PIECES]
    if not long:
        return None
    row, pieces = long[0]
    return (
        f"{len(long)} caption(s) are longer than the limit of {_MOST_PIECES} tokens and are truncated; the first one, "
        f"that of {row.path}, has {pieces}"
    )


def _caption(row: Row, config: FinetuneConfig) -> str:
    return row.motion if config.motion_captions and row.motion else row.caption


def _clip_key(
    model: TorchModel, who: Sequence[str], row: Row, config: FinetuneConfig, view: int, cache: Path
) -> str:
    """File name of an encoded excerpt; raises UnusableClip if there is no clip file."""
    how = [config.mode, config.frames, config.shortest, config.area, config.strides, config.random_frame]
    clip = [_identity(row.path, cache), row.mask and _identity(row.mask, cache), row.fps]
    return _digest(_FORMAT, clip, [model.variant.name, *who[:-1]], how, view)


def _identity(path: Path, cache: Path) -> list[object]:
    """Place, size and time of a file; raises UnusableClip if there is none."""
    file = movie_file(path)
    # Relative to the cache, so that a data folder can be moved with it; Windows has no such path between drives.
    same_drive = path.absolute().drive == cache.absolute().drive
    place = Path(os.path.relpath(path, cache)) if same_drive else path
    return [place.as_posix(), file.st_size, file.st_mtime_ns]


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def fingerprints(model: TorchModel) -> list[str]:
    """Digests of the frozen networks, the text encoder last; computing them takes seconds per gigabyte."""
    parts = (model.vae.encoder, model.vae.quant_conv, model.vision, model.text)
    return [_fingerprint(part) for part in parts]


def _fingerprint(module: nn.Module) -> str:
    """A digest of all weights, independent of the device."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _encode(model: TorchModel, row: Row, config: FinetuneConfig, view: int) -> dict[str, Any]:
    """The fields of an EncodedPiece except its text."""
    preset = model.variant.preset
    if row.is_image and config.mode == "interpolate":
        raise UnusableClip(f"{row.path} is an image, but mode interpolate needs clips")
    size = (preset.width, preset.height)
    if config.area is not None:
        width, height = piece_size(row)
        size = bucket(width / height, config.area)
    seed = int(hashlib.sha256(f"{row.path.name} {view}".encode()).hexdigest()[:12], 16)
    generator = torch.Generator().manual_seed(seed)
    piece = read_piece(row, config.frames, size, config.strides, generator, config.shortest)
    frames = piece.frames.to(model.device)
    count = len(frames)
    z = torch.cat([_latents(model, frame[None], generator) for frame in frames]).transpose(0, 1)[None]
    if config.mode == "interpolate":
        seen, concat = 0, place_keyframes({0: z[:, :, 0], -1: z[:, :, -1]}, count)
    else:
        seen = int(torch.randint(count, (1,), generator=generator)) if config.random_frame else 0
        concat = repeat_picture(z[:, :, seen], count)
    encoded = {
        "latents": z[0].cpu(),
        "concat": concat[0].cpu().contiguous(),
        "vision": vision_tokens(model, frames[seen : seen + 1])[0],
        "fs": piece.fs(preset),
    }
    if piece.mask is not None:
        mask = F.interpolate(piece.mask, z.shape[-2:], mode="area")
        encoded["mask"] = mask.transpose(0, 1).contiguous()
    return encoded


def _latents(model: TorchModel, picture: Tensor, generator: torch.Generator) -> Tensor:
    posterior = model.vae.encode(picture.to(model.dtype))
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    return (posterior.sample(noise) * model.vae.config.scale_factor).float()


def vision_tokens(model: TorchModel, picture: Tensor) -> Tensor:
    """Image encoder tokens ``[b, tokens, c]`` of images ``[b, 3, H, W]`` in [-1, 1], on the CPU."""
    return model.vision(picture).float().cpu()
