"""Metrics of a model in the toy world: whether it follows prompt and frame rate, and keeps the subject's appearance.

All metrics use scenes that are not in the training split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..evaluation.figures import psnr
from ..model.variants import Mode
from ..pipeline import KeyPictures, Model, generate
from ..settings import Settings, make_settings
from .autoencoder import round_trip, still_frames
from .gauges import (
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
from .world import (
    DIRECTIONS,
    SHAPES,
    Scenes,
    captions,
    draw_scenes,
    make_clips,
    sample_scenes,
    select,
    with_motion,
)

_FS = (8, 12, 18, 28)
"""Frame rates in the order in which motion must become slower."""
_BATCH = 16


def shown(scenes: Scenes) -> Tensor:
    """The first images of scenes as stored in a PNG file: ``[n, 3, H, W]`` in [-1, 1], quantised to 8 bits."""
    return ((draw_scenes(scenes, torch.zeros(len(scenes), 1))[:, 0] + 1) * 127.5).round() / 127.5 - 1


def generate_clips(
    model: Model,
    scenes: Scenes,
    prompts: Sequence[str],
    settings: Settings,
    seed: int,
    ends: Tensor | None = None,
    betweens: Tensor | None = None,
) -> Tensor:
    """Generate clips ``[n, t, 3, H, W]`` in [-1, 1] from the scenes' first images, with their prompts and frame rates.

    They are generated as by the command, with 8-bit frames. ``ends`` are the last images ``[n, 3, H, W]`` of an
    interpolation, ``betweens`` the keyframes before them ``[n, k, 3, H, W]``.
    """
    made: list[Tensor] = []
    for start in range(0, len(scenes), _BATCH):
        index = torch.arange(start, min(start + _BATCH, len(scenes)))
        some = select(scenes, index)
        each = [
            replace(settings, prompt=prompts[number], fs=int(scenes.fs[number]), seed=seed * 100_003 + number)
            for number in range(start, start + len(some))
        ]
        last = None if ends is None else ends[index]
        between = None if betweens is None else betweens[index]
        frames = generate(model, KeyPictures(shown(some), last, between), each)
        made.append(frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1)
    return torch.cat(made)


class Figures(dict[str, float]):
    """Metrics by name, in the order in which they are computed; ``report`` is called with each of them at once."""

    def __init__(self, report: Callable[[str, float], None] | None) -> None:
        super().__init__()
        self._report = report

    def note(self, name: str, value: Tensor | float) -> None:
        """Add a metric; a tensor has one element."""
        self[name] = float(value)
        if self._report is not None:
            self._report(name, self[name])


def measure_behaviour(
    model: Model,
    *,
    items: int = 64,
    seed: int = 0,
    steps: int | None = None,
    cfg: float | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """All metrics of the toy world, each on about ``items`` unseen clips; shares are 0 to 1, the rest dB or pixels.

    ``report`` is called with every metric as soon as it is known.
    """
    figures = Figures(report)
    note = figures.note

    def settings(mode: Mode) -> Settings:
        return make_settings(model.variant, mode, steps=steps, cfg=cfg)

    def seeded(salt: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed * 1009 + salt)

    def scenes(count: int, motion: str, fs: int, salt: int) -> Scenes:
        return with_motion(sample_scenes(count, seeded(salt), "held_out"), motion, fs)

    frames = model.variant.preset.frames
    still = still_frames(items, 900 + seed)
    vae = model.vae
    note("autoencoder: round trip, dB", psnr(still, round_trip(vae, still)).mean())

    # Directions: the same images with four prompts, and without a prompt
    pictures = max(1, items // len(DIRECTIONS))
    right, right_untold, kept_colour, kept_shape, first_frames = 0.0, 0.0, 0.0, 0.0, 0.0
    overlaps: list[Tensor] = []
    wanted = scenes(pictures, DIRECTIONS[0], 10, 1)
    untold = directions(
        track(generate_clips(model, wanted, [""] * pictures, settings("animate"), seed), wanted)
    )
    for direction in DIRECTIONS:
        wanted = scenes(pictures, direction, 10, 1)
        clips = generate_clips(model, wanted, captions(wanted), settings("animate"), seed)
        right += directions(track(clips, wanted)).count(direction) / pictures / 4
        colour, shape = same_subject(clips, wanted)
        kept_colour, kept_shape = kept_colour + colour / 4, kept_shape + shape / 4
        overlaps.append(outline_overlap(clips, wanted))
        first_frames += float(psnr(clips[:, 0], shown(wanted)).mean()) / 4
        right_untold += untold.count(direction) / pictures / 4
    note("prompted direction, share", right)
    note("same share without a prompt", right_untold)
    note("colour kept to the last frame, share", kept_colour)
    note("shape kept to the last frame, share", kept_shape)
    overlap = torch.stack(overlaps).mean(0)
    note("outline in the last frame, overlap", overlap.mean())
    shown_shapes = [wanted.shape[:, 0] == index for index in range(len(SHAPES))]
    note(
        "the same of the worst shape, overlap",
        min(float(overlap[one].mean()) for one in shown_shapes if one.any()),
    )
    note("first frame to the picture, dB", first_frames)
    first = shown(wanted)
    note("round trip of these pictures, dB", psnr(first, round_trip(vae, first)).mean())

    # Standing still, growing, shrinking
    wanted = scenes(items, "still", 10, 2)
    still = stands_still(
        track(generate_clips(model, wanted, captions(wanted), settings("animate"), seed), wanted)
    )
    note("stands still when told, share", still.float().mean())
    for motion in ("grow", "shrink"):
        wanted = scenes(items, motion, 10, 3)
        clips = generate_clips(model, wanted, captions(wanted), settings("animate"), seed)
        done = (grows if motion == "grow" else shrinks)(clips, wanted)
        note(f"{motion}s when told, share", done.float().mean())

    # Turning, changing colour, two at once
    for name, motion, gauge in (("turns", "turn", turns), ("changes colour", "colour", changes_colour)):
        wanted = sample_scenes(items, seeded(8), "held_out", motions=(motion,), fs=(10, 10))
        clips = generate_clips(model, wanted, captions(wanted), settings("animate"), seed)
        note(f"{name} when told, share", gauge(clips, wanted).float().mean())
    wanted = sample_scenes(2 * items, seeded(9), "held_out", motions=DIRECTIONS, fs=(10, 10), pairs=1.0)
    # Two that pass through each other cannot be told apart, not even in the true clip
    wanted = select(wanted, both_as_told(make_clips(wanted, frames), wanted).nonzero()[:items, 0])
    clips = generate_clips(model, wanted, captions(wanted), settings("animate"), seed)
    note("two at once, each as told, share", both_as_told(clips, wanted).float().mean())

    # Speed
    distances: list[Tensor] = []
    for fs in _FS:
        wanted = scenes(items, "right", fs, 4)
        distances.append(
            travelled(
                track(generate_clips(model, wanted, captions(wanted), settings("animate"), seed), wanted)
            )
        )
    note(f"distance at fs {_FS[0]}, pixels", distances[0].mean())
    note(f"distance at fs {_FS[-1]}, pixels", distances[-1].mean())
    note("slower with every higher fs, share", slower(distances).float().mean())

    # Interpolation
    wanted = sample_scenes(items, seeded(5), "held_out", fs=(8, 12))
    truth = make_clips(wanted, frames)
    clips = generate_clips(model, wanted, captions(wanted), settings("interpolate"), seed, truth[:, -1])
    note("interpolation: first frame, dB", psnr(clips[:, 0], truth[:, 0]).mean())
    note("interpolation: last frame, dB", psnr(clips[:, -1], truth[:, -1]).mean())
    note(
        "interpolation: round trip of the last pictures, dB",
        psnr(truth[:, -1], round_trip(vae, truth[:, -1])).mean(),
    )
    note(
        "interpolation: middle frame to the true one, dB",
        psnr(clips[:, frames // 2], truth[:, frames // 2]).mean(),
    )

    # Loops
    wanted = replace(scenes(items, "right", 9, 6), loop=torch.ones(items, dtype=torch.bool))
    clips = generate_clips(model, wanted, captions(wanted), settings("loop"), seed)
    note(
        "loop: last to first over the median step, ratio",
        torch.tensor([moving_loop_closure(c) for c in clips]).median(),
    )
    note("loop: way out, pixels", way_out(track(clips, wanted)).mean())
    return figures
