"""The recipe of the built-in ``tiny`` checkpoint: every network trained from nothing on the toy world, in stages.

1. autoencoder; 2. text and image tower, each to tell what a scene holds, then frozen; 3. network and resampler on
pictures with four captions each at high noise, until the prompt steers; 4. the full mix of motions and modes; 5. the
same on fresh scenes and evenly spread timesteps; 6. the decoder alone, on latents as inexact as a network's; 7. export
to one file. Each stage keeps its state in its own folder and goes on from there when it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from ..backend import Backend
from ..checkpoint.detect import variant_metadata
from ..checkpoint.entries import Entry, Piece
from ..checkpoint.layout import PREFIXES
from ..checkpoint.safetensors_file import write_safetensors
from ..clip import clip_pixels, encode_image
from ..conditioning import place_keyframes, repeat_picture
from ..resampler import Resampler
from ..schedule import make_schedule
from ..unet import VideoUNet
from ..vae import Autoencoder
from ..variants import VARIANTS
from .autoencoder import (
    AutoencoderLoss,
    DecoderLoss,
    decibels,
    frame_draw,
    normalise_latents,
    round_trip,
    still_frames,
)
from .losses import DenoisingLoss, add_noise, drop_conditions, per_sample, uniform_timesteps
from .towers import CompactText, TextLoss, VisionLoss, caption_draw, picture_draw, toy_vocabulary
from .toy_world import (
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Scenes,
    captions,
    join,
    make_clips,
    sample_scenes,
    with_motion,
)
from .trainer import (
    Batch,
    Draw,
    Report,
    Trainer,
    TrainerConfig,
    load_state,
    one_process_first,
    save_state,
    seed_everything,
)

Stage = Literal["vae", "text", "vision", "prompted", "mixed", "refined", "decoder", "export"]
STAGES: tuple[Stage, ...] = get_args(Stage)

TINY = VARIANTS["tiny"]
GROUP = 4
"""Clips of a pool that share their first picture and differ in what happens."""
_FRAMES = TINY.resampler.frames
_ENCODED_AT_ONCE = 64

VAE = TrainerConfig(
    steps=3000, method="muon", learning_rate=4e-3, warm_up=40, decay="linear", betas=(0.9, 0.99),
    weight_decay=0.0, clip=0.0, ema=0.99, precision="bf16", seed=1, log_every=50, save_every=250,
)  # fmt: skip
TEXT = replace(VAE, steps=900, learning_rate=2e-3, warm_up=20, ema=0.0, precision="no", seed=2)
VISION = replace(TEXT, steps=300, seed=3)
PROMPTED = replace(
    VAE, steps=100, learning_rate=3e-3, warm_up=20, decay="constant", clip=1.0, seed=4, save_every=50
)
MIXED = replace(
    PROMPTED, steps=5000, learning_rate=2e-3, decay="cosine", ema=0.995, seed=5, log_every=50, save_every=250
)
REFINED = replace(MIXED, steps=800, learning_rate=1.2e-3, seed=7)
DECODER = replace(VAE, steps=800, learning_rate=1e-3, seed=6)
VAE_BATCH, TOWER_BATCH, BATCH = 8, 32, 8
"""Samples of one step of one process."""
_MOTION_WEIGHTS = {"grow": 1.8, "shrink": 1.8, "turn": 0.8, "colour": 0.8}
"""How much more often than others a motion is drawn: the size of a subject is learnt last."""


@dataclass(frozen=True)
class Pool:
    """Clips encoded once, in groups of :data:`GROUP` with the same first picture."""

    latents: Tensor
    """``[n, 4, t, h, w]`` scaled."""
    text: Tensor
    """``[n, 77, c]``."""
    vision: Tensor
    """``[n / GROUP, tokens, c]``: what the image tower makes of the first pictures."""
    fs: Tensor
    loop: Tensor
    empty: Tensor
    """``[77, c]``: what the text tower makes of no text."""
    grey: Tensor
    """``[tokens, c]``: what the image tower makes of a grey picture."""


def train_tiny(
    folder: Path, report: Callable[[str, Report], None], stages: tuple[Stage, ...] = STAGES
) -> Path:
    """Run the stages in ``folder``, each from where it was; returns the path of the finished checkpoint."""
    for stage in stages:
        place = folder / stage
        place.mkdir(parents=True, exist_ok=True)

        def hear(line: Report, stage: str = stage) -> None:
            report(stage, line)

        _RUN[stage](folder, hear)
    return folder / "tiny.safetensors"


Hear = Callable[[Report], None]


def _train_vae(folder: Path, hear: Hear) -> None:
    seed_everything(VAE.seed)
    loss = AutoencoderLoss(Autoencoder(TINY.vae))
    frames = still_frames(32, 1)

    def validate(module: nn.Module) -> Mapping[str, float]:
        return {"psnr": decibels(frames, round_trip(cast(AutoencoderLoss, module).vae, frames))}

    draw = frame_draw(VAE_BATCH)
    Trainer(loss, draw, VAE, folder / "vae", validate=validate, report=hear).run()
    normalise_latents(loss.vae, still_frames(256, 2, "train"))
    _keep(loss.vae.state_dict(), folder, "vae")


def _train_text(folder: Path, hear: Hear) -> None:
    seed_everything(TEXT.seed)
    text = CompactText(TINY.text, toy_vocabulary())
    loss = TextLoss(text, TINY.text.width)
    Trainer(loss, caption_draw(TOWER_BATCH), TEXT, folder / "text", report=hear).run()
    _keep(text.tower.state_dict(), folder, "text")


def _train_vision(folder: Path, hear: Hear) -> None:
    seed_everything(VISION.seed)
    loss = VisionLoss(TINY.vision)
    Trainer(loss, picture_draw(TOWER_BATCH), VISION, folder / "vision", report=hear).run()
    _keep(loss.tower.state_dict(), folder, "vision")


def _train_prompted(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "prompted", lambda: prompted_scenes(200, 11))
    loss = denoising_loss(PROMPTED.seed)
    gauge = text_gauge(kept_pool(folder, "gauge", lambda: prompted_scenes(8, 12, held_out=True)))
    draw = prompted_draw(pool, BATCH)
    Trainer(loss, draw, PROMPTED, folder / "prompted", validate=gauge, report=hear).run()
    _keep(loss.state_dict(), folder, "prompted")


def _train_mixed(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "mixed", lambda: mixed_scenes(1000, 13))
    loss = denoising_loss(MIXED.seed)
    loss.load_state_dict(load_state(folder / "prompted.pt"))
    gauge = text_gauge(kept_pool(folder, "gauge", lambda: prompted_scenes(8, 12, held_out=True)))
    Trainer(loss, mixed_draw(pool, BATCH), MIXED, folder / "mixed", validate=gauge, report=hear).run()
    _keep(loss.state_dict(), folder, "mixed")


def _train_refined(folder: Path, hear: Hear) -> None:
    pool = kept_pool(folder, "refined", lambda: mixed_scenes(1000, 14))
    loss = denoising_loss(REFINED.seed)
    loss.load_state_dict(load_state(folder / "mixed.pt"))
    gauge = text_gauge(kept_pool(folder, "gauge", lambda: prompted_scenes(8, 12, held_out=True)))
    draw = mixed_draw(pool, BATCH, grouped=0)
    Trainer(loss, draw, REFINED, folder / "refined", validate=gauge, report=hear).run()
    _keep(loss.state_dict(), folder, "refined")


def _train_decoder(folder: Path, hear: Hear) -> None:
    seed_everything(DECODER.seed)
    vae = Autoencoder(TINY.vae)
    vae.load_state_dict(load_state(folder / "vae.pt"))
    frames = still_frames(32, 1)

    def validate(module: nn.Module) -> Mapping[str, float]:
        return {"psnr": decibels(frames, round_trip(cast(DecoderLoss, module).vae, frames))}

    draw = frame_draw(VAE_BATCH)
    Trainer(DecoderLoss(vae), draw, DECODER, folder / "decoder", validate=validate, report=hear).run()
    _keep(vae.state_dict(), folder, "decoder")


def _export(folder: Path, hear: Hear) -> None:
    export(folder, load_state(folder / "refined.pt"), folder / "tiny.safetensors")


_RUN: dict[Stage, Callable[[Path, Hear], None]] = {
    "vae": _train_vae,
    "text": _train_text,
    "vision": _train_vision,
    "prompted": _train_prompted,
    "mixed": _train_mixed,
    "refined": _train_refined,
    "decoder": _train_decoder,
    "export": _export,
}


def _keep(weights: Mapping[str, Tensor], folder: Path, stage: str) -> None:
    save_state({name: value.detach().cpu() for name, value in weights.items()}, folder / f"{stage}.pt")


def matrix_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention as plain matrix products; in bfloat16 on a CPU its gradient takes a third of the fused one's time."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
    return rearrange(weights.to(v.dtype) @ v, "b h n d -> b n (h d)")


def denoising_loss(seed: int) -> DenoisingLoss:
    """Fresh network and resampler; every residual branch of the network begins at zero, as in the original."""
    seed_everything(seed)
    unet = VideoUNet(TINY.unet, Backend(attention=matrix_attention))
    zeroed = ("out.2", "out_layers.3", "proj_out", "conv4.3")
    for name, parameter in unet.named_parameters():
        if name.rpartition(".")[0].endswith(zeroed):
            nn.init.zeros_(parameter)
    resampler = Resampler(TINY.resampler)
    nn.init.normal_(resampler.latents, std=TINY.resampler.dim**-0.5)
    return DenoisingLoss(unet, resampler, make_schedule(TINY.diffusion))


def prompted_scenes(pictures: int, seed: int, held_out: bool = False) -> Scenes:
    """Pictures with each of the four directions, fast."""
    generator = torch.Generator().manual_seed(seed)
    first = sample_scenes(pictures, generator, "held_out" if held_out else "train", fs=(8, 10))
    return _grouped([with_motion(first, motion) for motion in DIRECTIONS])


def mixed_scenes(pictures: int, seed: int) -> Scenes:
    """Pictures with four different motions each, at any speed; some with two shapes, some that come back."""
    generator = torch.Generator().manual_seed(seed)
    names = tuple(MOTIONS)
    first = sample_scenes(pictures, generator, pairs=0.1, loops=0.18)
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
    """The members of each group one after the other."""
    joined = join(parts)
    order = torch.arange(len(joined)).view(len(parts), -1).T.flatten()
    return Scenes(**{name: value[order] for name, value in vars(joined).items()})


def kept_pool(folder: Path, name: str, scenes: Callable[[], Scenes]) -> Pool:
    """The pool of that name, encoded with the towers and autoencoder of ``folder`` unless it is there already."""
    path = folder / f"pool_{name}.pt"
    with one_process_first():
        if not path.exists():
            save_state(vars(encode_pool(scenes(), folder)), path)
    return Pool(**load_state(path))


@torch.no_grad()
def encode_pool(scenes: Scenes, folder: Path) -> Pool:
    """Clips, captions and first pictures of ``scenes`` through the frozen networks."""
    vae = Autoencoder(TINY.vae)
    vae.load_state_dict(load_state(folder / "vae.pt"))
    text = CompactText(TINY.text, toy_vocabulary())
    text.tower.load_state_dict(load_state(folder / "text.pt"))
    vision = VisionLoss(TINY.vision).tower
    vision.load_state_dict(load_state(folder / "vision.pt"))
    size = TINY.vision.image_size

    latents: list[Tensor] = []
    tokens: list[Tensor] = []
    step = _ENCODED_AT_ONCE // _FRAMES
    for start in range(0, len(scenes), step):
        some = Scenes(**{name: value[start : start + step] for name, value in vars(scenes).items()})
        clips = make_clips(some, _FRAMES)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = vae.encode(clips.flatten(0, 1)).mean.float() * TINY.vae.scale_factor
        latents.append(rearrange(encoded, "(b t) c h w -> b c t h w", t=_FRAMES))
        tokens.append(encode_image(vision, clip_pixels(clips[::GROUP, 0], size)))
    grey = encode_image(vision, clip_pixels(torch.zeros(1, 3, TINY.preset.height, TINY.preset.width), size))
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


def _batch(pool: Pool, clips: Tensor, ends: Tensor, t: Tensor, noise: Tensor) -> Batch:
    """The clips as a batch; those with ``ends`` are conditioned on their last picture too."""
    latents = pool.latents[clips]
    first, last = latents[:, :, 0], latents[:, :, -1]
    both = place_keyframes({0: first, -1: last}, _FRAMES)
    concat = torch.where(ends[:, None, None, None, None], both, repeat_picture(first, _FRAMES))
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
    """Whole groups with one noise and one timestep each: within a group only the prompt tells what to do."""

    def draw(generator: torch.Generator) -> Batch:
        clips = _groups(pool, batch // GROUP, generator)
        share = torch.rand(batch // GROUP, generator=generator)
        any_t = torch.rand(batch // GROUP, generator=generator)
        t = torch.where(share < 0.8, 800 + 199.99 * any_t, 999.99 * any_t).long()
        t = torch.where(share < 0.4, 999, t).repeat_interleave(GROUP)
        noise = torch.randn(batch // GROUP, *pool.latents.shape[1:], generator=generator)
        return _batch(pool, clips, torch.zeros(batch, dtype=torch.bool), t, noise.repeat_interleave(GROUP, 0))

    return draw


def mixed_draw(pool: Pool, batch: int, grouped: float = 0.5) -> Draw:
    """A share ``grouped`` of the batch in whole groups with one noise and one timestep each, the rest any clips.

    In the groups high timesteps are frequent: there it is decided what will happen, and only the prompt tells. The
    others are spread evenly over all timesteps. A quarter of the clips, and all that come back, are interpolations.
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
        values = _batch(pool, clips, pool.loop[clips] | between, t, noise)
        dropped = drop_conditions(torch.rand(batch, generator=generator))
        values["text"] = torch.where(dropped.text[:, None, None], pool.empty, values["text"])
        values["vision"] = torch.where(dropped.image[:, None, None], pool.grey, values["vision"])
        return values

    return draw


def text_gauge(pool: Pool) -> Callable[[nn.Module], Mapping[str, float]]:
    """Loss on unseen pictures at the last timestep, with the right caption and with another one of its group.

    As long as both are alike the prompt does nothing, and sampling need not be tried.
    """
    count = len(pool.fs)
    noise = torch.randn(pool.latents.shape, generator=torch.Generator().manual_seed(1))
    batch = _batch(
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
    """All networks in one file in the released layout, 16 bit, with the variant in its metadata."""
    text = CompactText(TINY.text, toy_vocabulary())
    text.tower.load_state_dict(load_state(folder / "text.pt"))
    parts: dict[str, Mapping[str, Tensor]] = {
        PREFIXES["unet"]: _below(denoising, "unet."),
        PREFIXES["resampler"]: _below(denoising, "resampler."),
        PREFIXES["vae"]: load_state(folder / "decoder.pt"),
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
    write_safetensors(path, entries, pieces, variant_metadata(TINY))


def _below(weights: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
