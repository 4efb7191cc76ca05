"""Make ``workflows/*.jpg``, the pictures on the cards of the Templates dialog: frames of the clip over the graph.

The frames are what the graph really makes; one that needs a downloaded model shows its graph alone.

Usage, in the top folder, after ``tools.make_templates``, with a ComfyUI running that has this pack as it is now:
``python -m tools.make_thumbnails http://127.0.0.1:8188``
"""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .graphs import NOTE, OURS

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
SIZE = (640, 360)
FRAME, FRAMES, GAP = 148, 4, 8
"""Side of a frame in pixels, how many there are, and the room between and above them."""
GRAPH_SIZE = (SIZE[0], SIZE[1] - FRAME - 2 * GAP)
MARGIN = 24
FINER = 3
"""Drawn this much larger, so that edges come out smooth."""
PATIENCE = 900.0
"""Seconds that a clip may take."""
MISSING_FILE = "value_not_in_list"
"""What ComfyUI says when a graph names weights that are in none of its folders."""

GROUND, BODY, TITLE = (30, 30, 33), (66, 66, 70), (206, 206, 210)
OURS_BODY, NOTE_BODY, PICTURE = (58, 74, 120), (102, 85, 51), (120, 150, 190)
PICTURE_NODES = ("LoadImage", "DynamiCrafterSamplePicture")
PICTURE_HEIGHT = 220
"""Height of the picture that such a node shows; one that is lower shows none."""
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


def card(graph: dict[str, Any], clips: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Frames of each clip from its first to its last in a row, and below them the graph; the graph alone without."""
    if not clips:
        return drawn(graph)
    picture = Image.new("RGB", SIZE, GROUND)
    picture.paste(drawn(graph, GRAPH_SIZE), (0, SIZE[1] - GRAPH_SIZE[1]))
    each = FRAMES // len(clips)
    frames = [clip[round(i * (len(clip) - 1) / (each - 1))] for clip in clips for i in range(each)]
    for number, frame in enumerate(frames):
        picture.paste(frame.resize((FRAME, FRAME), Image.Resampling.BICUBIC), (frame_left(number), GAP))
    return picture


def frame_left(number: int) -> int:
    """Where a frame of a card begins, in pixels from the left; all of them stand in the middle."""
    wide = FRAMES * (FRAME + GAP) - GAP
    return (SIZE[0] - wide) // 2 + number * (FRAME + GAP)


def made_clips(url: str, prompt: dict[str, Any]) -> list[list[Image.Image]] | None:
    """The frames of each clip that a graph makes on a running ComfyUI; None where it lacks what the graph needs.

    Raises RuntimeError when the graph is taken and then ends in an error.
    """
    body = json.dumps({"prompt": prompt}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            number = json.load(answer)["prompt_id"]
    except urllib.error.HTTPError as refusal:
        with refusal:
            said = json.load(refusal)
        problems = [problem for node in said["node_errors"].values() for problem in node["errors"]]
        if MISSING_FILE in {problem["type"] for problem in problems}:
            return None
        raise RuntimeError(f"ComfyUI refused the graph: {said}") from refusal
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}/history/{number}", timeout=60) as answer:
            entry = json.load(answer).get(number)
        if entry is not None:
            break
        time.sleep(0.5)
    else:
        raise RuntimeError(f"no clip within {PATIENCE:.0f} s")
    if entry["status"]["status_str"] != "success":
        raise RuntimeError(f"the graph ended in an error: {entry['status']['messages'][-1]}")
    lists = [files for output in entry["outputs"].values() for files in output.values()]
    files = [file for files in lists for file in files if isinstance(file, dict)]
    return [frames_of(url, file) for file in files if file["filename"].endswith(".mp4")]


def frames_of(url: str, file: dict[str, str]) -> list[Image.Image]:
    """All frames of a clip that ComfyUI saved."""
    import av

    with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(file)}", timeout=60) as answer:
        written = io.BytesIO(answer.read())
    with av.open(written) as video:
        return [frame.to_image() for frame in video.decode(video=0)]


def drawn(graph: dict[str, Any], size: tuple[int, int] = SIZE) -> Image.Image:
    """A graph in the editor's format, in small, ``size`` (width, height)."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    left = min(node["pos"][0] for node in nodes.values())
    top = min(node["pos"][1] for node in nodes.values()) - TITLE_HEIGHT
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes.values())
    width, height = (FINER * side for side in size)
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
        if node["type"] in PICTURE_NODES and high > PICTURE_HEIGHT:
            box = [*at(x + 14, y + high - PICTURE_HEIGHT + 14), *at(x + wide - 14, y + high - 14)]
            draw.rectangle(box, fill=PICTURE)
        name = node.get("title") or node["type"].replace(OURS, "")
        draw.text(at(x + 10, y - TITLE_HEIGHT + 4), name, fill=TITLE, font=font)
    return picture.resize(size, Image.Resampling.LANCZOS)


def curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Points from ``start`` to ``end``, leaving and arriving level."""
    points: list[tuple[float, float]] = []
    for step in range(25):
        share = step / 24
        eased = share * share * (3 - 2 * share)
        points.append((start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * eased))
    return points


def main(url: str) -> None:
    """Make all cards, and remove those of templates that are no more."""
    for path in sorted(FOLDER.glob("*.json")):
        prompt = json.loads((FOLDER / "api" / path.name).read_text(encoding="utf-8"))
        clips = made_clips(url.rstrip("/"), prompt)
        made = card(json.loads(path.read_text(encoding="utf-8")), clips or [])
        made.save(path.with_suffix(".jpg"), quality=88, optimize=True)
    for path in FOLDER.glob("*.jpg"):
        if not path.with_suffix(".json").is_file():
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
