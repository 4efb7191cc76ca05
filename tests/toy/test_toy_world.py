"""The toy world: clips show what their captions say, first pictures do not tell what will happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dynamicrafter.toy.behaviour import directions, same_subject, track, travelled
from dynamicrafter.toy.world import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    SIZE,
    captions,
    clip_times,
    draw_scenes,
    held_out,
    join,
    make_clips,
    pose,
    sample_scenes,
    select,
    with_motion,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_seed_gives_the_same_clips_and_captions() -> None:
    one, other = (sample_scenes(6, seeded(3), pairs=0.5, loops=0.5) for _ in range(2))
    assert torch.equal(make_clips(one, 4), make_clips(other, 4))
    assert captions(one, seeded(1)) == captions(other, seeded(1))
    assert not torch.equal(make_clips(one, 4), make_clips(sample_scenes(6, seeded(4)), 4))


def test_clips_are_pictures_in_range() -> None:
    clips = make_clips(sample_scenes(12, seeded(0), pairs=0.5, scattered=True), 3)
    assert clips.shape == (12, 3, 3, SIZE, SIZE)
    assert float(clips.min()) >= -1
    assert float(clips.max()) <= 1


def test_no_training_scene_looks_like_a_held_out_one() -> None:
    for split, expected in (("train", False), ("held_out", True)):
        scenes = sample_scenes(300, seeded(1), split)
        assert (held_out(scenes.shape[:, 0], scenes.colour[:, 0], scenes.background) == expected).all()


def test_about_one_look_in_seven_is_held_out() -> None:
    looks = torch.cartesian_prod(*(torch.arange(len(of)) for of in (SHAPES, COLOURS, BACKGROUNDS)))
    assert 0.1 < float(held_out(*looks.unbind(1)).float().mean()) < 0.2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_subjects_move_as_the_caption_says(direction: str) -> None:
    scenes = with_motion(sample_scenes(16, seeded(2)), direction, fs=10)
    assert directions(track(make_clips(scenes, 4), scenes)) == [direction] * 16
    assert all(direction in caption or direction in ("up", "down") for caption in captions(scenes))


def test_standing_still_is_standing_still() -> None:
    scenes = with_motion(sample_scenes(16, seeded(2)), "still", fs=8)
    clips = make_clips(scenes, 3)
    assert torch.equal(clips[:, 0], clips[:, -1])
    assert directions(track(clips, scenes)) == ["still"] * 16


def test_growing_and_shrinking_change_the_area() -> None:
    first = sample_scenes(16, seeded(5))
    for motion, sign in (("grow", 1), ("shrink", -1)):
        scenes = with_motion(first, motion, fs=8)
        area = track(make_clips(scenes, 2), scenes).area
        assert (sign * (area[:, -1] - area[:, 0]) > 0).all()


def test_turning_and_changing_colour_show() -> None:
    square = replace(sample_scenes(8, seeded(6)), shape=torch.ones(8, 2, dtype=torch.long))
    for motion in ("turn", "colour"):
        clips = make_clips(with_motion(square, motion, fs=8), 2)
        assert ((clips[:, 1] - clips[:, 0]).abs().amax((1, 2, 3)) > 0.2).all()


def test_speed_falls_with_fs() -> None:
    first = sample_scenes(8, seeded(7))
    distances = []
    for fs in (8, 12, 18, 28):
        scenes = with_motion(first, "right", fs)
        distances.append(travelled(track(make_clips(scenes, 2), scenes)))
    assert all((a > b).all() for a, b in zip(distances, distances[1:], strict=False))


def test_a_first_picture_does_not_tell_the_motion() -> None:
    first = sample_scenes(8, seeded(8))
    start = torch.zeros(8, 1)
    pictures = [draw_scenes(with_motion(first, motion), start) for motion in MOTIONS]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


def test_a_loop_comes_back() -> None:
    scenes = with_motion(sample_scenes(8, seeded(9), loops=1.0), "left", fs=8)
    clips = make_clips(scenes, 9)
    assert torch.allclose(clips[:, 0], clips[:, -1], atol=1e-4)
    found = track(clips, scenes)
    assert ((found.x[:, 0] - found.x[:, 4]) > 5).all()


def test_captions_name_both_subjects() -> None:
    scenes = sample_scenes(40, seeded(10), pairs=0.5)
    for scene, caption in enumerate(captions(scenes, seeded(1))):
        present = int(scenes.present[scene].sum())
        assert caption.count(" and ") == present - 1
        for slot in range(present):
            assert SHAPES[int(scenes.shape[scene, slot])] in caption
            assert list(COLOURS)[int(scenes.colour[scene, slot])] in caption


def test_captions_are_paraphrased() -> None:
    scenes = with_motion(sample_scenes(60, seeded(11)), "left")
    assert len({caption.split(" ", 2)[-1] for caption in captions(scenes, seeded(2))}) >= 3


def test_a_circle_never_turns() -> None:
    scenes = sample_scenes(400, seeded(12), pairs=0.5)
    turning = scenes.motion == list(MOTIONS).index("turn")
    assert turning.any()
    assert not (turning & (scenes.shape == SHAPES.index("circle"))).any()


def test_batches_are_taken_apart_and_put_together() -> None:
    scenes = sample_scenes(6, seeded(13))
    again = join([select(scenes, torch.arange(3)), select(scenes, torch.arange(3, 6))])
    assert torch.equal(make_clips(again, 2), make_clips(scenes, 2))
    assert len(select(scenes, torch.tensor([True, False, True, False, False, False]))) == 2


def test_the_subject_is_recognised() -> None:
    scenes = with_motion(sample_scenes(48, seeded(14)), "still")
    colour, shape = same_subject(make_clips(scenes, 2), scenes)
    assert colour == 1.0
    assert shape > 0.9


def test_another_subject_is_told_from_it() -> None:
    scenes = with_motion(sample_scenes(24, seeded(14)), "still")
    other = replace(scenes, shape=(scenes.shape + 1) % 4, colour=(scenes.colour + 1) % 8)
    colour, shape = same_subject(make_clips(other, 2), scenes)
    assert colour < 0.2
    assert shape < 0.2


def test_poses_begin_where_the_scene_says() -> None:
    scenes = sample_scenes(5, seeded(15))
    x, y, radius, angle = pose(scenes, 0, clip_times(scenes, 4))
    for found, expected in ((x, scenes.x), (y, scenes.y), (radius, scenes.radius), (angle, scenes.angle)):
        assert torch.allclose(found[:, 0], expected[:, 0])
