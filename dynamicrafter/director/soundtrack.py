"""Sound for a clip or a film: from a file, a folder of files or an ambience, fitted to its length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import ClipError, UsageError
from ..media.video import SOUND_EXTENSIONS, Sound, read_sound
from .ambience import RATE, Samples, ambience_for, make_ambience
from .loudness import gain_to, levelled

FADE = 0.25
"""Seconds of fades at the ends and between repetitions."""
_LONGEST_AMBIENCE = 30.0
"""Seconds of an ambience; longer ones are repeated."""
_LONGEST_FILE = 3_600.0
"""Seconds that are read of a file, about 1.4 GB of samples."""


def equal_power(n: int) -> tuple[Samples, Samples]:
    """Curves ``[n]`` of a sound that ends and of one that begins; the power of unrelated sounds stays the same."""
    turn = (np.arange(n, dtype=np.float32) + 0.5) / max(n, 1) * (math.pi / 2)
    return np.cos(turn), np.sin(turn)


def joined(parts: Sequence[Samples], fade: float = FADE) -> Samples:
    """Parts ``[2, n]`` after each other, each faded into the next within ``fade`` seconds, by which they overlap."""
    result: Samples = np.empty((2, sum(part.shape[1] for part in parts)), np.float32)
    length = 0
    for part in parts:
        n = min(round(fade * RATE), length // 2, part.shape[1] // 2)
        end, begin = equal_power(n)
        result[:, length - n : length] = result[:, length - n : length] * end + part[:, :n] * begin
        result[:, length : length - n + part.shape[1]] = part[:, n:]
        length += part.shape[1] - n
    return result[:, :length]


def fitted_sound(samples: Samples, seconds: float, fade: float = FADE) -> Samples:
    """``seconds`` of samples ``[2, n]``, cut or repeated, that fade in and out.

    Raises ClipError for samples without length.
    """
    return _faded(_lasting(samples, seconds, fade), fade)


def _lasting(samples: Samples, seconds: float, fade: float = FADE) -> Samples:
    """``seconds`` of samples ``[2, n]``, cut or repeated."""
    if not samples.shape[1]:
        raise ClipError("the sound has no samples; choose another file")
    wanted = max(1, round(seconds * RATE))
    overlap = min(round(fade * RATE), samples.shape[1] // 2)
    if samples.shape[1] < wanted:
        more = math.ceil((wanted - samples.shape[1]) / max(1, samples.shape[1] - overlap))
        samples = joined([samples] * (more + 1), fade)
    return samples[:, :wanted]


def _faded(samples: Samples, fade: float = FADE) -> Samples:
    """Samples that fade in and out."""
    samples = np.array(samples)
    count = samples.shape[1]
    n = min(round(fade * RATE), count // 2)
    end, begin = equal_power(n)
    samples[:, :n] *= begin
    samples[:, count - n :] *= end
    return samples


def sound_of(path: Path, seconds: float) -> Samples:
    """The first ``seconds`` of a file's sound, ``[2, n]`` at :data:`RATE`; of a long file, no more than an hour.

    Raises ClipError if it has none.
    """
    sound = read_sound(path, 0.0, min(seconds, _LONGEST_FILE))
    if sound is None:
        raise ClipError(f"{path} has no sound; choose another file")
    return np.repeat(sound.samples, 3 - len(sound.samples), axis=0)


def sound_file_for(cue: str, folder: Path) -> Path | None:
    """The file of a folder whose name, folders in it included, has most words of a cue; None if none has one.

    Raises UsageError if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder of sounds {folder}; check its name")
    words = set(_words(cue))
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SOUND_EXTENSIONS and path.is_file()
    )
    counts = [len(words & set(_words(str(path.relative_to(folder).with_suffix(""))))) for path in files]
    best = max(counts, default=0)
    return files[counts.index(best)] if best else None


SoundSource: TypeAlias = "Path | str"
"""Where a sound comes from: a file, or the name of an ambience."""


def source_for(cue: str, folder: Path | None = None) -> SoundSource | None:
    """The source that fits a cue: of the folder's files, else an ambience; None if nothing fits."""
    file = sound_file_for(cue, folder) if folder is not None else None
    return ambience_for(cue) if file is None else file


def sound_for(cue: str, seconds: float, seed: int, folder: Path | None = None) -> Samples | None:
    """``seconds`` of the sound for a cue, as :func:`source_for`, that fade in and out."""
    source = source_for(cue, folder)
    return None if source is None else _faded(_sound_from(source, seconds, seed))


def _sound_from(source: SoundSource, seconds: float, seed: int) -> Samples:
    """``seconds`` of a source."""
    if isinstance(source, Path):
        return _lasting(sound_of(source, seconds), seconds)
    return _lasting(make_ambience(source, min(seconds + FADE, _LONGEST_AMBIENCE), seed), seconds)


def film_sound(stretches: Sequence[tuple[SoundSource | None, float]], seed: int) -> Sound | None:
    """The sound of a film: sources, each with its seconds, at the loudness of :mod:`.loudness`; None for silence.

    A source that is named again by its neighbour goes on. Others fade into each other around the time at which they
    meet, all of them equally loud. Raises ClipError for a file that cannot be read.
    """
    merged: list[tuple[SoundSource | None, float]] = []
    for source, seconds in stretches:
        if merged and merged[-1][0] == source:
            seconds += merged.pop()[1]
        merged.append((source, seconds))
    if all(source is None for source, _ in merged):
        return None
    parts: list[Samples] = []
    for place, (source, seconds) in enumerate(merged):
        seconds += FADE / 2 * ((place > 0) + (place < len(merged) - 1))
        if source is None:
            parts.append(np.zeros((2, round(seconds * RATE)), np.float32))
            continue
        part = _sound_from(source, seconds, seed + place)
        parts.append(part * np.float32(10 ** (gain_to(part) / 20)))
    total = round(sum(seconds for _, seconds in stretches) * RATE)
    return Sound(levelled(_faded(joined(parts)[:, :total])), RATE)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
