"""Write the table of every model's own values into the pages that show it.

Usage, in the top folder, after a preset in ``dynamicrafter/variants.py`` has changed:
``python -m tools.make_preset_tables``
"""

from __future__ import annotations

import re
from pathlib import Path

from dynamicrafter.model.variants import TINY, VARIANTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "docs" / "comfyui.md",
    ROOT / "web" / "docs" / "DynamiCrafterAnimate.md",
    ROOT / "web" / "docs" / "DynamiCrafterPreset.md",
    ROOT / "web" / "docs" / "DynamiCrafterSampler.md",
    ROOT / "web" / "docs" / "DynamiCrafterAnimate" / "zh.md",
    ROOT / "web" / "docs" / "DynamiCrafterPreset" / "zh.md",
    ROOT / "web" / "docs" / "DynamiCrafterSampler" / "zh.md",
)
HEAD = (
    "| model | `steps` | `cfg` | `eta` | `guidance_rescale` | `fs` | size |\n|---|---|---|---|---|---|---|\n"
)
_TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")


def table() -> str:
    """The table: released models, then tiny."""
    released = [variant for name, variant in VARIANTS.items() if name not in ("small", "tiny")]
    rows = [
        f"| {variant.name} | {preset.steps} | {preset.cfg:g} | {preset.eta:g} | {preset.guidance_rescale:g} "
        f"| {preset.fs} | {preset.width}x{preset.height} |\n"
        for variant in [*released, TINY]
        for preset in [variant.preset]
    ]
    return HEAD + "".join(rows)


def with_table(page: str) -> str:
    """The text of a page with its table as it is now; raises ValueError for a page that has none."""
    if not _TABLE.search(page):
        raise ValueError("the page has no table of presets")
    return _TABLE.sub(table(), page)


def main() -> None:
    """Write all pages."""
    for path in PAGES:
        path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
