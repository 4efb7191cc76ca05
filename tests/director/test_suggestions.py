"""Suggestions without a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynamicrafter.director.ambience import ambience_for
from dynamicrafter.director.suggestions import BANK, SceneKind, read_bank, suggest
from dynamicrafter.director.toy_sight import see_subject, suggest_toy
from dynamicrafter.errors import UsageError
from dynamicrafter.media.pictures import normalise, read_picture
from dynamicrafter.model.encoders import count_tokens
from dynamicrafter.toy.world import COLOURS, SHAPES, draw_scenes, sample_scenes

PICTURES = Path(__file__).resolve().parents[2] / "pictures"


class WordSight:
    """Sees the words it is told, and reads prompts as the sum of fixed random vectors of their words."""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    def _vector(self, text: str) -> Tensor:
        words = text.lower().replace("'", " ").split()
        generators = (torch.Generator().manual_seed(sum(map(ord, word)) * 31 + len(word)) for word in words)
        return F.normalize(sum(torch.randn(256, generator=one) for one in generators), dim=0)

    def see(self, frames: Tensor) -> Tensor:
        return self._vector(self.shown)[None].expand(len(frames), -1)

    def read(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self._vector(prompt) for prompt in prompts])


@pytest.fixture(scope="module")
def bank() -> tuple[SceneKind, ...]:
    """The bank that is shipped."""
    return read_bank()


def test_the_bank_is_large_and_fits_the_text_encoder(bank: tuple[SceneKind, ...]) -> None:
    prompts = [plan.motion_prompt for kind in bank for plan in kind.plans]
    assert len(prompts) == len(set(prompts)) >= 390
    assert max(map(count_tokens, prompts)) <= 20
    assert len({kind.name for kind in bank}) == len(bank)


def test_the_best_phrases_of_the_likely_kind_are_suggested(bank: tuple[SceneKind, ...]) -> None:
    found = suggest(torch.zeros(3, 8, 8), WordSight("a portrait of a person who smiles"), bank)
    portrait = next(kind for kind in bank if kind.name == "portrait")
    assert len(found) == 5
    assert {one.plan for one in found} <= set(portrait.plans)
    assert "smiles" in found[0].plan.motion_prompt
    shares = [one.share for one in found]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1


def test_another_bank_takes_its_place(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[scene]]\nname = "lamp"\ncaptions = ["a lamp"]\nsubject = "the lamp"\nsound = ""\nmotion = 0.2\n'
        'mode = "animate"\nphrases = ["the lamp swings"]\n',
        "utf-8",
    )
    found = suggest(torch.zeros(3, 8, 8), WordSight("a lamp"), read_bank(own))
    assert [(one.plan.motion_prompt, one.share) for one in found] == [("the lamp swings", 1.0)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("scene = 5", r"is not a bank of phrases"),
        (
            "[[scene]]\nname = 5",
            r"is not a bank of phrases \('captions'\); write it as phrases\.toml is written",
        ),
        (
            '[[scene]]\nname = "a"\ncaptions = "b"\nphrases = ["c"]',
            r"captions and phrases of a scene must be strings",
        ),
        (
            '[[scene]]\nname = "a"\ncaptions = ["b"]\nphrases = ["c"]\nsubject = ""\nmotion = "x"\nmode = "loop"\n'
            'sound = ""',
            r"scene a: motion: a number from 0 to 1 is needed",
        ),
    ],
)
def test_wrong_banks_are_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bank.toml").write_text(text, "utf-8")
    with pytest.raises(UsageError, match=sentence):
        read_bank(tmp_path / "bank.toml")
    with pytest.raises(UsageError, match=r"gone\.toml could not be read"):
        read_bank(tmp_path / "gone.toml")
    assert BANK.is_file()


def test_subjects_of_the_toy_world_are_seen() -> None:
    scenes = sample_scenes(200, torch.Generator().manual_seed(5), "held_out")
    pictures = draw_scenes(scenes, torch.zeros(200, 1))[:, 0]
    right = 0
    for number, picture in enumerate(pictures):
        true = tuple(COLOURS)[int(scenes.colour[number, 0])], SHAPES[int(scenes.shape[number, 0])]
        right += see_subject(picture) == true
    assert right >= 190


def test_the_example_is_suggested_what_the_built_in_model_can_do() -> None:
    found = suggest_toy(normalise(read_picture(PICTURES / "red_circle.png")))
    assert [one.plan.prompt for one in found][:2] == ["a red circle moves right", "a red circle moves up"]
    assert not any("turns" in one.plan.prompt for one in found)
    assert all(ambience_for(one.plan.sound) for one in found)


def test_a_picture_without_shapes_has_no_toy_suggestions() -> None:
    assert suggest_toy(torch.zeros(3, 64, 64)) == []
