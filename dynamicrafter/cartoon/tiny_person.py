"""The recipe of the built-in model of persons: every network trained on cartoon characters, in stages.

1. autoencoder, from that of ``tiny``; 2. both networks and the pose guider on single images; 3. the motion modules on
clips, the rest frozen; 4. the decoder alone, on latents as inexact as a network's; 5. export to one file. Each stage
keeps its state in its own folder and resumes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from ..animate_anyone.config import EmbedderConfig, PairConfig, PersonConfig, PersonPreset, PoseGuiderConfig
from ..animate_anyone.embedder import ImageEmbedder
from ..animate_anyone.layout import Part
from ..animate_anyone.pipeline import DIFFUSION
from ..animate_anyone.pose_guider import PoseGuider
from ..animate_anyone.unet import DenoisingUNet, ReferenceUNet
from ..animate_anyone.weights import save_person
from ..api import find_model
from ..diffusion.schedule import TRAIN_STEPS, make_schedule
from ..model.autoencoder import Autoencoder
from ..model.operations import Operations
from ..model.variants import TINY
from ..toy.autoencoder import AutoencoderLoss, DecoderLoss, decibels, normalise_latents, round_trip
from ..toy.stages import Hear, RecipeStep, keep_weights, run_stages
from ..toy.tiny import DECODER as TINY_DECODER
from ..toy.tiny import REFINED, matrix_attention
from ..toy.tiny import VAE as TINY_VAE
from ..training.losses import add_noise, per_sample
from ..training.person import PersonLoss, PersonPhase, choose_phase, scale_pose_guider
from ..training.run_log import Report
from ..training.state import load_state
from ..training.trainer import Trainer, TrainerConfig, seed_everything
from ..weights.load import load_components
from .autoencoder import character_draw, still_pictures
from .pools import CharacterPool, batch_of, kept_characters, make_pool, pool_draw

PersonStage = Literal["vae", "pictures", "motion", "decoder", "export"]
PERSON_STAGES: tuple[PersonStage, ...] = get_args(PersonStage)

TINY_PERSON = PersonConfig(
    pair=PairConfig(widths=(64, 96), blocks=1, heads=4, context_dim=16, norm_groups=8),
    pose_guider=PoseGuiderConfig(widths=(8, 16, 48, 96), out_channels=64),
    embedder=EmbedderConfig(width=16, layers=1, heads=2, inner=32, patch=16, image_size=32, out_dim=16),
    vae=TINY.vae,
    preset=PersonPreset(width=128, height=192, steps=12, cfg=1.0, window=8, overlap=2),
)
"""Reference attention alone carries the looks: the embedder is not trained, and the attention to it is zero."""

PERSON_VAE = replace(TINY_VAE, steps=1300, learning_rate=2.5e-3, seed=11, log_every=25, save_every=25)
PERSON_PICTURES = replace(REFINED, steps=12500, learning_rate=2.5e-3, seed=12, log_every=25, save_every=50)
PERSON_MOTION = replace(PERSON_PICTURES, steps=350, learning_rate=1.5e-3, seed=13)
PERSON_DECODER = replace(TINY_DECODER, steps=120, seed=14, log_every=25, save_every=50)
_VAE_BATCH, _PICTURES_BATCH, _MOTION_BATCH = 6, 4, 3
"""Batch size per step and process: crops, characters, clips."""
_CHARACTERS, _CLIPS, _GAUGED = 4000, 250, 8
"""Numbers of characters in the pools."""


def train_tiny_person(
    folder: Path, report: Callable[[str, Report], None], stages: tuple[str, ...] = PERSON_STAGES
) -> Path:
    """Run the stages in ``folder``, resuming each; returns the path of the finished checkpoint."""
    run_stages(folder, _RUN, stages, report)
    return folder / "tiny_person.safetensors"


def tiny_autoencoder() -> Autoencoder:
    """A copy of the autoencoder of ``tiny``, in float32, that can be trained."""
    vae = Autoencoder(TINY.vae)
    parts = load_components(find_model(TINY.name).weights, device="cpu", towers=False)
    vae.load_state_dict(parts.vae.state_dict())
    return vae


def person_loss(config: PersonConfig, seed: int, poses: Tensor, *, motion: bool) -> PersonLoss:
    """Newly initialised networks with their loss, with motion modules or without.

    Every residual branch starts at zero, and the pose guider with features of a deviation of 1 for the drawings
    ``poses``, uint8 ``[n, 3, H, W]``.
    """
    seed_everything(seed)
    kind = Operations(attention=matrix_attention)
    loss = PersonLoss(
        ReferenceUNet(config.pair, kind),
        DenoisingUNet(config.pair, kind, motion),
        PoseGuider(config.pose_guider, kind),
        make_schedule(DIFFUSION),
    )
    for pair in (loss.reference, loss.denoising):
        for name, parameter in pair.named_parameters():
            if ".attn2." in name or name.rpartition(".")[0].endswith(("conv2", "proj_out", "conv_out")):
                nn.init.zeros_(parameter)
    scale_pose_guider(loss.pose_guider, poses[:, :, None].float() / 255)
    return loss


def _train_vae(folder: Path, hear: Hear) -> None:
    seed_everything(PERSON_VAE.seed)
    vae = tiny_autoencoder()
    loss = AutoencoderLoss(vae)
    Trainer(
        loss,
        character_draw(_VAE_BATCH),
        PERSON_VAE,
        folder / "vae",
        validate=round_trip_gauge(vae),
        report=hear,
    ).run()
    normalise_latents(vae, still_pictures(256, 2, "train"))
    keep_weights(vae.state_dict(), folder, "vae")


def _train_pictures(folder: Path, hear: Hear) -> None:
    pool = kept_characters(folder, "pictures", lambda: make_pool(_trained_vae(folder), _CHARACTERS, 24))
    loss = person_loss(TINY_PERSON, PERSON_PICTURES.seed, pool.poses[:16, 0], motion=False)
    _train_pair(folder, hear, "pictures", loss, pool, PERSON_PICTURES)


def _train_motion(folder: Path, hear: Hear) -> None:
    pool = kept_characters(folder, "motion", lambda: make_pool(_trained_vae(folder), _CLIPS, 22, clips=True))
    loss = person_loss(TINY_PERSON, PERSON_MOTION.seed, pool.poses[:16, 0], motion=True)
    loss.load_state_dict(loss.state_dict() | load_state(folder / "pictures.pt"))
    _train_pair(folder, hear, "motion", loss, pool, PERSON_MOTION)


def _train_pair(
    folder: Path, hear: Hear, phase: PersonPhase, loss: PersonLoss, pool: CharacterPool, config: TrainerConfig
) -> None:
    """Train in one phase."""
    clips = phase == "motion"
    choose_phase(loss, phase, whole_reference=True)
    for name, parameter in loss.named_parameters():
        if ".attn2." in name:
            parameter.requires_grad_(False)
    unseen = kept_characters(
        folder,
        f"gauge_{phase}",
        lambda: make_pool(_trained_vae(folder), _GAUGED, 31, "held_out", clips=clips),
    )
    draw = pool_draw(
        pool, _MOTION_BATCH if clips else _PICTURES_BATCH, TINY_PERSON.pair.context_dim, clips=clips
    )
    Trainer(loss, draw, config, folder / phase, validate=condition_gauge(unseen, clips), report=hear).run()
    keep_weights(loss.state_dict(), folder, phase)


def condition_gauge(pool: CharacterPool, clips: bool) -> Callable[[nn.Module], Mapping[str, float]]:
    """Validation loss at the last timestep with the right conditions, and with the poses or references of others.

    As long as two of them are equal, the condition has no effect, and sampling is not worth trying.
    """
    count, views = pool.latents.shape[:2]
    rows = count if clips else count * (views - 1)
    batch = batch_of(
        pool,
        torch.arange(count),
        torch.arange(views).expand(count, -1),
        torch.full((rows,), TRAIN_STEPS - 1),
        torch.randn(count * (views - 1), *pool.latents.shape[2:], generator=torch.Generator().manual_seed(1)),
        torch.ones(count, dtype=torch.bool),
        TINY_PERSON.pair.context_dim,
    )
    schedule = make_schedule(DIFFUSION)

    @torch.no_grad()
    def measure(module: nn.Module) -> Mapping[str, float]:
        loss = cast(PersonLoss, module)
        noised = add_noise(batch["latents"], batch["noise"], batch["t"], schedule)
        figures: dict[str, float] = {}
        for name, changed in (
            ("true", {}),
            ("other_pose", {"poses": batch["poses"].roll(rows // count, 0)}),
            ("other_reference", {"seen": batch["seen"].roll(1, 0)}),
        ):
            given = {key: batch[key] for key in ("t", "poses", "seen", "context", "kept")} | changed
            figures[name] = float(per_sample(loss.predict(noised.x, **given), noised.target).mean())
        return figures

    return measure


def round_trip_gauge(vae: Autoencoder) -> Callable[[nn.Module], Mapping[str, float]]:
    """The PSNR of held-out characters after encoding and decoding."""
    unseen = still_pictures(8, 1)

    def measure(_: nn.Module) -> Mapping[str, float]:
        return {"psnr": decibels(unseen, round_trip(vae, unseen))}

    return measure


def _trained_vae(folder: Path) -> Autoencoder:
    vae = Autoencoder(TINY_PERSON.vae)
    vae.load_state_dict(load_state(folder / "vae.pt"))
    return vae


def _train_decoder(folder: Path, hear: Hear) -> None:
    seed_everything(PERSON_DECODER.seed)
    vae = _trained_vae(folder)
    Trainer(
        DecoderLoss(vae),
        character_draw(_VAE_BATCH),
        PERSON_DECODER,
        folder / "decoder",
        validate=round_trip_gauge(vae),
        report=hear,
    ).run()
    keep_weights(vae.state_dict(), folder, "decoder")


def _export(folder: Path, hear: Hear) -> None:
    export_person(folder, folder / "tiny_person.safetensors")


def export_person(folder: Path, path: Path) -> None:
    """Write all networks to one file in 16 bit."""
    trained = load_state(folder / "motion.pt")

    def below(name: str) -> dict[str, Tensor]:
        start = f"{name}."
        return {key.removeprefix(start): value for key, value in trained.items() if key.startswith(start)}

    seed_everything(0)
    weights: dict[Part, Mapping[str, Tensor]] = {
        "reference": below("reference"),
        "denoising": below("denoising"),
        "pose_guider": below("pose_guider"),
        "vae": load_state(folder / "decoder.pt"),
        "embedder": ImageEmbedder(TINY_PERSON.embedder).state_dict(),
    }
    save_person(TINY_PERSON, weights, path, torch.float16)


_RUN: dict[str, RecipeStep] = {
    "vae": _train_vae,
    "pictures": _train_pictures,
    "motion": _train_motion,
    "decoder": _train_decoder,
    "export": _export,
}
