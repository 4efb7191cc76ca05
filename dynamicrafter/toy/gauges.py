"""Gauges of clips in the toy world: whether a subject moves, grows, turns or changes colour, and keeps its appearance.

They compare frames with the scenes that they were made from. The subject is what differs from the known background.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..evaluation.figures import loop_closure
from .world import COLOURS, MOTIONS, SHAPES, Scenes, clip_times, draw_scenes, draw_shape, pose, with_motion

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
_TURNED = math.radians(12)
"""Maximum difference from the true angle of a turning subject."""
_SAME_COLOUR = 0.25
"""Distance in RGB from a palette colour up to which a mean colour is that one; the palette's are 0.5 or more apart."""
_FROZEN = 1e-6
"""Mean difference of two frames in [-1, 1] up to which they count as equal."""


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
    return _centre((_difference(clips, scenes) - _SEEN).clamp(min=0))


def _length(vectors: Tensor, dim: int) -> Tensor:
    return vectors.square().sum(dim).sqrt()


def track_both(clips: Tensor, scenes: Scenes) -> tuple[Track, Track]:
    """Track the two subjects of clips; a pixel belongs to the one whose blend with the background is nearer to it."""
    weight = (_difference(clips, scenes) - _SEEN).clamp(min=0)
    far = torch.stack([_opacity(clips, scenes, slot)[1] for slot in range(2)])
    return _centre(weight * (far[0] <= far[1])), _centre(weight * (far[1] < far[0]))


def _centre(weight: Tensor) -> Track:
    total = weight.sum((-2, -1))
    total = torch.where(total < _LEAST, math.nan, total)
    line = torch.arange(weight.shape[-1]) + 0.5
    x = (weight.sum(-2) * line).sum(-1) / total
    y = (weight.sum(-1) * line).sum(-1) / total
    # Half of the largest weight for a subject that hardly differs from its background, which else has no area.
    least = (weight.amax((-2, -1), keepdim=True) / 2).clamp(max=0.05)
    return Track(x, y, (weight > least).float().sum((-2, -1)))


def _difference(clips: Tensor, scenes: Scenes) -> Tensor:
    """Largest difference of the three channels from the background, ``[n, t, H, W]`` in [0, 1]."""
    return ((clips - _empty(scenes)).abs() / 2).amax(2)


def _empty(scenes: Scenes) -> Tensor:
    """The backgrounds without subjects, ``[n, 1, 3, H, W]`` in [-1, 1]."""
    return draw_scenes(replace(scenes, present=torch.zeros_like(scenes.present)), torch.zeros(len(scenes), 1))


def _opacity(clips: Tensor, scenes: Scenes, slot: int) -> tuple[Tensor, Tensor]:
    """Opacity of a subject's first colour in each pixel that explains it best, and what remains unexplained.

    Both are ``[n, t, H, W]``; the opacity is in [0, 1], the rest is a distance between colours in [-1, 1].
    """
    palette = torch.tensor(list(COLOURS.values())) * 2 - 1
    empty = _empty(scenes)
    full = palette[scenes.colour[:, slot]][:, None, :, None, None] - empty
    share = ((clips - empty) * full).sum(2) / full.square().sum(2).clamp(min=1e-6)
    share = share.clamp(0, 1)
    return share, _length(clips - empty - share[:, :, None] * full, 2)


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


def both_as_told(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether both subjects of each clip move in the direction of their motion, as in :func:`directions`, ``[n]``."""
    names = tuple(MOTIONS)
    seen = zip(*(directions(found) for found in track_both(clips, scenes)), scenes.motion, strict=True)
    return torch.tensor([[a, b] == [names[int(slot)] for slot in told] for a, b, told in seen])


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


def turns(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether each subject turns clockwise in place, at the speed of its frame rate, ``[n]``; never for circles.

    At a quarter, the half, three quarters and the end of the clip, the angle at which the subject's own shape differs
    least from the frame must be within 12 degrees of the true one.
    """
    frames = clips.shape[1]
    found = track(clips, scenes)
    angles = pose(with_motion(scenes, "turn"), 0, clip_times(scenes, frames))[3]
    symmetry = torch.tensor(_SYMMETRIES)[scenes.shape[:, 0]]
    right = (found.away <= _IN_PLACE).all(1)
    for frame in (frames // 4, frames // 2, 3 * frames // 4, frames - 1):
        best, off = torch.full((len(scenes),), math.inf), torch.zeros(len(scenes))
        for degrees in range(-60, 61, 6):
            angle = angles[:, frame] + math.radians(degrees)
            guess = _still(
                scenes, x=found.x[:, frame].nan_to_num(), y=found.y[:, frame].nan_to_num(), angle=angle
            )
            error = (draw_scenes(guess, torch.zeros(len(scenes), 1))[:, 0] - clips[:, frame]).square()
            error = error.flatten(1).mean(1)
            off = torch.where(error < best, math.radians(degrees), off)
            best = torch.minimum(best, error)
        off = (off + symmetry / 2).remainder(symmetry) - symmetry / 2
        right = right & (off.abs() <= _TURNED)
    return right & (scenes.shape[:, 0] != SHAPES.index("circle"))


def changes_colour(clips: Tensor, scenes: Scenes) -> Tensor:
    """Whether each subject changes from its own colour to the scene's target in place, ``[n]``.

    The colour is the mean where the subject stands in the first image. In the first and the last frame it must be
    within 0.25 of the two palette colours, and no step between frames may exceed half of their distance.
    """
    _, coverage = draw_shape(scenes, 0, torch.zeros(len(scenes), 1))
    inside = (coverage > 0.9).float()[:, :, None]
    colour = ((clips + 1) / 2 * inside).sum((-2, -1)) / inside.sum((-2, -1))
    palette = torch.tensor(list(COLOURS.values()))
    own, target = palette[scenes.colour[:, 0]], palette[scenes.target[:, 0]]
    steps = _length(colour.diff(dim=1), 2)
    smooth = (steps <= _length(target - own, 1)[:, None] / 2).all(1)
    ends = _length(torch.stack([colour[:, 0] - own, colour[:, -1] - target]), 2)
    return smooth & (ends <= _SAME_COLOUR).all(0)


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
    nearest = _nearest_colour(last, scenes)
    errors = torch.full((len(scenes), len(SHAPES)), math.inf)
    for index in range(len(SHAPES)):
        shape = torch.full_like(scenes.shape, index)
        seen = replace(scenes, shape=shape, colour=nearest[:, None].expand(-1, 2))
        for guess in _placed(seen, last):
            error = (draw_scenes(guess, torch.zeros(len(scenes), 1)) - last).square().flatten(1).mean(1)
            errors[:, index] = torch.minimum(errors[:, index], error)
    right_colour = there & (nearest == scenes.colour[:, 0])
    right_shape = there & (errors.argmin(1) == scenes.shape[:, 0])
    return float(right_colour.float().mean()), float(right_shape.float().mean())


def outline_overlap(clips: Tensor, scenes: Scenes) -> Tensor:
    """Overlap of each subject's outline in the last frame with its own shape: intersection over union, ``[n]`` in 0..1.

    The shape is drawn at about the position and size of the subject, where the overlap is largest; pixels count as
    covered from half opacity. It falls when corners become round or edges wavy, which :func:`same_subject` forgives;
    0 for a clip with a frame without the subject.
    """
    last = clips[:, -1:]
    seen = _opacity(last, scenes, 0)[0] >= 0.5
    overlap = torch.zeros(len(scenes))
    for guess in _placed(scenes, last):
        drawn = draw_shape(guess, 0, torch.zeros(len(scenes), 1))[1] >= 0.5
        both, either = ((a.flatten(1).sum(1)) for a in (seen & drawn, seen | drawn))
        overlap = torch.maximum(overlap, both / either.clamp(min=1))
    return torch.where(track(clips, scenes).there, overlap, 0.0)


def _placed(scenes: Scenes, last: Tensor) -> Iterator[Scenes]:
    """The scenes' shapes standing still at about the position and size of the subject in frames ``[n, 1, 3, H, W]``."""
    found = track(last, scenes)
    x, y = found.x.nan_to_num(), found.y.nan_to_num()
    radius = (found.area / torch.tensor(_AREAS)[scenes.shape[:, 0], None]).sqrt().clamp(min=1)
    for size, across, down in product((0.8, 0.9, 1.0, 1.1), (-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0, 2.0)):
        yield _still(scenes, x=(x + across)[:, 0], y=(y + down)[:, 0], radius=(radius * size)[:, 0])


def _still(scenes: Scenes, **values: Tensor) -> Scenes:
    """The scenes standing still, with other values ``[n]`` of the first subject's fields."""
    changed = {name: value[:, None].expand(-1, 2) for name, value in values.items()}
    return replace(with_motion(scenes, "still"), **changed)


def _nearest_colour(last: Tensor, scenes: Scenes) -> Tensor:
    """Index ``[n]`` of the colour nearest to the mean of what is not background in frames ``[n, 1, 3, H, W]``."""
    # Three quarters of the largest difference for a subject that hardly differs, which else has no colour.
    difference = _difference(last, scenes)
    weight = (difference - (difference.amax((-2, -1), keepdim=True) * 0.75).clamp(max=2 * _SEEN)).clamp(min=0)
    total = weight.sum((-2, -1)).clamp(min=1e-6)
    colour = ((last[:, 0] + 1) / 2 * weight).sum((-2, -1)) / total
    return torch.cdist(colour, torch.tensor(list(COLOURS.values()))).argmin(1)


_AREAS = (3.14, 2.96, 1.87, 2.56)
"""Area of each shape with radius 1."""
_SYMMETRIES = (math.tau, math.tau / 4, math.tau / 3, math.tau / 4)
"""Smallest turn after which each shape looks the same."""
