"""Make ``workflows/*.jpg``, the pictures on the cards of the Templates dialog: the clip that the graph makes.

The dialog asks for ``.jpg`` whatever a file contains, and browsers go by the contents, so that an animated WebP of that
name plays. A graph that needs a downloaded model shows the images that it begins with, each for a second; if it needs
it for nothing but poses, it takes those of the pack, and if only for a finished clip, it shows the clip before that.

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
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from .template_parts import FPS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"
SIDE = 320
"""Width and height in pixels; the dialog shows 256 of them."""
MOST_RATE = 12
"""Frames per second of a clip that a card shows whole."""
FRAME_MS, STILL_MS = 125, 1000
"""Duration of a frame of a clip, and of an image."""
PATIENCE = 900.0
"""Seconds that a clip may take."""
AFTERWARDS = {"FrameInterpolate": "images", "ImageUpscaleWithModel": "image"}
"""Nodes that change a finished clip by a downloaded model, and their input with its frames."""
MISSING_FILE = "value_not_in_list"
"""What ComfyUI says when a graph names weights that are in none of its folders."""


def save_card(path: Path, frames: list[Image.Image], milliseconds: int) -> None:
    """Write frames as an endless square clip, cropped to the middle."""
    square = [ImageOps.fit(frame.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC) for frame in frames]
    square[0].save(
        path,
        "WEBP",
        save_all=True,
        append_images=square[1:],
        duration=milliseconds,
        loop=0,
        quality=75,
        method=6,
    )


def without_core_models(prompt: dict[str, Any]) -> dict[str, Any]:
    """A graph without the downloaded models of core nodes.

    It has poses of the pack instead of those found in a person's own video, and frames as they were made.
    """
    changed = dict(prompt)
    for name, node in prompt.items():
        if node["class_type"] == "CreateVideo":
            before = prompt[node["inputs"]["images"][0]]
            if before["class_type"] in AFTERWARDS:
                frames = before["inputs"][AFTERWARDS[before["class_type"]]]
                changed[name] = _node("CreateVideo", images=frames, fps=FPS)
        if node["class_type"] == "SDPoseKeypointExtractor":
            changed[name] = _node("DynamiCrafterSamplePoses", poses="jumping_jacks")
        if node["class_type"] == "LoadVideo":
            changed["frames"] = _node("EmptyImage", width=64, height=64, batch_size=48, color=0)
            changed[name] = _node("CreateVideo", images=["frames", 0], fps=24.0)
    return changed


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def images_of(prompt: dict[str, Any]) -> list[Image.Image]:
    """The images of the pack that a graph begins with."""
    names = [node["inputs"]["picture"] for node in prompt.values() if "picture" in node["inputs"]]
    return [Image.open(ROOT / "pictures" / f"{name}.png") for name in names]


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
        rate = video.streams.video[0].average_rate or 1
        frames = [frame.to_image() for frame in video.decode(video=0)]
    # Half of a fast clip, as a card has to stay small.
    return frames[:: 2 if rate > MOST_RATE else 1]


def main(url: str) -> None:
    """Make all cards, and remove those of templates that are no more."""
    for path in sorted(FOLDER.glob("*.json")):
        prompt = json.loads((FOLDER / "api" / path.name).read_text(encoding="utf-8"))
        clips = made_clips(url.rstrip("/"), without_core_models(prompt))
        if clips is None:
            save_card(path.with_suffix(".jpg"), images_of(prompt), STILL_MS)
        else:
            save_card(path.with_suffix(".jpg"), [frame for clip in clips for frame in clip], FRAME_MS)
    for path in FOLDER.glob("*.jpg"):
        if not path.with_suffix(".json").is_file():
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1])
