"""Metrics of a clip that need no network, and the description of a metric."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..motion.colour import Drift, clipped
from .motion import find_course, find_motion

Better = Literal["higher", "lower", "neither"]

_WINDOW = 11
"""Pixels of the side of SSIM's window (Wang et al. 2004, section III.C)."""
_GREY = 1.0
"""Saturation, in levels, up to which an image is grey."""
SMALLEST = _WINDOW
"""Minimum height and width of a frame, in pixels."""


@dataclass(frozen=True)
class Figure:
    """Name of a metric and which direction is better."""

    name: str
    better: Better
    """Which direction is better; "neither" if it depends on the prompt."""


FIRST_PSNR = Figure("first frame to the picture, dB", "higher")
FIRST_SSIM = Figure("first frame to the picture, SSIM", "higher")
LAST_PSNR = Figure("last frame to the end picture, dB", "higher")
DIFFERENCE = Figure("frame difference, levels", "neither")
SPREAD = Figure("frame difference, spread in levels", "lower")
FLICKER = Figure("flicker, levels", "lower")
FLOW = Figure("flow, pixels per frame", "neither")
MOVING = Figure("moving part of the picture, share", "neither")
WAY = Figure("way of what moves, share of the width", "neither")
FLOW_LEFT = Figure("flow to the left, share", "neither")
FLOW_RIGHT = Figure("flow to the right, share", "neither")
FLOW_UP = Figure("flow up, share", "neither")
FLOW_DOWN = Figure("flow down, share", "neither")
ENLARGED = Figure("enlargement, ratio", "neither")
WARPING = Figure("warping error, levels", "lower")
EXPLAINED = Figure("difference explained by motion, share", "higher")
DRIFT = Figure("colour drift, levels", "lower")
CONTRAST = Figure("contrast drift, levels", "lower")
DELTA_E = Figure("largest drift of the mean colour, delta E", "lower")
SATURATION = Figure("saturation to the picture's, ratio", "neither")
CLIPPED = Figure("clipped values beyond the picture's, share", "lower")
SHARPNESS = Figure("sharpness of the last frame to the first, ratio", "neither")
CLOSURE = Figure("last to first over the median step, ratio", "neither")

_FLOWS = (FLOW_LEFT, FLOW_RIGHT, FLOW_UP, FLOW_DOWN)
WEIGHT_FREE = (
    FIRST_PSNR,
    FIRST_SSIM,
    LAST_PSNR,
    DIFFERENCE,
    SPREAD,
    FLICKER,
    FLOW,
    MOVING,
    WAY,
    FLOW_LEFT,
    FLOW_RIGHT,
    FLOW_UP,
    FLOW_DOWN,
    ENLARGED,
    WARPING,
    EXPLAINED,
    DRIFT,
    CONTRAST,
    DELTA_E,
    SATURATION,
    CLIPPED,
    SHARPNESS,
    CLOSURE,
)
"""All metrics of this module, in the order of :func:`measure_clip`."""


def measure_clip(clip: Tensor, picture: Tensor | None = None, end: Tensor | None = None) -> dict[str, float]:
    """The metrics of this module for a clip ``[t, 3, h, w]`` in [-1, 1], by name.

    ``picture`` and ``end`` are its first and last image, ``[3, h, w]`` in [-1, 1]; metrics of an image that is None are
    omitted, and without ``picture`` colours are compared with the first frame. Undefined metrics are omitted: those of
    change for a single frame, the share that motion explains if nothing changes, and the closure if most frames repeat
    the previous one. Frames must be at least :data:`SMALLEST` pixels high and wide.
    """
    figures: dict[str, float] = {}
    if picture is not None:
        figures[FIRST_PSNR.name] = float(psnr(clip[:1], picture[None])[0])
        figures[FIRST_SSIM.name] = float(ssim(clip[:1], picture[None])[0])
    if end is not None:
        figures[LAST_PSNR.name] = float(psnr(clip[-1:], end[None])[0])
    if len(clip) > 1:
        figures.update(_change(clip))
    start = clip[0] if picture is None else picture
    figures[DRIFT.name] = _levels(clip.mean((-2, -1)) - start.mean((-2, -1)))
    figures[CONTRAST.name] = _levels(clip.std((-2, -1)) - start.std((-2, -1)))
    if len(clip) > 1:
        drift = Drift()
        drift.add(_to_bytes(clip))
        figures[DELTA_E.name] = drift.largest
    colourful = _saturation(start[None])
    if colourful > _GREY:
        figures[SATURATION.name] = _saturation(clip) / colourful
    figures[CLIPPED.name] = max(0.0, clipped(clip) - clipped(start))
    fine = _sharpness(clip[:1])
    if len(clip) > 1 and fine > 0:
        figures[SHARPNESS.name] = _sharpness(clip[-1:]) / fine
    if len(clip) > 1 and math.isfinite(closure := loop_closure(clip)):
        figures[CLOSURE.name] = closure
    return figures


def _change(clip: Tensor) -> dict[str, float]:
    steps = 127.5 * (clip[1:] - clip[:-1]).abs().flatten(1).mean(1)
    mean = float(steps.mean())
    motion = find_motion(clip)
    course = find_course(clip)
    warping = float(motion.residue.mean())
    figures = {
        DIFFERENCE.name: mean,
        SPREAD.name: float(steps.std(unbiased=False)),
        FLICKER.name: flicker(clip),
        FLOW.name: float(motion.magnitude.mean()),
        MOVING.name: float(motion.moving.mean()),
        WAY.name: course.way,
        **{one.name: share for one, share in zip(_FLOWS, course.shares, strict=True)},
        ENLARGED.name: course.enlargement,
        WARPING.name: warping,
    }
    if mean > 0:
        figures[EXPLAINED.name] = max(0.0, 1 - warping / mean)
    return figures


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image of a batch ``[n, ...]`` in [-1, 1]."""
    error = (a - b).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity ``[n]`` of images ``[n, c, h, w]`` in [-1, 1]; 1 for equal ones.

    Wang et al. 2004, per channel, without padding at the borders. Images smaller than the window get a smaller one.
    """
    from kornia.metrics import ssim as similarity

    side = min(_WINDOW, *a.shape[-2:])
    x, y = (a.double() + 1) / 2, (b.double() + 1) / 2
    return similarity(x, y, side - 1 + side % 2, eps=0.0, padding="valid").flatten(1).mean(1)


def loop_closure(clip: Tensor) -> float:
    """Difference between the last and the first frame over the median difference of neighbours; 0 for a static clip.

    Infinite if most frames repeat the previous one and the last frame differs from the first.
    """
    step = (clip[1:] - clip[:-1]).abs().flatten(1).mean(1).median()
    apart = (clip[-1] - clip[0]).abs().mean()
    return float(apart / step) if apart > 0 else 0.0


def flicker(clip: Tensor) -> float:
    """Mean difference of a frame's mean colour from the midpoint of its neighbours', in levels of 0 to 255.

    0 for a steady change, however large; undefined for clips of fewer than three frames.
    """
    means = clip.mean((-2, -1))
    if len(means) < 3:
        return 0.0
    return _levels(means[1:-1] - (means[:-2] + means[2:]) / 2)


def _to_bytes(clip: Tensor) -> Tensor:
    """Frames ``[t, 3, h, w]`` in [-1, 1] as uint8 ``[t, h, w, 3]`` on the CPU."""
    return ((clip + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).cpu()


def _saturation(frames: Tensor) -> float:
    """Mean distance between the largest and the smallest channel of frames ``[t, 3, h, w]``, in levels."""
    return 127.5 * float((frames.amax(1) - frames.amin(1)).mean())


def _sharpness(frames: Tensor) -> float:
    """Variance of the Laplacian of the grey frames ``[t, 3, h, w]``."""
    grey = frames.float().mean(1, keepdim=True)
    inner = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return float((around - 4 * inner).var(unbiased=False))


def _levels(difference: Tensor) -> float:
    """Mean absolute difference of values in [-1, 1], in levels of 0 to 255."""
    return float(127.5 * difference.abs().mean())
