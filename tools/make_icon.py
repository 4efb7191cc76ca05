"""Draw ``docs/images/icon.png``, the pack's picture in lists of packs: a still picture whose subject begins to move.

Usage, in the top folder: ``python -m tools.make_icon``
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "icon.png"
SIZE = 400
"""Pixels on a side; the registry takes no more."""
FINER = 4
"""Drawn this much larger, so that edges come out smooth."""

NIGHT, DUSK = (24, 28, 58), (92, 60, 128)
SEA, DEEP = (38, 98, 140), (18, 44, 84)
SUN = (255, 196, 92)
WHITE = (255, 255, 255)


def blended(one: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, ...]:
    """``one`` with ``share`` (0 to 1) of ``other``."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def drawn() -> Image.Image:
    """The icon, RGBA."""
    side = SIZE * FINER
    picture = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(picture)
    horizon = round(0.64 * side)
    for y in range(side):
        sky = blended(NIGHT, DUSK, y / horizon)
        water = blended(SEA, DEEP, (y - horizon) / (side - horizon))
        draw.line([(0, y), (side, y)], fill=(sky if y < horizon else water))

    # The sun rises from left to right, each earlier place fainter.
    layer = Image.new("RGBA", picture.size)
    path = [(0.20, 0.66), (0.34, 0.50), (0.50, 0.38), (0.68, 0.31)]
    for number, (x, y) in enumerate(path):
        last = number == len(path) - 1
        radius = (0.085 + 0.015 * number) * side
        box = [x * side - radius, y * side - radius, x * side + radius, y * side + radius]
        faint = Image.new("RGBA", picture.size)
        ImageDraw.Draw(faint).ellipse(box, fill=(*SUN, 255 if last else 60 + 45 * number))
        layer = Image.alpha_composite(layer, faint)
    # What is below the horizon is behind the sea.
    layer.paste((0, 0, 0, 0), (0, horizon, side, side))
    picture = Image.alpha_composite(picture, layer)

    draw = ImageDraw.Draw(picture)
    for number, (left, right) in enumerate([(0.52, 0.84), (0.58, 0.78), (0.62, 0.74)]):
        y = horizon + (0.06 + 0.07 * number) * side
        draw.rounded_rectangle(
            [left * side, y, right * side, y + 0.022 * side],
            radius=0.011 * side,
            fill=blended(SUN, SEA, 0.25 + 0.2 * number),
        )
    triangle = [(0.14, 0.72), (0.14, 0.90), (0.30, 0.81)]
    draw.polygon([(x * side, y * side) for x, y in triangle], fill=WHITE)

    rounded = Image.new("L", picture.size)
    ImageDraw.Draw(rounded).rounded_rectangle([0, 0, side - 1, side - 1], radius=0.18 * side, fill=255)
    picture.putalpha(rounded)
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    drawn().save(TARGET, optimize=True)
