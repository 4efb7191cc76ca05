"""Training of an existing checkpoint on a folder of clips, which are encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as activations

from ..attention import SpatialTransformer, TemporalTransformer
from ..checkpoint.detect import variant_metadata
from ..checkpoint.entries import Entry, Piece
from ..checkpoint.layout import PREFIXES
from ..checkpoint.safetensors_file import write_safetensors
from ..clip import clip_pixels, encode_image, encode_text, tokenize
from ..conditioning import place_keyframes, repeat_picture
from ..errors import UsageError
from ..layers import ResBlock
from ..pipeline import Model
from ..schedule import TRAIN_STEPS, make_schedule
from .config import FinetuneConfig, Target, Timesteps
from .data import Row, UnusableClip, bucket, clip_size, enough_for, read_list, read_piece
from .lora import adapter_weights, add_adapters, save_adapters
from .losses import DenoisingLoss, drop_conditions
from .trainer import Batch, Draw, Report, Trainer, load_state, one_process_first, process_count, save_state

CACHE = "cache"
_HIGH_SHARE, _HIGH_RANGE = 0.75, 0.3
"""Of the timesteps "high": how many samples come from which part of the range."""


@dataclass(frozen=True)
class Item:
    """One stretch of a clip, encoded."""

    latents: Tensor
    """``[4, t, h, w]`` scaled."""
    concat: Tensor
    """``[4, t, h, w]``: the picture latents the network is conditioned on."""
    text: Tensor
    """``[77, c]``."""
    vision: Tensor
    """``[tokens, c]`` of the condition frame."""
    fs: int


def is_temporal(name: str) -> bool:
    """Whether a parameter of the network belongs to its layers over time."""
    parts = name.split(".")
    if "temopral_conv" in parts or parts[0] == "init_attn":
        return True
    place = 1 if parts[0] == "middle_block" else 2
    return parts[0] in ("input_blocks", "output_blocks", "middle_block") and (
        parts[place] == "2" and parts[place + 1] in ("norm", "proj_in", "proj_out", "transformer_blocks")
    )


def choose_trained(loss: DenoisingLoss, target: Target, rank: int) -> None:
    """Set which weights of network and resampler are trained; the resampler is in all targets but two."""
    loss.requires_grad_(False)
    if target == "lora":
        add_adapters(loss.unet, rank)
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


def recompute_activations(unet: nn.Module) -> None:
    """Make every block of ``unet`` recompute its inside in the backward pass, so that only block outputs are kept."""
    for module in unet.modules():
        if isinstance(module, (ResBlock, SpatialTransformer, TemporalTransformer)):
            module.forward = partial(cast(Any, activations).checkpoint, module.forward, use_reentrant=False)


def finetune(
    model: Model,
    config: FinetuneConfig,
    folder: Path,
    *,
    skipped: Callable[[str], None] | None = None,
    report: Callable[[Report], None] | None = None,
) -> Path:
    """Train ``model`` in ``folder`` and go on from where it was; returns the path of the finished file.

    ``skipped`` hears of every clip that cannot be used. Raises UsageError for data that cannot be trained on.
    """
    if config.mode not in model.variant.modes:
        raise UsageError(
            f"{model.variant.name} was made to {' and '.join(model.variant.modes)}, not to {config.mode}; "
            "start from a model of that mode"
        )
    rows = read_list(Path(config.data), None if config.listing is None else Path(config.listing))
    folder.mkdir(parents=True, exist_ok=True)
    with one_process_first():
        items = encode_items(model, rows, config, folder / CACHE, skipped)
    enough_for(process_count(), items)
    loss = DenoisingLoss(model.unet, model.resampler, make_schedule(model.variant.diffusion), config.min_snr)
    choose_trained(loss, config.target, config.rank)
    if config.checkpointing:
        recompute_activations(loss.unet)
    Trainer(loss, item_draw(model, items, config), config.trainer, folder, report=report).run()
    if config.target == "lora":
        path = folder / "lora.safetensors"
        save_adapters(adapter_weights(loss.unet), path)
    else:
        path = folder / "model.safetensors"
        save_model(model, path)
    return path


@torch.inference_mode()
def encode_items(
    model: Model,
    rows: Sequence[Row],
    config: FinetuneConfig,
    cache: Path,
    skipped: Callable[[str], None] | None = None,
) -> list[Path]:
    """Encode every stretch that ``cache`` does not hold yet; returns the files of all usable ones.

    A file's name changes with the clip, its caption, the model and every setting that counts.
    Raises UsageError when no clip is usable or the disk is full.
    """
    found: list[Path] = []
    for row in rows:
        try:
            for view in range(config.views):
                path = cache / f"{_key(model, row, config, view)}.pt"
                if not path.exists():
                    save_state(vars(_encode(model, row, config, view)), path)
                found.append(path)
        except UnusableClip as problem:
            if skipped is not None:
                skipped(str(problem))
    if not found:
        raise UsageError(
            f"none of the {len(rows)} clip(s) of the list can be used; --debug names the reasons"
        )
    return found


def _key(model: Model, row: Row, config: FinetuneConfig, view: int) -> str:
    """Name of an encoded stretch; raises UnusableClip where there is no file."""
    try:
        file = row.path.stat()
    except OSError as problem:
        raise UnusableClip(f"{row.path} cannot be read ({problem.strerror or problem})") from problem
    counted = {
        "clip": [str(row.path), file.st_size, file.st_mtime_ns, row.caption, row.motion, row.fps],
        "model": [
            model.variant.name,
            _fingerprint(model.vae),
            _fingerprint(model.text),
            _fingerprint(model.vision),
        ],
        "how": [
            config.mode,
            config.frames,
            config.area,
            config.strides,
            config.random_frame,
            config.motion_captions,
        ],
        "view": view,
    }
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:32]


def _fingerprint(module: nn.Module) -> str:
    """A short digest of some weights of every layer, the same for the same network."""
    values = [float(parameter.detach().flatten()[:64].float().sum()) for parameter in module.parameters()]
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _encode(model: Model, row: Row, config: FinetuneConfig, view: int) -> Item:
    preset = model.variant.preset
    size = (preset.width, preset.height)
    if config.area is not None:
        width, height = clip_size(row.path)
        size = bucket(width / height, config.area)
    seed = int(hashlib.sha256(f"{row.path.name} {view}".encode()).hexdigest()[:12], 16)
    generator = torch.Generator().manual_seed(seed)
    piece = read_piece(row, config.frames, size, config.strides, generator)
    frames = piece.frames.to(model.device)
    z = torch.cat([_latents(model, frame[None], generator) for frame in frames]).transpose(0, 1)[None]
    if config.mode == "interpolate":
        seen, concat = 0, place_keyframes({0: z[:, :, 0], -1: z[:, :, -1]}, config.frames)
    else:
        seen = int(torch.randint(config.frames, (1,), generator=generator)) if config.random_frame else 0
        concat = repeat_picture(z[:, :, seen], config.frames)
    caption = row.motion if config.motion_captions and row.motion else row.caption
    stride_conditioned = model.variant.preset.fs_still < model.variant.preset.fs_lively
    return Item(
        latents=z[0].cpu(),
        concat=concat[0].cpu().contiguous(),
        text=encode_text(model.text, tokenize([caption]))[0].float().cpu(),
        vision=_vision(model, frames[seen : seen + 1])[0],
        fs=piece.stride if stride_conditioned else int(piece.fps),
    )


def _latents(model: Model, picture: Tensor, generator: torch.Generator) -> Tensor:
    posterior = model.vae.encode(picture.to(model.dtype))
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    return (posterior.sample(noise) * model.vae.config.scale_factor).float()


def _vision(model: Model, picture: Tensor) -> Tensor:
    pixels = clip_pixels(picture, model.variant.vision.image_size)
    return encode_image(model.vision, pixels).float().cpu()


def item_draw(model: Model, items: Sequence[Path], config: FinetuneConfig) -> Draw:
    """Random batches of items of one size, with dropped conditions, on the trained network's device."""
    with torch.inference_mode():
        empty = encode_text(model.text, tokenize([""]))[0].float().cpu()
        preset = model.variant.preset
        grey = _vision(model, torch.zeros(1, 3, preset.height, preset.width, device=model.device))[0]
    sizes: dict[tuple[int, ...], list[Path]] = {}
    for path in items:
        sizes.setdefault(tuple(load_state(path)["latents"].shape), []).append(path)
    groups = list(sizes.values())

    def draw(generator: torch.Generator) -> Batch:
        chosen = int(torch.randint(len(items), (1,), generator=generator))
        group = next(group for group in groups if items[chosen] in group)
        picks = torch.randint(len(group), (config.batch,), generator=generator)
        loaded = [Item(**load_state(group[int(pick)])) for pick in picks]
        dropped = drop_conditions(torch.rand(config.batch, generator=generator), config.drop)
        latents = torch.stack([item.latents for item in loaded])
        return {
            "latents": latents,
            "noise": torch.randn(latents.shape, generator=generator),
            "t": draw_timesteps(config.batch, config.timesteps, generator),
            "concat": torch.stack([item.concat for item in loaded]),
            "text": torch.where(
                dropped.text[:, None, None], empty, torch.stack([item.text for item in loaded])
            ),
            "vision": torch.where(
                dropped.image[:, None, None], grey, torch.stack([item.vision for item in loaded])
            ),
            "fs": torch.tensor([item.fs for item in loaded]),
        }

    return draw


def draw_timesteps(count: int, timesteps: Timesteps, generator: torch.Generator) -> Tensor:
    """``[count]`` random timesteps of 0..999; of "high" ones three in four are from the noisiest 30 %."""
    t = torch.randint(TRAIN_STEPS, (count,), generator=generator)
    if timesteps == "uniform":
        return t
    high = torch.rand(count, generator=generator) < _HIGH_SHARE
    return torch.where(high, TRAIN_STEPS - 1 - (t * _HIGH_RANGE).long(), t)


def save_model(model: Model, path: Path) -> None:
    """Write all networks of a model as one checkpoint in the released layout."""
    parts: dict[str, nn.Module] = {
        PREFIXES["unet"]: model.unet,
        PREFIXES["resampler"]: model.resampler,
        PREFIXES["vae"]: model.vae,
        PREFIXES["text"]: model.text,
        PREFIXES["vision"]: model.vision,
    }
    weights: Mapping[str, Tensor] = {
        prefix + name: value.detach().cpu().contiguous()
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
    }
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in weights.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in weights.items())
    write_safetensors(path, entries, pieces, variant_metadata(model.variant))
