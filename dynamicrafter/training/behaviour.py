"""What a model does in the toy world, in figures: does it move as told, as fast as told, and keep what it was shown.

Every figure is measured on scenes that training never saw. The subject is what differs from the known background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..clip import clip_pixels, encode_image, encode_text, tokenize
from ..conditioning import image_tokens, place_keyframes, repeat_picture
from ..pipeline import Model, decode, sample
from ..settings import Settings, make_settings
from ..stages import Conditioning, Context
from ..variants import Mode
from .autoencoder import psnr, round_trip, still_frames
from .toy_world import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Scenes,
    captions,
    make_clips,
    render,
    sample_scenes,
    select,
    with_motion,
)

_SEEN = 0.12
"""Least difference from the background, in [0, 1], that counts as subject."""
_MOVED = 2.0
"""Pixels below which a subject stands still."""
_GREW, _SHRANK = 1.2, 0.83
"""Ratios of the area at which a subject has grown or shrunk."""
_FS = (8, 12, 18, 28)
"""Frame rates that must give slower and slower motion."""
_BATCH = 16


@dataclass(frozen=True)
class Track:
    """Where the subject of each clip is in each frame, ``[n, t]``; pixels, and square pixels for the area."""

    x: Tensor
    y: Tensor
    area: Tensor


def track(clips: Tensor, scenes: Scenes) -> Track:
    """The subject of clips ``[n, t, 3, H, W]`` in [-1, 1], as the weighted centre of what is not background."""
    empty = render(replace(scenes, present=torch.zeros_like(scenes.present)), torch.zeros(len(scenes), 1))
    weight = (((clips - empty).abs() / 2).amax(2) - _SEEN).clamp(min=0)
    total = weight.sum((-2, -1)).clamp(min=1e-6)
    line = torch.arange(clips.shape[-1]) + 0.5
    x = (weight.sum(-2) * line).sum(-1) / total
    y = (weight.sum(-1) * line).sum(-1) / total
    return Track(x, y, (weight > 0.05).float().sum((-2, -1)))


def directions(found: Track) -> list[str]:
    """One of the four directions for each clip, or "still"."""
    dx, dy = found.x[:, -1] - found.x[:, 0], found.y[:, -1] - found.y[:, 0]
    names: list[str] = []
    for move in zip(dx, dy, strict=True):
        across, down = float(move[0]), float(move[1])
        if max(abs(across), abs(down)) < _MOVED:
            names.append("still")
        elif abs(across) > abs(down):
            names.append("right" if across > 0 else "left")
        else:
            names.append("down" if down > 0 else "up")
    return names


def travelled(found: Track) -> Tensor:
    """Pixels between the subject's first and last place, ``[n]``."""
    return torch.hypot(found.x[:, -1] - found.x[:, 0], found.y[:, -1] - found.y[:, 0])


def loop_closure(clip: Tensor) -> float:
    """Difference between the last and the first frame over the median difference of neighbours; 0 for a still clip.

    Infinite where most frames repeat the one before and the last is another than the first: no step to compare with.
    """
    step = (clip[1:] - clip[:-1]).abs().flatten(1).mean(1).median()
    apart = (clip[-1] - clip[0]).abs().mean()
    return float(apart / step) if apart > 0 else 0.0


def same_subject(clips: Tensor, scenes: Scenes) -> tuple[float, float]:
    """Shares of clips whose subject has its colour, and its shape, in the last frame.

    The colour is the nearest of all to the subject's mean one. The shape is the one whose drawing, in that
    colour and at about the place and size of what is there, differs least from the frame.
    """
    last = clips[:, -1:]
    found = track(last, scenes)
    empty = render(replace(scenes, present=torch.zeros_like(scenes.present)), torch.zeros(len(scenes), 1))
    weight = (((last - empty).abs() / 2).amax(2) - 2 * _SEEN).clamp(min=0)[:, 0]
    colour = ((last[:, 0] + 1) / 2 * weight[:, None]).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1e-6)[
        :, None
    ]
    nearest = torch.cdist(colour, torch.tensor(list(COLOURS.values()))).argmin(1)

    still = torch.full_like(scenes.motion, tuple(MOTIONS).index("still"))
    errors = torch.full((len(scenes), len(SHAPES)), math.inf)
    for index, area in enumerate(_AREAS):
        radius = (found.area[:, :1] / area).sqrt()
        for size, across, down in product((0.8, 0.9, 1.0, 1.1), (-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0, 2.0)):
            guess = replace(
                scenes,
                shape=torch.full_like(scenes.shape, index),
                colour=nearest[:, None].expand(-1, 2),
                motion=still,
                x=(found.x[:, :1] + across).expand(-1, 2),
                y=(found.y[:, :1] + down).expand(-1, 2),
                radius=(radius * size).expand(-1, 2),
            )
            error = (render(guess, torch.zeros(len(scenes), 1)) - last).square().flatten(1).mean(1)
            errors[:, index] = torch.minimum(errors[:, index], error)
    right_colour = (nearest == scenes.colour[:, 0]).float().mean()
    return float(right_colour), float((errors.argmin(1) == scenes.shape[:, 0]).float().mean())


_AREAS = (3.14, 2.96, 1.87, 2.56)
"""Area of each shape of radius 1."""


@torch.inference_mode()
def make(
    model: Model,
    scenes: Scenes,
    prompts: Sequence[str],
    settings: Settings,
    seed: int,
    ends: Tensor | None = None,
) -> Tensor:
    """Clips ``[n, t, 3, H, W]`` from the scenes' first pictures, each with its own prompt and frame rate.

    ``ends`` are the last pictures ``[n, 3, H, W]`` of an interpolation; a loop ends with its first one.
    """
    made: list[Tensor] = []
    for start in range(0, len(scenes), _BATCH):
        index = torch.arange(start, min(start + _BATCH, len(scenes)))
        some = select(scenes, index)
        first = render(some, torch.zeros(len(some), 1))[:, 0].to(model.device)
        last = first if ends is None else ends[index].to(model.device)
        conditioning = _conditions(
            model, first, last, list(prompts[start : start + _BATCH]), some.fs, settings
        )
        generators = [torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(some))]
        latents = sample(model, conditioning, settings, generators)
        made.append(decode(model, latents).clamp(-1, 1).transpose(1, 2))
    return torch.cat(made)


def _conditions(
    model: Model, first: Tensor, last: Tensor, prompts: list[str], fs: Tensor, settings: Settings
) -> Conditioning:
    def words(texts: list[str]) -> Tensor:
        return encode_text(model.text, tokenize(texts)).to(model.dtype)

    def seen(pictures: Tensor) -> Tensor:
        pixels = clip_pixels(pictures, model.variant.vision.image_size)
        tokens = model.resampler(encode_image(model.vision, pixels).to(model.dtype))
        return image_tokens(tokens, model.variant.resampler, settings.frames)

    def latents(pictures: Tensor) -> Tensor:
        return model.vae.config.scale_factor * model.vae.encode(pictures.to(model.dtype)).mean.float()

    if settings.mode == "animate":
        concat = repeat_picture(latents(first), settings.frames)
    else:
        concat = place_keyframes({0: latents(first), -1: latents(last)}, settings.frames)
    text, none, image, grey = (
        words(prompts),
        words([""] * len(prompts)),
        seen(first),
        seen(torch.zeros_like(first)),
    )
    return Conditioning(
        full=Context(text, image),
        unconditional=Context(none, grey),
        image_only=Context(none, image),
        concat=concat,
        fs=fs.to(model.device),
    )


def measure_behaviour(
    model: Model,
    *,
    items: int = 64,
    seed: int = 0,
    steps: int | None = None,
    cfg: float | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """All figures of the toy world, each on about ``items`` unseen clips; shares are 0 to 1, the rest dB or pixels.

    ``report`` hears every figure as soon as it is known.
    """
    figures: dict[str, float] = {}

    def note(name: str, value: Tensor | float) -> None:
        figures[name] = float(value)
        if report is not None:
            report(name, figures[name])

    def settings(mode: Mode) -> Settings:
        return make_settings(model.variant, mode, steps=steps, cfg=cfg)

    def scenes(count: int, motion: str, fs: int, salt: int) -> Scenes:
        generator = torch.Generator().manual_seed(seed * 1009 + salt)
        return with_motion(sample_scenes(count, generator, "held_out"), motion, fs)

    frames = model.variant.preset.frames
    still = still_frames(items, 900 + seed)
    vae = model.vae.float()
    note("autoencoder: round trip, dB", psnr(still, round_trip(vae, still)).mean())

    # Directions: the same pictures with four prompts, and without a prompt
    pictures = max(1, items // len(DIRECTIONS))
    right, right_untold, kept_colour, kept_shape, first_frames = 0.0, 0.0, 0.0, 0.0, 0.0
    wanted = scenes(pictures, DIRECTIONS[0], 10, 1)
    untold = directions(track(make(model, wanted, [""] * pictures, settings("animate"), seed), wanted))
    for direction in DIRECTIONS:
        wanted = scenes(pictures, direction, 10, 1)
        clips = make(model, wanted, captions(wanted), settings("animate"), seed)
        right += directions(track(clips, wanted)).count(direction) / pictures / 4
        colour, shape = same_subject(clips, wanted)
        kept_colour, kept_shape = kept_colour + colour / 4, kept_shape + shape / 4
        first_frames += float(psnr(clips[:, 0], render(wanted, torch.zeros(pictures, 1))[:, 0]).mean()) / 4
        right_untold += untold.count(direction) / pictures / 4
    note("prompted direction, share", right)
    note("same share without a prompt", right_untold)
    note("colour kept to the last frame, share", kept_colour)
    note("shape kept to the last frame, share", kept_shape)
    note("first frame to the picture, dB", first_frames)
    shown = render(wanted, torch.zeros(pictures, 1))[:, 0]
    note("round trip of these pictures, dB", psnr(shown, round_trip(vae, shown)).mean())

    # Standing still, growing, shrinking
    wanted = scenes(items, "still", 10, 2)
    names = directions(track(make(model, wanted, captions(wanted), settings("animate"), seed), wanted))
    note("stands still when told, share", names.count("still") / items)
    for motion in ("grow", "shrink"):
        wanted = scenes(items, motion, 10, 3)
        area = track(make(model, wanted, captions(wanted), settings("animate"), seed), wanted).area
        ratio = area[:, -1] / area[:, 0].clamp(min=1)
        done = ratio > _GREW if motion == "grow" else ratio < _SHRANK
        note(f"{motion}s when told, share", done.float().mean())

    # Speed
    distances: list[Tensor] = []
    for fs in _FS:
        wanted = scenes(items, "right", fs, 4)
        distances.append(
            travelled(track(make(model, wanted, captions(wanted), settings("animate"), seed), wanted))
        )
    note(f"distance at fs {_FS[0]}, pixels", distances[0].mean())
    note(f"distance at fs {_FS[-1]}, pixels", distances[-1].mean())
    monotone = torch.stack([a > b for a, b in zip(distances, distances[1:], strict=False)]).all(0)
    note("slower with every higher fs, share", monotone.float().mean())

    # Interpolation
    wanted = sample_scenes(items, torch.Generator().manual_seed(seed * 1009 + 5), "held_out", fs=(8, 12))
    truth = make_clips(wanted, frames)
    clips = make(model, wanted, captions(wanted), settings("interpolate"), seed, truth[:, -1])
    note("interpolation: first frame, dB", psnr(clips[:, 0], truth[:, 0]).mean())
    note("interpolation: last frame, dB", psnr(clips[:, -1], truth[:, -1]).mean())
    note(
        "interpolation: round trip of the last pictures, dB",
        psnr(truth[:, -1], round_trip(vae, truth[:, -1])).mean(),
    )
    note(
        "interpolation: middle frame to the true one, dB",
        psnr(clips[:, frames // 2], truth[:, frames // 2]).mean(),
    )

    # Loops
    wanted = replace(scenes(items, "right", 9, 6), loop=torch.ones(items, dtype=torch.bool))
    clips = make(model, wanted, captions(wanted), settings("loop"), seed)
    found = track(clips, wanted)
    note(
        "loop: last to first over the median step, ratio",
        torch.tensor([loop_closure(c) for c in clips]).median(),
    )
    note("loop: way out, pixels", (found.x[:, frames // 2] - found.x[:, 0]).mean())
    return figures
