"""Draw the example character in ``pictures/``, whom ``tiny_person`` never saw, and write clips of others' poses.

Usage, in the top folder: ``python -m tools.make_characters``
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from dynamicrafter.cartoon.samples import SAMPLE_CLIPS, sample_portrait, sample_poses

FOLDER = Path(__file__).resolve().parents[1] / "pictures"


def main() -> None:
    """Write all of them."""
    pixels = ((sample_portrait() + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.movedim(0, -1).numpy()).save(FOLDER / "character.png", optimize=True)
    for name in SAMPLE_CLIPS:
        text = json.dumps(sample_poses(name), separators=(",", ":")).replace('{"people"', '\n{"people"')
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
