"""Draw ``workflows/*.jpg``, the pictures on the cards of the Templates dialog: each graph in small.

Usage, in the top folder, after ``tools.make_templates``: ``python -m tools.make_thumbnails``
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .graphs import NOTE, OURS

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
SIZE = (640, 360)
MARGIN = 24
FINER = 3
"""Drawn this much larger, so that edges come out smooth."""

GROUND, BODY, TITLE = (30, 30, 33), (66, 66, 70), (206, 206, 210)
OURS_BODY, NOTE_BODY, PICTURE = (58, 74, 120), (102, 85, 51), (120, 150, 190)
LINKS = {
    "MODEL": (178, 157, 219),
    "CLIP": (255, 214, 0),
    "CLIP_VISION": (168, 218, 220),
    "VAE": (255, 110, 110),
    "CONDITIONING": (255, 169, 49),
    "LATENT": (255, 156, 249),
    "IMAGE": (100, 181, 246),
}
OTHER_LINK = (150, 190, 150)
TITLE_HEIGHT = 30


def drawn(graph: dict[str, Any]) -> Image.Image:
    """A graph in the editor's format, in small."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    left = min(node["pos"][0] for node in nodes.values())
    top = min(node["pos"][1] for node in nodes.values()) - TITLE_HEIGHT
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes.values())
    width, height = (FINER * side for side in SIZE)
    room = FINER * MARGIN
    scale = min((width - 2 * room) / (right - left), (height - 2 * room) / (bottom - top))
    shift_x = (width - scale * (right - left)) / 2 - scale * left
    shift_y = (height - scale * (bottom - top)) / 2 - scale * top

    def at(x: float, y: float) -> tuple[float, float]:
        return (shift_x + scale * x, shift_y + scale * y)

    picture = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(picture)
    for _, origin, slot, target, socket, kind in graph["links"]:
        (x, y), wide = nodes[origin]["pos"], nodes[origin]["size"][0]
        to_x, to_y = nodes[target]["pos"]
        ends = at(x + wide, y + 14 + 20 * slot), at(to_x, to_y + 14 + 20 * socket)
        draw.line(curve(*ends), fill=LINKS.get(kind, OTHER_LINK), width=2 * FINER)
    font = ImageFont.load_default(size=max(8, round(22 * scale)))
    for node in nodes.values():
        (x, y), (wide, high) = node["pos"], node["size"]
        colour = NOTE_BODY if node["type"] == NOTE else OURS_BODY if node["type"].startswith(OURS) else BODY
        box = [*at(x, y - TITLE_HEIGHT), *at(x + wide, y + high)]
        draw.rounded_rectangle(box, radius=3 * FINER, fill=colour)
        if node["type"] == "LoadImage":
            draw.rectangle(
                [*at(x + 14, y + high - wide + 20), *at(x + wide - 14, y + high - 14)], fill=PICTURE
            )
        name = node.get("title") or node["type"].replace(OURS, "")
        draw.text(at(x + 10, y - TITLE_HEIGHT + 4), name, fill=TITLE, font=font)
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Points from ``start`` to ``end``, leaving and arriving level."""
    points: list[tuple[float, float]] = []
    for step in range(25):
        share = step / 24
        eased = share * share * (3 - 2 * share)
        points.append((start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * eased))
    return points


if __name__ == "__main__":
    for path in FOLDER.glob("*.json"):
        picture = drawn(json.loads(path.read_text(encoding="utf-8")))
        picture.save(path.with_suffix(".jpg"), quality=88, optimize=True)
    for path in FOLDER.glob("*.jpg"):
        if not path.with_suffix(".json").is_file():
            path.unlink()
