"""Metrics of a model in the toy world: whether it follows prompt and frame rate, and keeps the subject's appearance.

All metrics use scenes that are not in the training split. The subject is what differs from the known background.
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
"""Minimum difference from the background, in [0, 1], that counts as subject."""
_MOVED = 2.0
"""Distance from its first position, in pixels, below which a subject stands still."""
_GREW, _SHRANK = 1.2, 0.83
"""Ratios of the area to the first frame's beyond which a subject has grown or shrunk."""
_LEAST = 1.0
"""Minimum sum of the excess over ``_SEEN`` in a frame, in pixels, for a subject; true ones have 3 or more."""
_IN_PLACE = 4.0
"""Pixels within which the centre of a growing subject stays."""
_JUMP = 2.0
"""Pixels by which one step between frames may exceed half of the total distance before it is a jump."""
_CORNER = 4
"""Side of the corner squares, in pixels, that a growing subject never reaches."""
_FROZEN = 1e-6
"""Mean difference of two frames in [-1, 1] up to which they count as equal."""
_FS = (8, 12, 18, 28)
"""Frame rates in the order in which motion must become slower."""
_BATCH = 16


@dataclass(frozen=True)
class Track:
    """Position (pixels) and area (square pixels) of each clip's subject in each frame, ``[n, t]``.

    The position is NaN in frames without a subject.
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
        """Distance from the subject's first position in each frame, in pixels ``[n, t]``; NaN without a subject."""
        return torch.hypot(self.x - self.x[:, :1], self.y - self.y[:, :1])


def track(clips: Tensor, scenes: Scenes) -> Track:
    """Track the subject of clips ``[n, t, 3, H, W]`` in [-1, 1] as the weighted centre of what is not background."""
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

    A direction requires 2 pixels or more along x or y from the first to the last position, a subject in all frames, and
    no jump, that is, no step between frames longer than half of the total distance plus 2 pixels.
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
    """Whether each subject stays within 2 pixels of its first position and 0.83 to 1.2 of its first area throughout."""
    ratio = found.area / found.area[:, :1].clamp(min=1)
    return ((found.away < _MOVED) & (ratio >= _SHRANK) & (ratio <= _GREW)).all(1)


def grows(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether each subject's last area is more than 1.2 times its first because the subject has grown, ``[n]``.

    It must be present within 4 pixels of its first position in all frames and keep its colour; the 4-pixel corners of
    the last frame must still be background, which excludes a frame that only became brighter.
    """
    found = track(clips, scenes)
    larger = found.area[:, -1] > _GREW * found.area[:, 0].clamp(min=1)
    rest = _difference(clips[:, -1:], scenes)[:, 0]
    ends = torch.cat([torch.arange(_CORNER), torch.arange(-_CORNER, 0)])
    corners = rest[:, ends][..., ends].mean((-2, -1))
    own_colour = _nearest_colour(clips[:, -1:], scenes) == scenes.colour[:, 0]
    return larger & (found.away <= _IN_PLACE).all(1) & (corners < _SEEN) & own_colour


def shrinks(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether each subject's last area is less than 0.83 of its first, and it is present in all frames, ``[n]``."""
    found = track(clips, scenes)
    return (found.area[:, -1] < _SHRANK * found.area[:, 0].clamp(min=1)) & found.there


def travelled(found: Track) -> Tensor:
    """Distance between the subject's first and last position, in pixels ``[n]``; 0 if a frame has no subject."""
    return torch.where(found.there, found.away[:, -1], 0.0)


def slower(distances: Sequence[Tensor]) -> Tensor:
    """Whether the distances ``[n]`` that a subject travelled are strictly decreasing and above 0."""
    shorter = [a > b for a, b in zip(distances, distances[1:], strict=False)]
    return torch.stack([*shorter, distances[-1] > 0]).all(0)


def way_out(found: Track) -> Tensor:
    """Distance to the right from the first to the middle frame, in pixels ``[n]``; 0 if a frame has no subject."""
    return torch.where(found.there, found.x[:, found.x.shape[1] // 2] - found.x[:, 0], 0.0)


def moving_loop_closure(clip: Tensor) -> float:
    """:func:`loop_closure`, but also infinite for a clip that moves although its median step is 1e-6 or less.

    Such a clip is static except for a few frames: it ends as it began without being a loop.
    """
    steps = (clip[1:] - clip[:-1]).abs().flatten(1).mean(1)
    return math.inf if steps.median() <= _FROZEN < steps.max() else loop_closure(clip)


def same_subject(clips: Tensor, scenes: Scenes) -> tuple[float, float]:
    """Shares of clips whose subject keeps its colour, and its shape, in the last frame; neither without a subject.

    The colour is the palette colour nearest to the subject's mean colour. The shape is the one whose rendering, in that
    colour and at about the position and size of the subject, differs least from the frame.
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
    """Index ``[n]`` of the colour nearest to the mean of what is not background in frames ``[n, 1, 3, H, W]``."""
    weight = (_difference(last, scenes) - 2 * _SEEN).clamp(min=0)
    total = weight.sum((-2, -1)).clamp(min=1e-6)
    colour = ((last[:, 0] + 1) / 2 * weight).sum((-2, -1)) / total
    return torch.cdist(colour, torch.tensor(list(COLOURS.values()))).argmin(1)


_AREAS = (3.14, 2.96, 1.87, 2.56)
"""Area of each shape with radius 1."""


def shown(scenes: Scenes) -> Tensor:
    """The first images of scenes as stored in a PNG file: ``[n, 3, H, W]`` in [-1, 1], quantised to 8 bits."""
    return ((draw_scenes(scenes, torch.zeros(len(scenes), 1))[:, 0] + 1) * 127.5).round() / 127.5 - 1


def generate_clips(
    model: Model,
    scenes: Scenes,
    prompts: Sequence[str],
    settings: Settings,
    seed: int,
    ends: Tensor | None = None,
) -> Tensor:
    """Generate clips ``[n, t, 3, H, W]`` in [-1, 1] from the scenes' first images, with their prompts and frame rates.

    They are generated as by the command, with 8-bit frames. ``ends`` are the last images ``[n, 3, H, W]`` of an
    interpolation.
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
    """All metrics of the toy world, each on about ``items`` unseen clips; shares are 0 to 1, the rest dB or pixels.

    ``report`` is called with every metric as soon as it is known.
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

    # Directions: the same images with four prompts, and without a prompt
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
