"""One video of two clips and their difference, with a label above each."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_LABEL = 24
"""Height of a label in pixels."""
_NARROWEST = 256
"""Narrower clips are enlarged to at least this width, so that labels can be read."""
_MOST = 64
"""Maximum factor by which differences are amplified."""


def side_by_side(a: Tensor, b: Tensor, labels: tuple[str, str]) -> tuple[Tensor, int]:
    """The frames ``a``, ``b`` and their absolute difference next to each other, and the factor of the difference.

    Clips and result are uint8 ``[t, h, w, 3]``. The difference is amplified by the largest power of two up to 64 with
    which no value is clipped. Clips narrower than 256 pixels are enlarged by a whole number.
    """
    apart = (a.int() - b.int()).abs()
    factor = min(_MOST, 2 ** int(math.log2(255 / max(1, int(apart.max())))))
    times = -(-_NARROWEST // a.shape[2])
    panels = [a, b, (factor * apart).to(torch.uint8)]
    large = torch.cat(
        [panel.repeat_interleave(times, 1).repeat_interleave(times, 2) for panel in panels], dim=2
    )
    texts = (f"A: {labels[0]}", f"B: {labels[1]}", f"difference x {factor}")
    heading = torch.cat([_label(text, times * a.shape[2]) for text in texts], dim=1)
    return torch.cat([heading.expand(len(a), -1, -1, -1), large], dim=1), factor


def _label(text: str, width: int) -> Tensor:
    """``text`` in white on black, uint8 ``[24, width, 3]``; text that is too long loses its end."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, _LABEL))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    short = text
    while draw.textlength(short, font) > width - 8:
        text = text[:-1]
        short = f"{text}..."
    draw.text((4, 3), short, (255, 255, 255), font)
    return torch.as_tensor(np.array(picture))
