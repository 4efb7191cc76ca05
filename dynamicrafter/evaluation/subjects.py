"""Where subjects that are named by their colours get to in a clip, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..motion.colour import lab

NAMED_COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.95, 0.55, 0.10),
    "yellow": (0.95, 0.90, 0.15),
    "green": (0.15, 0.65, 0.20),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.15, 0.25, 0.85),
    "purple": (0.55, 0.15, 0.75),
    "pink": (0.95, 0.60, 0.75),
    "brown": (0.45, 0.27, 0.12),
    "white": (0.97, 0.97, 0.97),
    "grey": (0.50, 0.50, 0.50),
    "black": (0.05, 0.05, 0.05),
}
"""RGB in [0, 1] of the basic colour terms and of cyan; a pixel has the nearest one in CIELAB."""
_SPELLINGS = {"gray": "grey", "violet": "purple"}
_FEWEST = 0.002
"""Share of the pixels that must change their colour for a motion to be seen, as in :mod:`.motion`."""


def named_colours(text: str) -> list[str]:
    """The colours of :data:`NAMED_COLOURS` that a text names, in its order, each once."""
    words = [_SPELLINGS.get(word, word) for word in re.split(r"[^a-z]+", text.lower())]
    return list(dict.fromkeys(word for word in words if word in NAMED_COLOURS))


def find_courses(clip: Tensor, colours: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Where what has each of ``colours`` gets to in a clip ``[t, 3, h, w]`` in [-1, 1]: right and down.

    The vector from the middle of the pixels that have the colour in the first frame alone to the middle of those that
    have it in the last one alone, as shares of the width; (0, 0) if fewer than 0.2 % of the pixels lose or gain it.
    What has the colour in both, such as a background, does not count. A subject that overlaps its first place seems to
    get farther than it does.
    """
    names = list(NAMED_COLOURS)
    palette = lab(2 * torch.tensor([NAMED_COLOURS[name] for name in names])[:, :, None, None] - 1).flatten(1)
    ends = lab(clip[[0, -1]].float().cpu()).flatten(2).mT
    nearest = torch.cdist(ends, palette[None]).argmin(-1).view(2, *clip.shape[-2:])
    found: dict[str, tuple[float, float]] = {}
    for colour in colours:
        first, last = nearest == names.index(colour)
        lost, gained = first & ~last, last & ~first
        if min(float(part.float().mean()) for part in (lost, gained)) < _FEWEST:
            found[colour] = (0.0, 0.0)
            continue
        down, right = (gained.nonzero().float().mean(0) - lost.nonzero().float().mean(0)) / clip.shape[-1]
        found[colour] = (float(right), float(down))
    return found
