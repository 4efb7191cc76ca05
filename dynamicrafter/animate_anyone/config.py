"""Sizes of AnimateAnyone's networks; defaults are those of the released files. Does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bounded_json import parse_json
from ..errors import CheckpointError
from ..forms import Form
from ..model.configs import VaeConfig

BUILT_IN_PERSON = "tiny_person"
"""Name of the built-in model."""
PERSON_KEY = "dynamicrafter.person"
"""Key of the sizes of all networks as JSON, in the metadata of files and in the manifests of exports."""
MAX_WINDOW = 32
"""Length of the table of temporal positions: a window of more frames has no positions."""


@dataclass(frozen=True)
class PairConfig:
    """Sizes that the reference and the denoising network share (Stable Diffusion 1.5's by default)."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width of each level, from the highest resolution down; the last level has no spatial attention."""
    blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    heads: int = 8
    """Heads of every spatial attention, at any width."""
    context_dim: int = 768
    norm_groups: int = 32
    """Groups of all norms but those of the motion modules."""


@dataclass(frozen=True)
class PoseGuiderConfig:
    """Sizes of the network from drawn poses to features of latent size."""

    widths: tuple[int, ...] = (16, 32, 96, 256)
    """Each step to the next width halves height and width."""
    out_channels: int = 320
    """The first width of the denoising network, to whose first layer the features are added."""


@dataclass(frozen=True)
class EmbedderConfig:
    """Sizes of the CLIP image encoder (ViT-L/14) with its projection."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    inner: int = 4096
    """Width between the two linear layers of a block."""
    patch: int = 14
    image_size: int = 224
    out_dim: int = 768


@dataclass(frozen=True)
class PersonPreset:
    """What a model is sampled with unless said otherwise; defaults are those of the original's demo."""

    width: int = 512
    height: int = 768
    steps: int = 25
    cfg: float = 3.5
    """Guidance scale; 1 switches it off."""
    window: int = 24
    """Frames that the network sees together."""
    overlap: int = 4
    """Frames that neighbouring windows share."""


@dataclass(frozen=True)
class PersonConfig:
    """Sizes of all networks of one model, and its own settings."""

    pair: PairConfig = field(default_factory=PairConfig)
    pose_guider: PoseGuiderConfig = field(default_factory=PoseGuiderConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    preset: PersonPreset = field(default_factory=PersonPreset)


RELEASED_SIZES = PersonConfig()
"""The released files."""


def parse_config(text: str, path: Path, writer: str) -> PersonConfig:
    """The sizes in the metadata of a file or an export at ``path``, which the version ``writer`` wrote.

    Raises CheckpointError for damaged metadata and for sizes that no network has.
    """
    form = Form(f"the metadata of {path}", CheckpointError, writer)
    try:
        values: Any = parse_json(text)
    except ValueError as problem:
        raise CheckpointError(
            f"{path} has damaged metadata; make it from the original files again"
        ) from problem
    config = form.read(PersonConfig, values)
    _check(config, path)
    return config


def _check(config: PersonConfig, path: Path) -> None:
    """Raise CheckpointError for sizes that no network has, before any is built."""
    pair, posing, embedder = config.pair, config.pose_guider, config.embedder
    numbers = [*pair.widths, pair.blocks, pair.heads, pair.context_dim, pair.norm_groups, *posing.widths]
    numbers += [posing.out_channels, embedder.width, embedder.layers, embedder.heads, embedder.inner]
    numbers += [
        embedder.patch,
        embedder.image_size,
        embedder.out_dim,
        config.vae.channels,
        config.vae.norm_groups,
    ]
    numbers += [*config.vae.channel_mult, config.vae.num_res_blocks, config.vae.latent_channels]
    fits = (
        all(1 <= number <= 2**16 for number in numbers)
        and pair.blocks <= 8
        and embedder.layers <= 64
        and config.vae.num_res_blocks <= 8
        and all(2 <= len(sizes) <= 8 for sizes in (pair.widths, posing.widths, config.vae.channel_mult))
        and all(width % pair.heads == 0 and width % pair.norm_groups == 0 for width in pair.widths)
        and all(width % 32 == 0 for width in pair.widths)
        and embedder.width % embedder.heads == 0
        and posing.out_channels == pair.widths[0]
        and embedder.out_dim == pair.context_dim
    )
    if not fits:
        raise CheckpointError(
            f"{path} names sizes that its networks cannot have; make it from the original files again"
        )
