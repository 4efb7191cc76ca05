"""Trains an existing checkpoint on a folder of clips, which are encoded once and cached on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as activations

from ..atomic import clear_unfinished
from ..diffusion.schedule import TRAIN_STEPS, make_schedule
from ..errors import UsageError
from ..model.attention import SpatialTransformer, TemporalTransformer
from ..model.layers import ResBlock
from ..model.placement import BlockSwap
from ..pipeline import TorchModel
from ..weights.detect import variant_metadata
from ..weights.formats.entries import Entry, Piece
from ..weights.formats.safetensors_file import write_safetensors
from ..weights.layout import PREFIXES
from ..weights.lora import read_adapters
from ..weights.preview import preview_metadata
from .config import FinetuneConfig, Target, Timesteps
from .data import Row, enough_for, read_list
from .encoding import (
    EncodedPiece,
    ItemFiles,
    cache_folder,
    cut_captions,
    encode_together,
    fingerprints,
    frozen_networks,
    load_item,
    locked_cache,
    vision_tokens,
)
from .lora import (
    Adapters,
    adapter_weights,
    add_adapters,
    forget_steps,
    forget_steps_after,
    is_adapter,
    is_temporal,
    keep_compact,
    quantise_frozen,
    save_adapters,
    start_from,
    step_file,
)
from .losses import DenoisingLoss, drop_conditions, time_noise
from .processes import join_processes, process_count, process_index, wait_for_all
from .run_log import HELD_OUT, Report
from .samples import SampleWriter
from .state import make_folder
from .trainer import STATE, Batch, Draw, Trainer, seed_everything

SAMPLES = "samples"
"""Name of a subfolder in a run's folder."""
_GAUGED = (125, 375, 625, 875)
"""Timesteps of the validation loss."""
_HIGH_SHARE, _HIGH_RANGE = 0.75, 0.3
"""For "high" timesteps: the share of samples, and the part of the range they come from."""


def choose_trained(loss: DenoisingLoss, target: Target, adapters: Adapters) -> None:
    """Select the trained weights of network and resampler; all targets but two include the resampler."""
    loss.requires_grad_(False)
    if target == "lora":
        add_adapters(loss.unet, adapters)
        return
    for name, parameter in loss.unet.named_parameters():
        image_path = "to_k_ip" in name or "to_v_ip" in name or name.endswith(".alpha")
        parameter.requires_grad_(
            {
                "all": True,
                "spatial": not is_temporal(name),
                "temporal": is_temporal(name),
                "image_proj": image_path,
            }[target]
        )
    loss.resampler.requires_grad_(target != "temporal")


def blocks_of(unet: nn.Module) -> list[nn.Module]:
    """The blocks of a network, in order: those that are recomputed, and swapped, as a whole."""
    kinds = (ResBlock, SpatialTransformer, TemporalTransformer)
    return [module for module in unet.modules() if isinstance(module, kinds)]


def recompute_activations(unet: nn.Module) -> None:
    """Enable activation checkpointing for every block of ``unet``, so that only block outputs are kept."""
    for block in blocks_of(unet):
        block.forward = partial(cast(Any, activations).checkpoint, block.forward, use_reentrant=False)


def swapped_blocks(unet: nn.Module, count: int) -> list[nn.Module]:
    """The ``count`` blocks with the most bytes of frozen weights, or all that have some, in order."""

    def frozen(block: nn.Module) -> int:
        return sum(p.nbytes for p in block.parameters() if not p.requires_grad)

    blocks = [block for block in blocks_of(unet) if frozen(block)]
    largest = sorted(blocks, key=frozen, reverse=True)[:count]
    return [block for block in blocks if block in largest]


def finetune(
    model: TorchModel,
    config: FinetuneConfig,
    folder: Path,
    *,
    skipped: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
    report: Callable[[Report], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Train ``model`` in ``folder``, resuming a run that is already there; returns the path of the resulting file.

    ``skipped`` is called with a message for every unusable clip, ``note`` with other messages, and ``progress`` with
    the clips encoded and the steps trained; all only in the main process. The model is modified: its network and
    resampler are the trained ones, and its other networks are on the CPU (and empty in all processes but the main one).
    Raises UsageError for unusable data and for contradictory settings, CheckpointError for a file to start from that is
    not a LoRA.
    """
    if config.mode not in model.variant.modes:
        raise UsageError(
            f"{model.variant.name} supports {' and '.join(model.variant.modes)}, not {config.mode}; "
            "start from a model of that mode"
        )
    if model.dtype != torch.float32:
        raise UsageError(
            f"training starts from weights in float32, but the model is in {model.dtype}; load it with "
            'dtype="float32" and set precision in the config'
        )
    if model.quantised is not None:
        raise UsageError(
            f"training starts from full weights, but the model's are {model.quantised}; load it with "
            'weights="full" and set base in the config'
        )
    if model.placement is not None:
        raise UsageError(
            'training keeps its networks in one place, but the model moves them; load it with memory="high"'
        )
    blocks = len(blocks_of(model.unet))
    if config.block_swap > blocks:
        raise UsageError(
            f"block_swap must be at most {blocks}, the number of blocks of {model.variant.name}, but "
            f"{config.block_swap} was given; use a smaller one"
        )
    incomplete: list[str] = []
    rows = listed_clips(config, incomplete.append)
    if not 0 <= config.held_out < len(rows):
        raise UsageError(
            f"held_out must leave a clip to train on, but {config.held_out} of {len(rows)} were to be held out"
        )
    device = join_processes()
    if config.block_swap and process_count() > 1:
        raise UsageError(
            f"block_swap needs a single process, but {process_count()} train together; start one, or set it to 0"
        )
    main = process_index() == 0
    if not main:
        skipped = note = report = progress = None
    # A run that goes on needs the file no more. Any other is told of a wrong one before clips are encoded.
    first = None
    if config.start_from is not None and not (folder / STATE).exists():
        first = read_adapters(Path(config.start_from))
    make_folder(folder)
    if main:
        clear_unfinished(folder / SAMPLES)

    def encoded(done: int, total: int) -> None:
        if progress is not None:
            progress("encoding", done, total)

    def stepped(done: int, total: int) -> None:
        if progress is not None:
            progress("training", done, total)

    def tell(text: str) -> None:
        if note is not None:
            note(text)

    for text in incomplete:
        tell(text)
    cut = cut_captions(rows, config)
    if cut is not None:
        tell(cut)
    trained, held_out = rows[: len(rows) - config.held_out], rows[len(rows) - config.held_out :]
    held_out = [replace(row, repeats=1) for row in held_out]
    with ExitStack() as encoding:
        # The other processes of this run write to the cache too. A folder of two names is locked once.
        if main:
            for cache in sorted({os.path.realpath(cache_folder(row, config)) for row in rows}):
                encoding.enter_context(locked_cache(Path(cache), tell))
        wait_for_all()
        placed = encoding.enter_context(frozen_networks(model, device))
        who = fingerprints(placed)
        items = encode_together(placed, trained, config, skipped, encoded, who=who)
        enough_for(process_count(), items)
        unseen = (
            encode_together(placed, held_out, config, skipped, encoded, who=who, held_out=True)
            if held_out
            else []
        )
        draw = item_draw(placed, items, config)
        sampler = (
            SampleWriter(placed, trained, config, folder / SAMPLES, tell) if config.samples.every else None
        )
    loss = DenoisingLoss(model.unet, model.resampler, make_schedule(model.variant.diffusion), config.min_snr)
    # New adapters must be the same in every process.
    seed_everything(config.trainer.seed)
    choose_trained(loss, config.target, config.adapters)
    if first is not None:
        start_from(loss.unet, config.adapters, first, str(config.start_from))
    if config.base == "bf16":
        keep_compact(loss.unet, loss.resampler)
    elif config.base != "float32":
        quantise_frozen(loss.unet, config.base)
    if config.checkpointing:
        recompute_activations(loss.unet)
    if config.block_swap:
        BlockSwap(loss, swapped_blocks(loss.unet, config.block_swap), device)

    def write_adapters(path: Path) -> None:
        weights = {name: value for name, value in model.unet.named_parameters() if is_adapter(name)}
        weights = trainer.gathered(weights)
        if main:
            save_adapters(adapter_weights(weights, config.adapters), path)

    def keep_adapters(step: int) -> None:
        write_adapters(step_file(folder, step))
        if main and config.keep_last is not None:
            forget_steps(folder, config.keep_last)

    trainer = Trainer(
        loss,
        draw,
        config.trainer,
        folder,
        validate=held_out_gauge(unseen, device) if unseen else None,
        report=report,
        progress=stepped,
        sample=sampler,
        sample_every=config.samples.every,
        background=True,
        saved=keep_adapters if config.target == "lora" else None,
        identity=_identity(config),
        placed=config.block_swap > 0,
    )
    if trainer.step >= config.trainer.steps:
        tell(
            f"{folder} is already at step {trainer.step} of {config.trainer.steps}, so nothing is trained; "
            "increase steps to continue, or use another folder to start from scratch"
        )
    if main and config.target == "lora":
        forget_steps_after(folder, trainer.step)
    trainer.run()
    if config.target == "lora":
        path = folder / "lora.safetensors"
        write_adapters(path)
    else:
        path = folder / "model.safetensors"
        network = trainer.gathered(model.unet.state_dict())
        resampler = trainer.gathered(model.resampler.state_dict())
        if main:
            save_model(model, network, resampler, path)
    wait_for_all()
    return path


def _identity(config: FinetuneConfig) -> dict[str, object]:
    """Settings that must not change when a run is resumed."""
    fixed: dict[str, object] = {"model": config.model, "target": config.target, "mode": config.mode}
    if config.target == "lora":
        fixed["rank"] = config.rank
        # States of earlier versions have none.
        if config.adapters.alpha is not None:
            fixed["alpha"] = float(config.adapters.alpha)
    return fixed


def listed_clips(config: FinetuneConfig, note: Callable[[str], None] | None = None) -> list[Row]:
    """The rows of all data folders, in order; raises UsageError if one has none that is usable.

    ``note`` is called with a message about skipped rows.
    """
    rows: list[Row] = []
    for data in config.folders:
        listing = None if data.listing is None else Path(data.listing)
        rows += [replace(row, repeats=data.repeats) for row in read_list(Path(data.folder), listing, note)]
    return rows


def held_out_gauge(
    items: Sequence[ItemFiles], device: torch.device
) -> Callable[[nn.Module], Mapping[str, float]]:
    """A function that measures the mean loss on encoded clips, with the same noise each time and nothing dropped."""

    def measure(module: nn.Module) -> Mapping[str, float]:
        losses: list[float] = []
        for number, files in enumerate(items):
            item = load_item(*files)
            generator = torch.Generator().manual_seed(number)
            for t in _GAUGED:
                batch = {
                    "latents": item.latents,
                    "noise": torch.randn(item.latents.shape, generator=generator),
                    "t": torch.tensor(t),
                    "concat": item.concat,
                    "text": item.text,
                    "vision": item.vision,
                    "fs": torch.tensor(item.fs),
                }
                given = {key: value[None] for key, value in batch.items()} | masks_of([item])
                losses.append(float(module(**{key: value.to(device) for key, value in given.items()})))
        return {HELD_OUT: sum(losses) / len(losses)}

    return measure


def item_draw(model: TorchModel, items: Sequence[ItemFiles], config: FinetuneConfig) -> Draw:
    """A source of random batches of equally sized items, with dropped conditions, on the trained network's device."""
    with torch.inference_mode():
        empty = model.text([""])[0].float().cpu()
        preset = model.variant.preset
        grey = vision_tokens(model, torch.zeros(1, 3, preset.height, preset.width, device=model.device))[0]
    shapes = {item: tuple(load_item(*item).latents.shape) for item in dict.fromkeys(items)}
    groups: dict[tuple[int, ...], list[ItemFiles]] = {}
    for item in items:
        groups.setdefault(shapes[item], []).append(item)

    def draw(generator: torch.Generator) -> Batch:
        chosen = int(torch.randint(len(items), (1,), generator=generator))
        group = groups[shapes[items[chosen]]]
        picks = torch.randint(len(group), (config.batch,), generator=generator)
        loaded = [load_item(*group[int(pick)]) for pick in picks]
        dropped = drop_conditions(torch.rand(config.batch, generator=generator), config.drop)
        latents = torch.stack([item.latents for item in loaded])
        noise = torch.randn(latents.shape, generator=generator)
        t = draw_timesteps(config.batch, config.timesteps, generator)
        concat = torch.stack([item.concat for item in loaded])
        if config.time_noise:
            concat = time_noise(concat, t, config.time_noise, generator)
        return {
            **masks_of(loaded),
            "latents": latents,
            "noise": noise,
            "t": t,
            "concat": concat,
            "text": torch.where(
                dropped.text[:, None, None], empty, torch.stack([item.text for item in loaded])
            ),
            "vision": torch.where(
                dropped.image[:, None, None], grey, torch.stack([item.vision for item in loaded])
            ),
            "fs": torch.tensor([item.fs for item in loaded]),
        }

    return draw


def masks_of(items: Sequence[EncodedPiece]) -> Batch:
    """The masks of a batch; nothing if no item has one."""
    if all(item.mask is None for item in items):
        return {}
    whole = torch.ones_like(items[0].latents[:1])
    return {"mask": torch.stack([whole if item.mask is None else item.mask for item in items])}


def draw_timesteps(count: int, timesteps: Timesteps, generator: torch.Generator) -> Tensor:
    """``[count]`` random timesteps of 0..999; with "high", three in four are from the noisiest 30 %."""
    t = torch.randint(TRAIN_STEPS, (count,), generator=generator)
    if timesteps == "uniform":
        return t
    high = torch.rand(count, generator=generator) < _HIGH_SHARE
    return torch.where(high, TRAIN_STEPS - 1 - (t * _HIGH_RANGE).long(), t)


def save_model(
    model: TorchModel, network: Mapping[str, Tensor], resampler: Mapping[str, Tensor], path: Path
) -> None:
    """Write a checkpoint in the released layout: the trained networks, and the others of ``model``."""
    parts: dict[str, Mapping[str, Tensor]] = {
        PREFIXES["unet"]: network,
        PREFIXES["resampler"]: resampler,
        PREFIXES["vae"]: model.vae.state_dict(),
        PREFIXES["text"]: model.text.state_dict(),
        PREFIXES["vision"]: model.vision.state_dict(),
    }
    weights = {
        # The learned scales are scalars in checkpoints, even if training had to make them vectors.
        prefix + name: value.detach()
        .cpu()
        .reshape(() if name.endswith(".alpha") else value.shape)
        .contiguous()
        for prefix, part in parts.items()
        for name, value in part.items()
    }
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in weights.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in weights.items())
    metadata = variant_metadata(model.variant) | preview_metadata(model.preview)
    write_safetensors(path, entries, pieces, metadata)
