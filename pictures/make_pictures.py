"""Draws the example pictures of this folder; ``python pictures/make_pictures.py`` makes them again.

Everything is computed at twice the size and made smaller at the end, which smooths the edges.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Layer = NDArray[np.float64]
Colour = tuple[int, int, int]

WIDTH, HEIGHT = 512, 320
SCALE = 2
W, H = WIDTH * SCALE, HEIGHT * SCALE
Y, X = np.mgrid[:H, :W].astype(np.float64)


def gradient(stops: list[tuple[float, Colour]], top: int = 0, bottom: int = H) -> Layer:
    """``[H, W, 3]``: colours from ``top`` to ``bottom``, each stop a part of the way and its colour."""
    way = np.clip((Y[:, 0] - top) / (bottom - top), 0, 1)
    places = [place for place, _ in stops]
    channels = [np.interp(way, places, [colour[i] for _, colour in stops]) for i in range(3)]
    return np.stack(channels, axis=-1)[:, None].repeat(W, axis=1)


def over(below: Layer, colour: Colour, cover: Layer) -> Layer:
    """``below`` with ``colour`` laid on as far as ``cover`` (``[H, W]``, 0..1) says."""
    return below + (np.array(colour, dtype=np.float64) - below) * cover[..., None]


def glow(x: float, y: float, reach: float) -> Layer:
    """1 at a point, fading out in all directions."""
    return np.exp(-np.hypot(X - x, Y - y) / reach)


def disc(x: float, y: float, radius: float) -> Layer:
    """A disc with a smooth edge."""
    return np.clip(radius - np.hypot(X - x, Y - y) + 0.5, 0, 1)


def noise(random: np.random.Generator, across: float, down: float, octaves: int = 4) -> Layer:
    """Smooth noise, 0..1, whose largest features measure ``across`` x ``down`` pixels."""
    total, weight = np.zeros((H, W)), 0.0
    for octave in range(octaves):
        cells = (max(2, round(W / across * 2**octave)), max(2, round(H / down * 2**octave)))
        coarse = Image.fromarray(random.random(cells[::-1]).astype(np.float32))
        total += np.asarray(coarse.resize((W, H), Image.Resampling.BICUBIC)) * 0.5**octave
        weight += 0.5**octave
    return np.clip(total / weight, 0, 1)


def ridge(random: np.random.Generator, level: float, height: float, width: float, rough: int = 5) -> Layer:
    """Where it is below a line of hills: 1 under it, 0 above, ``[H, W]``."""
    line = np.full(W, float(level))
    for octave in range(rough):
        phase = random.random(2) * 2 * np.pi
        step = 2**octave
        line -= height / step**1.25 * np.sin(X[0] * 2 * np.pi * step / width + phase[0])
        line -= height / step**1.25 * 0.4 * np.sin(X[0] * 5.1 * step / width + phase[1])
    return np.clip(Y - line[None] + 0.5, 0, 1)


def shape(points: list[tuple[float, float]]) -> Layer:
    """A filled polygon."""
    image = Image.new("L", (W, H))
    ImageDraw.Draw(image).polygon(points, fill=255)
    return np.asarray(image) / 255.0


def lines(strokes: list[tuple[list[tuple[float, float]], int]]) -> Layer:
    """Polylines with their widths."""
    image = Image.new("L", (W, H))
    draw = ImageDraw.Draw(image)
    for points, width in strokes:
        draw.line(points, fill=255, width=width, joint="curve")
    return np.asarray(image) / 255.0


def blurred(cover: Layer, radius: float) -> Layer:
    """``cover`` out of focus."""
    image = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image) / 255.0


def clouds(random: np.random.Generator, amount: float) -> Layer:
    """Long thin clouds, thicker towards the middle of the sky."""
    field = noise(random, 620, 46, 5)
    return np.clip((field - (1 - amount)) / 0.22, 0, 1) ** 1.3


def finished(layer: Layer, random: np.random.Generator) -> Image.Image:
    """At its final size, with so little grain that gradients do not show steps."""
    small = Image.fromarray(np.clip(np.rint(layer), 0, 255).astype(np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.LANCZOS
    )
    grain = random.normal(0, 0.8, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(np.rint(np.asarray(small) + grain), 0, 255).astype(np.uint8))


def harbour() -> Image.Image:
    """A sailing boat before the setting sun."""
    random = np.random.default_rng(7)
    horizon = round(H * 0.56)
    sun = (W * 0.64, horizon - 44.0)

    sky = gradient(
        [
            (0.0, (38, 48, 98)),
            (0.35, (104, 78, 132)),
            (0.62, (214, 112, 112)),
            (0.82, (250, 160, 94)),
            (1.0, (255, 208, 128)),
        ],
        0,
        horizon,
    )
    sky = over(sky, (255, 196, 120), 0.75 * glow(*sun, 190))
    cloud = clouds(random, 0.52) * np.clip((horizon - Y) / 240, 0, 1)
    lit = np.clip(1 - np.hypot(X - sun[0], (Y - sun[1]) * 1.7) / 620, 0, 1)[..., None]
    cloud_colour = np.array([92.0, 66, 118]) * (1 - lit) + np.array([255.0, 150, 110]) * lit
    sky = sky + (cloud_colour - sky) * 0.7 * cloud[..., None]
    sky = over(sky, (255, 244, 206), disc(*sun, 40))
    sky = over(sky, (150, 92, 122), 0.9 * ridge(random, horizon - 26, 17, W * 0.75))
    sky = over(sky, (92, 58, 98), 0.95 * ridge(random, horizon - 4, 13, W * 0.5))

    # The water repeats the sky upside down, pushed aside by waves that grow towards the viewer.
    depth = np.clip((Y - horizon) / (H - horizon), 0, 1)
    waves = noise(random, 260, 9, 3) - 0.5
    waves = waves * (0.04 + 1.3 * depth)
    rows = np.clip(2 * horizon - Y + waves * 150, 0, horizon - 1).astype(int)
    columns = np.clip(X + waves * 60, 0, W - 1).astype(int)
    water = sky[rows, columns] * (0.86 - 0.22 * depth[..., None]) + np.array([10.0, 12, 34]) * 0.3
    path = np.exp(-(((X - sun[0]) / (34 + 150 * depth)) ** 2)) * np.clip((waves + 0.05) * 8, 0, 1)
    water = over(water, (255, 226, 160), 0.85 * path)
    scene = np.where((Y >= horizon)[..., None], water, sky)
    scene = over(scene, (255, 214, 150), 0.28 * glow(sun[0], horizon, 120))

    # The boat: hull, mast, two sails; then the same upside down, broken by the waves.
    x, y, dark = W * 0.33, H * 0.735, (38, 26, 50)
    hull = shape([(x - 100, y - 26), (x + 112, y - 32), (x + 84, y + 8), (x - 76, y + 10)])
    rig = lines([([(x + 4, y - 24), (x + 4, y - 272)], 5), ([(x - 92, y - 46), (x + 4, y - 52)], 4)])
    bend = np.linspace(0, 1, 24)
    main = [(x - 2 - 90 * t - 14 * np.sin(np.pi * t), y - 264 + 206 * t) for t in bend]
    main_sail = shape([*main, (x - 2, y - 56)])
    jib = [(x + 10 + 96 * t + 10 * np.sin(np.pi * t), y - 250 + 202 * t) for t in bend]
    jib_sail = shape([*jib, (x + 16, y - 52)])
    figure = np.maximum(
        disc(x - 46, y - 60, 8),
        shape([(x - 56, y - 52), (x - 36, y - 52), (x - 34, y - 24), (x - 58, y - 24)]),
    )
    everything = np.max([hull, rig, main_sail, jib_sail, figure], axis=0)
    mirror_rows = np.clip(2 * (y + 6) - Y + waves * 46, 0, H - 1).astype(int)
    mirror_columns = np.clip(X + waves * 74, 0, W - 1).astype(int)
    mirrored = everything[mirror_rows, mirror_columns] * (y + 4 < Y) * np.clip(1 - (Y - y) / 270, 0, 1)
    scene = over(scene, (52, 32, 60), 0.72 * blurred(mirrored, 1.5))
    shade = np.clip((X - x + 110) / 220, 0, 1)
    scene = (
        scene + (np.array([196.0, 118, 104]) * (0.62 + 0.5 * shade[..., None]) - scene) * main_sail[..., None]
    )
    scene = (
        scene + (np.array([232.0, 150, 116]) * (0.6 + 0.5 * shade[..., None]) - scene) * jib_sail[..., None]
    )
    scene = over(scene, dark, np.max([hull, rig, figure], axis=0))
    scene = over(scene, (206, 120, 92), 0.85 * lines([([(x - 98, y - 25), (x + 110, y - 31)], 4)]))

    birds: list[tuple[list[tuple[float, float]], int]] = []
    for bx, by, size in ((700, 92, 24), (764, 126, 18), (656, 138, 15), (818, 84, 13)):
        wing = [
            (bx + side * size * t, by - size * 0.55 * np.sin(np.pi * t**0.7))
            for side in (-1, 1)
            for t in bend
        ]
        birds += [(wing[:24], 3), (wing[24:], 3)]
    return finished(over(scene, (58, 40, 74), lines(birds)), random)


def hill(dusk: bool) -> Image.Image:
    """A tree and a house on a hill, by day or at dusk; everything else is the same."""
    random = np.random.default_rng(11)
    if dusk:
        sky = gradient(
            [(0, (16, 22, 58)), (0.45, (62, 50, 108)), (0.75, (178, 92, 118)), (1, (246, 156, 104))], 0, 430
        )
        far, middle, near, light = (82, 58, 104), (52, 44, 86), (24, 28, 54), (255, 214, 150)
        cloud_colour, orb, orb_colour, strength = (206, 112, 128), (440.0, 96.0), (250, 244, 222), 0.6
    else:
        sky = gradient([(0, (66, 134, 212)), (0.6, (146, 200, 238)), (1, (226, 240, 244))], 0, 430)
        far, middle, near, light = (142, 178, 204), (104, 160, 122), (92, 156, 70), (255, 255, 240)
        cloud_colour, orb, orb_colour, strength = (255, 255, 255), (800.0, 110.0), (255, 248, 214), 0.9

    cloud = clouds(random, 0.5) * np.clip((400 - Y) / 260, 0, 1)
    stars = random.random((170, 4))
    if dusk:
        for star in stars:
            bright = (0.25 + 0.75 * star[2]) * max(0.0, 1 - star[1] * 1.15)
            sky = over(sky, (255, 250, 235), bright * disc(star[0] * W, star[1] * 330, 0.9 + 1.1 * star[3]))
        sky = over(
            sky, (255, 170, 110), 0.55 * np.exp(-(((Y - 420) / 90) ** 2)) * np.exp(-(((X - 760) / 420) ** 2))
        )
        sky = over(sky, orb_colour, 0.22 * glow(*orb, 60))
        moon = np.clip(disc(*orb, 36) - disc(orb[0] + 17, orb[1] - 9, 33), 0, 1)
        sky = over(sky, orb_colour, moon)
    else:
        sky = over(sky, orb_colour, 0.6 * glow(*orb, 120))
        sky = over(sky, orb_colour, disc(*orb, 40))
    scene = over(sky, cloud_colour, strength * cloud)
    scene = over(scene, far, 0.85 * ridge(random, 400, 34, W * 0.8))
    scene = over(scene, middle, ridge(random, 446, 22, W * 0.62, 3))

    # The hill itself, with grass that is lighter towards its top.
    crest = 470 - 96 * np.exp(-(((X[0] - 350) / 330) ** 2)) + 24 * np.sin(X[0] / 250)
    body = np.clip(Y - crest[None] + 0.5, 0, 1)
    grass = noise(random, 60, 14, 4)
    fall = np.clip((Y - crest[None]) / 260, 0, 1)
    meadow = np.array(near, dtype=np.float64) * (1.16 - 0.5 * fall + 0.34 * (grass - 0.5))[..., None]
    scene = scene + (meadow - scene) * body[..., None]
    way = np.clip((Y - 428) / (H - 428), 0, 1)
    middle_line = 561 + 130 * np.sin(way * 3.2) * (1 - 0.2 * way) - 60 * way
    path = np.clip(9 + 40 * way**1.4 - np.abs(X - middle_line), 0, 1) * body * (Y > 428)
    path_colour = (92, 76, 100) if dusk else (222, 202, 160)
    scene = over(scene, path_colour, 0.85 * path)

    # House.
    hx, hy = 560.0, 430.0
    wall, roof, door = (
        ((64, 54, 88), (44, 32, 62), (34, 24, 44))
        if dusk
        else ((244, 234, 214), (178, 74, 60), (110, 70, 50))
    )
    scene = over(scene, wall, shape([(hx - 52, hy), (hx + 52, hy), (hx + 52, hy - 58), (hx - 52, hy - 58)]))
    scene = over(
        scene, roof, shape([(hx + 20, hy - 84), (hx + 38, hy - 84), (hx + 38, hy - 124), (hx + 20, hy - 124)])
    )
    scene = over(
        scene, roof, shape([(hx - 66, hy - 56), (hx + 66, hy - 56), (hx + 36, hy - 104), (hx - 36, hy - 104)])
    )
    scene = over(scene, door, shape([(hx - 9, hy), (hx + 11, hy), (hx + 11, hy - 36), (hx - 9, hy - 36)]))
    for wx in (hx - 34, hx + 32):
        window = shape([(wx - 10, hy - 18), (wx + 10, hy - 18), (wx + 10, hy - 40), (wx - 10, hy - 40)])
        scene = over(scene, (255, 206, 110) if dusk else (120, 160, 190), window)
        if dusk:
            scene = over(scene, (255, 190, 100), 0.5 * glow(wx, hy - 28, 26))
    smoke_x = (
        hx
        + 29
        + 34 * np.sin((hy - 124 - Y) / 46) * np.clip((hy - 124 - Y) / 130, 0, 1)
        + (hy - 124 - Y) * 0.2
    )
    smoke = np.exp(-(((X - smoke_x) / (7 + np.clip(hy - 124 - Y, 0, None) * 0.11)) ** 2))
    smoke *= np.clip((hy - 122 - Y) / 14, 0, 1) * np.clip(1 - (hy - 124 - Y) / 170, 0, 1)
    scene = over(scene, (160, 140, 170) if dusk else (250, 250, 250), 0.55 * smoke)

    # Tree: a trunk with branches and a crown of many leaves' clumps.
    tx, ty = 280.0, 392.0
    bark = (26, 18, 34) if dusk else (92, 64, 46)
    strokes: list[tuple[list[tuple[float, float]], int]] = [
        ([(tx, ty + 6), (tx - 4, ty - 70), (tx + 2, ty - 130)], 18)
    ]
    strokes += [([(tx - 3, ty - 62), (tx - 48, ty - 122)], 8), ([(tx, ty - 80), (tx + 46, ty - 140)], 8)]
    scene = over(scene, bark, lines(strokes))
    leaf = np.array([30.0, 36, 58] if dusk else [70.0, 132, 56])
    clumps = sorted(random.normal(size=(260, 3)).tolist(), key=lambda clump: clump[1])
    for a, b, c in reversed(clumps):
        cx, cy = tx + 42 * a, ty - 156 + 31 * b
        if np.hypot((cx - tx) / 84, (cy - ty + 156) / 62) > 1:
            continue
        lighter = 1 + 0.34 * np.clip((ty - 150 - cy) / 60, -1, 1) + 0.07 * c
        toward = np.clip((cx - tx) / 100, -1, 1) * (0.12 if not dusk else 0.2)
        colour = leaf * (lighter + toward) + np.array(light) * (0.03 + 0.04 * max(0.0, float(toward)))
        clump_colour = (int(colour[0]), int(colour[1]), int(colour[2]))
        scene = over(scene, clump_colour, 0.92 * disc(cx, cy, 17 + 3 * abs(c)))
    shadow = np.clip(1 - np.hypot((X - tx + (90 if not dusk else 0)) / 130, (Y - ty - 22) / 18), 0, 1) * body
    scene = over(scene, (20, 40, 30), 0.45 * np.sqrt(shadow))
    if dusk:
        for fx, fy, size, _ in random.random((26, 4)):
            x, y = fx * W, 470 + fy * 150
            scene = over(scene, (255, 236, 130), 0.5 * glow(x, y, 5 + 3 * size))
            scene = over(scene, (255, 246, 190), disc(x, y, 1.6))
    else:
        for fx, fy, kind, _ in random.random((90, 4)):
            x, y = fx * W, 486 + fy * 146
            petal = ((250, 250, 250), (248, 214, 84), (226, 96, 110))[int(kind * 3)]
            scene = over(scene, petal, disc(x, y, 2.2 + 2.0 * fy) * body)
    return finished(scene, random)


def main() -> None:
    """Write all example pictures beside this file."""
    folder = Path(__file__).parent
    pictures = {"harbour": harbour(), "hill_day": hill(dusk=False), "hill_dusk": hill(dusk=True)}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
