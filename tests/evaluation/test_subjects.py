"""Subjects that are named by their colours, in clips drawn here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynamicrafter.evaluation.subjects import NAMED_COLOURS, find_courses, named_colours


def drawn(colour: str, ways: tuple[int, int], background: str = "grey") -> Tensor:
    """Three frames ``[3, 3, 40, 60]`` of a square of 8 pixels that moves right and down by ``ways`` in all."""
    shades = {name: torch.tensor(rgb)[:, None, None] * 2 - 1 for name, rgb in NAMED_COLOURS.items()}
    clip = shades[background].expand(3, 3, 40, 60).clone()
    for frame in range(3):
        x, y = (16 + way * frame // 2 for way in ways)
        clip[frame, :, y : y + 8, x : x + 8] = shades[colour]
    return clip


@pytest.mark.parametrize("colour", [name for name in NAMED_COLOURS if name != "grey"])
@pytest.mark.parametrize("ways", [(30, 0), (-12, 0), (0, 12), (10, -10)])
def test_the_course_is_that_of_the_colour(colour: str, ways: tuple[int, int]) -> None:
    other = "white" if colour == "black" else "black"
    found = find_courses(drawn(colour, ways), [colour, other])
    assert found[colour] == pytest.approx((ways[0] / 60, ways[1] / 60))
    assert found[other] == (0.0, 0.0)


def test_a_subject_that_stays_over_its_first_place_keeps_its_direction() -> None:
    right, down = find_courses(drawn("red", (4, 0)), ["red"])["red"]
    assert right > 4 / 60 and down == pytest.approx(0.0, abs=1e-6)


def test_a_background_of_the_same_colour_does_not_count() -> None:
    """A tree of leaves, say, behind a green car."""
    clip = drawn("green", (30, 0))
    clip[:, :, 30:, :] = clip[0, :, 16, 16][:, None, None]
    assert find_courses(clip, ["green"])["green"] == pytest.approx((30 / 60, 0.0), abs=1e-6)


def test_a_still_subject_has_no_course() -> None:
    clip = drawn("blue", (0, 0))
    assert find_courses(clip, ["blue", "red"]) == {"blue": (0.0, 0.0), "red": (0.0, 0.0)}
    assert find_courses(clip, []) == {}


def test_colours_are_read_from_words() -> None:
    assert named_colours("A Red car, a gray cat and red shoes; reddish") == ["red", "grey"]
    assert named_colours("violet flowers") == ["purple"]
