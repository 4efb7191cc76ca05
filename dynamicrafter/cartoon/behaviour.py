"""Metrics of a model in the world of characters: whether it follows poses and keeps looks and background.

All metrics use characters and motions that training never shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from ..animate_anyone.api import PersonSettings, person
from ..animate_anyone.pipeline import PersonModel
from ..toy.autoencoder import round_trip
from ..toy.behaviour import Figures
from .characters import (
    HEIGHT,
    WIDTH,
    Character,
    character_keypoints,
    picture_of,
    places_of,
    pose_picture,
    sample_character,
)
from .gauges import (
    ENDS,
    JOINTS,
    apart,
    background_psnr,
    border_jump,
    colours_kept,
    find_joints,
    part_colours,
)
from .motions import HELD_OUT_MOTIONS, Performance, sample_performance
from .pools import CLIP_FRAMES

_LONG = 72
"""Frames of the clip whose borders of windows are looked at."""
_MEASURED = (0, 3, 6)
"""Frames of a clip that are looked at."""
_WORN = ("shirt", "trousers", "shoes")
_CONTROLS = 4
"""One in so many characters is generated with wrong conditions."""
_ALIKE = 0.1
"""Distance of RGB values in [0, 1] within which a part has one colour in two clips."""


@dataclass(frozen=True)
class Scene:
    """A held-out character that performs a held-out motion, and its reference image."""

    character: Character
    posed: Performance
    """The reference's."""
    moving: Performance

    def reference(self) -> tuple[Tensor, Tensor]:
        """The reference image, of 8 bits, and its labels."""
        picture, labels = picture_of(self.character, self.posed.pose(0))
        return ((picture + 1) * 127.5).round() / 127.5 - 1, labels

    def true(self, frame: int) -> tuple[Tensor, Tensor]:
        """A true frame of the clip and its labels."""
        return picture_of(self.character, self.moving.pose(frame))


def sample_people(count: int, seed: int) -> list[Scene]:
    """``count`` scenes; the references stand, mostly in front view."""
    scenes: list[Scene] = []
    for number in range(count):
        random = np.random.default_rng((seed, number))
        scenes.append(
            Scene(
                sample_character(random, "held_out"),
                sample_performance(random, ("idle",), front=number % 4 != 0),
                sample_performance(random, tuple(HELD_OUT_MOTIONS)),
            )
        )
    return scenes


def generate_scene(
    model: PersonModel,
    scene: Scene,
    settings: PersonSettings,
    *,
    poses_of: Scene | None = None,
    frames: int = CLIP_FRAMES,
) -> Tensor:
    """A clip ``[t, 3, h, w]`` in [-1, 1] of a scene, or of its character in the poses of another scene."""
    from PIL.Image import fromarray

    by = poses_of or scene
    drawn = [
        fromarray(
            pose_picture(character_keypoints(by.character, by.moving.pose(frame))).movedim(0, -1).numpy()
        )
        for frame in range(frames)
    ]
    picture = ((scene.reference()[0] + 1) * 127.5).round().to(torch.uint8).movedim(0, -1)
    made = person(model, fromarray(picture.numpy()), drawn, settings)
    return made.movedim(-1, 1).float() / 127.5 - 1


@dataclass
class _Counts:
    """Booleans and numbers by metric, whose means are the metrics."""

    values: dict[str, list[float]]

    def add(self, name: str, *values: float) -> None:
        self.values.setdefault(name, []).extend(values)

    def mean(self, *names: str) -> float:
        found = [value for name in names for value in self.values.get(name, [])]
        return fmean(found) if found else float("nan")


def measure_against(scene: Scene, clip: Tensor, counts: _Counts) -> None:
    """Compare frames of a clip with the true ones of ``scene``."""
    for frame in _MEASURED:
        true, labels = scene.true(frame)
        places = places_of(scene.character, scene.moving.pose(frame))
        trunk = float(np.linalg.norm(places[1, :2] - (places[8, :2] + places[11, :2]) / 2))
        shown = [i for i in JOINTS if 0 <= places[i, 0] < WIDTH and 0 <= places[i, 1] < HEIGHT]
        found = find_joints(clip[frame], true, torch.as_tensor(places[shown, :2]))
        in_place = dict(zip(shown, map(bool, found.in_place(trunk)), strict=True))
        counts.add("joints", *in_place.values())
        counts.add("ends", *(in_place[i] for i in ENDS if i in in_place))
        for name, kept in colours_kept(clip[frame], true, labels).items():
            counts.add(name, kept)


def measure_person(
    model: PersonModel,
    *,
    items: int = 64,
    seed: int = 0,
    settings: PersonSettings,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """All metrics, on ``items`` unseen characters; shares are 0 to 1, the rest dB or ratios.

    ``report`` is called with every metric as soon as it is known.
    """
    figures = Figures(report)
    note = figures.note
    scenes = sample_people(items, seed)

    # What the autoencoder alone does to the true frames, which no network can surpass
    ceiling = _Counts({})
    references = torch.stack([scene.reference()[0] for scene in scenes])
    rounds = torch.cat(
        [round_trip(model.vae, references[i : i + CLIP_FRAMES]) for i in range(0, items, CLIP_FRAMES)]
    )
    for scene in scenes:
        true = torch.stack([scene.true(frame)[0] for frame in range(CLIP_FRAMES)])
        measure_against(scene, round_trip(model.vae, true), ceiling)
    note("autoencoder: joints in place, share", ceiling.mean("joints"))
    note("autoencoder: garments of their colour, share", ceiling.mean(*_WORN))
    for picture, again in zip(references, rounds, strict=True):
        error = float(((picture - again) / 2).square().mean())
        ceiling.add("psnr", -10 * float(np.log10(error)))
    note("autoencoder: round trip of the references, dB", ceiling.mean("psnr"))

    # The right conditions
    counts = _Counts({})
    clips: list[Tensor] = []
    for number, (scene, again) in enumerate(zip(scenes, rounds, strict=True)):
        clip = generate_scene(model, scene, _seeded(settings, seed, number))
        clips.append(clip)
        measure_against(scene, clip, counts)
        seen = scene.reference()[1]
        for frame in _MEASURED:
            psnr = background_psnr(clip[frame], again, seen, scene.true(frame)[1])
            counts.add("background", psnr)
    note("joints in place, share", counts.mean("joints"))
    note("nose, wrists and ankles in place, share", counts.mean("ends"))
    note("garments of their colour, share", counts.mean(*_WORN))
    for part in (*_WORN, "skin", "hair"):
        note(f"{part} of its colour, share", counts.mean(part))
    note("background to the reference's round trip, dB", counts.mean("background"))

    # Controls: the metrics must collapse with the poses or the reference of another
    other = _Counts({})
    for number in range(0, items, min(items, _CONTROLS)):
        scene, stranger = scenes[number], scenes[(number + 1) % items]
        chosen = _seeded(settings, seed, number)
        wrong, foreign = _Counts({}), _Counts({})
        measure_against(scene, generate_scene(model, scene, chosen, poses_of=stranger), wrong)
        other.add("joints", *wrong.values["joints"])
        swapped = replace(scene, character=stranger.character, posed=stranger.posed)
        measure_against(scene, generate_scene(model, swapped, chosen, poses_of=scene), foreign)
        other.add("worn", *(value for part in _WORN for value in foreign.values.get(part, [])))
        # The same character in two clips
        moved = replace(scene, moving=stranger.moving)
        other.add("identity", *_identity(scene, clips[number], moved, generate_scene(model, moved, chosen)))
    note("control, poses of another: joints in place, share", other.mean("joints"))
    note("control, reference of another: garments of their colour, share", other.mean("worn"))
    note("parts of one colour in two clips, share", other.mean("identity"))

    clip = generate_scene(model, scenes[0], _seeded(settings, seed, 0), frames=_LONG)
    borders = [
        frame for window in settings.windows(_LONG)[1:] for frame in window.frames[: settings.overlap + 1]
    ]
    note("long clip: largest change at a border of windows, ratio to the median", border_jump(clip, borders))
    return figures


def _seeded(settings: PersonSettings, seed: int, number: int) -> PersonSettings:
    return replace(settings, seed=seed * 100_003 + number)


def _identity(scene: Scene, clip: Tensor, moved: Scene, other: Tensor) -> Sequence[float]:
    """Whether each part has the same colour in two clips of one character."""
    first = part_colours(clip[0], scene.true(0)[1])
    second = part_colours(other[0], moved.true(0)[1])
    return [apart(first[name], second[name]) <= _ALIKE for name in first.keys() & second.keys()]
