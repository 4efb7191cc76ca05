"""The recipe of the built-in ``tiny`` checkpoint: every network trained from scratch on the toy world, in stages.

1. autoencoder; 2. text and image encoder, each pretrained to classify scenes, then frozen; 3. network and resampler on
images with four captions each at high noise, until prompts take effect; 4. the full mix of motions and modes; 5. the
same on new scenes with more motion and evenly distributed timesteps; 6. again on other scenes, with the learning rate
raised and lowered once more; 7. the decoder alone, on latents as inexact as a network's; 8. export to one file, with
fitted preview colours. Each stage keeps its state in its own folder and resumes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from ..diffusion.schedule import make_schedule
from ..model.autoencoder import Autoencoder
from ..model.operations import Operations
from ..model.preview import PreviewColours, fit_preview
from ..model.protocols import PictureCodec
from ..model.resampler import Resampler
from ..model.unet import VideoUNet
from ..model.variants import TINY
from ..training.losses import DenoisingLoss, add_noise, per_sample
from ..training.run_log import Report
from ..training.state import load_state
from ..training.trainer import Draw, Trainer, TrainerConfig, seed_everything
from ..weights.detect import variant_metadata
from ..weights.formats.entries import Entry, Piece
from ..weights.formats.files import open_weights
from ..weights.formats.safetensors_file import write_safetensors
from ..weights.layout import PREFIXES
from ..weights.load import load_components
from ..weights.preview import preview_metadata
from .autoencoder import (
    AutoencoderLoss,
    DecoderLoss,
    decibels,
    frame_draw,
    normalise_latents,
    round_trip,
    still_frames,
)
from .pools import (
    GROUP,
    Pool,
    kept_pool,
    make_batch,
    mixed_draw,
    mixed_scenes,
    prompted_draw,
    prompted_scenes,
)
from .stages import Hear, RecipeStep, keep_weights, run_stages
from .towers import CompactText, TextLoss, VisionLoss, caption_draw, picture_draw, toy_vocabulary

RecipeStage = Literal[
    "vae", "text", "vision", "prompted", "mixed", "refined", "continued", "decoder", "export"
]
STAGES: tuple[RecipeStage, ...] = get_args(RecipeStage)

VAE = TrainerConfig(
    steps=3000, method="muon", learning_rate=4e-3, warm_up=40, decay="linear", betas=(0.9, 0.99),
    weight_decay=0.0, max_grad_norm=0.0, ema=0.99, precision="bf16", seed=1, log_every=50, save_every=250,
)  # fmt: skip
TEXT = replace(VAE, steps=900, learning_rate=2e-3, warm_up=20, ema=0.0, precision="no", seed=2)
VISION = replace(TEXT, steps=300, seed=3)
PROMPTED = replace(
    VAE, steps=100, learning_rate=3e-3, warm_up=20, decay="constant", max_grad_norm=1.0, seed=4, save_every=50
)
MIXED = replace(PROMPTED, steps=2000, learning_rate=2e-3, ema=0.995, seed=5, log_every=50, save_every=250)
REFINED = replace(MIXED, steps=3600, decay="cosine", seed=7)
CONTINUED = replace(REFINED, steps=5000, seed=8)
DECODER = replace(VAE, steps=800, learning_rate=1e-3, seed=6)
VAE_BATCH, TOWER_BATCH, BATCH = 8, 32, 8
"""Batch size per step and process."""


def train_tiny(folder: Path, report: Callable[[str, Report], None], stages: tuple[str, ...] = STAGES) -> Path:
    """Run the stages in ``folder``, resuming each; returns the path of the finished checkpoint."""
    run_stages(folder, _RUN, stages, report)
    return folder / "tiny.safetensors"


def _train_vae(folder: Path, hear: Hear) -> None:
    seed_everything(VAE.seed)
    loss = AutoencoderLoss(Autoencoder(TINY.vae))
    frames = still_frames(32, 1)

    def validate(module: nn.Module) -> Mapping[str, float]:
        return {"psnr": decibels(frames, round_trip(cast(AutoencoderLoss, module).vae, frames))}

    draw = frame_draw(VAE_BATCH)
    Trainer(loss, draw, VAE, folder / "vae", validate=validate, report=hear).run()
    normalise_latents(loss.vae, still_frames(256, 2, "train"))
    keep_weights(loss.vae.state_dict(), folder, "vae")


def _train_text(folder: Path, hear: Hear) -> None:
    seed_everything(TEXT.seed)
    text = CompactText(TINY.text, toy_vocabulary())
    loss = TextLoss(text, TINY.text.width)
    Trainer(loss, caption_draw(TOWER_BATCH), TEXT, folder / "text", report=hear).run()
    keep_weights(text.tower.state_dict(), folder, "text")


def _train_vision(folder: Path, hear: Hear) -> None:
    seed_everything(VISION.seed)
    loss = VisionLoss(TINY.vision)
    Trainer(loss, picture_draw(TOWER_BATCH), VISION, folder / "vision", report=hear).run()
    keep_weights(loss.tower.state_dict(), folder, "vision")


def _train_prompted(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "prompted", lambda: prompted_scenes(200, 11))
    _train_denoising(folder, hear, "prompted", None, PROMPTED, prompted_draw(pool, BATCH))


def _train_mixed(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "mixed", lambda: mixed_scenes(1000, 13))
    _train_denoising(folder, hear, "mixed", "prompted", MIXED, mixed_draw(pool, BATCH))


def _train_refined(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "refined", lambda: mixed_scenes(2500, 14, by_distance=True))
    _train_denoising(folder, hear, "refined", "mixed", REFINED, mixed_draw(pool, BATCH, grouped=0))


def _train_continued(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "continued", lambda: mixed_scenes(2500, 15, by_distance=True))
    _train_denoising(folder, hear, "continued", "refined", CONTINUED, mixed_draw(pool, BATCH, grouped=0))


def _train_denoising(
    folder: Path,
    hear: Hear,
    stage: RecipeStage,
    before: RecipeStage | None,
    config: TrainerConfig,
    draw: Draw,
) -> None:
    """Train network and resampler, newly initialised or from the result of the stage ``before``."""
    loss = denoising_loss(config.seed)
    if before is not None:
        loss.load_state_dict(load_state(folder / f"{before}.pt"))
    gauge = text_gauge(kept_pool(folder, "gauge", lambda: prompted_scenes(8, 12, held_out=True)))
    Trainer(loss, draw, config, folder / stage, validate=gauge, report=hear).run()
    keep_weights(loss.state_dict(), folder, stage)


def _train_decoder(folder: Path, hear: Hear) -> None:
    seed_everything(DECODER.seed)
    vae = Autoencoder(TINY.vae)
    vae.load_state_dict(load_state(folder / "vae.pt"))
    frames = still_frames(32, 1)

    def validate(module: nn.Module) -> Mapping[str, float]:
        return {"psnr": decibels(frames, round_trip(cast(DecoderLoss, module).vae, frames))}

    draw = frame_draw(VAE_BATCH)
    Trainer(DecoderLoss(vae), draw, DECODER, folder / "decoder", validate=validate, report=hear).run()
    keep_weights(vae.state_dict(), folder, "decoder")


def _export(folder: Path, hear: Hear) -> None:
    export(folder, load_state(folder / "continued.pt"), folder / "tiny.safetensors")


_RUN: dict[str, RecipeStep] = {
    "vae": _train_vae,
    "text": _train_text,
    "vision": _train_vision,
    "prompted": _train_prompted,
    "mixed": _train_mixed,
    "refined": _train_refined,
    "continued": _train_continued,
    "decoder": _train_decoder,
    "export": _export,
}


def matrix_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention as matrix products; in bfloat16 on a CPU its gradient takes a third of the time of fused attention."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
    return rearrange(weights.to(v.dtype) @ v, "b h n d -> b n (h d)")


def denoising_loss(seed: int) -> DenoisingLoss:
    """Newly initialised network and resampler; every residual branch starts at zero, as in the original."""
    seed_everything(seed)
    unet = VideoUNet(TINY.unet, Operations(attention=matrix_attention))
    zeroed = ("out.2", "out_layers.3", "proj_out", "conv4.3")
    for name, parameter in unet.named_parameters():
        if name.rpartition(".")[0].endswith(zeroed):
            nn.init.zeros_(parameter)
    resampler = Resampler(TINY.resampler)
    nn.init.normal_(resampler.latents, std=TINY.resampler.dim**-0.5)
    return DenoisingLoss(unet, resampler, make_schedule(TINY.diffusion))


def text_gauge(pool: Pool) -> Callable[[nn.Module], Mapping[str, float]]:
    """Validation loss on unseen images at the last timestep, with the right caption and a wrong one of its group.

    As long as the two are equal, the prompt has no effect, and sampling is not worth trying.
    """
    count = len(pool.fs)
    noise = torch.randn(pool.latents.shape, generator=torch.Generator().manual_seed(1))
    batch = make_batch(
        pool, torch.arange(count), torch.zeros(count, dtype=torch.bool), torch.full((count,), 999), noise
    )
    other = torch.arange(count).view(-1, GROUP).roll(1, 1).flatten()

    @torch.no_grad()
    def measure(module: nn.Module) -> Mapping[str, float]:
        loss = cast(DenoisingLoss, module)
        schedule = make_schedule(TINY.diffusion)
        noised = add_noise(batch["latents"], batch["noise"], batch["t"], schedule)
        figures: dict[str, float] = {}
        for name, text in (("true", batch["text"]), ("other", batch["text"][other])):
            said = loss.predict(noised.x, batch["t"], batch["concat"], text, batch["vision"], batch["fs"])
            figures[name] = float(per_sample(said, noised.target).mean())
        return figures

    return measure


def export(folder: Path, denoising: Mapping[str, Tensor], path: Path) -> None:
    """Write all networks to one file in the released layout, in 16 bit, with its variant and preview colours."""
    text = CompactText(TINY.text, toy_vocabulary())
    text.tower.load_state_dict(load_state(folder / "text.pt"))
    decoder = load_state(folder / "decoder.pt")
    vae = Autoencoder(TINY.vae)
    vae.load_state_dict(decoder)
    parts: dict[str, Mapping[str, Tensor]] = {
        PREFIXES["unet"]: _below(denoising, "unet."),
        PREFIXES["resampler"]: _below(denoising, "resampler."),
        PREFIXES["vae"]: decoder,
        PREFIXES["text"]: text.full_weights(),
        PREFIXES["vision"]: load_state(folder / "vision.pt"),
    }
    weights = {
        prefix + name: value.half().contiguous()
        for prefix, part in parts.items()
        for name, value in part.items()
    }
    entries = {name: Entry(tuple(value.shape), value.dtype) for name, value in weights.items()}
    pieces = (Piece(name, 0, value.flatten()) for name, value in weights.items())
    write_safetensors(path, entries, pieces, variant_metadata(TINY) | preview_metadata(toy_preview(vae)))


def toy_preview(vae: PictureCodec) -> PreviewColours:
    """The preview colours of an autoencoder of the toy world, fitted to training images."""
    return fit_preview(vae, still_frames(256, 2, "train"))


def refit_preview(path: Path) -> PreviewColours:
    """Fit the preview colours of an exported checkpoint again; its tensors, and so its hash, stay the same."""
    parts = load_components(path, device="cpu", towers=False)
    colours = toy_preview(parts.vae)
    file = open_weights(path)
    metadata = {**file.metadata, **preview_metadata(colours)}
    write_safetensors(path, file.entries, file.pieces(file.entries), metadata)
    return colours


def _below(weights: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
