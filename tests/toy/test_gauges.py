"""The gauges of what a model does: true clips pass each of them, and clips that only seem to do it pass none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dynamicrafter.toy.gauges import (
    both_as_told,
    changes_colour,
    directions,
    grows,
    moving_loop_closure,
    outline_overlap,
    same_subject,
    shrinks,
    slower,
    stands_still,
    track,
    travelled,
    turns,
    way_out,
)
from dynamicrafter.toy.hops import hop_clips
from dynamicrafter.toy.world import (
    DIRECTIONS,
    SHAPES,
    Scenes,
    draw_scenes,
    make_clips,
    sample_scenes,
    select,
    with_motion,
)

COUNT, FRAMES = 12, 16


@pytest.fixture(scope="module")
def first() -> Scenes:
    return sample_scenes(COUNT, torch.Generator().manual_seed(1), "held_out")


def nothing(scenes: Scenes) -> Tensor:
    """The background alone, one frame."""
    return draw_scenes(replace(scenes, present=torch.zeros_like(scenes.present)), torch.zeros(len(scenes), 1))


def vanished(scenes: Scenes) -> Tensor:
    clips = make_clips(scenes, FRAMES)
    clips[:, 1:] = nothing(scenes)
    return clips


def gone_between(scenes: Scenes) -> Tensor:
    clips = make_clips(scenes, FRAMES)
    clips[:, 1:-1] = nothing(scenes)
    return clips


def jumped(scenes: Scenes) -> Tensor:
    clips = make_clips(scenes, FRAMES)
    clips[:, 1:] = clips[:, -1:].clone()
    return clips


def brightened(scenes: Scenes) -> Tensor:
    clips = make_clips(with_motion(scenes, "still"), FRAMES)
    clips[:, -1] = (clips[:, -1] + 0.5).clamp(max=1)
    return clips


def looped(scenes: Scenes) -> Scenes:
    return replace(with_motion(scenes, "right", 9), loop=torch.ones(len(scenes), dtype=torch.bool))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_only_a_way_that_is_gone_step_by_step_has_a_direction(first: Scenes, direction: str) -> None:
    for fs in (8, 30):
        scenes = with_motion(first, direction, fs)
        assert directions(track(make_clips(scenes, FRAMES), scenes)) == [direction] * COUNT
    scenes = with_motion(first, direction, 10)
    for wrong in (vanished, gone_between, jumped):
        assert directions(track(wrong(scenes), scenes)) == ["none"] * COUNT, wrong
    assert directions(track(nothing(scenes).repeat(1, FRAMES, 1, 1, 1), scenes)) == ["none"] * COUNT


def test_only_what_stays_all_the_time_stands_still(first: Scenes) -> None:
    scenes = with_motion(first, "still", 10)
    clips = make_clips(scenes, FRAMES)
    assert stands_still(track(clips, scenes)).all()
    assert directions(track(clips, scenes)) == ["still"] * COUNT
    lively = replace(scenes, fs=torch.full_like(scenes.fs, 8))
    wrong = {
        "out and back": make_clips(looped(scenes), FRAMES),
        "hop": hop_clips(lively, FRAMES),
        "grow": make_clips(with_motion(scenes, "grow"), FRAMES),
        "shrink": make_clips(with_motion(scenes, "shrink"), FRAMES),
        "vanished": vanished(scenes),
        "gone between": gone_between(scenes),
        "nothing": nothing(scenes).repeat(1, FRAMES, 1, 1, 1),
    }
    for name, seen in wrong.items():
        assert not stands_still(track(seen, scenes)).any(), name
        assert "still" not in directions(track(seen, scenes)), name


def test_only_a_subject_that_gets_larger_grows(first: Scenes) -> None:
    scenes = with_motion(first, "grow", 10)
    clips = make_clips(scenes, FRAMES)
    assert grows(clips, scenes).all()
    away = clips.clone()
    away[:, -1] = make_clips(replace(scenes, x=scenes.x + 6), FRAMES)[:, -1]
    other = replace(scenes, colour=(scenes.colour + 1) % 8)
    wrong = {
        "brightened": brightened(scenes),
        "vanished": vanished(scenes),
        "gone between": gone_between(scenes),
        "elsewhere": away,
        "another colour": make_clips(other, FRAMES),
        "still": make_clips(with_motion(scenes, "still"), FRAMES),
        "shrink": make_clips(with_motion(scenes, "shrink"), FRAMES),
    }
    for name, seen in wrong.items():
        assert not grows(seen, scenes).any(), name


def test_only_a_subject_that_is_there_shrinks(first: Scenes) -> None:
    for fs in (8, 10):
        scenes = with_motion(first, "shrink", fs)
        assert shrinks(make_clips(scenes, FRAMES), scenes).all()
    for wrong in (vanished, gone_between, brightened):
        assert not shrinks(wrong(scenes), scenes).any(), wrong
    assert not shrinks(make_clips(with_motion(scenes, "still"), FRAMES), scenes).any()


def test_a_subject_that_is_gone_has_no_place_and_no_way(first: Scenes) -> None:
    scenes = with_motion(first, "right", 10)
    found = track(vanished(scenes), scenes)
    assert not found.there.any()
    assert found.x[:, 1:].isnan().all()
    assert found.y[:, 1:].isnan().all()
    assert not (found.x[:, 0] + found.y[:, 0] + found.area.sum(1)).isnan().any()
    for wrong in (vanished, gone_between):
        found = track(wrong(scenes), scenes)
        assert (travelled(found) == 0).all()
        assert (way_out(found) == 0).all()


def test_a_subject_that_is_gone_is_not_slower(first: Scenes) -> None:
    speeds = [with_motion(first, "right", fs) for fs in (8, 12, 18, 28)]
    true = [travelled(track(make_clips(scenes, FRAMES), scenes)) for scenes in speeds]
    assert slower(true).all()
    for index in range(4):
        distances = list(true)
        distances[index] = travelled(track(vanished(speeds[index]), speeds[index]))
        assert not slower(distances).any(), index


def test_only_what_is_there_is_the_same_subject(first: Scenes) -> None:
    for motion in ("right", "grow"):
        scenes = with_motion(first, motion, 10)
        assert same_subject(make_clips(scenes, FRAMES), scenes) == (1.0, 1.0)
        assert same_subject(vanished(scenes), scenes) == (0.0, 0.0)
        assert same_subject(gone_between(scenes), scenes) == (0.0, 0.0)


def test_only_a_clip_that_moves_closes_as_a_loop(first: Scenes) -> None:
    scenes = looped(first)
    clips = make_clips(scenes, FRAMES)
    assert all(moving_loop_closure(clip) < 0.01 for clip in clips)
    assert (way_out(track(clips, scenes)) > 10).all()
    frozen = clips[:, :1].repeat(1, FRAMES, 1, 1, 1)
    assert all(moving_loop_closure(clip) == 0 for clip in frozen)
    assert all(moving_loop_closure(clip) > 5 for clip in make_clips(with_motion(first, "right", 10), FRAMES))
    frozen[:, FRAMES // 2] = clips[:, FRAMES // 2]
    assert all(moving_loop_closure(clip) == math.inf for clip in frozen)
    frozen[:, ::2] += 1e-7
    assert all(moving_loop_closure(clip) == math.inf for clip in frozen)


def sampled(count: int, motion: str, pairs: float = 0.0) -> Scenes:
    motions = DIRECTIONS if motion == "any direction" else (motion,)
    generator = torch.Generator().manual_seed(3)
    return sample_scenes(count, generator, "held_out", motions=motions, fs=(10, 10), pairs=pairs)


def test_only_a_subject_that_turns_clockwise_at_its_speed_turns() -> None:
    scenes = sampled(10, "turn")
    clips = make_clips(scenes, FRAMES)
    assert turns(clips, scenes).all()
    wrong = {
        "still": make_clips(with_motion(scenes, "still"), FRAMES),
        "the other way": clips.flip(1),
        "too slow": make_clips(replace(scenes, fs=torch.full_like(scenes.fs, 30)), FRAMES),
        "grow": make_clips(with_motion(scenes, "grow"), FRAMES),
        "moves": make_clips(with_motion(scenes, "left"), FRAMES),
        "vanished": vanished(scenes),
    }
    for name, seen in wrong.items():
        assert not turns(seen, scenes).any(), name
    circles = replace(scenes, shape=torch.full_like(scenes.shape, SHAPES.index("circle")))
    assert not turns(make_clips(circles, FRAMES), circles).any()


def test_only_a_subject_that_passes_to_its_target_changes_colour() -> None:
    scenes = sampled(COUNT, "colour")
    assert changes_colour(make_clips(scenes, FRAMES), scenes).all()
    other = replace(scenes, target=(scenes.target + 1) % 8)
    distinct = other.target[:, 0] != other.colour[:, 0]
    wrong = {
        "still": make_clips(with_motion(scenes, "still"), FRAMES),
        "jumped": jumped(scenes),
        "vanished": vanished(scenes),
        "moves": make_clips(with_motion(scenes, "left", 8), FRAMES),
        "another colour": make_clips(other, FRAMES),
    }
    for name, seen in wrong.items():
        assert not changes_colour(seen, scenes)[distinct].any(), name


def test_two_subjects_are_told_apart() -> None:
    scenes = sampled(40, "any direction", pairs=1.0)
    right = both_as_told(make_clips(scenes, FRAMES), scenes)
    assert right.float().mean() >= 0.9, "only those that pass through each other are lost"
    scenes = select(scenes, right)
    swapped = replace(scenes, motion=scenes.motion.flip(1))
    differ = scenes.motion[:, 0] != scenes.motion[:, 1]
    assert differ.sum() > 10
    assert not both_as_told(make_clips(swapped, FRAMES), scenes)[differ].any()
    alone = replace(scenes, present=torch.tensor([[True, False]]).expand(len(scenes), -1))
    for wrong in (
        make_clips(alone, FRAMES),
        vanished(scenes),
        make_clips(with_motion(scenes, "still"), FRAMES),
    ):
        assert not both_as_told(wrong, scenes).any()


def test_every_true_shape_is_read_at_the_end_of_its_way() -> None:
    """Green crosses on a greenish background, which hardly differ from it, among them."""
    scenes = sample_scenes(160, torch.Generator().manual_seed(5), "held_out", motions=DIRECTIONS, fs=(8, 10))
    scenes = select(scenes, scenes.shape[:, 0] == SHAPES.index("cross"))
    clips = make_clips(scenes, FRAMES)[:, [0, -1]]
    assert same_subject(clips, scenes) == (1.0, 1.0)
    assert outline_overlap(clips, scenes).min() > 0.8


def test_the_overlap_of_the_outline_falls_with_another_shape() -> None:
    scenes = sampled(COUNT, "any direction")
    for index in range(len(SHAPES)):
        own = replace(scenes, shape=torch.full_like(scenes.shape, index))
        other = replace(scenes, shape=torch.full_like(scenes.shape, (index + 1) % len(SHAPES)))
        true, false = (outline_overlap(make_clips(drawn, FRAMES), own) for drawn in (own, other))
        assert (true > false + 0.05).all(), SHAPES[index]
    assert (outline_overlap(vanished(scenes), scenes) == 0).all()
