"""What the built-in model knows, to tell a person whose prompt or image is outside of it."""

from __future__ import annotations

import re

from .world import ARTICLES, COLOURS, MOTIONS, SHAPES

LEAST_LIKENESS = 30.0
"""PSNR in dB of an image that tiny's autoencoder has encoded and decoded, below which it shows something else.

First frames of the toy world reach 34.4 to 48, the drawings of landscapes in ``pictures/`` 22 to 25.
"""

_PHRASES = (phrase.replace("{}", "") for phrases in MOTIONS.values() for phrase in phrases)
KNOWN_WORDS = frozenset(" ".join((*_PHRASES, *COLOURS, *SHAPES, *ARTICLES, "and")).split())
"""Every word of the captions that tiny was trained on."""


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that have no meaning to tiny, each once, in order and in lower case."""
    words = re.findall(r"\w+", prompt.lower())
    return [word for word in dict.fromkeys(words) if word not in KNOWN_WORDS]
