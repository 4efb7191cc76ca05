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

from ..evaluation.figures import loop_closure, psnr
from ..model.variants import Mode
from ..pipeline import KeyPictures, Model, generate
from ..settings import Settings, make_settings
from .autoencoder import round_trip, still_frames
from .world import (
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Scenes,
    captions,
    draw_scenes,
    make_clips,
    sample_scenes,
    select,
    with_motion,
)

_SEEN = 0.12
"""Least difference from the background, in [0, 1], that counts as subject."""
_MOVED = 2.0
"""Pixels from its first place below which a subject stands still."""
_GREW, _SHRANK = 1.2, 0.83
"""Ratios of the area to the first one beyond which a subject has grown or shrunk."""
_LEAST = 1.0
"""Least sum over a frame of what exceeds ``_SEEN``, in pixels, for a subject to be there; a true one has 3 or more."""
_IN_PLACE = 4.0
"""Pixels within which the centre of a growing subject stays."""
_JUMP = 2.0
"""Pixels by which one step between frames may exceed half of the whole way before it is a jump."""
_CORNER = 4
"""Side of the squares in the corners, in pixels, that no subject in its place grows into."""
_FROZEN = 1e-6
"""Mean difference of two frames in [-1, 1] at and below which they are the same."""
_FS = (8, 12, 18, 28)
"""Frame rates that must give slower and slower motion."""
_BATCH = 16


@dataclass(frozen=True)
class Track:
    """Where the subject of each clip is in each frame, ``[n, t]``; pixels, and square pixels for the area.

    Its place is NaN in frames without a subject.
    """

    x: Tensor
    y: Tensor
    area: Tensor

    @property
    def there(self) -> Tensor:
        """Whether every frame of each clip has a subject, ``[n]``."""
        return ~(self.x + self.y).isnan().any(1)

    @property
    def away(self) -> Tensor:
        """Pixels from the subject's first place in each frame, ``[n, t]``; NaN where it is not there."""
        return torch.hypot(self.x - self.x[:, :1], self.y - self.y[:, :1])


def track(clips: Tensor, scenes: Scenes) -> Track:
    """The subject of clips ``[n, t, 3, H, W]`` in [-1, 1], as the weighted centre of what is not background."""
    weight = (_difference(clips, scenes) - _SEEN).clamp(min=0)
    total = weight.sum((-2, -1))
    total = torch.where(total < _LEAST, math.nan, total)
    line = torch.arange(clips.shape[-1]) + 0.5
    x = (weight.sum(-2) * line).sum(-1) / total
    y = (weight.sum(-1) * line).sum(-1) / total
    return Track(x, y, (weight > 0.05).float().sum((-2, -1)))


def _difference(clips: Tensor, scenes: Scenes) -> Tensor:
    """Largest difference of the three channels from the background, ``[n, t, H, W]`` in [0, 1]."""
    empty = draw_scenes(
        replace(scenes, present=torch.zeros_like(scenes.present)), torch.zeros(len(scenes), 1)
    )
    return ((clips - empty).abs() / 2).amax(2)


def directions(found: Track) -> list[str]:
    """One of the four directions for each clip, "still" (as in :func:`stands_still`), or "none".

    A direction takes 2 pixels or more along x or y from the first to the last place, a subject in all frames, and
    no jump: no step between frames that is longer than half of the whole way and 2 pixels.
    """
    dx, dy = found.x[:, -1] - found.x[:, 0], found.y[:, -1] - found.y[:, 0]
    step = torch.hypot(found.x.diff(dim=1), found.y.diff(dim=1))
    smooth = found.there & (step <= torch.hypot(dx, dy)[:, None] / 2 + _JUMP).all(1)
    names: list[str] = []
    for move in zip(dx, dy, smooth, stands_still(found), strict=True):
        across, down = float(move[0]), float(move[1])
        if move[3]:
            names.append("still")
        elif not move[2] or max(abs(across), abs(down)) < _MOVED:
            names.append("none")
        elif abs(across) > abs(down):
            names.append("right" if across > 0 else "left")
        else:
            names.append("down" if down > 0 else "up")
    return names


def stands_still(found: Track) -> Tensor:
    """Whether each subject is in all frames within 2 pixels of its first place and at 0.83 to 1.2 of its first area."""
    ratio = found.area / found.area[:, :1].clamp(min=1)
    return ((found.away < _MOVED) & (ratio >= _SHRANK) & (ratio <= _GREW)).all(1)


def grows(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether each subject's last area is more than 1.2 of its first, and it is the subject that has grown, ``[n]``.

    It must be there and within 4 pixels of its first place in all frames, and keep its colour; the last frame's
    corners of 4 pixels must still be background, which they are not in a frame that is only brighter.
    """
    found = track(clips, scenes)
    larger = found.area[:, -1] > _GREW * found.area[:, 0].clamp(min=1)
    rest = _difference(clips[:, -1:], scenes)[:, 0]
    ends = torch.cat([torch.arange(_CORNER), torch.arange(-_CORNER, 0)])
    corners = rest[:, ends][..., ends].mean((-2, -1))
    own_colour = _nearest_colour(clips[:, -1:], scenes) == scenes.colour[:, 0]
    return larger & (found.away <= _IN_PLACE).all(1) & (corners < _SEEN) & own_colour


def shrinks(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether each subject's last area is less than 0.83 of its first, and it is there in all frames, ``[n]``."""
    found = track(clips, scenes)
    return (found.area[:, -1] < _SHRANK * found.area[:, 0].clamp(min=1)) & found.there


def travelled(found: Track) -> Tensor:
    """Pixels between the subject's first and last place, ``[n]``; 0 where a frame has no subject."""
    return torch.where(found.there, found.away[:, -1], 0.0)


def slower(distances: Sequence[Tensor]) -> Tensor:
    """Whether the ways ``[n]`` that a subject travelled get shorter from each to the next, and none is 0 pixels."""
    shorter = [a > b for a, b in zip(distances, distances[1:], strict=False)]
    return torch.stack([*shorter, distances[-1] > 0]).all(0)


def way_out(found: Track) -> Tensor:
    """Pixels to the right from the first to the middle frame, ``[n]``; 0 where a frame has no subject."""
    return torch.where(found.there, found.x[:, found.x.shape[1] // 2] - found.x[:, 0], 0.0)


def moving_loop_closure(clip: Tensor) -> float:
    """:func:`loop_closure`, but infinite too for a clip that moves though its median step is 1e-6 or less.

    Such a clip is frozen but for a few frames: it ends as it began without having been a loop.
    """
    steps = (clip[1:] - clip[:-1]).abs().flatten(1).mean(1)
    return math.inf if steps.median() <= _FROZEN < steps.max() else loop_closure(clip)


def same_subject(clips: Tensor, scenes: Scenes) -> tuple[float, float]:
    """Shares of clips whose subject has its colour, and its shape, in the last frame; neither if a frame has none.

    The colour is the nearest of all to the subject's mean one. The shape is the one whose drawing, in that
    colour and at about the place and size of what is there, differs least from the frame.
    """
    last = clips[:, -1:]
    there = track(clips, scenes).there
    found = track(last, scenes)
    x, y = found.x.nan_to_num(), found.y.nan_to_num()
    nearest = _nearest_colour(last, scenes)

    still = torch.full_like(scenes.motion, tuple(MOTIONS).index("still"))
    errors = torch.full((len(scenes), len(SHAPES)), math.inf)
    for index, area in enumerate(_AREAS):
        radius = (found.area / area).sqrt().clamp(min=1)
        for size, across, down in product((0.8, 0.9, 1.0, 1.1), (-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0, 2.0)):
            guess = replace(
                scenes,
                shape=torch.full_like(scenes.shape, index),
                colour=nearest[:, None].expand(-1, 2),
                motion=still,
                x=(x + across).expand(-1, 2),
                y=(y + down).expand(-1, 2),
                radius=(radius * size).expand(-1, 2),
            )
            error = (draw_scenes(guess, torch.zeros(len(scenes), 1)) - last).square().flatten(1).mean(1)
            errors[:, index] = torch.minimum(errors[:, index], error)
    right_colour = there & (nearest == scenes.colour[:, 0])
    right_shape = there & (errors.argmin(1) == scenes.shape[:, 0])
    return float(right_colour.float().mean()), float(right_shape.float().mean())


def _nearest_colour(last: Tensor, scenes: Scenes) -> Tensor:
    """Index ``[n]`` of the colour nearest to the mean one of what is not background in frames ``[n, 1, 3, H, W]``."""
    weight = (_difference(last, scenes) - 2 * _SEEN).clamp(min=0)
    total = weight.sum((-2, -1)).clamp(min=1e-6)
    colour = ((last[:, 0] + 1) / 2 * weight).sum((-2, -1)) / total
    return torch.cdist(colour, torch.tensor(list(COLOURS.values()))).argmin(1)


_AREAS = (3.14, 2.96, 1.87, 2.56)
"""Area of each shape of radius 1."""


def shown(scenes: Scenes) -> Tensor:
    """The first pictures of scenes as a PNG file holds them: ``[n, 3, H, W]`` in [-1, 1], in steps of 1/255."""
    return ((draw_scenes(scenes, torch.zeros(len(scenes), 1))[:, 0] + 1) * 127.5).round() / 127.5 - 1


def generate_clips(
    model: Model,
    scenes: Scenes,
    prompts: Sequence[str],
    settings: Settings,
    seed: int,
    ends: Tensor | None = None,
) -> Tensor:
    """Clips ``[n, t, 3, H, W]`` in [-1, 1] of the scenes' first pictures, each with its own prompt and frame rate.

    They are made as the command makes them, with frames of 8 bits. ``ends`` are the last pictures ``[n, 3, H, W]`` of
    an interpolation.
    """
    made: list[Tensor] = []
    for start in range(0, len(scenes), _BATCH):
        index = torch.arange(start, min(start + _BATCH, len(scenes)))
        some = select(scenes, index)
        each = [
            replace(settings, prompt=prompts[number], fs=int(scenes.fs[number]), seed=seed * 100_003 + number)
            for number in range(start, start + len(some))
        ]
        frames = generate(model, KeyPictures(shown(some), None if ends is None else ends[index]), each)
        made.append(frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1)
    return torch.cat(made)


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
    vae = model.vae
    note("autoencoder: round trip, dB", psnr(still, round_trip(vae, still)).mean())

    # Directions: the same pictures with four prompts, and without a prompt
    pictures = max(1, items // len(DIRECTIONS))
    right, right_untold, kept_colour, kept_shape, first_frames = 0.0, 0.0, 0.0, 0.0, 0.0
    wanted = scenes(pictures, DIRECTIONS[0], 10, 1)
    untold = directions(
        track(generate_clips(model, wanted, [""] * pictures, settings("animate"), seed), wanted)
    )
    for direction in DIRECTIONS:
        wanted = scenes(pictures, direction, 10, 1)
        clips = generate_clips(model, wanted, captions(wanted), settings("animate"), seed)
        right += directions(track(clips, wanted)).count(direction) / pictures / 4
        colour, shape = same_subject(clips, wanted)
        kept_colour, kept_shape = kept_colour + colour / 4, kept_shape + shape / 4
        first_frames += float(psnr(clips[:, 0], shown(wanted)).mean()) / 4
        right_untold += untold.count(direction) / pictures / 4
    note("prompted direction, share", right)
    note("same share without a prompt", right_untold)
    note("colour kept to the last frame, share", kept_colour)
    note("shape kept to the last frame, share", kept_shape)
    note("first frame to the picture, dB", first_frames)
    first = shown(wanted)
    note("round trip of these pictures, dB", psnr(first, round_trip(vae, first)).mean())

    # Standing still, growing, shrinking
    wanted = scenes(items, "still", 10, 2)
    still = stands_still(
        track(generate_clips(model, wanted, captions(wanted), settings("animate"), seed), wanted)
    )
    note("stands still when told, share", still.float().mean())
    for motion in ("grow", "shrink"):
        wanted = scenes(items, motion, 10, 3)
        clips = generate_clips(model, wanted, captions(wanted), settings("animate"), seed)
        done = (grows if motion == "grow" else shrinks)(clips, wanted)
        note(f"{motion}s when told, share", done.float().mean())

    # Speed
    distances: list[Tensor] = []
    for fs in _FS:
        wanted = scenes(items, "right", fs, 4)
        distances.append(
            travelled(
                track(generate_clips(model, wanted, captions(wanted), settings("animate"), seed), wanted)
            )
        )
    note(f"distance at fs {_FS[0]}, pixels", distances[0].mean())
    note(f"distance at fs {_FS[-1]}, pixels", distances[-1].mean())
    note("slower with every higher fs, share", slower(distances).float().mean())

    # Interpolation
    wanted = sample_scenes(items, torch.Generator().manual_seed(seed * 1009 + 5), "held_out", fs=(8, 12))
    truth = make_clips(wanted, frames)
    clips = generate_clips(model, wanted, captions(wanted), settings("interpolate"), seed, truth[:, -1])
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
    clips = generate_clips(model, wanted, captions(wanted), settings("loop"), seed)
    note(
        "loop: last to first over the median step, ratio",
        torch.tensor([moving_loop_closure(c) for c in clips]).median(),
    )
    note("loop: way out, pixels", way_out(track(clips, wanted)).mean())
    return figures
