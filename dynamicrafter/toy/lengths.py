"""Metrics of clips of other lengths than the trained one, in a toy world whose subjects turn round.

The subject goes right for 15 frames, left for 15 and so on, as the parts of the prompt say: it stays in the image
however long the clip is, and its true way is known. All scenes are outside the training split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..evaluation.figures import psnr
from ..model.variants import Mode
from ..motion.colour import Drift
from ..motion.continuation import segment_starts
from ..pipeline import Model
from ..settings import Settings, key_frames, make_settings, spread_keys
from .behaviour import Figures, generate_clips, shown
from .gauges import moving_loop_closure, track, travelled
from .world import Scenes, captions, draw_scenes, pose, sample_scenes, with_motion

_FRAMES, _EVERY, _FS = 64, 15, 10
_LOOP = 48
_SHORT = 8
_SOON = 8
"""Frames within which a change of the prompt must show."""
_STEP = 2.0
"""Pixels that the subject must have gone the new way by then."""
_KEYS = 4


def measure_lengths(
    model: Model,
    *,
    items: int = 16,
    seed: int = 0,
    steps: int | None = None,
    cfg: float | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """Metrics of long clips, loops, keyframes and short clips, on ``items`` unseen scenes each.

    ``report`` is called with every metric as soon as it is known.
    """
    figures = Figures(report)
    note = figures.note

    def settings(mode: Mode, **choices: Any) -> Settings:
        return make_settings(model.variant, mode, steps=steps, cfg=cfg, **choices)

    generator = torch.Generator().manual_seed(seed * 1009 + 21)
    scenes = with_motion(sample_scenes(items, generator, "held_out", fs=(_FS, _FS)), "right")
    turning = _turning_prompts(scenes)
    starts = range(0, _FRAMES, _EVERY)

    # Turning round, continued and by windows
    ways: list[tuple[str, dict[str, Any]]] = [
        ("continue", {"length_method": "continue"}),
        (
            "continue, matched and locked",
            {"length_method": "continue", "colour_match": 1.0, "lock_frames": 4},
        ),
        ("windows", {"length_method": "windows"}),
    ]
    for name, choices in ways:
        chosen = settings("animate", frames=_FRAMES, **choices)
        clips = generate_clips(model, scenes, turning, chosen, seed)
        covered, soon = turned_round(clips, scenes, starts)
        good = (covered >= 0.75) & (covered <= 1.25)
        note(f"{name}: share of the true way, median", covered.median())
        note(f"{name}: 75 to 125 % of the true way, share", good.float().mean())
        note(f"{name}: changed prompt in effect within {_SOON} frames, share", soon.float().mean())
        if name.startswith("continue"):
            joints = segment_starts(replace(chosen, prompt=turning[0]))[1:]
            even = torch.tensor([joined_evenly(clip, joints) for clip in clips])
            note(f"{name}: joints without repetition or jump, share of those", even[good].float().mean())
        note(f"{name}: largest drift of colour, median delta E", _drifts(clips).median())

    # Loops
    for name, frames, choices in (
        ("loop of 15 frames", 16, {}),
        ("loop of 48 frames, windows", _LOOP + 1, {"length_method": "windows"}),
        ("loop of 45 frames, continue", 46, {"length_method": "continue"}),
    ):
        clips = generate_clips(
            model, scenes, captions(scenes), settings("loop", frames=frames, **choices), seed
        )
        found = track(clips, scenes)
        note(
            f"{name}: last to first over the median step",
            torch.tensor([moving_loop_closure(clip) for clip in clips]).median(),
        )
        note(f"{name}: way out, pixels", torch.where(found.there, found.away.amax(1), 0.0).mean())

    # Keyframes
    times = torch.linspace(0, 1, _KEYS).expand(items, -1)
    images = (draw_scenes(scenes, times) * 127.5 + 127.5).round() / 127.5 - 1
    keys, frames = spread_keys(_KEYS, None)
    prompts = [" | ".join([caption] * (_KEYS - 1)) for caption in captions(scenes)]
    clips = generate_clips(
        model,
        scenes,
        prompts,
        settings("interpolate", frames=frames, keys=keys),
        seed,
        images[:, -1],
        images[:, 1:-1],
    )
    note("keyframes: frames beyond those asked for", clips.shape[1] - frames)
    reached = torch.stack(
        [
            psnr(clips[:, frame], images[:, index])
            for index, frame in enumerate(key_frames(settings("interpolate", frames=frames, keys=keys)))
        ]
    )
    plain = generate_clips(model, scenes, captions(scenes), settings("interpolate"), seed, images[:, 1])
    note("interpolation: last image, dB", psnr(plain[:, -1], images[:, 1]).mean())
    for index in range(_KEYS):
        note(f"keyframes: image {index + 1}, dB", reached[index].mean())

    # Short clips
    for method in ("native", "pick"):
        clips = generate_clips(
            model, scenes, captions(scenes), settings("animate", frames=_SHORT, length_method=method), seed
        )
        note(
            f"{_SHORT} frames, {method}: way over that of 16 frames",
            travelled(track(clips, scenes)).mean() / _step(scenes).mean() / _EVERY,
        )

    # First-frame lock
    clips = generate_clips(model, scenes, captions(scenes), settings("animate", lock_frames=4), seed)
    off = (clips[:, 0] - shown(scenes)).abs().amax() * 127.5
    note("first-frame lock: largest difference from the image, levels", off)
    return figures


def turned_round(clips: Tensor, scenes: Scenes, starts: range) -> tuple[Tensor, Tensor]:
    """Of clips whose subject goes right from the first of ``starts``, left from the second and so on:

    the signed way in the prompted directions over the true one ``[n]``, 0 if a frame has no subject; and whether it
    has gone 2 pixels the new way 8 frames after each change, if the clip is that long ``[n, changes]``.
    """
    found = track(clips, scenes)
    bounds = [*starts, clips.shape[1] - 1]
    way = torch.zeros(len(scenes))
    soon: list[Tensor] = []
    for index, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        sign = 1 if index % 2 == 0 else -1
        way += sign * (found.x[:, end] - found.x[:, start])
        if index and start + _SOON < clips.shape[1]:
            soon.append(sign * (found.x[:, start + _SOON] - found.x[:, start]) >= _STEP)
    true = _step(scenes) * (clips.shape[1] - 1)
    return torch.where(found.there, way / true, 0.0), torch.stack(soon, dim=1)


def joined_evenly(clip: Tensor, joints: list[int]) -> bool:
    """Whether the steps of a clip ``[t, 3, H, W]`` to and from the frames ``joints`` are like the others.

    None exceeds twice the median step, and none is below a quarter of it, as if a frame were repeated.
    """
    change = (clip[1:] - clip[:-1]).abs().flatten(1).mean(1)
    near = torch.stack([change[place] for joint in joints for place in (joint - 1, joint)])
    median = change.median()
    return bool((near <= 2 * median).all() and (near >= median / 4).all())


def _turning_prompts(scenes: Scenes) -> list[str]:
    parts = [
        captions(with_motion(scenes, "left" if n % 2 else "right")) for n in range(-(-_FRAMES // _EVERY))
    ]
    return [
        " | ".join(f"{n * _EVERY}: {text}" if n else text for n, text in enumerate(each))
        for each in zip(*parts, strict=True)
    ]


def _step(scenes: Scenes) -> Tensor:
    """The true way to the right from one frame to the next, in pixels ``[n]``."""
    ends = pose(scenes, 0, torch.tensor([[0.0, 1.0]]).expand(len(scenes), -1))[0]
    return (ends[:, 1] - ends[:, 0]) / _EVERY


def _drifts(clips: Tensor) -> Tensor:
    found: list[float] = []
    for clip in clips:
        drift = Drift()
        drift.add(((clip + 1) * 127.5).round().to(torch.uint8).movedim(1, -1))
        found.append(drift.largest)
    return torch.tensor(found)
