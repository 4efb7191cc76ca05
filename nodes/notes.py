"""What a person is told on the node, and in the log, about a built-in model that cannot do what was asked."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..dynamicrafter.model.conditioning import KeyLatents
from ..dynamicrafter.model.variants import TINY
from ..dynamicrafter.toy.known import LEAST_LIKENESS, unknown_words
from .host.loading import built_in_name
from .host.vae import decode_frames

NOTES = "dynamicrafter_notes"
"""Key of what a node reports to the editor, which shows it on the node (web/editor.js)."""

_INSTEAD = (
    "For your own images, select a released model as checkpoint: 512 or 1024 to animate, 512_interp for "
    "interpolation and loops."
)
_logger = logging.getLogger(__name__)


def notes_on(
    model: Any, vae: Any, prompt: str | None, pictures: Tensor, keys: KeyLatents
) -> dict[str, list[str]]:
    """The report of a conditioning node; empty unless the model is a built-in one and out of its depth.

    ``prompt`` is None if the text comes from another node. ``pictures`` are ``[n, 3, H, W]`` in [-1, 1], the first of
    them that of ``keys``.
    """
    name = built_in_name(model)
    notes: list[str] = []
    if name == TINY.name:
        words = unknown_words(prompt or "")
        foreign = _likeness(vae, pictures[0], keys.keys[0].mean) < LEAST_LIKENESS
        if words or foreign:
            said = ["tiny, the built-in model, makes coloured shapes of 64x64 pixels and nothing else."]
            if words:
                said.append(
                    f"It does not know {'the word' if len(words) == 1 else 'the words'} {', '.join(words)}."
                )
            if foreign:
                said.append("It cannot show this image, which becomes a blur.")
            notes.append(" ".join([*said, _INSTEAD]))
    elif name is not None:
        notes.append(f"{name}, a built-in model for tests, is untrained and generates noise. {_INSTEAD}")
    for note in notes:
        _logger.warning(note)
    return {NOTES: notes}


def _likeness(vae: Any, picture: Tensor, latent: Tensor) -> float:
    """PSNR in dB of what the autoencoder makes of the latents of an image."""
    # The host may keep frames elsewhere than images, and in half precision.
    shown = decode_frames(vae, latent, None, 1)[0].movedim(-1, 0).to(picture)
    return float(-10 * ((picture + 1) / 2 - shown).square().mean().log10())
