"""A procedural world of coloured shapes on soft backgrounds: unlimited seeded clips with captions.

One or two shapes move, grow, shrink, turn, change colour or stand still; the lower the frame rate ``fs``, the faster. A
clip's first image does not reveal the motion; only the caption does. About every seventh combination of shape, colour
and background is held out of training with all its motions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

Split = Literal["train", "held_out"]

SIZE = 64
"""Height and width of an image in pixels."""
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.10, 0.10),
    "green": (0.10, 0.72, 0.18),
    "blue": (0.12, 0.25, 0.95),
    "yellow": (0.98, 0.92, 0.12),
    "purple": (0.60, 0.12, 0.78),
    "cyan": (0.12, 0.86, 0.92),
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.05),
}
"""RGB in [0, 1]; well separated from each other and from the muted backgrounds."""
BACKGROUNDS = ("gradient", "stripes", "waves")
MOTIONS: dict[str, tuple[str, ...]] = {
    "left": ("moves left", "slides to the left", "moving left"),
    "right": ("moves right", "slides to the right", "moving right"),
    "up": ("moves up", "rises", "moving up"),
    "down": ("moves down", "sinks", "moving down"),
    "grow": ("grows", "gets bigger", "growing"),
    "shrink": ("shrinks", "gets smaller", "shrinking"),
    "turn": ("turns", "rotates", "spins"),
    "colour": ("becomes {}", "changes to {}", "gets {}"),
    "still": ("stands still", "does not move", "stays still"),
}
"""The motions of a shape and their paraphrases."""
DIRECTIONS = ("left", "right", "up", "down")
ARTICLES = ("a ", "the ", "")

SLOWEST_FS, FASTEST_FS = 30, 8
_TRAVEL = 176.0
"""Pixels times frames per second: a shape travels 22 pixels over a clip at fs 8 and 5.9 at fs 30."""
_GROWTH, _SHRINKAGE = 1.75, 0.52
"""Change of the radius over a clip at fs 8."""
_TURN = math.radians(80)
"""Clockwise turn over a clip at fs 8."""
_EDGE = 0.7
"""Softness of the edges in pixels."""
_HELD_OUT_EVERY = 7
_NAMES = tuple(MOTIONS)
_TURN_INDEX, _CIRCLE = _NAMES.index("turn"), SHAPES.index("circle")
_STEPS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]] + [[0.0, 0.0]] * (len(MOTIONS) - 4))


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes; fields of shapes are ``[n, 2]``, and most scenes lack the second shape."""

    shape: Tensor
    colour: Tensor
    target: Tensor
    """Final colour of a colour change."""
    motion: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    present: Tensor
    background: Tensor
    """``[n]`` index of :data:`BACKGROUNDS`."""
    shades: Tensor
    """``[n, 2, 3]`` RGB of the background."""
    pattern: Tensor
    """``[n, 4]``: direction of the gradient; direction, phase and number of waves of the texture."""
    fs: Tensor
    """``[n]`` frames per second, :data:`FASTEST_FS` to :data:`SLOWEST_FS`."""
    loop: Tensor
    """``[n]``: whether the scene is a loop."""

    def __len__(self) -> int:
        return len(self.fs)


def held_out(shape: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """Whether this combination is held out of training, for all motions."""
    return (3 * shape + 5 * colour + 2 * background) % _HELD_OUT_EVERY == 0


def sample_scenes(
    count: int,
    generator: torch.Generator,
    split: Split = "train",
    *,
    motions: Sequence[str] = _NAMES,
    fs: tuple[int, int] = (FASTEST_FS, SLOWEST_FS),
    pairs: float = 0.0,
    loops: float = 0.0,
    scattered: bool = False,
) -> Scenes:
    """``count`` random scenes.

    Motions are sampled uniformly from ``motions`` (a circle never turns, since it would not be visible); ``fs`` is an
    inclusive range; ``pairs`` and ``loops`` are the shares of scenes with two shapes and of loops. ``scattered`` uses
    sizes and positions from a wider range, to train an autoencoder.
    """

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def choose(limit: int) -> Tensor:
        return torch.randint(limit, (count, 2), generator=generator)

    allowed = torch.tensor([_NAMES.index(name) for name in motions])
    shape, colour, motion = choose(len(SHAPES)), choose(len(COLOURS)), allowed[choose(len(allowed))]
    background = torch.randint(len(BACKGROUNDS), (count,), generator=generator)
    while True:
        wrong = held_out(shape[:, 0], colour[:, 0], background) != (split == "held_out")
        wrong = wrong | ((shape == _CIRCLE) & (motion == _TURN_INDEX)).any(1) | (colour[:, 0] == colour[:, 1])
        if not wrong.any():
            break
        shape = torch.where(wrong[:, None], choose(len(SHAPES)), shape)
        colour = torch.where(wrong[:, None], choose(len(COLOURS)), colour)
        motion = torch.where(wrong[:, None], allowed[choose(len(allowed))], motion)
        again = torch.randint(len(BACKGROUNDS), (count,), generator=generator)
        background = torch.where(wrong, again, background)
    target = (colour + 1 + torch.randint(len(COLOURS) - 1, (count, 2), generator=generator)) % len(COLOURS)

    two = uniform(count) < pairs
    if scattered:
        x, y, radius = (
            uniform(count, 2, low=4, high=60),
            uniform(count, 2, low=4, high=60),
            uniform(count, 2, low=5, high=18),
        )
        angle = uniform(count, 2, low=0, high=math.tau)
    else:
        x, y = uniform(count, 2, low=25, high=39), uniform(count, 2, low=25, high=39)
        side = torch.where(uniform(count) < 0.5, -1.0, 1.0)
        apart = 32 + side[:, None] * torch.tensor([-13.0, 13.0])
        x = torch.where(two[:, None], apart + uniform(count, 2, low=-3, high=3), x)
        radius = torch.where(
            two[:, None], uniform(count, 2, low=8, high=10), uniform(count, 2, low=10, high=14)
        )
        angle = uniform(count, 2, low=-0.2, high=0.2)

    shades = uniform(count, 1, 3, low=0.32, high=0.62) + uniform(count, 2, 3, low=-0.12, high=0.12)
    pattern = uniform(count, 4)
    return Scenes(
        shape=shape,
        colour=colour,
        target=target,
        motion=motion,
        x=x,
        y=y,
        radius=radius,
        angle=angle,
        present=torch.stack([torch.ones_like(two), two], dim=1),
        background=background,
        shades=shades,
        pattern=pattern,
        fs=torch.randint(fs[0], fs[1] + 1, (count,), generator=generator),
        loop=uniform(count) < loops,
    )


def select(scenes: Scenes, index: Tensor) -> Scenes:
    """The scenes at ``index`` (integers or a mask)."""
    return Scenes(**{field.name: getattr(scenes, field.name)[index] for field in fields(Scenes)})


def join(parts: Sequence[Scenes]) -> Scenes:
    """Several batches as one."""
    names = [field.name for field in fields(Scenes)]
    return Scenes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def with_motion(scenes: Scenes, motion: str, fs: int | None = None) -> Scenes:
    """The same first images with another motion of the first shape, and another ``fs`` if given."""
    changed = scenes.motion.clone()
    changed[:, 0] = _NAMES.index(motion)
    return replace(scenes, motion=changed, fs=scenes.fs if fs is None else torch.full_like(scenes.fs, fs))


def captions(scenes: Scenes, generator: torch.Generator | None = None) -> list[str]:
    """One caption for each scene: a random paraphrase, or the simplest wording without a generator."""
    names = list(COLOURS)

    def pick(limit: int) -> int:
        return 0 if generator is None else int(torch.randint(limit, (1,), generator=generator))

    def clause(scene: int, slot: int) -> str:
        phrases = MOTIONS[_NAMES[int(scenes.motion[scene, slot])]]
        phrase = phrases[pick(len(phrases))].format(names[int(scenes.target[scene, slot])])
        colour, shape = names[int(scenes.colour[scene, slot])], SHAPES[int(scenes.shape[scene, slot])]
        return f"{ARTICLES[pick(len(ARTICLES))]}{colour} {shape} {phrase}"

    return [
        " and ".join(clause(scene, slot) for slot in range(2) if scenes.present[scene, slot])
        for scene in range(len(scenes))
    ]


def clip_times(scenes: Scenes, frames: int) -> Tensor:
    """Progress of the motion at each frame, ``[n, frames]`` in [0, 1]; a loop goes forth and back."""
    line = torch.linspace(0, 1, frames).expand(len(scenes), -1)
    return torch.where(scenes.loop[:, None], 0.5 - 0.5 * torch.cos(math.tau * line), line)


def draw_scenes(scenes: Scenes, times: Tensor) -> Tensor:
    """Frames ``[n, t, 3, SIZE, SIZE]`` in [-1, 1] at ``times`` ``[n, t]``."""
    picture = _backgrounds(scenes)[:, None].expand(-1, times.shape[1], -1, -1, -1)
    for slot in (1, 0):
        colour, coverage = draw_shape(scenes, slot, times)
        picture = picture + coverage[:, :, None] * (colour[..., None, None] - picture)
    return picture * 2 - 1


def make_clips(scenes: Scenes, frames: int) -> Tensor:
    """Whole clips ``[n, frames, 3, SIZE, SIZE]`` in [-1, 1]."""
    return draw_scenes(scenes, clip_times(scenes, frames))


def pose(scenes: Scenes, slot: int, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, radius and angle of a shape at ``times`` ``[n, t]``, each ``[n, t]`` in pixels or radians."""
    motion, pace = scenes.motion[:, slot], FASTEST_FS / scenes.fs
    moved = _TRAVEL / FASTEST_FS * pace[:, None] * times
    step = _STEPS[motion]
    factor = torch.ones(len(motion))
    factor[motion == _NAMES.index("grow")] = _GROWTH
    factor[motion == _NAMES.index("shrink")] = _SHRINKAGE
    turn = torch.where(motion == _TURN_INDEX, _TURN, 0.0)
    return (
        scenes.x[:, slot, None] + step[:, :1] * moved,
        scenes.y[:, slot, None] + step[:, 1:] * moved,
        scenes.radius[:, slot, None] * (factor**pace)[:, None] ** times,
        scenes.angle[:, slot, None] + (turn * pace)[:, None] * times,
    )


def _grid() -> tuple[Tensor, Tensor]:
    line = torch.arange(SIZE) + 0.5
    return line[None, :], line[:, None]


def _backgrounds(scenes: Scenes) -> Tensor:
    """``[n, 3, SIZE, SIZE]`` in [0, 1]: a gradient between two shades, overlaid with soft stripes or waves."""
    x, y = (line / SIZE - 0.5 for line in _grid())
    slope, direction, phase, waves = (column[:, None, None] for column in scenes.pattern.unbind(1))
    across = x * torch.cos(math.tau * slope) + y * torch.sin(math.tau * slope)
    share = torch.sigmoid(5 * across)[:, None]
    first, second = (shade[:, :, None, None] for shade in scenes.shades.unbind(1))
    along = x * torch.cos(math.tau * direction) + y * torch.sin(math.tau * direction)
    aside = y * torch.cos(math.tau * direction) - x * torch.sin(math.tau * direction)
    turns = math.tau * (1.5 + waves)
    stripes = torch.sin(turns * along + math.tau * phase)
    textures = torch.stack([torch.zeros_like(stripes), stripes, stripes * torch.cos(turns * aside)], dim=1)
    texture = textures[torch.arange(len(scenes)), scenes.background]
    return first + share * (second - first) + 0.05 * texture[:, None]


def draw_shape(scenes: Scenes, slot: int, times: Tensor) -> tuple[Tensor, Tensor]:
    """Colour ``[n, t, 3]`` and coverage ``[n, t, SIZE, SIZE]``, both in [0, 1], of one shape of each scene."""
    centre_x, centre_y, radius, angle = (value[..., None, None] for value in pose(scenes, slot, times))
    x, y = _grid()
    dx, dy = (x - centre_x) / radius, (y - centre_y) / radius
    cos, sin = torch.cos(angle), torch.sin(angle)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    far_u, far_v = u.abs(), v.abs()
    bar = torch.minimum(torch.maximum(far_u - 1.0, far_v - 0.4), torch.maximum(far_u - 0.4, far_v - 1.0))
    distances = torch.stack(
        [
            torch.sqrt(u * u + v * v) - 1.0,
            torch.maximum(far_u, far_v) - 0.86,
            torch.maximum(v, 0.866 * far_u - 0.5 * v) - 0.6,
            bar,
        ],
        dim=1,
    )
    distance = distances[torch.arange(len(scenes)), scenes.shape[:, slot]] * radius
    coverage = torch.sigmoid(-distance / _EDGE) * scenes.present[:, slot, None, None, None]
    palette = torch.tensor(list(COLOURS.values()))
    own, goal = palette[scenes.colour[:, slot]], palette[scenes.target[:, slot]]
    changing = (scenes.motion[:, slot] == _NAMES.index("colour")).float()
    mix = (changing * 1.5 * FASTEST_FS / scenes.fs)[:, None] * times
    return own[:, None] + mix.clamp(max=1.0)[..., None] * (goal - own)[:, None], coverage
