"""Sizes of AnimateAnyone's networks; defaults are those of the released files. Does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model.configs import VaeConfig

BUILT_IN_PERSON = "tiny_person"
"""Name of the built-in model."""
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
