"""Ambient sounds made by arithmetic, so that a film has sound with nothing downloaded.

Each is a function of a number of samples and a random generator to stereo samples; levels are set afterwards by
:mod:`.loudness`. All are stationary, so that any length can be made and a cut is heard nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ..errors import UsageError
from ..forms import shortened

Samples: TypeAlias = "np.ndarray[tuple[Any, ...], np.dtype[Any]]"
"""float32 ``[2, n]``: left and right, about -1 to 1."""

RATE = 48_000
"""Samples per second."""


def _noise(n: int, random: np.random.Generator, slope: float, low: float, high: float) -> Samples:
    """Noise whose power falls by ``slope`` dB per octave from ``low`` to ``high`` Hz, of deviation 1; ``[2, n]``."""
    spectrum = np.fft.rfft(random.standard_normal((2, n)))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    gain = np.maximum(hertz, 1.0) ** (-slope / 6.02)
    gain /= np.sqrt(1 + (low / np.maximum(hertz, 1e-3)) ** 8) * np.sqrt(1 + (hertz / high) ** 8)
    gain[0] = 0
    sound = np.fft.irfft(spectrum * gain, n)
    return (sound / max(sound.std(), 1e-9)).astype(np.float32)


def _slow(n: int, random: np.random.Generator, hertz: float, least: float = 0.0) -> Samples:
    """A random curve from ``least`` to 1 that changes about ``hertz`` times a second; ``[2, n]``, sides alike."""
    points = max(4, int(n / RATE * hertz * 2) + 4)
    both = random.uniform(0, 1, points)
    sides = np.stack([0.75 * both + 0.25 * random.uniform(0, 1, points) for _ in range(2)])
    at = np.linspace(1, points - 2, n)
    left = at.astype(int)
    part = at - left
    smooth = part * part * (3 - 2 * part)
    curve = sides[:, left] * (1 - smooth) + sides[:, left + 1] * smooth
    return (least + (1 - least) * curve).astype(np.float32)


def wind(n: int, random: np.random.Generator) -> Samples:
    """Gusts: low noise, and a whistle in a band that swells with them."""
    gusts = _slow(n, random, 0.25, 0.15)
    return gusts * _noise(n, random, 5, 60, 500) + 0.25 * gusts**3 * _noise(n, random, 0, 350, 900)


def rain(n: int, random: np.random.Generator) -> Samples:
    """A steady hiss, and single drops."""
    return _noise(n, random, 2, 500, 9_000) + 0.6 * _clicks(n, random, 60, 0.003, 1_500, 7_000)


def sea(n: int, random: np.random.Generator) -> Samples:
    """Waves about every seven seconds over a distant roar."""
    seconds = np.arange(n) / RATE
    phase = 2 * np.pi * (seconds / 7 + 0.3 * _slow(n, random, 0.1)[0] + random.uniform())
    wave = (0.5 + 0.5 * np.sin(phase)) ** 2
    sides = np.stack([wave, np.roll(wave, RATE // 8 if n > RATE else 0)]).astype(np.float32)
    return sides * _noise(n, random, 3, 150, 5_000) + 0.4 * _noise(n, random, 5, 40, 400)


def fire(n: int, random: np.random.Generator) -> Samples:
    """A low flame, and crackling."""
    flame = _slow(n, random, 3, 0.5) * _noise(n, random, 5, 50, 700)
    return 0.5 * flame + 1.6 * _clicks(n, random, 9, 0.012, 900, 6_000)


def crickets(n: int, random: np.random.Generator) -> Samples:
    """Three crickets that chirp in their own rhythms, over quiet night air."""
    seconds = np.arange(n) / RATE
    sound = 0.05 * _noise(n, random, 4, 80, 2_000)
    for _ in range(3):
        pitch, chirps, side = (
            random.uniform(3_900, 4_900),
            random.uniform(1.6, 2.4),
            random.uniform(0.15, 0.85),
        )
        turn = (seconds * chirps + random.uniform()) % 1
        pulses = np.maximum(np.sin(2 * np.pi * 4 * turn / 0.45), 0) * (turn < 0.45)
        one = pulses * np.sin(2 * np.pi * pitch * seconds)
        sound = sound + 0.5 * np.stack([np.sqrt(1 - side) * one, np.sqrt(side) * one]).astype(np.float32)
    return sound


def room(n: int, random: np.random.Generator) -> Samples:
    """The quiet of a room: air and a trace of mains hum."""
    seconds = np.arange(n) / RATE
    hum = np.sin(2 * np.pi * 100 * seconds) + 0.4 * np.sin(2 * np.pi * 150 * seconds)
    return _noise(n, random, 5, 40, 1_500) + 0.03 * hum.astype(np.float32)


def _clicks(
    n: int, random: np.random.Generator, per_second: float, seconds: float, low: float, high: float
) -> Samples:
    """Short bursts of noise that fade within ``seconds``, at random times, sides and levels; ``[2, n]``."""
    sound = np.zeros((2, n), np.float32)
    length = int(6 * seconds * RATE)
    fade = np.exp(-np.arange(length) / (seconds * RATE)).astype(np.float32)
    burst = _noise(8 * length, random, 0, low, high)[0]
    for start in random.integers(0, n, random.poisson(per_second * n / RATE)):
        size = min(length, n - start)
        level, side = random.uniform(0.1, 1) ** 2 * 3, random.uniform(0.1, 0.9)
        first = random.integers(0, 7 * length)
        one = level * burst[first : first + size] * fade[:size]
        sound[0, start : start + size] += np.sqrt(1 - side) * one
        sound[1, start : start + size] += np.sqrt(side) * one
    return sound


AMBIENCES: Mapping[str, Callable[[int, np.random.Generator], Samples]] = {
    "wind": wind,
    "rain": rain,
    "sea": sea,
    "fire": fire,
    "crickets": crickets,
    "room": room,
}
"""All sounds by name."""

_WORDS: Mapping[str, str] = {
    "wind": "wind windy breeze gust storm air leaves tree trees grass field mountain mountains sky cloud clouds flag "
    "sail",
    "rain": "rain rainy drizzle shower downpour drops umbrella wet",
    "sea": "sea ocean wave waves surf beach coast shore water river lake waterfall stream boat ship",
    "fire": "fire flame flames campfire fireplace candle candles burning bonfire torch",
    "crickets": "crickets cricket night evening summer insects meadow moon stars",
    "room": "room indoor indoors interior house home quiet office person portrait man woman child face",
}
"""Words of a cue that mean each sound; the first sound with most of them is taken."""


def ambience_for(cue: str) -> str | None:
    """The name of the sound that a cue asks for in its words; None if it names none."""
    words = set(re.findall(r"[a-z]+", cue.lower()))
    counts = {name: len(words & {name, *known.split()}) for name, known in _WORDS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None


def make_ambience(name: str, seconds: float, seed: int) -> Samples:
    """``seconds`` of a sound at :data:`RATE`; the same for the same seed. Raises UsageError for an unknown name."""
    if name not in AMBIENCES:
        raise UsageError(f"there is no ambience {shortened(name)!r}; use one of {', '.join(AMBIENCES)}")
    n = max(1, round(seconds * RATE))
    return AMBIENCES[name](n, np.random.default_rng(seed)).astype(np.float32)
