"""Caches encoded clips of the toy world and builds the batches that the network of ``tiny`` is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..model.autoencoder import Autoencoder
from ..model.conditioning import place_keyframes, repeat_picture
from ..model.variants import TINY
from ..training.losses import drop_conditions, uniform_timesteps
from ..training.processes import one_process_first
from ..training.state import load_state, save_state
from ..training.trainer import Batch, Draw
from .towers import CompactText, VisionLoss, toy_vocabulary
from .world import (
    DIRECTIONS,
    FASTEST_FS,
    MOTIONS,
    SHAPES,
    SLOWEST_FS,
    Scenes,
    captions,
    join,
    make_clips,
    sample_scenes,
    with_motion,
)

GROUP = 4
"""Number of clips in a pool that share their first image and differ in their motion."""
FRAMES = TINY.resampler.frames
"""Frames of every clip."""
_ENCODED_AT_ONCE = 64

_MOTION_WEIGHTS = {"grow": 1.8, "shrink": 1.8, "turn": 0.8, "colour": 0.8}
"""How much more often a motion is sampled than others: changes of size are learnt last."""


@dataclass(frozen=True)
class Pool:
    """Clips encoded once, in groups of :data:`GROUP` with the same first image."""

    latents: Tensor
    """Scaled latents ``[n, 4, t, h, w]``."""
    text: Tensor
    """``[n, 77, c]``."""
    vision: Tensor
    """Image encoder tokens of the first images, ``[n / GROUP, tokens, c]``."""
    fs: Tensor
    loop: Tensor
    empty: Tensor
    """Text encoder output for an empty prompt, ``[77, c]``."""
    grey: Tensor
    """Image encoder tokens of a mid-grey image, ``[tokens, c]``."""


def prompted_scenes(pictures: int, seed: int, held_out: bool = False) -> Scenes:
    """Scenes with each of the four directions per image, at high speed."""
    generator = torch.Generator().manual_seed(seed)
    first = sample_scenes(pictures, generator, "held_out" if held_out else "train", fs=(8, 10))
    return _grouped([with_motion(first, motion) for motion in DIRECTIONS])


def mixed_scenes(pictures: int, seed: int, by_distance: bool = False) -> Scenes:
    """Scenes with four different motions per image, some with two shapes, some as loops.

    Frame rates are uniform, or with ``by_distance`` distances travelled are, which makes fast clips more frequent.
    """
    generator = torch.Generator().manual_seed(seed)
    names = tuple(MOTIONS)
    first = sample_scenes(pictures, generator, pairs=0.1, loops=0.18)
    if by_distance:
        slow, fast = 1 / SLOWEST_FS, 1 / FASTEST_FS
        way = slow + (fast - slow) * torch.rand(pictures, generator=generator)
        first = replace(first, fs=(1 / way).round().to(first.fs.dtype))
    weight = torch.tensor([_MOTION_WEIGHTS.get(name, 1.0) for name in names]).repeat(pictures, 1)
    weight[first.shape[:, 0] == SHAPES.index("circle"), names.index("turn")] = 0.0
    chosen = torch.multinomial(weight, GROUP, generator=generator)
    parts: list[Scenes] = []
    for member in range(GROUP):
        motion = first.motion.clone()
        motion[:, 0] = chosen[:, member]
        parts.append(replace(first, motion=motion))
    return _grouped(parts)


def _grouped(parts: list[Scenes]) -> Scenes:
    """Interleave the parts so that the members of each group are consecutive."""
    joined = join(parts)
    order = torch.arange(len(joined)).view(len(parts), -1).T.flatten()
    return Scenes(**{name: value[order] for name, value in vars(joined).items()})


def kept_pool(folder: Path, name: str, scenes: Callable[[], Scenes]) -> Pool:
    """The pool called ``name``, encoded with the encoders and autoencoder in ``folder`` unless it is cached there."""
    path = folder / f"pool_{name}.pt"
    with one_process_first():
        if not path.exists():
            save_state(vars(encode_pool(scenes(), folder)), path)
    return Pool(**load_state(path))


@torch.no_grad()
def encode_pool(scenes: Scenes, folder: Path) -> Pool:
    """Encode the clips, captions and first images of ``scenes`` with the frozen networks."""
    vae = Autoencoder(TINY.vae)
    vae.load_state_dict(load_state(folder / "vae.pt"))
    text = CompactText(TINY.text, toy_vocabulary())
    text.tower.load_state_dict(load_state(folder / "text.pt"))
    vision = VisionLoss(TINY.vision).tower
    vision.load_state_dict(load_state(folder / "vision.pt"))

    latents: list[Tensor] = []
    tokens: list[Tensor] = []
    step = _ENCODED_AT_ONCE // FRAMES
    for start in range(0, len(scenes), step):
        some = Scenes(**{name: value[start : start + step] for name, value in vars(scenes).items()})
        clips = make_clips(some, FRAMES)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = vae.encode(clips.flatten(0, 1)).mean.float() * TINY.vae.scale_factor
        latents.append(rearrange(encoded, "(b t) c h w -> b c t h w", t=FRAMES))
        tokens.append(vision(clips[::GROUP, 0]))
    grey = vision(torch.zeros(1, 3, TINY.preset.height, TINY.preset.width))
    words = captions(scenes, torch.Generator().manual_seed(len(scenes)))
    return Pool(
        latents=torch.cat(latents),
        text=text.encode(words),
        vision=torch.cat(tokens),
        fs=scenes.fs.clone(),
        loop=scenes.loop.clone(),
        empty=text.encode([""])[0],
        grey=grey[0],
    )


def _groups(pool: Pool, count: int, generator: torch.Generator) -> Tensor:
    """Indices of all clips of ``count`` random groups."""
    first = torch.randint(len(pool.fs) // GROUP, (count, 1), generator=generator) * GROUP
    return (first + torch.arange(GROUP)).flatten()


def make_batch(pool: Pool, clips: Tensor, ends: Tensor, t: Tensor, noise: Tensor) -> Batch:
    """A batch of the given clips; those with ``ends`` are also conditioned on their last image."""
    latents = pool.latents[clips]
    first, last = latents[:, :, 0], latents[:, :, -1]
    both = place_keyframes({0: first, -1: last}, FRAMES)
    concat = torch.where(ends[:, None, None, None, None], both, repeat_picture(first, FRAMES))
    return {
        "latents": latents,
        "noise": noise,
        "t": t,
        "concat": concat,
        "text": pool.text[clips],
        "vision": pool.vision[clips // GROUP],
        "fs": pool.fs[clips],
    }


def prompted_draw(pool: Pool, batch: int) -> Draw:
    """Whole groups, each with one noise and one timestep: within a group only the prompt determines the motion."""

    def draw(generator: torch.Generator) -> Batch:
        clips = _groups(pool, batch // GROUP, generator)
        share = torch.rand(batch // GROUP, generator=generator)
        any_t = torch.rand(batch // GROUP, generator=generator)
        t = torch.where(share < 0.8, 800 + 199.99 * any_t, 999.99 * any_t).long()
        t = torch.where(share < 0.4, 999, t).repeat_interleave(GROUP)
        noise = torch.randn(batch // GROUP, *pool.latents.shape[1:], generator=generator)
        return make_batch(
            pool, clips, torch.zeros(batch, dtype=torch.bool), t, noise.repeat_interleave(GROUP, 0)
        )

    return draw


def mixed_draw(pool: Pool, batch: int, grouped: float = 0.5) -> Draw:
    """A share ``grouped`` of the batch in whole groups, each with one noise and one timestep, the rest any clips.

    In the groups high timesteps are frequent, since they decide the motion and only the prompt determines it. The other
    clips have evenly distributed timesteps. A quarter of the clips, and all loops, are interpolations.
    """
    groups = int(batch * grouped) // GROUP
    single = batch - groups * GROUP

    def draw(generator: torch.Generator) -> Batch:
        clips = torch.cat(
            [_groups(pool, groups, generator), torch.randint(len(pool.fs), (single,), generator=generator)]
        )
        share, any_t = (torch.rand(groups, generator=generator) for _ in range(2))
        high = torch.where(share < 0.6, 700 + 299.99 * any_t, 999.99 * any_t).long()
        high = torch.where(share < 0.25, 999, high).repeat_interleave(GROUP)
        t = torch.cat([high, uniform_timesteps(single, generator)])
        noise = torch.randn(groups + single, *pool.latents.shape[1:], generator=generator)
        noise = torch.cat([noise[:groups].repeat_interleave(GROUP, 0), noise[groups:]])
        between = torch.rand(groups + single, generator=generator) < 0.25
        between = torch.cat([between[:groups].repeat_interleave(GROUP), between[groups:]])
        values = make_batch(pool, clips, pool.loop[clips] | between, t, noise)
        dropped = drop_conditions(torch.rand(batch, generator=generator))
        values["text"] = torch.where(dropped.text[:, None, None], pool.empty, values["text"])
        values["vision"] = torch.where(dropped.image[:, None, None], pool.grey, values["vision"])
        return values

    return draw
