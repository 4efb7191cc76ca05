"""The world of cartoon characters: seeded, held out by combination, and drawn where the keypoints say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynamicrafter.animate_anyone.drawing import draw
from dynamicrafter.cartoon import characters
from dynamicrafter.cartoon.autoencoder import character_draw, still_pictures
from dynamicrafter.cartoon.characters import (
    BACKGROUND,
    DYES,
    HEIGHT,
    SHIRT,
    SHOES,
    SKIN,
    WIDTH,
    Character,
    character_keypoints,
    clip_of,
    is_held_out,
    picture_of,
    places_of,
    pose_picture,
    sample_character,
)
from dynamicrafter.cartoon.motions import HELD_OUT_MOTIONS, PERFORMED, Performance, sample_performance

NECK, HIPS, WRISTS, ANKLES = 1, (8, 11), (4, 7), (10, 13)
EVERY_MOTION = [*PERFORMED, *HELD_OUT_MOTIONS]


def character(seed: int = 0) -> Character:
    return sample_character(np.random.default_rng(seed))


def performing(motion: str, yaw: float = 0.0, manner: int = 3) -> Performance:
    return Performance(motion, yaw, start=0.0, pace=1 / 16, manner=manner)


def nearest(colour: np.ndarray) -> int:
    return int(np.abs(np.array(list(DYES.values())) - colour).sum(1).argmin())


def test_equal_seeds_give_equal_images_and_others_do_not() -> None:
    first, again, other = (still_pictures(2, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_seventh_of_the_combinations_is_held_out() -> None:
    every = [
        is_held_out(s, t, h, b) for s in range(10) for t in range(10) for h in range(6) for b in range(3)
    ]
    assert sum(every) / len(every) == pytest.approx(1 / 7, abs=0.01)


def test_a_split_has_only_its_own_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    red = list(DYES).index("red")
    monkeypatch.setattr(characters, "is_held_out", lambda shirt, *_: shirt == red)
    for split in ("train", "held_out"):
        random = np.random.default_rng(1)
        shirts = [nearest(np.array(sample_character(random, split).palette[SHIRT])) for _ in range(60)]
        assert (set(shirts) == {red}) if split == "held_out" else (red not in shirts)


@pytest.mark.parametrize("motion", EVERY_MOTION)
def test_keypoints_lie_on_the_character(motion: str) -> None:
    one, moving = character(2), performing(motion)
    for frame in (0, 5, 11):
        pose = moving.pose(frame)
        labels = picture_of(one, pose)[1]
        for index, (x, y, _) in enumerate(places_of(one, pose).tolist()):
            if 0 <= x < WIDTH and 0 <= y < HEIGHT and index not in (16, 17):
                assert labels[int(y), int(x)] != BACKGROUND, (motion, frame, index)


def test_hands_are_bare_and_feet_have_shoes() -> None:
    one, pose = character(2), performing("jacks").pose(8)
    picture, labels = picture_of(one, pose)
    places = places_of(one, pose)
    for joints, label in ((WRISTS, SKIN), (ANKLES, SHOES)):
        for joint in joints:
            x, y = int(places[joint, 0]), int(places[joint, 1])
            assert labels[y, x] == label
            shown = (picture[:, y, x] + 1) / 2
            assert torch.allclose(shown, torch.tensor(one.palette[label]), atol=1e-5)


def test_edges_are_antialiased() -> None:
    one = character(2)
    picture, labels = picture_of(one, performing("idle").pose(0))
    shirt = torch.tensor(one.palette[SHIRT])[:, None, None]
    near = ((picture + 1) / 2 - shirt).abs().sum(0)
    mixed = (labels == SHIRT) & (near > 0.02)
    assert 10 < int(mixed.sum()) < 400


def test_motions_do_what_they_are_called() -> None:
    one = character(3)

    def track(motion: str, yaw: float = 0.0) -> np.ndarray:
        return np.stack([places_of(one, performing(motion, yaw).pose(frame)) for frame in range(16)])

    walk = track("walk", math.pi / 2)
    ahead = walk[:, 10, 0] - walk[:, 13, 0]
    assert ahead.max() > 20
    assert ahead.min() < -20
    squat = track("squat")
    assert squat[8, 8, 1] - squat[0, 8, 1] > 15
    wave = track("wave")
    assert (wave[:, WRISTS, 1] < wave[:, [NECK], 1]).all(0).sum() == 1
    still, dance = track("idle"), track("dance")
    assert np.ptp(dance[:, WRISTS], axis=0)[:, :2].max() > 4 * np.ptp(still[:, WRISTS], axis=0)[:, :2].max()
    assert not np.array_equal(track("free")[0], track("free")[8])


@pytest.mark.parametrize("motion", [name for name in EVERY_MOTION if name != "jacks"])
def test_a_foot_stands_on_the_ground(motion: str) -> None:
    one = character(4)
    for frame in range(0, 16, 5):
        lowest = places_of(one, performing(motion).pose(frame))[ANKLES, 1].max()
        assert lowest == pytest.approx(one.place[1] - one.build.foot * one.size, abs=1e-4)


def test_from_the_side_the_shoulders_meet_and_the_far_eye_is_unseen() -> None:
    one, moving = character(5), performing("idle", yaw=math.pi / 2)
    places, seen = places_of(one, moving.pose(0)), character_keypoints(one, moving.pose(0)).body
    front = places_of(one, performing("idle").pose(0))
    assert abs(places[2, 0] - places[5, 0]) < 3 < abs(front[2, 0] - front[5, 0])
    assert places[0, 0] > places[1, 0]
    assert [index for index, point in enumerate(seen) if point is None] == [15, 17]


def test_poses_are_drawn_large_and_then_resized() -> None:
    from PIL.Image import Resampling, fromarray

    person = character_keypoints(character(), performing("wave").pose(2))
    large = fromarray(draw(person, 768, 512)).resize((WIDTH, HEIGHT), Resampling.LANCZOS)
    drawn = pose_picture(person)
    assert drawn.shape == (3, HEIGHT, WIDTH)
    assert np.array_equal(drawn.movedim(0, -1).numpy(), np.array(large))


def test_a_clip_shows_one_character_on_one_background() -> None:
    clip = clip_of(character(), sample_performance(np.random.default_rng(0), ("dance",)), range(3))
    assert clip.shape == (3, 3, HEIGHT, WIDTH)
    assert torch.equal(clip[0, :, :6], clip[2, :, :6])
    assert not torch.equal(clip[0], clip[2])


def test_batches_hold_crops_or_whole_images() -> None:
    sizes = {
        tuple(character_draw(4)(torch.Generator().manual_seed(seed))["pictures"].shape) for seed in range(8)
    }
    assert sizes == {(4, 3, 128, 96), (2, 3, HEIGHT, WIDTH)}
