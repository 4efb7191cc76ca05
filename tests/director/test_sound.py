"""Ambiences, their loudness, and sounds fitted to a length."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from dynamicrafter.director import loudness as loudness_module
from dynamicrafter.director.ambience import AMBIENCES, RATE, Samples, ambience_for, make_ambience
from dynamicrafter.director.loudness import levelled, loudness, true_peak
from dynamicrafter.director.soundtrack import fitted_sound, joined, sound_file_for, sound_for, sound_of
from dynamicrafter.errors import ClipError, UsageError


def sine(hertz: float, level: float, seconds: float = 2.0) -> Samples:
    one = 10 ** (level / 20) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([one, one]).astype(np.float32)


def write_wave(path: Path, samples: Samples) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("name", AMBIENCES)
def test_every_ambience_reaches_the_loudness_without_clipping(name: str) -> None:
    sound = levelled(make_ambience(name, 6.0, 3))
    assert sound.shape == (2, 6 * RATE)
    assert np.isfinite(sound).all()
    assert loudness(sound) == pytest.approx(-16, abs=0.3)
    assert true_peak(sound) <= -1.0


def test_ambiences_repeat_by_seed_and_fill_their_length() -> None:
    assert np.array_equal(make_ambience("fire", 2.0, 1), make_ambience("fire", 2.0, 1))
    assert not np.array_equal(make_ambience("fire", 2.0, 1), make_ambience("fire", 2.0, 2))
    for name in AMBIENCES:
        halves = np.split(make_ambience(name, 14.0, 4), 2, 1)
        one, two = (float(half.std()) for half in halves)
        assert 0.5 < one / two < 2, name


def test_loudness_of_the_standard_tone() -> None:
    """BS.1770-4: a 997 Hz sine at 0 dBFS in one channel is -3.01 LUFS, so in both it is 0.0."""
    assert loudness(sine(997, -20)) == pytest.approx(-20.0, abs=0.1)


def test_peaks_between_samples_are_found() -> None:
    """A sine of a quarter of the rate, sampled at 45 degrees, peaks 3 dB above its samples."""
    one = np.sin(np.pi / 4 + np.pi / 2 * np.arange(4_800)) * np.hanning(4_800)
    sound = np.stack([one, one]).astype(np.float32)
    assert true_peak(sound) - 20 * np.log10(np.abs(sound).max()) == pytest.approx(3.0, abs=0.1)


def test_long_sounds_are_measured_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = make_ambience("rain", 1.0, 0)
    peak, limited = true_peak(sound), levelled(sound, -3.0)
    monkeypatch.setattr(loudness_module, "_PART", 7_001)
    assert true_peak(sound) == pytest.approx(peak, abs=1e-9)
    assert np.allclose(levelled(sound, -3.0), limited, atol=1e-6)


def test_silence_stays_silence() -> None:
    assert not levelled(np.zeros((2, RATE), np.float32)).any()


@pytest.mark.parametrize(
    ("cue", "name"),
    [
        ("gentle waves on a beach", "sea"),
        ("a crackling campfire at night", "fire"),
        ("Rain!", "rain"),
        ("summer night insects", "crickets"),
        ("a breeze in the trees", "wind"),
        ("spaceship", None),
        ("", None),
    ],
)
def test_cues_are_understood(cue: str, name: str | None) -> None:
    assert ambience_for(cue) == name


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.0, 7.3])
def test_sounds_are_cut_or_repeated_to_the_sample_with_quiet_ends(seconds: float) -> None:
    sound = fitted_sound(make_ambience("rain", 2.0, 0), seconds)
    assert sound.shape == (2, round(seconds * RATE))
    assert np.abs(sound[:, :3]).max() < 0.1
    assert np.abs(sound[:, -3:]).max() < 0.1


def test_power_stays_the_same_where_sounds_are_joined() -> None:
    rain = [make_ambience("rain", 2.0, seed) for seed in (0, 1)]
    sound = joined(rain, fade=0.5)
    assert sound.shape[1] == 3.5 * RATE
    middle, outside = sound[:, int(1.5 * RATE) : 2 * RATE], sound[:, : int(1.5 * RATE)]
    assert middle.std() / outside.std() == pytest.approx(1, abs=0.1)


def test_files_of_a_folder_are_chosen_by_their_names(tmp_path: Path) -> None:
    waves = write_wave(tmp_path / "Sea" / "waves_01.wav", sine(200, -6))
    write_wave(tmp_path / "city.wav", sine(200, -6))
    (tmp_path / "waves.txt").write_text("waves", "utf-8")
    assert sound_file_for("waves at sea", tmp_path) == waves
    assert sound_file_for("dragon", tmp_path) is None
    read = sound_of(waves, 0.5)
    assert read.shape == (2, RATE // 2)
    assert np.abs(read).max() == pytest.approx(10 ** (-6 / 20), abs=0.01)
    found = sound_for("waves", 3.0, 0, tmp_path)
    assert found is not None
    assert found.shape == (2, 3 * RATE)
    assert sound_for("spaceship", 3.0, 0) is None


def test_bad_sounds_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF nonsense")
    with pytest.raises(ClipError, match=r"cannot be read \(.*\); convert it to WAV or FLAC"):
        sound_of(tmp_path / "bad.wav", 1.0)
    # A playlist can name other files and servers, so libav must not take it for one.
    (tmp_path / "list.mp3").write_text("#EXTM3U\n#EXTINF:1\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "utf-8")
    with pytest.raises(ClipError, match=r"list\.mp3 cannot be read \(.*\); convert it to WAV or FLAC"):
        sound_of(tmp_path / "list.mp3", 1.0)
    with pytest.raises(ClipError, match=r"there is no sound .*gone\.wav; check its name"):
        sound_of(tmp_path / "gone.wav", 1.0)
    with pytest.raises(ClipError, match=r"the sound has no samples; choose another file"):
        fitted_sound(np.zeros((2, 0), np.float32), 1.0)
    with pytest.raises(UsageError, match=r"there is no ambience 'owl'; use one of wind, rain"):
        make_ambience("owl", 1.0, 0)
    with pytest.raises(UsageError, match=r"there is no folder of sounds .*gone; check its name"):
        sound_file_for("sea", tmp_path / "gone")
