"""What a prompt is said to contain that the built-in model does not know."""

from __future__ import annotations

import pytest
import torch

from dynamicrafter.toy.known import unknown_words
from dynamicrafter.toy.world import captions, sample_scenes


def test_every_caption_is_known() -> None:
    scenes = sample_scenes(400, torch.Generator().manual_seed(0), pairs=0.3)
    for said in captions(scenes, torch.Generator().manual_seed(1)):
        assert unknown_words(said) == []


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", []),
        ("A RED circle, moves right!", []),
        ("boats rocking in a harbour, boats", ["boats", "rocking", "in", "harbour"]),
        ("eine rote Kugel", ["eine", "rote", "kugel"]),
        ("红色 circle", ["红色"]),
    ],
)
def test_other_words_are_named_once(prompt: str, words: list[str]) -> None:
    assert unknown_words(prompt) == words
