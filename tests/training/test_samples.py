"""Samples of a training: the clips that the pipeline would make, of the right pictures, at the right steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamicrafter.api import render
from dynamicrafter.errors import ClipError, UsageError
from dynamicrafter.media.pictures import as_picture
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.pipeline import Model
from dynamicrafter.settings import settings_from_json
from dynamicrafter.training import samples
from dynamicrafter.training.config import FinetuneConfig, SampleConfig, config_from
from dynamicrafter.training.data import read_list
from dynamicrafter.training.finetune import finetune
from dynamicrafter.training.samples import SampleWriter
from dynamicrafter.training.state import load_state
from dynamicrafter.training.trainer import STATE, TrainerConfig

pytest.importorskip("accelerate", reason="training needs accelerate")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

QUICK = SampleConfig(every=2, steps=2, cfg=2.0)


def config(folder: Path, sampled: SampleConfig = QUICK, **choices) -> FinetuneConfig:
    values = {"frames": 4, "strides": (1, 1), "target": "image_proj", "checkpointing": False, **choices}
    trainer = TrainerConfig(steps=3, learning_rate=1e-3, ema=0.5)
    return FinetuneConfig("small", str(folder), trainer=trainer, samples=sampled, **values)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    made = []
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
        made.append(str(tmp_path / f"{colour}.png"))
    return made


def make(model: Model, wanted: FinetuneConfig, folder: Path, step: int = 2) -> list[Path]:
    told: list[str] = []
    rows = read_list(Path(wanted.data))
    SampleWriter(model, rows, wanted, folder, told.append)(step)
    assert not told
    return sorted(folder.iterdir())


def repeated(model: Model, path: Path, firsts: list[str], lasts: list[str] | None = None) -> torch.Tensor:
    """The clip that the command would make with the settings in the sample's file."""
    settings = settings_from_json(read_metadata(path)["settings"])
    ends = None if lasts is None else [as_picture(Path(last)) for last in lasts]
    (clip,) = render(model, settings, [as_picture(Path(firsts[0]))], ends, [settings.seed])
    return clip.frames


def test_a_sample_is_the_clip_of_the_pipeline(
    small_model: Model, clip_folder: Callable[..., Path], pictures: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    written: list[torch.Tensor] = []

    def keep(frames: torch.Tensor, path: Path, *rest: object) -> None:
        written.append(frames)
        real(frames, path, *rest)

    real = samples.write_clip
    monkeypatch.setattr(samples, "write_clip", keep)
    wish = replace(QUICK, pictures=tuple(pictures), prompts=("one", "another"))
    both = make(small_model, config(clip_folder(), wish), tmp_path / "a")
    assert [path.name for path in both] == ["step_000002_1.mp4", "step_000002_2.mp4"]
    assert torch.equal(written[1], repeated(small_model, both[1], [pictures[1]]))
    assert read_metadata(both[1])["settings"]["prompt"] == "another"

    between = config(clip_folder(), replace(wish, prompts=()), mode="interpolate")
    (one,) = make(small_model, between, tmp_path / "b")
    assert torch.equal(written[2], repeated(small_model, one, [pictures[0]], [pictures[1]]))


def test_without_pictures_the_first_clips_are_taken(
    small_model: Model, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = clip_folder()
    (folder / "0.mp4").write_bytes(b"broken")
    rows = read_list(folder)
    made = make(small_model, config(folder, replace(QUICK, count=2)), tmp_path / "a", step=40)
    settings = [read_metadata(path)["settings"] for path in made]
    assert [one["prompt"] for one in settings] == [row.caption for row in rows[1:]]
    assert {one["fs"] for one in settings} == {8}
    assert read_metadata(made[0])["step"] == 40


def test_a_training_makes_samples_with_the_running_mean(
    small_model: Model, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    wanted = config(clip_folder(), held_out=1)
    told: list[dict[str, float]] = []
    finetune(
        small_model,
        wanted,
        tmp_path / "run",
        progress=lambda *given: seen.append(given),
        report=lambda line: told.append(dict(line.extra)),
    )
    made = sorted((tmp_path / "run" / "samples").iterdir())
    assert [path.name for path in made] == ["step_000000_1.mp4", "step_000002_1.mp4"]
    assert not torch.equal(*(read_frames(path) for path in made))
    assert seen == [
        ("encoding", 1, 2),
        ("encoding", 2, 2),
        ("encoding", 1, 1),
        *[("training", step, 3) for step in (1, 2, 3)],
    ]
    assert set(told[-1]) == {"held_out"}
    # What was sampled with is the mean, what is kept on for training are the weights themselves.
    state = load_state(tmp_path / "run" / STATE)
    name = next(iter(state["module"]))
    weights = {f"unet.{key}": v for key, v in small_model.unet.named_parameters()}
    weights |= {f"resampler.{key}": v for key, v in small_model.resampler.named_parameters()}
    assert torch.equal(weights[name], state["mean"][name])


def test_samples_change_nothing_of_the_training(
    small_weights: Path, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from dynamicrafter.api import load

    states = []
    for name, wish in (("with", QUICK), ("without", SampleConfig())):
        finetune(load(small_weights, device="cpu"), config(clip_folder(), wish), tmp_path / name)
        states.append(load_state(tmp_path / name / STATE)["module"])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_sample_that_fails_is_told_and_training_goes_on(
    small_model: Model, clip_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise ClipError("clip.mp4 could not be written: the disk is full")

    monkeypatch.setattr(samples, "write_clip", full)
    notes: list[str] = []
    assert finetune(small_model, config(clip_folder()), tmp_path / "run", note=notes.append).is_file()
    assert notes[0] == "there is no sample of step 0: clip.mp4 could not be written: the disk is full"
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("wish", "mode", "message"),
    [
        ({"pictures": ("a.png",)}, "interpolate", "need a first and a last image each, but 1 were given"),
        (
            {"pictures": ("a.png",), "prompts": ("a", "b")},
            "animate",
            "one prompt for each clip, but 2 were given for 1",
        ),
    ],
)
def test_wrong_samples_are_named_before_the_training(
    small_model: Model, clip_folder: Callable[..., Path], tmp_path: Path, wish: dict, mode, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        SampleWriter(
            small_model, [], config(clip_folder(), replace(QUICK, **wish), mode=mode), tmp_path / "a", print
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": -1}, "samples.every must be at least 0"),
        ({"often": 1}, r"it has unknown settings: samples\.often"),
        (3, "samples in it must be an object, not 3"),
    ],
)
def test_wrong_settings_of_samples_are_named(values: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_from({"recipe": "finetune", "model": "m", "data": "d", "samples": values}, "it")


def test_holding_out_every_clip_is_an_error(
    small_model: Model, clip_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="must leave a clip to train on, but 3 of 3 were to be held out"):
        finetune(small_model, config(clip_folder(), held_out=3), tmp_path / "run")
