"""Metrics of the world of characters: the detector, colours and background, and what a perfect generator scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamicrafter.animate_anyone.api import person_settings
from dynamicrafter.cartoon import behaviour
from dynamicrafter.cartoon.behaviour import Scene, measure_person, sample_people
from dynamicrafter.cartoon.characters import HEIGHT, SHIRT, WIDTH, picture_of, places_of
from dynamicrafter.cartoon.gauges import (
    ENDS,
    JOINTS,
    Found,
    background_psnr,
    border_jump,
    colours_kept,
    find_joints,
)
from dynamicrafter.cartoon.motions import HELD_OUT_MOTIONS
from dynamicrafter.cartoon.tiny_person import TINY_PERSON

SCENES = sample_people(6, 0)


def places(scene: Scene, frame: int = 3) -> tuple[Tensor, float]:
    found = places_of(scene.character, scene.moving.pose(frame))
    return torch.as_tensor(found[list(JOINTS), :2]), float(np.linalg.norm(found[1, :2] - found[8, :2]))


def looked_for(change: Any) -> list[tuple[Found, float]]:
    """What is found in changed true frames, and the length of the trunk."""
    found: list[tuple[Found, float]] = []
    for scene in SCENES:
        true = scene.true(3)[0]
        where, trunk = places(scene)
        found.append((find_joints(change(true), true, where), trunk))
    return found


def test_joints_of_true_frames_are_found_in_place() -> None:
    shares = [float(found.in_place(trunk).float().mean()) for found, trunk in looked_for(lambda true: true)]
    assert sum(shares) / len(shares) >= 0.98


def test_joints_of_noisy_true_frames_are_found_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = looked_for(lambda true: true + 0.1 * torch.randn(true.shape, generator=generator))
    shares = [float(found.in_place(trunk).float().mean()) for found, trunk in noisy]
    assert sum(shares) / len(shares) >= 0.98


@pytest.mark.parametrize("shift", [(7, 0), (-6, 6), (0, 9)])
def test_joints_of_shifted_frames_are_found_elsewhere(shift: tuple[int, int]) -> None:
    moved = looked_for(lambda true: true.roll((shift[1], shift[0]), (1, 2)))
    ends = [JOINTS.index(i) for i in ENDS]
    offsets = torch.cat([found.offset[ends] for found, _ in moved])
    near = (offsets - torch.tensor(shift)).float().norm(dim=1) <= 2
    assert float(near.float().mean()) >= 0.9
    in_place = torch.stack([found.in_place(trunk) for found, trunk in moved]).float()
    assert float(in_place[:, ends].mean()) <= 0.05
    assert float(in_place.mean()) <= 0.25


def test_joints_are_not_found_in_another_image() -> None:
    grey = torch.zeros(3, HEIGHT, WIDTH)
    for found, trunk in looked_for(lambda true: grey):
        assert float(found.in_place(trunk).float().mean()) <= 0.5


def test_colours_are_those_of_the_true_parts() -> None:
    true, labels = SCENES[0].true(0)
    assert set(colours_kept(true, true, labels).values()) == {True}
    changed = true.clone()
    changed[:, labels == SHIRT] = -changed[:, labels == SHIRT]
    kept = colours_kept(changed, true, labels)
    assert not kept["shirt"]
    assert all(value for name, value in kept.items() if name != "shirt")


def test_the_background_does_not_include_the_character() -> None:
    true, labels = SCENES[0].true(0)
    changed = torch.where(labels > 0, -true, true)
    assert background_psnr(changed, true, labels) == 100
    assert background_psnr(true + 0.02, true, labels) == pytest.approx(40, abs=0.1)


def test_jumps_are_relative_to_the_usual_change() -> None:
    clip = torch.arange(10.0)[:, None, None, None].expand(-1, 3, 4, 4).clone()
    assert border_jump(clip, [5]) == pytest.approx(1)
    clip[5:] += 3
    assert border_jump(clip, [5]) == pytest.approx(4)
    assert border_jump(clip, [4, 6]) == pytest.approx(1)


def test_scenes_are_held_out_and_seeded() -> None:
    assert {scene.moving.motion for scene in SCENES} <= set(HELD_OUT_MOTIONS)
    assert sample_people(2, 0) == SCENES[:2]
    assert sample_people(2, 1) != SCENES[:2]


class _Codec:
    """An autoencoder without loss."""

    def encode(self, pictures: Tensor) -> Any:
        return SimpleNamespace(mean=pictures)

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        yield latents / 0.18215


def perfect(
    _: object, scene: Scene, settings: object, *, poses_of: Scene | None = None, frames: int = 8
) -> Tensor:
    """What a model would make that follows the poses and keeps the looks."""
    by = poses_of or scene
    body = by.character
    one = replace(scene.character, build=body.build, size=body.size, place=body.place)
    return torch.stack([picture_of(one, by.moving.pose(frame))[0] for frame in range(frames)])


def test_a_perfect_model_scores_best_and_the_controls_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "generate_scene", perfect)
    monkeypatch.setattr(behaviour, "_LONG", 20)
    heard: dict[str, float] = {}
    model: Any = SimpleNamespace(vae=_Codec())
    figures = measure_person(
        model, items=8, settings=person_settings(TINY_PERSON.preset), report=heard.__setitem__
    )
    assert heard == figures
    assert figures["joints in place, share"] >= 0.98
    assert figures["garments of their colour, share"] == 1
    # The reference has 8 bits, which are 59 dB.
    assert figures["background to the reference's round trip, dB"] > 55
    assert figures["parts of one colour in two clips, share"] >= 0.9
    assert figures["control, poses of another: joints in place, share"] < 0.5
    assert figures["control, reference of another: garments of their colour, share"] < 0.6
    assert figures["long clip: largest change at a border of windows, ratio to the median"] < 3
