"""Cartoon characters on soft backgrounds: drawn with antialiasing, with the keypoints of their pose.

About every seventh combination of clothes, hair and build is held out of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..animate_anyone.drawing import draw
from ..animate_anyone.keypoints import Person, Point
from ..animate_anyone.pipeline import resized
from ..toy.world import Split
from .motions import Build, Numbers, Performance, Pose, joints_of

Rgb = tuple[float, float, float]
Pixels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

WIDTH, HEIGHT = 128, 192
"""Size of an image in pixels."""
DRAWN_WIDTH, DRAWN_HEIGHT = 512, 768
"""Size in which poses are drawn before they are resized, with a short side as in the released models' training."""

DYES: dict[str, Rgb] = {
    "red": (0.86, 0.14, 0.14),
    "orange": (0.95, 0.55, 0.10),
    "yellow": (0.96, 0.86, 0.20),
    "green": (0.16, 0.62, 0.24),
    "teal": (0.10, 0.68, 0.68),
    "blue": (0.16, 0.32, 0.86),
    "purple": (0.54, 0.20, 0.72),
    "pink": (0.95, 0.52, 0.72),
    "white": (0.94, 0.94, 0.94),
    "black": (0.12, 0.12, 0.14),
}
"""Of clothes and shoes, RGB in [0, 1]."""
SKINS: tuple[Rgb, ...] = (
    (0.98, 0.86, 0.76),
    (0.92, 0.74, 0.58),
    (0.78, 0.57, 0.41),
    (0.58, 0.39, 0.27),
    (0.40, 0.26, 0.18),
)
HAIRS: dict[str, Rgb] = {
    "black": (0.10, 0.08, 0.08),
    "brown": (0.40, 0.22, 0.10),
    "blond": (0.93, 0.78, 0.36),
    "red": (0.72, 0.26, 0.08),
    "grey": (0.66, 0.66, 0.68),
    "blue": (0.20, 0.36, 0.70),
}
LEGWEAR = ("trousers", "shorts", "skirt")
BUILDS = ("slim", "usual", "stout")
_HELD_OUT_EVERY = 7
_JITTER = 0.04
"""Of colours, in each channel."""
_FAR_SIDE = math.radians(50)
"""Angle from the front beyond which a detector no longer sees the far eye and ear."""

BACKGROUND, SKIN, HAIR, SHIRT, TROUSERS, SHOES, EYES = range(7)
"""Labels of pixels."""
GARMENTS: dict[str, int] = {"shirt": SHIRT, "trousers": TROUSERS, "shoes": SHOES, "skin": SKIN, "hair": HAIR}
"""Labels of the parts whose colours are measured."""


@dataclass(frozen=True)
class Character:
    """What someone looks like, and where they stand."""

    build: Build
    thickness: float
    """Radius of an arm as a fraction of the height; other widths follow from it."""
    palette: tuple[Rgb, ...]
    """RGB in [0, 1] by label; the first is not used."""
    sleeve: float
    """Covered share of the arm: 0 bare, 0.5 to the elbow, 1 to the wrist."""
    legwear: str
    long_hair: bool
    backdrop: tuple[Rgb, Rgb, Rgb]
    """Colours at the top and the bottom of the wall, and of the floor."""
    horizon: float
    """Height of the floor's edge as a fraction of the image, from the top."""
    size: float
    """Height in pixels."""
    place: tuple[float, float]
    """Middle of the feet in pixels."""


def is_held_out(shirt: int, trousers: int, hair: int, build: int) -> bool:
    """Whether this combination is held out of training."""
    return (3 * shirt + 5 * trousers + 2 * hair + build) % _HELD_OUT_EVERY == 0


def sample_character(random: np.random.Generator, split: Split = "train") -> Character:
    """A random character of a split."""
    while True:
        shirt, trousers = (int(random.integers(len(DYES))) for _ in range(2))
        hair, build = int(random.integers(len(HAIRS))), int(random.integers(len(BUILDS)))
        if shirt != trousers and is_held_out(shirt, trousers, hair, build) == (split == "held_out"):
            break
    clothes = list(DYES.values())
    shoes = clothes[int(random.integers(len(clothes)))]
    skin = SKINS[int(random.integers(len(SKINS)))]

    def varied(colour: Rgb) -> Rgb:
        return _within(colour + random.uniform(-_JITTER, _JITTER, 3), 0, 1)

    colours = ((0.0, 0.0, 0.0), skin, list(HAIRS.values())[hair], clothes[shirt], clothes[trousers], shoes)
    width = (0.9, 1.0, 1.15)[build]
    wall = random.uniform(0.45, 0.9) + random.uniform(-0.1, 0.1, 3)
    return Character(
        build=_sample_build(random, width),
        thickness=random.uniform(0.028, 0.033) * width,
        palette=(*(varied(colour) for colour in colours), (0.08, 0.06, 0.06)),
        sleeve=(0.0, 0.5, 1.0)[int(random.integers(3))],
        legwear=LEGWEAR[int(random.integers(len(LEGWEAR)))],
        long_hair=bool(random.integers(2)),
        backdrop=(
            _muted(wall),
            _muted(wall + random.uniform(-0.15, 0.15)),
            _muted(random.uniform(0.3, 0.7) + random.uniform(-0.1, 0.1, 3)),
        ),
        horizon=random.uniform(0.72, 0.86),
        size=random.uniform(128, 146),
        place=(WIDTH / 2 + random.uniform(-7, 7), HEIGHT * random.uniform(0.92, 0.95)),
    )


def _muted(colour: Numbers) -> Rgb:
    return _within(colour, 0.1, 0.97)


def _within(colour: Numbers, low: float, high: float) -> Rgb:
    red, green, blue = (min(high, max(low, float(value))) for value in colour)
    return red, green, blue


def _share(values: Pixels) -> Pixels:
    """Values limited to the range from 0 to 1."""
    return np.minimum(np.maximum(values, 0), 1)


def _sample_build(random: np.random.Generator, width: float) -> Build:
    lengths = {
        "head": random.uniform(0.085, 0.11),
        "neck": random.uniform(0.025, 0.04),
        "trunk": random.uniform(0.27, 0.32),
        "upper_arm": random.uniform(0.14, 0.165),
        "forearm": random.uniform(0.13, 0.155),
        "thigh": random.uniform(0.20, 0.23),
        "shin": random.uniform(0.19, 0.22),
    }
    plain = Build(
        **lengths,
        shoulders=random.uniform(0.085, 0.11) * width,
        hips=random.uniform(0.045, 0.06) * width,
        foot=0.035,
    )
    return Build(**{name: value / plain.height for name, value in vars(plain).items()})


def places_of(character: Character, pose: Pose) -> Numbers:
    """The 18 joints in pixels, ``[18, 3]``; the third is the distance towards the viewer."""
    joints = joints_of(character.build, pose)
    joints[:, 1] -= character.build.foot
    return joints * character.size + (*character.place, 0.0)


def character_keypoints(character: Character, pose: Pose) -> Person:
    """What a detector would find: no far eye and ear from the side, and no joint outside of the image."""
    unseen: set[int] = set()
    if abs(pose.yaw) > _FAR_SIDE:
        unseen = {14, 16} if pose.yaw < 0 else {15, 17}
        # Whoever looks to the image's right shows the right side.
    points: list[Point | None] = []
    for index, (x, y, _) in enumerate(places_of(character, pose).tolist()):
        inside = 0 <= x < WIDTH and 0 <= y < HEIGHT
        points.append((x / WIDTH, y / HEIGHT) if inside and index not in unseen else None)
    return Person(tuple(points))


def pose_picture(person: Person) -> Tensor:
    """A drawn pose, uint8 ``[3, HEIGHT, WIDTH]``."""
    from PIL.Image import fromarray

    return resized(fromarray(draw(person, DRAWN_HEIGHT, DRAWN_WIDTH)), WIDTH, HEIGHT)


def picture_of(character: Character, pose: Pose) -> tuple[Tensor, Tensor]:
    """An image ``[3, HEIGHT, WIDTH]`` in [-1, 1] and the label of every pixel, uint8 ``[HEIGHT, WIDTH]``."""
    canvas = _Canvas(character)
    joints = places_of(character, pose)
    parts = _parts(character, pose, joints)
    for part in sorted(parts, key=lambda one: one.depth):
        canvas.capsule(part)
    picture = torch.as_tensor(canvas.pixels).movedim(-1, 0) * 2 - 1
    return picture, torch.as_tensor(canvas.labels)


def clip_of(character: Character, performance: Performance, frames: Sequence[float]) -> Tensor:
    """The images of the given frames of a performance, ``[t, 3, HEIGHT, WIDTH]`` in [-1, 1]."""
    return torch.stack([picture_of(character, performance.pose(frame))[0] for frame in frames])


@dataclass(frozen=True)
class _Part:
    """A capsule from ``a`` to ``b`` whose radius changes evenly."""

    label: int
    a: Numbers
    b: Numbers
    radii: tuple[float, float]
    depth: float
    """Parts with a greater one cover others."""


def _parts(character: Character, pose: Pose, joints: Numbers) -> list[_Part]:
    build, size = character.build, character.size
    arm, leg = character.thickness * size, 1.45 * character.thickness * size
    parts: list[_Part] = []

    def add(
        label: int, a: Numbers, b: Numbers, radii: tuple[float, float], depth: float | None = None
    ) -> None:
        parts.append(_Part(label, a[:2], b[:2], radii, (a[2] + b[2]) / 2 if depth is None else depth))

    neck, hip = joints[1], (joints[8] + joints[11]) / 2
    facing = np.array([math.sin(pose.yaw), 0.0, math.cos(pose.yaw)])
    # The trunk is widest at the shoulders, and thinner from the side
    turned = abs(math.cos(pose.yaw))
    chest = size * math.hypot(build.shoulders * turned, 0.06 * (1 - turned))
    waist = size * math.hypot(build.hips * turned, 0.045 * (1 - turned)) + 0.25 * arm
    up = (neck - hip) / max(1e-6, float(np.linalg.norm(neck - hip)))
    add(SHIRT, neck - 0.9 * chest * up, hip + 0.3 * waist * up, (chest, 1.15 * waist), hip[2])
    add(SKIN, neck - 0.01 * size * up, neck + build.neck * size * up, (0.8 * arm, 0.8 * arm), hip[2] + 0.01)
    # Legs are drawn behind the trunk, except one that is raised in front of it
    behind = -0.04 * size
    for knee, ankle, top in ((9, 10, 8), (12, 13, 11)):
        bare = character.legwear != "trousers"
        thigh = SKIN if character.legwear == "skirt" else TROUSERS
        add(thigh, joints[top], joints[knee], (1.1 * leg, leg), _mean_depth(joints, top, knee) + behind)
        lower = _mean_depth(joints, knee, ankle) + behind - 0.01
        add(SKIN if bare else TROUSERS, joints[knee], joints[ankle], (0.95 * leg, 0.75 * leg), lower)
        toe = joints[ankle] + size * (0.05 * facing + np.array([0.0, 0.012, 0.0]))
        heel = joints[ankle] + size * np.array([0.0, 0.008, 0.0])
        add(SHOES, heel, toe, (0.95 * leg, 0.8 * leg), lower + 0.02)
    if character.legwear == "skirt":
        hem = (joints[9] + joints[12]) / 2
        end = hip + 0.75 * (hem - hip)
        flare = 1.2 * leg + 0.6 * abs(float(joints[9][0] - joints[12][0])) / 2
        front = max(float(joints[9][2]), float(joints[12][2]), float(hip[2])) + behind + 0.02
        add(TROUSERS, hip, end, (waist, max(waist, flare)), front)
    else:
        add(TROUSERS, joints[8], joints[11], (1.15 * leg, 1.15 * leg), float(hip[2]) + behind + 0.03)
    for first, second, third in ((2, 3, 4), (5, 6, 7)):
        # An arm at the side of the trunk is seen in front of it
        before = 0.03 * size if turned > 0.5 else 0.0
        upper = _mean_depth(joints, first, second) + before
        lower = _mean_depth(joints, second, third) + before + 0.02
        add(SHIRT if character.sleeve > 0 else SKIN, joints[first], joints[second], (1.05 * arm, arm), upper)
        add(SHIRT if character.sleeve == 1 else SKIN, joints[second], joints[third], (arm, 0.8 * arm), lower)
        add(SKIN, joints[third], joints[third], (1.1 * arm, 1.1 * arm), lower + 0.01)
    _add_head(parts, character, joints, facing, up)
    return parts


def _add_head(
    parts: list[_Part], character: Character, joints: Numbers, facing: Numbers, up: Numbers
) -> None:
    size, radius = character.size, character.build.head * character.size
    depth, trunk = float(joints[1][2]), float(joints[8][2] + joints[11][2]) / 2
    centre = joints[1] + (character.build.neck + character.build.head) * size * up
    crown = centre + 0.08 * radius * up - 0.12 * radius * facing
    face = centre - 0.12 * radius * up + 0.28 * radius * facing
    near = depth + 0.06 * size
    if character.long_hair:
        end = centre - 1.7 * radius * up - 0.45 * radius * facing
        behind = min(depth, trunk) - 0.03 * size
        parts.append(_Part(HAIR, crown[:2], end[:2], (1.05 * radius, 0.8 * radius), behind))
    parts.append(_Part(HAIR, crown[:2], crown[:2], (1.08 * radius, 1.08 * radius), near))
    parts.append(_Part(SKIN, face[:2], face[:2], (0.86 * radius, 0.86 * radius), near + 0.1))
    for eye in (14, 15):
        if joints[eye][2] - depth > 0.2 * radius:
            dot = joints[eye][:2]
            parts.append(_Part(EYES, dot, dot, (0.13 * radius, 0.13 * radius), near + 0.2))


def _mean_depth(joints: Numbers, a: int, b: int) -> float:
    return float(joints[a][2] + joints[b][2]) / 2


class _Canvas:
    """An image being drawn."""

    def __init__(self, character: Character) -> None:
        top, bottom, floor = (np.array(colour, dtype=np.float32) for colour in character.backdrop)
        rows = (np.arange(HEIGHT, dtype=np.float32) + 0.5)[:, None]
        edge = character.horizon * HEIGHT
        wall = top + _share(rows / edge) * (bottom - top)
        below = _share(rows - edge + 0.5)
        shades = wall + below * (floor - wall)
        self.pixels: Pixels = np.repeat(shades[:, None, :], WIDTH, axis=1).astype(np.float32)
        self.labels: Labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        self._palette = np.array(character.palette, dtype=np.float32)

    def capsule(self, part: _Part) -> None:
        """Draw one part; edges are one pixel wide."""
        reach = max(part.radii) + 1
        left, top = (np.floor(np.minimum(part.a, part.b) - reach)).astype(int)
        right, bottom = (np.ceil(np.maximum(part.a, part.b) + reach)).astype(int)
        columns, rows = slice(max(0, left), max(0, right)), slice(max(0, top), max(0, bottom))
        x = np.arange(WIDTH, dtype=np.float32)[None, columns] + 0.5 - float(part.a[0])
        y = np.arange(HEIGHT, dtype=np.float32)[rows, None] + 0.5 - float(part.a[1])
        if not x.size or not y.size:
            return
        dx, dy = (part.b - part.a).tolist()
        square = max(dx * dx + dy * dy, 1e-6)
        along = _share((x * dx + y * dy) / square)
        distance = np.hypot(x - along * dx, y - along * dy)
        radius = part.radii[0] + along * (part.radii[1] - part.radii[0])
        coverage = _share(radius - distance + 0.5)[..., None]
        under = self.pixels[rows, columns]
        under += coverage * (self._palette[part.label] - under)
        self.labels[rows, columns][coverage[..., 0] > 0.5] = part.label
