"""The Python API."""

from __future__ import annotations

import re
import runpy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import dynamicrafter
from dynamicrafter.api import (
    ModelFiles,
    find_model,
    pick_device,
    pick_dtype,
    provide,
    render,
    render_each,
    variant_of,
)
from dynamicrafter.errors import CheckpointError, PictureError, UsageError
from dynamicrafter.media.pictures import read_picture
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.variants import SMALL
from dynamicrafter.pipeline import Model
from dynamicrafter.settings import Choices, make_settings, settings_from_json
from dynamicrafter.weights.detect import VARIANT_KEY

ROOT = Path(__file__).resolve().parents[2]
FEW: Choices = {"steps": 2, "frames": 4}


@pytest.fixture(scope="module")
def model(weights_home: Path) -> Model:
    (file,) = weights_home.glob("random-*.safetensors")
    return dynamicrafter.load(file, device="cpu")


@pytest.fixture(autouse=True)
def quick(home: Path) -> None:
    """Every test here has the weights folder, and runs small networks."""


# The package


def test_all_public_names_are_there() -> None:
    names = {
        *("Choices", "Clip", "Model", "Settings", "CheckpointError", "DynamiCrafterError", "UsageError"),
        *("animate", "batch", "interpolate", "load", "loop", "make_settings", "render", "save"),
        *("PersonSettings", "PoseChoices", "keyframes", "load_person", "person", "read_poses"),
        *("Film", "Story", "StoryScene", "story"),
        *("load_control", "switch", "views"),
    }
    assert names == set(dynamicrafter.__all__) <= set(dir(dynamicrafter))
    assert all(getattr(dynamicrafter, name).__doc__ for name in names)


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="module 'dynamicrafter' has no attribute 'anime'"):
        _ = cast(Any, dynamicrafter).anime


def test_the_first_snippet_about_python_runs_with_nothing_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippet = re.search(
        r"^```python\n(.*?)^```$",
        (ROOT / "docs" / "python.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert snippet is not None
    shutil.copytree(ROOT / "pictures", tmp_path / "pictures")
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("snippet.py").write_text(snippet[1], encoding="utf-8")
    runpy.run_path("snippet.py")
    assert capsys.readouterr().err == ""
    assert (tmp_path / "clip.mp4").stat().st_size > 1000
    assert not list(tmp_path.rglob("*.safetensors"))


# Load


def test_load_by_name_and_by_path_are_the_same(model: Model) -> None:
    named = dynamicrafter.load("random", device="cpu")
    assert named.variant == model.variant == SMALL
    assert (named.dtype, named.device) == (torch.float32, torch.device("cpu"))
    ours = named.unet.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.unet.state_dict().items())


def test_load_tells_its_progress_and_can_be_stopped() -> None:
    told: list[tuple[int, int]] = []
    dynamicrafter.load("random", device="cpu", progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)

    def stop(done: int, total: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        dynamicrafter.load("random", device="cpu", progress=stop)


def test_the_variant_is_told_without_loading(model: Model, wide_weights: Path) -> None:
    assert variant_of(find_model("random")) == SMALL
    assert variant_of(ModelFiles(wide_weights)).name == "wide"
    with pytest.raises(CheckpointError, match="was detected as small, not 512_v1"):
        variant_of(find_model("random", variant="512"))


def test_the_random_model_is_made_once_for_each_kind(
    monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    made = find_model("random").weights
    status = made.stat()
    assert provide(find_model("random")).weights.stat().st_mtime_ns == status.st_mtime_ns
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    monkeypatch.setattr("dynamicrafter.api.variant_metadata", lambda _: {VARIANT_KEY: "another"})
    other = find_model("random")
    assert other.weights.name != made.name
    assert not other.weights.exists()  # Only found.
    assert provide(other) is other
    assert other.weights.read_bytes() == made.read_bytes()


def test_only_the_random_model_is_made(tmp_path: Path) -> None:
    provide(ModelFiles(tmp_path / "gone.safetensors"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [Path("random"), "./random", "random/", "random.ckpt"])
def test_what_looks_like_a_path_is_none_of_the_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str | Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^there is no weights file random"):
        find_model(place)
    Path(place).touch()
    assert find_model(place).weights == Path(place)


def test_a_file_without_extension_is_found_by_its_bare_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no model 'mine'"):
        find_model("mine")
    Path("mine").touch()
    assert find_model("mine").weights == Path("mine")


def test_downloaded_files_go_with_their_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"512_interp": Path("model"), "towers": Path("towers")}
    monkeypatch.setattr("dynamicrafter.api.local_path", lambda release: here.get(release.name))
    found = find_model("512_interp_v1")
    towers = Path("towers")
    assert found == ModelFiles(Path("model"), "512_interp_v1", towers, towers, asked="512_interp_v1")
    assert find_model("512-interp", text_encoder="mine").text_encoder == Path("mine")
    del here["towers"]
    with pytest.raises(
        UsageError,
        match=r"512_interp are not downloaded; download them with .*download\(find\('512_interp'\)\)",
    ):
        find_model("512_interp", text_encoder="mine")
    found = find_model("512_interp", text_encoder="mine", image_encoder="mine")
    assert (found.weights, found.image_encoder) == (Path("model"), Path("mine"))


@pytest.mark.parametrize("device", ["meta", "cuda:99", "xpu", "hpu", "nothing", ""])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=f"the device '{device}' is not available; use cpu, cuda"):
        pick_device(device)


def test_devices_and_precisions() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda", "mps")
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("mps")) == torch.float16
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(UsageError, match="dtype must be auto, float32, bfloat16, float16, not 'int8'"):
        pick_dtype("int8", torch.device("cpu"))


def test_auto_asks_the_chosen_gpu_for_bfloat16_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []

    @contextmanager
    def switched(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def supported(including_emulation: bool = True) -> bool:
        # The second GPU has it, the first one only emulates it.
        return including_emulation or current[-1].index == 1

    monkeypatch.setattr(torch.cuda, "device", switched)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_dtype("auto", torch.device("cuda:0")) == torch.float16
    assert pick_dtype("auto", torch.device("cuda:1")) == torch.bfloat16


# Clips


def test_a_clip_from_a_picture(model: Model, pictures: dict[str, Path]) -> None:
    clip = dynamicrafter.animate(model, pictures["wide"], "a boat", seed=7, **FEW)
    assert clip.frames.shape == (4, 64, 64, 3)
    assert clip.frames.dtype == torch.uint8
    assert clip.settings == make_settings(SMALL, "animate", prompt="a boat", seed=7, steps=2, frames=4)


def test_every_kind_of_picture_gives_the_same_clip(model: Model, pictures: dict[str, Path]) -> None:
    pixels = read_picture(pictures["wide"])
    kinds = [pictures["wide"], str(pictures["wide"]), pixels, pixels.pixels, pixels.pixels.numpy()]
    clips = [dynamicrafter.animate(model, kind, **FEW).frames for kind in kinds]
    with Image.open(pictures["wide"]) as image:
        clips.append(dynamicrafter.animate(model, image, **FEW).frames)
    assert all(torch.equal(clips[0], clip) for clip in clips[1:])


def test_a_loop_and_an_interpolation(model: Model, pictures: dict[str, Path]) -> None:
    first, last = pictures["wide"], pictures["other"]
    between = dynamicrafter.interpolate(model, first, last, "dusk falls", **FEW)
    assert (between.settings.mode, between.settings.prompt) == ("interpolate", "dusk falls")
    assert between.frames.shape == (4, 64, 64, 3)
    loop = dynamicrafter.loop(model, first, motion=0.5, **FEW)
    assert (loop.settings.mode, loop.settings.fs) == ("loop", 19)
    closed = dynamicrafter.interpolate(model, first, first, motion=0.5, **FEW)
    assert torch.equal(loop.frames, closed.frames[:-1])


def test_progress_and_callback_are_passed_on(model: Model, pictures: dict[str, Path]) -> None:
    for make in (dynamicrafter.animate, dynamicrafter.loop):
        stages: list[str] = []
        steps: list[int] = []
        make(
            model,
            pictures["wide"],
            progress=lambda stage, done, total, seen=stages: seen.append(stage),
            callback=lambda step, seen=steps: seen.append(step.index),
            **FEW,
        )
        assert list(dict.fromkeys(stages)) == ["encode", "sample", "decode"]
        assert steps == [0, 1]


def test_render_makes_one_clip_for_each_picture_and_seed(model: Model, pictures: dict[str, Path]) -> None:
    settings = make_settings(SMALL, "animate", **FEW)
    clips = render(model, settings, [pictures["wide"], pictures["tall"]], None, [5, 6])
    assert [clip.settings.seed for clip in clips] == [5, 6]
    for clip, name in zip(clips, ("wide", "tall"), strict=True):
        alone = dynamicrafter.animate(model, pictures[name], seed=clip.settings.seed, **FEW)
        assert np.abs(alone.frames.numpy().astype(int) - clip.frames.numpy()).max() <= 1


def test_notes_are_warnings_at_the_callers_line(model: Model, pictures: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="^fs is 40, but 8 to 30 is recommended for small$") as warned:
        dynamicrafter.loop(model, pictures["wide"], fs=40, steps=1, frames=3)
    assert [warning.filename for warning in warned] == [__file__]
    with pytest.warns(UserWarning, match="^the prompt has 76 tokens and is truncated to the first 75$"):
        dynamicrafter.animate(model, pictures["wide"], "boat " * 76, steps=1, frames=1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip"])
def test_numbers_of_numpy_and_fractions_of_fps_are_saved_and_read(
    model: Model, pictures: dict[str, Path], tmp_path: Path, name: str
) -> None:
    chosen = cast(Any, {"seed": np.int64(4), "fps": 7.5, "steps": 1, "frames": np.int32(2)})
    clip = dynamicrafter.animate(model, pictures["wide"], **chosen)
    path = dynamicrafter.save(clip, tmp_path / name)
    assert settings_from_json(read_metadata(path)["settings"]) == clip.settings
    assert (clip.settings.fps, clip.settings.seed) == (7.5, 4)


@pytest.mark.parametrize("name", ["clip.mp4", "clip"])
def test_a_saved_clip_carries_its_settings(
    model: Model, pictures: dict[str, Path], tmp_path: Path, name: str
) -> None:
    clip = dynamicrafter.animate(model, pictures["wide"], "a boat", fps=5, **FEW)
    path = dynamicrafter.save(clip, tmp_path / name)
    assert read_frames(path).shape == clip.frames.shape
    settings = read_metadata(path)["settings"]
    assert (settings["prompt"], settings["fps"], settings["steps"]) == ("a boat", 5, 2)


# Mistakes


def test_lists_of_other_lengths_are_refused(model: Model, pictures: dict[str, Path]) -> None:
    settings = make_settings(SMALL, "animate", **FEW)
    with pytest.raises(UsageError, match="as many seeds as images, but 1 images and 2 seeds were given"):
        render(model, settings, [pictures["wide"]], None, [1, 2])
    with pytest.raises(UsageError, match="there is no image to generate a clip from; pass at least one"):
        render(model, settings, [], None, [])
    with pytest.raises(
        UsageError, match="needs settings for each image, but 1 images and 0 settings were given"
    ):
        render_each(model, [], [pictures["wide"]], None)


def test_last_pictures_are_for_interpolation_alone(model: Model, pictures: dict[str, Path]) -> None:
    picture = [pictures["wide"]]
    with pytest.raises(UsageError, match="^animate takes no last images; pass them for interpolation"):
        render(model, make_settings(SMALL, "animate", **FEW), picture, picture, [1])
    with pytest.raises(UsageError, match="^interpolate needs last images; pass them for interpolation"):
        render(model, make_settings(SMALL, "interpolate", **FEW), picture, None, [1])


def test_wrong_choices_and_pictures_are_told(model: Model, pictures: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="steps must be 1 to 1000, but 0 was given"):
        dynamicrafter.animate(model, pictures["wide"], steps=0)
    with pytest.raises(UsageError, match="there is no setting 'stepz'; did you mean 'steps'"):
        dynamicrafter.animate(model, pictures["wide"], **cast(Any, {"stepz": 2}))
    with pytest.raises(UsageError, match="the model must be loaded first, but '512' was given; pass load"):
        dynamicrafter.animate(cast(Any, "512"), pictures["wide"])
    with pytest.raises(UsageError, match="the model must be loaded first, but 'a.ckpt' was given; pass load"):
        settings = make_settings(SMALL, "animate", **FEW)
        render(cast(Any, Path("a.ckpt")), settings, [pictures["wide"]], None, [1])
    with pytest.raises(PictureError, match="there is no image gone.png"):
        dynamicrafter.interpolate(model, pictures["wide"], "gone.png", **FEW)
