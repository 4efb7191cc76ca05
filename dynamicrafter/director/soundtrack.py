"""Sound for a clip or a film: from a file, a folder of files or an ambience, fitted to its length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import ClipError, UsageError
from .ambience import RATE, Samples, ambience_for, make_ambience

FADE = 0.25
"""Seconds of fades at the ends and between repetitions."""
_LONGEST_AMBIENCE = 30.0
"""Seconds of an ambience; longer ones are repeated."""
_LONGEST_FILE = 3_600.0
"""Seconds that are read of a file, about 1.4 GB of samples."""
SOUND_SUFFIXES = (".aac", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav")
"""Of the files that are looked for in a folder."""


def equal_power(n: int) -> tuple[Samples, Samples]:
    """Curves ``[n]`` of a sound that ends and of one that begins; the power of unrelated sounds stays the same."""
    turn = (np.arange(n, dtype=np.float32) + 0.5) / max(n, 1) * (math.pi / 2)
    return np.cos(turn), np.sin(turn)


def joined(parts: Sequence[Samples], fade: float = FADE) -> Samples:
    """Parts ``[2, n]`` after each other, each faded into the next within ``fade`` seconds, by which they overlap."""
    result = parts[0]
    for part in parts[1:]:
        n = min(round(fade * RATE), result.shape[1] // 2, part.shape[1] // 2)
        end, begin = equal_power(n)
        overlap = result[:, result.shape[1] - n :] * end + part[:, :n] * begin
        result = np.concatenate([result[:, : result.shape[1] - n], overlap, part[:, n:]], 1)
    return result.astype(np.float32)


def fitted_sound(samples: Samples, seconds: float, fade: float = FADE) -> Samples:
    """``seconds`` of samples ``[2, n]``, cut or repeated, that fade in and out.

    Raises ClipError for samples without length.
    """
    if not samples.shape[1]:
        raise ClipError("the sound has no samples; choose another file")
    wanted = max(1, round(seconds * RATE))
    overlap = min(round(fade * RATE), samples.shape[1] // 2)
    if samples.shape[1] < wanted:
        more = math.ceil((wanted - samples.shape[1]) / max(1, samples.shape[1] - overlap))
        samples = joined([samples] * (more + 1), fade)
    samples = np.array(samples[:, :wanted])
    n = min(round(fade * RATE), wanted // 2)
    end, begin = equal_power(n)
    samples[:, :n] *= begin
    samples[:, wanted - n :] *= end
    return samples


def read_sound_file(path: Path, seconds: float = _LONGEST_FILE) -> Samples:
    """The first ``seconds`` of a file's sound, ``[2, n]`` at :data:`RATE`. Raises ClipError if it has none."""
    import av
    from av.audio.resampler import AudioResampler

    pieces: list[Samples] = []
    left = round(min(seconds, _LONGEST_FILE) * RATE)
    try:
        if not path.is_file():
            raise ClipError(f"there is no sound {path}; check its name and folder")
        with path.open("rb") as opened, cast(Any, av).open(opened, "r") as file:
            if not file.streams.audio:
                raise ClipError(f"{path} has no sound; choose another file")
            resampler = AudioResampler(format="fltp", layout="stereo", rate=RATE)
            for frame in file.decode(file.streams.audio[0]):
                for piece in cast(Any, resampler).resample(frame):
                    pieces.append(piece.to_ndarray()[:, :left])
                    left -= pieces[-1].shape[1]
                if left <= 0:
                    break
            else:
                pieces += [piece.to_ndarray()[:, :left] for piece in cast(Any, resampler).resample(None)]
    except (OSError, ValueError) as problem:
        # PyAV's errors are among these.
        raise ClipError(f"{path} cannot be read as sound ({problem}); convert it to WAV or FLAC") from problem
    samples = np.concatenate(pieces, 1) if pieces else np.zeros((2, 0), np.float32)
    if not np.isfinite(samples).all():
        raise ClipError(f"{path} contains samples that are not numbers; convert it to WAV or FLAC")
    return samples.astype(np.float32)


def sound_file_for(cue: str, folder: Path) -> Path | None:
    """The file of a folder whose name, folders in it included, has most words of a cue; None if none has one.

    Raises UsageError if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder of sounds {folder}; check its name")
    words = set(_words(cue))
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.is_file()
    )
    counts = [len(words & set(_words(str(path.relative_to(folder).with_suffix(""))))) for path in files]
    best = max(counts, default=0)
    return files[counts.index(best)] if best else None


def sound_for(cue: str, seconds: float, seed: int, folder: Path | None = None) -> Samples | None:
    """``seconds`` of the sound for a cue: of the folder's files, else an ambience; None for a cue that fits neither."""
    file = sound_file_for(cue, folder) if folder is not None else None
    if file is not None:
        return fitted_sound(read_sound_file(file, seconds), seconds)
    name = ambience_for(cue)
    if name is None:
        return None
    return fitted_sound(make_ambience(name, min(seconds + FADE, _LONGEST_AMBIENCE), seed), seconds)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
