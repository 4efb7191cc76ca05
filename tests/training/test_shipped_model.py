"""What the built-in model does on scenes it never saw; every bound is below the measured value in docs/tiny.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamicrafter.api import find_model, load
from dynamicrafter.cli import main
from dynamicrafter.pipeline import Model
from dynamicrafter.settings import make_settings
from dynamicrafter.training.autoencoder import psnr, round_trip, still_frames
from dynamicrafter.training.behaviour import directions, make, track
from dynamicrafter.training.toy_world import (
    DIRECTIONS,
    captions,
    join,
    make_clips,
    sample_scenes,
    with_motion,
)
from dynamicrafter.variants import TINY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", device="cpu")


def test_the_file_is_small_and_knows_what_it_is(model: Model) -> None:
    assert find_model("tiny").weights.stat().st_size < 20e6
    assert model.variant == TINY


def test_pictures_survive_the_autoencoder(model: Model) -> None:
    pictures = still_frames(32, 5)
    assert float(psnr(pictures, round_trip(model.vae, pictures)).mean()) > 30


def test_subjects_move_as_prompted(model: Model) -> None:
    """The same pictures with four prompts, so that a clip that ignores its prompt is right one time in four."""
    first = sample_scenes(4, torch.Generator().manual_seed(21), "held_out")
    scenes = join([with_motion(first, direction, fs=9) for direction in DIRECTIONS])
    clips = make(model, scenes, captions(scenes), make_settings(model.variant, "animate", steps=5), 0)
    wanted = [direction for direction in DIRECTIONS for _ in range(4)]
    right = sum(a == b for a, b in zip(directions(track(clips, scenes)), wanted, strict=True))
    assert right >= 9
    assert float(psnr(clips[:, 0], make_clips(scenes, 2)[:, 0]).mean()) > 19


def test_interpolations_end_at_the_last_picture(model: Model) -> None:
    scenes = sample_scenes(4, torch.Generator().manual_seed(22), "held_out", motions=DIRECTIONS, fs=(8, 10))
    truth = make_clips(scenes, 16)
    settings = make_settings(model.variant, "interpolate", steps=5)
    clips = make(model, scenes, captions(scenes), settings, 0, truth[:, -1])
    to_last, to_first = psnr(clips[:, -1], truth[:, -1]), psnr(clips[:, -1], truth[:, 0])
    assert float(to_last.mean()) > 18
    assert (to_last > to_first).all()


def test_it_is_the_model_when_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.gif"
    picture = ROOT / "pictures" / "red_circle.png"
    words = [
        "animate",
        str(picture),
        "--prompt",
        "a red circle moves right",
        "--steps",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*words, "--output", str(clip)]) == 0
    told = capsys.readouterr()
    assert "the built-in tiny model knows coloured shapes only" in told.err
    assert "dynamicrafter download 512" in told.err
    with Image.open(clip) as made:
        assert (made.size, made.n_frames) == ((64, 64), 16)
