"""Subjects that are named by their colours, in clips drawn here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynamicrafter.evaluation.subjects import NAMED_COLOURS, find_courses, named_colours


def drawn(colour: str, ways: tuple[int, int], background: str = "grey") -> Tensor:
    """Three frames ``[3, 3, 40, 60]`` of a square of 8 pixels that moves right and down by ``ways`` in all."""
    return painted(NAMED_COLOURS[colour][0], ways, background)


def painted(rgb: tuple[float, float, float], ways: tuple[int, int], background: str = "grey") -> Tensor:
    """The same with a colour in [0, 1]; nothing is painted beyond the frame."""
    clip = (torch.tensor(NAMED_COLOURS[background][0])[:, None, None] * 2 - 1).expand(3, 3, 40, 60).clone()
    for frame in range(3):
        x, y = (16 + way * frame // 2 for way in ways)
        clip[frame, :, y : y + 8, x : x + 8] = torch.tensor(rgb)[:, None, None] * 2 - 1
    return clip


@pytest.mark.parametrize("colour", [name for name in NAMED_COLOURS if name != "grey"])
@pytest.mark.parametrize("ways", [(30, 0), (-12, 0), (0, 12), (10, -10)])
def test_the_course_is_that_of_the_colour(colour: str, ways: tuple[int, int]) -> None:
    other = "white" if colour == "black" else "black"
    found = find_courses(drawn(colour, ways), [colour, other])
    # The other one is nowhere, so nothing can be said of it.
    assert found == {colour: pytest.approx((ways[0] / 60, ways[1] / 60))}


@pytest.mark.parametrize(
    ("colour", "rgb"),
    [
        ("red", (0.55, 0.10, 0.10)),
        ("red", (0.40, 0.05, 0.05)),
        ("blue", (0.05, 0.10, 0.35)),
        ("blue", (0.50, 0.75, 0.95)),
        ("green", (0.10, 0.35, 0.12)),
    ],
)
def test_dark_and_light_shades_have_the_colours_name(colour: str, rgb: tuple[float, float, float]) -> None:
    assert find_courses(painted(rgb, (30, 0)), [colour]) == {colour: pytest.approx((0.5, 0.0))}


def test_subjects_of_neighbouring_colours_are_told_apart() -> None:
    clip = painted(NAMED_COLOURS["blue"][0], (30, 0))
    purple = torch.tensor(NAMED_COLOURS["purple"][0])[:, None, None] * 2 - 1
    for frame in range(3):
        clip[frame, :, 30:38, 40 - 15 * frame : 48 - 15 * frame] = purple
    found = find_courses(clip, ["blue", "purple"])
    assert found == {"blue": pytest.approx((0.5, 0.0)), "purple": pytest.approx((-0.5, 0.0))}


def test_a_subject_that_leaves_is_followed_to_the_side() -> None:
    (right, down), *_ = find_courses(drawn("red", (80, 0)), ["red"]).values()
    assert right > 0.5 and down == pytest.approx(0.0, abs=1e-6)


def test_a_subject_that_vanishes_is_lost() -> None:
    clip = drawn("red", (24, 0))
    clip[2] = clip[0, :, 0, 0][:, None, None]
    assert find_courses(clip, ["red"]) == {"red": (0.0, 0.0)}


def test_a_subject_that_stays_over_its_first_place_keeps_its_direction() -> None:
    right, down = find_courses(drawn("red", (4, 0)), ["red"])["red"]
    assert right > 4 / 60 and down == pytest.approx(0.0, abs=1e-6)


def test_a_background_of_the_same_colour_does_not_count() -> None:
    """A tree of leaves, say, behind a green car."""
    clip = drawn("green", (30, 0))
    clip[:, :, 30:, :] = clip[0, :, 16, 16][:, None, None]
    assert find_courses(clip, ["green"])["green"] == pytest.approx((30 / 60, 0.0), abs=1e-6)


def test_a_background_near_the_colour_does_not_count() -> None:
    """It flickers between the named colour and its neighbour."""
    clip = drawn("green", (30, 0))
    empty = clip == clip[:, :, :1, :1]
    for frame, tint in enumerate((0.36, 0.30, 0.36)):
        olive = torch.tensor((tint, 0.40, 0.20))[:, None, None] * 2 - 1
        clip[frame] = torch.where(empty[frame].all(0), olive, clip[frame])
    assert find_courses(clip, ["green"])["green"] == pytest.approx((30 / 60, 0.0), abs=1e-6)


def test_a_still_subject_has_no_course() -> None:
    clip = drawn("blue", (0, 0))
    assert find_courses(clip, ["blue", "red"]) == {"blue": (0.0, 0.0)}
    assert find_courses(clip, []) == {}


def test_colours_are_read_from_words() -> None:
    assert named_colours("A Red car, a gray cat and red shoes; reddish") == ["red", "grey"]
    assert named_colours("violet flowers") == ["purple"]
