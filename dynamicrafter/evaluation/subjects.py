"""Where subjects that are named by their colours get to in a clip, without a network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..motion.colour import lab

_Rgb = tuple[float, float, float]

NAMED_COLOURS: Mapping[str, tuple[_Rgb, ...]] = {
    "red": ((0.85, 0.10, 0.10), (0.50, 0.08, 0.08)),
    "orange": ((0.95, 0.55, 0.10),),
    "yellow": ((0.95, 0.90, 0.15),),
    "green": ((0.15, 0.65, 0.20), (0.08, 0.30, 0.10), (0.60, 0.85, 0.55)),
    "cyan": ((0.10, 0.80, 0.85),),
    "blue": ((0.15, 0.25, 0.85), (0.05, 0.10, 0.40), (0.50, 0.75, 0.95)),
    "purple": ((0.55, 0.15, 0.75), (0.28, 0.08, 0.38)),
    "pink": ((0.95, 0.60, 0.75),),
    "brown": ((0.45, 0.27, 0.12),),
    "white": ((0.97, 0.97, 0.97),),
    "grey": ((0.50, 0.50, 0.50),),
    "black": ((0.05, 0.05, 0.05),),
}
"""Shades, RGB in [0, 1], of the basic colour terms and of cyan; a pixel has the colour of the nearest in CIELAB."""
_SAME = 28.0
"""Distance in CIELAB from a subject's own colour within which a pixel is the subject's."""
_SPELLINGS = {"gray": "grey", "violet": "purple"}
_FEWEST = 0.002
"""Share of the pixels that must change their colour for a motion to be seen, as in :mod:`.motion`."""


def named_colours(text: str) -> list[str]:
    """The colours of :data:`NAMED_COLOURS` that a text names, in its order, each once."""
    words = [_SPELLINGS.get(word, word) for word in re.split(r"[^a-z]+", text.lower())]
    return list(dict.fromkeys(word for word in words if word in NAMED_COLOURS))


def find_courses(clip: Tensor, colours: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Where what has each of ``colours`` gets to in a clip ``[t, 3, h, w]`` in [-1, 1]: right and down.

    The subject's own colour is that of the pixels in the first frame that are nearest to a shade of the named one.
    The vector is from the middle of the pixels that have it in the first frame alone to the middle of those that have
    it in the last one alone, as shares of the width. A pixel that is like several of the subjects is of the one that it
    is most like. What has the colour in both frames, such as a background, does not count. A subject that overlaps its
    first place seems to get farther than it does, and one that leaves at a side is followed as far as it is seen.
    (0, 0) for one that does not move or vanishes inside of the frame; a colour that less than 0.2 % of the first frame
    has is omitted. ``colours`` are keys of :data:`NAMED_COLOURS`.
    """
    shades = [(name, shade) for name, all_of_it in NAMED_COLOURS.items() for shade in all_of_it]
    palette = _lab_rows(2 * torch.tensor([shade for _, shade in shades]).T[:, None] - 1)
    first = _lab_rows(clip[0])
    away = torch.cdist(first, palette)
    nearest = away.argmin(-1)
    fewest = math.ceil(_FEWEST * len(first))
    own: dict[str, Tensor] = {}
    for colour in colours:
        named = [index for index, (name, _) in enumerate(shades) if name == colour]
        # Infinite for pixels of other colours.
        unlike = away[:, named].amin(-1).masked_fill(~torch.isin(nearest, torch.tensor(named)), math.inf)
        alike = unlike.topk(fewest, largest=False)
        if alike.values.isfinite().all():
            own[colour] = first[alike.indices].median(0).values
    if not own:
        return {}
    owners: list[Tensor] = []
    # Frame by frame, which bounds the memory.
    for frame in clip:
        distance, owner = torch.cdist(_lab_rows(frame), torch.stack(list(own.values()))).min(-1)
        owners.append(owner.masked_fill(distance >= _SAME, -1))
    seen = torch.stack(owners).view(len(clip), *clip.shape[-2:])
    return {colour: _course_of(seen == index) for index, colour in enumerate(own)}


def _lab_rows(frame: Tensor) -> Tensor:
    """The pixels of ``[3, h, w]`` in [-1, 1] in CIELAB, ``[h * w, 3]``."""
    return lab(frame[None].float().cpu()).flatten(2)[0].T


def _course_of(masks: Tensor) -> tuple[float, float]:
    """The course of what ``masks`` ``[t, h, w]`` show."""
    gained = masks & ~masks[0]
    seen = (gained.float().mean((-2, -1)) >= _FEWEST).nonzero().flatten()
    last = int(seen[-1]) if len(seen) else 0
    lost = masks[0] & ~masks[last]
    at_a_side = gained[last].clone()
    at_a_side[1:-1, 1:-1] = False
    vanished = last < len(masks) - 1 and not bool(at_a_side.any())
    if last == 0 or vanished or float(lost.float().mean()) < _FEWEST:
        return 0.0, 0.0
    down, right = (gained[last].nonzero().float().mean(0) - lost.nonzero().float().mean(0)) / masks.shape[-1]
    return float(right), float(down)
