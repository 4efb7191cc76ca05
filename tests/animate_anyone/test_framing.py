"""Images and keypoints of another aspect ratio than the clip's, and the choice among poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dynamicrafter.animate_anyone.alignment import by_hand, fitted
from dynamicrafter.animate_anyone.framing import FITS, framed, placed
from dynamicrafter.animate_anyone.keypoints import NOBODY, Person
from dynamicrafter.animate_anyone.pose_clips import PoseChoices, drawing_size
from dynamicrafter.errors import UsageError
from dynamicrafter.media.pictures import Picture
from dynamicrafter.settings import Fit
from tests.animate_anyone.test_poses import SOMEBODY


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), [(400, 200), (200, 400)])
def test_keypoints_go_where_the_image_goes(fit: Fit, width: int, height: int) -> None:
    x, y = round(0.55 * width), round(0.4 * height)
    pixels = torch.zeros(height, width, 3, dtype=torch.uint8)
    pixels[y - 5 : y + 6, x - 5 : x + 6] = 255
    shown = framed(Picture(pixels), 128, 192, fit).resize((128, 192), Image.Resampling.LANCZOS)
    rows, columns = np.nonzero(np.array(shown)[..., 0] > 128)
    person = placed(Person(((x / width, y / height),)), (width, height), 128, 192, fit)
    ((across, down),) = [point for point in person.body if point is not None]
    assert (across * 128, down * 192) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=1.5)


def test_padding_is_black_and_cropping_fills() -> None:
    picture = Picture(torch.full((50, 100, 3), 200, dtype=torch.uint8))
    padded = np.array(framed(picture, 64, 64, "pad"))
    assert padded.shape == (64, 64, 3)
    assert not padded[:15].any() and not padded[-15:].any() and (padded[20:44] == 200).all()
    assert framed(picture, 64, 64, "crop").size == (50, 50)
    assert framed(picture, 64, 64, "stretch").size == (100, 50)


def test_a_long_strip_is_padded_within_the_frame() -> None:
    assert framed(Picture(torch.zeros(1, 100_000, 3, dtype=torch.uint8)), 64, 128, "pad").size == (64, 128)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((512, 768), (512, 768)), ((256, 384), (512, 768)), ((128, 192), (512, 768)), ((512, 784), (512, 768))],
)
def test_poses_are_drawn_as_large_as_in_training(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert drawing_size(*size) == drawn


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        (PoseChoices(), range(100)),
        (PoseChoices(start=1, seconds=2), range(25, 75)),
        (PoseChoices(start=1, seconds=2, every=10), range(25, 75, 10)),
        (PoseChoices(start=3.9, seconds=60), range(98, 100)),
        (PoseChoices(start=1, frames=3, every=2), range(25, 31, 2)),
    ],
)
def test_poses_are_chosen_by_time(choices: PoseChoices, wanted: range) -> None:
    assert list(choices.of(100, 25, "clip")) == list(wanted)


def test_poses_that_are_not_there_are_told() -> None:
    with pytest.raises(UsageError, match="every must be 1 or more, but 0 was given"):
        PoseChoices(every=0)
    with pytest.raises(
        UsageError, match="clip gives 3 poses of the 9 that are asked for; ask for fewer frames"
    ):
        PoseChoices(frames=9).of(3, 25, "clip")
    with pytest.raises(UsageError, match="clip gives 3000 poses, but a clip has at most 2000; choose fewer"):
        PoseChoices().of(3000, 25, "clip")


def test_a_person_grows_about_its_place_and_moves_by_hand() -> None:
    (person,) = fitted([SOMEBODY], by_hand([SOMEBODY], 2.0, (0.1, 0.0)))
    before, after = np.array(SOMEBODY.body), np.array(person.body)
    middle = before[[1, 8, 11]].mean(axis=0)
    assert np.allclose(after, middle + 2 * (before - middle) + (0.1, 0.0))
    assert fitted([NOBODY], by_hand([NOBODY], 2.0, (0.0, 0.0))) == [NOBODY]
