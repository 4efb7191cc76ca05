"""Loudness by ITU-R BS.1770-4: how loud samples are, and samples made as loud as wanted."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, cast

import numpy as np

from .ambience import RATE, Samples

TARGET = -16.0
"""LUFS: what is common for music and films on the web."""
CEILING = -1.0
"""dBTP: headroom for lossy coding (EBU R 128, section 4)."""

_SHORTEST = 0.4
"""Seconds of the window over which loudness is measured (BS.1770-4); shorter samples are repeated."""
_FINER = 4
"""Oversampling by which true peaks are found (BS.1770-4, annex 2)."""
_PART, _REACH = 60 * RATE, 16
"""Samples that are oversampled at once, and how many on either side a sample between two depends on at most."""
_LOOK = 0.005
"""Seconds over which the limiter's gain changes."""
_ROUNDS, _NEAR = 6, 0.1
"""How often limited samples are raised again, and from how many LU."""
_STAGE = 0.05
"""dB below the ceiling that are aimed at, as the gain changes between the samples of a peak."""


def loudness(samples: Samples) -> float:
    """Integrated loudness in LUFS of ``[2, n]`` samples at :data:`RATE`; minus infinity for silence."""
    least = math.ceil(_SHORTEST * RATE) + 1
    repeated: Samples = (
        np.tile(samples, (1, -(-least // samples.shape[1]))) if samples.shape[1] < least else samples
    )
    # Imported when needed, as both libraries take a while; untyped.
    meter: Any = import_module("pyloudnorm").Meter(RATE)
    return float(meter.integrated_loudness(cast(Any, repeated).astype(np.float64).T))


def true_peak(samples: Samples) -> float:
    """The highest level between samples as well, in dBTP; minus infinity for silence."""
    peak = float(_envelope(samples).max())
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def gain_to(samples: Samples, target: float = TARGET) -> float:
    """Decibels by which samples must be louder to have ``target`` LUFS; 0 for silence."""
    found = loudness(samples)
    return target - found if math.isfinite(found) else 0.0


def levelled(samples: Samples, target: float = TARGET, ceiling: float = CEILING) -> Samples:
    """Samples of ``target`` LUFS, of which peaks are limited to ``ceiling`` dBTP. Silence stays silence.

    Sounds that are nearly all peaks stay below the target.
    """
    found = loudness(samples)
    if not math.isfinite(found):
        return samples
    gain = target - found
    result = samples
    for _ in range(_ROUNDS):
        result = _limited(samples * np.float32(10 ** (gain / 20)), 10 ** ((ceiling - _STAGE) / 20))
        missing = target - loudness(result)
        if abs(missing) < _NEAR:
            break
        gain += missing
    return result


def _envelope(samples: Samples) -> Samples:
    """``[n]``: the highest absolute value at and around each sample, of both sides."""
    resample: Any = import_module("scipy.signal").resample_poly
    found = cast(Samples, np.empty(samples.shape[1]))
    # In parts, as the finer samples are 16 times as large as those of an hour, which are 1.4 GB.
    for start in range(0, samples.shape[1], _PART):
        end, before = start + _PART, max(0, start - _REACH)
        finer = np.abs(resample(samples[:, before : end + _REACH].astype(np.float64), _FINER, 1, axis=1))
        found[start:end] = finer.reshape(2, -1, _FINER).max((0, 2))[start - before :][:_PART]
    return found


def _limited(samples: Samples, ceiling: float) -> Samples:
    """Samples whose true peaks are at most ``ceiling``, by a gain that changes slowly before and after them."""
    envelope = _envelope(samples)
    if envelope.max() <= ceiling:
        return samples
    filters: Any = import_module("scipy.ndimage")
    wanted = np.minimum(1.0, ceiling / np.maximum(envelope, 1e-9))
    window = 2 * int(_LOOK * RATE) + 1
    # A mean of minima over the same window nowhere exceeds what is wanted.
    gain = filters.uniform_filter1d(filters.minimum_filter1d(wanted, 2 * window + 1), window)
    return (samples * gain).astype(np.float32)
