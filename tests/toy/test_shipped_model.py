"""What the built-in model does on scenes it never saw; every bound is below the measured value in docs/tiny.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamicrafter.api import find_model, load
from dynamicrafter.cli import main
from dynamicrafter.evaluation.figures import loop_closure, psnr
from dynamicrafter.model.variants import TINY, Mode
from dynamicrafter.pipeline import Model
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.toy.autoencoder import round_trip, still_frames
from dynamicrafter.toy.behaviour import generate_clips
from dynamicrafter.toy.gauges import Track, directions, same_subject, track, travelled
from dynamicrafter.toy.scales import measure_scales
from dynamicrafter.toy.world import DIRECTIONS, Scenes, captions, join, make_clips, sample_scenes, with_motion

ROOT = Path(__file__).resolve().parents[2]
LIKENESS = "first frame to the picture, dB"
PAIRS = ((1, 1), (4, 1), (1, 4))
"""Scales of text and picture."""


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


def told(model: Model, motion: str, count: int, seed: int, fs: int = 10) -> tuple[Scenes, Track]:
    """Unseen scenes whose subjects were told one motion, and where they went."""
    scenes = with_motion(sample_scenes(count, torch.Generator().manual_seed(seed), "held_out"), motion, fs)
    return scenes, track(generate_clips(model, scenes, captions(scenes), quick(model, "animate"), 0), scenes)


def quick(model: Model, mode: Mode) -> Settings:
    """Six steps show what happens; pictures get better with more."""
    return make_settings(model.variant, mode, steps=6)


def test_pictures_survive_the_autoencoder(model: Model) -> None:
    pictures = still_frames(32, 5)
    assert float(psnr(pictures, round_trip(model.vae, pictures)).mean()) > 38


def test_subjects_move_as_prompted(model: Model) -> None:
    """The same pictures with four prompts, so that a clip that ignores its prompt is right one time in four."""
    first = sample_scenes(4, torch.Generator().manual_seed(21), "held_out")
    scenes = join([with_motion(first, direction, fs=9) for direction in DIRECTIONS])
    clips = generate_clips(model, scenes, captions(scenes), quick(model, "animate"), 0)
    wanted = [direction for direction in DIRECTIONS for _ in range(4)]
    right = sum(a == b for a, b in zip(directions(track(clips, scenes)), wanted, strict=True))
    assert right >= 15
    assert float(psnr(clips[:, 0], make_clips(scenes, 2)[:, 0]).mean()) > 40
    colour, shape = same_subject(clips, scenes)
    assert colour >= 0.9
    assert shape >= 0.9


def test_without_a_prompt_nothing_says_where_to_go(model: Model) -> None:
    """One direction in four would be chance; with the prompt it is nearly all."""
    scenes = with_motion(sample_scenes(16, torch.Generator().manual_seed(21), "held_out"), "right", 9)
    clips = generate_clips(model, scenes, [""] * 16, quick(model, "animate"), 0)
    assert directions(track(clips, scenes)).count("right") <= 6


def test_the_scales_of_text_and_picture_one_by_one(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A higher scale of the text costs likeness and brings nothing; that of the picture does next to nothing."""
    monkeypatch.setattr("dynamicrafter.toy.scales.SCALES", (1.0, 4.0))
    found = measure_scales(model, items=4, steps=6)
    likeness = {pair: found[f"text scale {pair[0]}, image scale {pair[1]}: {LIKENESS}"] for pair in PAIRS}
    assert all(value >= 0.75 for name, value in found.items() if name.endswith("direction, share"))
    assert likeness[4, 1] < likeness[1, 1] - 0.5
    assert likeness[1, 4] == pytest.approx(likeness[1, 1], abs=0.5)


def test_subjects_grow_and_shrink_as_prompted(model: Model) -> None:
    for motion, sign in (("grow", 1), ("shrink", -1)):
        _, found = told(model, motion, 8, 23)
        change = (found.area[:, -1] / found.area[:, 0]).log() * sign
        assert int((change > 0.2).sum()) >= 7


def test_subjects_stand_still_when_told(model: Model) -> None:
    _, found = told(model, "still", 8, 24)
    assert directions(found).count("still") >= 7


def test_a_higher_rate_is_slower(model: Model) -> None:
    distances = [travelled(told(model, "right", 4, 25, fs)[1]) for fs in (8, 14, 28)]
    assert (distances[0] > distances[1]).all()
    assert (distances[1] > distances[2]).all()


def test_interpolations_end_at_the_last_picture(model: Model) -> None:
    scenes = sample_scenes(4, torch.Generator().manual_seed(22), "held_out", motions=DIRECTIONS, fs=(8, 10))
    truth = make_clips(scenes, 16)
    clips = generate_clips(model, scenes, captions(scenes), quick(model, "interpolate"), 0, truth[:, -1])
    to_last, to_first = psnr(clips[:, -1], truth[:, -1]), psnr(clips[:, -1], truth[:, 0])
    assert float(to_last.mean()) > 39
    assert (to_last > to_first).all()


def test_loops_go_out_and_close(model: Model) -> None:
    scenes = with_motion(sample_scenes(4, torch.Generator().manual_seed(26), "held_out"), "right", 9)
    scenes = replace(scenes, loop=torch.ones(4, dtype=torch.bool))
    clips = generate_clips(model, scenes, captions(scenes), quick(model, "loop"), 0)
    found = track(clips, scenes)
    assert all(loop_closure(clip) < 1 for clip in clips)
    assert (found.x[:, 8] - found.x[:, 0] > 4).all()


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
