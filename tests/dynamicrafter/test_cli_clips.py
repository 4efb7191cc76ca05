"""The commands that make clips: what is asked for is what lies in the file."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import QUICK, Run, paint
from torch import Tensor

from dynamicrafter.api import find_model
from dynamicrafter.cli import main
from dynamicrafter.hashing import file_sha256
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.variants import VARIANTS
from dynamicrafter.parameters import PARAMETERS
from dynamicrafter.weights.catalogue import find
from dynamicrafter.weights.formats.files import tensors_sha256

FORMATS = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip")


def distance(one: Tensor, other: Tensor) -> int:
    """Largest difference of two clips, in 8-bit levels."""
    return int((one.int() - other.int()).abs().max())


def same(one: Path, other: Path) -> bool:
    return torch.equal(read_frames(one), read_frames(other))


def planned(run: Run, *words: object) -> list[Path]:
    """The clips that a command would write."""
    return [Path(clip["output"]) for clip in run(*words, *QUICK, "--dry-run", "--json").json["clips"]]


# Output


@pytest.mark.parametrize(
    ("command", "name"), [("animate", "512"), ("interpolate", "512_interp"), ("loop", "512_interp")]
)
def test_the_note_of_the_built_in_model_names_one_for_the_command(
    run: Run,
    pictures: dict[str, Path],
    random_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
) -> None:
    files = replace(find_model(str(random_weights)), asked="tiny")
    monkeypatch.setattr("dynamicrafter.cli.clips.find_model", lambda *_, **__: files)
    words = [pictures["wide"], pictures["other"]] if command == "interpolate" else [pictures["wide"]]
    ran = run(command, *words, "--dry-run", "--json")
    assert command in VARIANTS[str(find(name).variant)].modes
    assert ran.json["notes"] == [
        f"the built-in tiny model knows coloured shapes only; to {command} real images, download a released model with "
        f"'dynamicrafter download {name}' and pass --model {name}"
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_size_length_and_settings_asked_for(
    run: Run, pictures: dict[str, Path], name: str
) -> None:
    ran = run("animate", pictures["wide"], *QUICK, "--size", "128x64", "--fps", "7.5", "--output", name)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{Path(name).resolve()}: 128x64, 4 frame(s) at 7.5 fps, seed 123, ")
    assert read_frames(name).shape == (4, 64, 128, 3)
    settings = read_metadata(name)["settings"]
    assert (settings["width"], settings["height"], settings["fps"], settings["frames"]) == (128, 64, 7.5, 4)


def test_a_slash_makes_a_folder_of_any_name(run: Run, pictures: dict[str, Path]) -> None:
    assert run("animate", pictures["wide"], *QUICK, "--output", "frames.v2/").code == 0
    assert sorted(path.name for path in Path("frames.v2").iterdir()) == [
        "clip.json",
        *(f"frame_{number:04d}.png" for number in range(1, 5)),
    ]


def test_the_default_name_tells_picture_and_command(run: Run, pictures: dict[str, Path]) -> None:
    wide, other = pictures["wide"], pictures["other"]
    commands = ("animate", wide), ("loop", wide), ("interpolate", wide, other)
    assert [planned(run, *words) for words in commands] == [
        [Path("wide-animate.mp4").resolve()],
        [Path("wide-loop.mp4").resolve()],
        [Path("wide-interpolate.mp4").resolve()],
    ]


def test_a_clip_that_is_there_is_replaced(run: Run, pictures: dict[str, Path]) -> None:
    run("animate", pictures["wide"], *QUICK, "--output", "clip.mp4")
    run("animate", pictures["wide"], *QUICK, "--output", "clip.mp4", "--frames", "2")
    assert len(read_frames("clip.mp4")) == 2


def test_the_record_names_model_and_pictures_with_their_hashes(
    run: Run, pictures: dict[str, Path], random_weights: Path
) -> None:
    files = pictures["wide"], pictures["other"]
    run("interpolate", *files, *QUICK, "--output", "clip.mp4", "--dtype", "bf16")
    record = read_metadata("clip.mp4")
    assert record["pictures"] == [
        {"file": file.name, "sha256": file_sha256(file), "hashed": "bytes"} for file in files
    ]
    assert record["model"] == {
        "asked": "random",
        "variant": "small",
        "dtype": "bfloat16",
        "weights": {
            "file": random_weights.name,
            "sha256": tensors_sha256(random_weights),
            "hashed": "tensors",
        },
        "text_encoder": None,
        "image_encoder": None,
        "loras": [],
        "stored": "full",
        "backend": "torch",
        "exported": "",
    }


# Modes


def test_a_loop_is_the_interpolation_to_its_own_picture(run: Run, pictures: dict[str, Path]) -> None:
    picture = pictures["wide"]
    run("loop", picture, *QUICK, "--output", "loop")
    run("interpolate", picture, picture, *QUICK, "--output", "between")
    assert torch.equal(read_frames("loop"), read_frames("between")[:-1])


def test_an_interpolation_depends_on_both_pictures(run: Run, pictures: dict[str, Path]) -> None:
    for name, last in (("one", "other"), ("two", "tall")):
        assert run("interpolate", pictures["wide"], pictures[last], *QUICK, "--output", name).code == 0
    assert not same(Path("one"), Path("two"))


@pytest.mark.parametrize("frames", [1, 17])
def test_any_number_of_frames(run: Run, pictures: dict[str, Path], frames: int) -> None:
    ran = run("animate", pictures["wide"], *QUICK, "--steps", "1", "--frames", frames, "--output", "clip.mp4")
    assert ran.code == 0, ran.err
    assert len(read_frames("clip.mp4")) == frames


# Options


def test_options_reach_the_settings(run: Run, pictures: dict[str, Path]) -> None:
    ran = run(
        *("animate", pictures["wide"], "--model", "random", "--json", "--device", "cpu"),
        *("--prompt", "a boat", "--negative", "blur", "--fs", "12", "--frames", "2", "--seed", "7"),
        *("--size", "64x128", "--fit", "pad", "--steps", "3", "--cfg", "3.5", "--image-cfg", "2.5"),
        *("--eta", "0.5", "--guidance-rescale", "0.25", "--spacing", "uniform", "--sampler", "ddim"),
        *("--noise-device", "device", "--fps", "12", "--batch", "2"),
        *("--guidance-start", "0.4", "--guidance-end", "0.9"),
    )
    assert ran.code == 0, ran.out
    expected = {
        "mode": "animate",
        "width": 64,
        "height": 128,
        "frames": 2,
        "fs": 12,
        "steps": 3,
        "cfg": 3.5,
        "image_cfg": 2.5,
        "eta": 0.5,
        "guidance_rescale": 0.25,
        "spacing": "uniform",
        "seed": 7,
        "fps": 12,
        "fit": "pad",
        "prompt": "a boat",
        "negative": "blur",
        "noise_device": "device",
        "sampler": "ddim",
        "guidance_start": 0.4,
        "guidance_end": 0.9,
    }
    settings = ran.json["clips"][0]["settings"]
    assert {name: settings[name] for name in expected} == expected
    # Those that are not given are their defaults.
    rest = settings.keys() - expected.keys()
    assert {name: settings[name] for name in rest} == {name: PARAMETERS[name].default for name in rest}


@pytest.mark.parametrize(
    "option",
    [
        ("--prompt", "a boat"),
        ("--negative", "blur"),
        ("--steps", "3"),
        ("--cfg", "5"),
        ("--image-cfg", "5"),
        ("--eta", "0"),
        ("--rescale", "0"),
        ("--spacing", "uniform"),
        ("--fs", "29"),
        ("--motion", "0"),
        ("--seed", "124"),
        ("--fit", "stretch"),
        ("--dtype", "bf16"),
    ],
    ids=lambda option: option[0],
)
def test_every_option_changes_the_clip(
    run: Run, pictures: dict[str, Path], plain: Tensor, option: tuple[str, str]
) -> None:
    assert run("animate", pictures["wide"], *QUICK, *option, "--output", "clip").code == 0
    assert not torch.equal(read_frames("clip"), plain)


@pytest.fixture(scope="module")
def plain(weights_home: Path, pictures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """The clip without any option."""
    path = tmp_path_factory.mktemp("plain") / "clip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICRAFTER_HOME", str(weights_home))
        assert main(["animate", str(pictures["wide"]), *QUICK, "--output", str(path)]) == 0
    return read_frames(path)


@pytest.mark.parametrize(
    ("picture", "option", "size"),
    [
        ("wide", (), (64, 128)),
        ("tall", (), (128, 64)),
        ("tall", ("--size", "128x64"), (64, 128)),
    ],
)
def test_upright_pictures_turn_the_default_size(
    run: Run,
    pictures: dict[str, Path],
    wide_weights: Path,
    picture: str,
    option: tuple[str, ...],
    size: tuple[int, int],
) -> None:
    ran = run("animate", pictures[picture], *QUICK, "--model", wide_weights, *option, "--dry-run", "--json")
    settings = ran.json["clips"][0]["settings"]
    assert (settings["height"], settings["width"]) == size


@pytest.mark.parametrize("prompt", ["\U0001f6a4\U0001f30a" * 30, "boat " * 2000], ids=["emoji", "long"])
def test_any_prompt_works(run: Run, pictures: dict[str, Path], prompt: str) -> None:
    ran = run("animate", pictures["wide"], *QUICK, "--prompt", prompt, "--output", "clip.mp4")
    assert ran.code == 0, ran.err
    assert read_metadata("clip.mp4")["settings"]["prompt"] == prompt


def test_a_prompt_that_is_too_long_is_said_to_be_cut(run: Run, pictures: dict[str, Path]) -> None:
    words = "animate", pictures["wide"], *QUICK, "--negative", "boat " * 76
    note = "the negative prompt has 76 tokens and is truncated to the first 75"
    assert run(*words).err == f"note: {note}\n"
    assert run(*words, "--json").json["notes"] == [note]
    assert run("animate", pictures["wide"], *QUICK, "--prompt", "boat " * 75).err == ""


def test_an_unusual_fs_is_noted(run: Run, pictures: dict[str, Path]) -> None:
    words = "animate", pictures["wide"], *QUICK, "--steps", "1", "--fs", "4"
    note = "fs is 4, but 8 to 30 is recommended for small"
    assert run(*words).err == f"note: {note}\n"
    assert run(*words, "--json").json["notes"] == [note]


# Seeds and batches


def test_a_batch_of_pictures_and_seeds_equals_single_clips(run: Run, pictures: dict[str, Path]) -> None:
    files = pictures["wide"], pictures["tall"]
    ran = run("animate", *files, *QUICK, "--seed", "5,6", "--output", "clip", "--json")
    together = [Path(clip["output"]) for clip in ran.json["clips"]]
    assert [path.name for path in together] == ["clip-1", "clip-2", "clip-3", "clip-4"]
    assert [clip["settings"]["seed"] for clip in ran.json["clips"]] == [5, 6, 5, 6]
    for clip, file, seed in ((together[1], files[0], 6), (together[2], files[1], 5)):
        run("animate", file, *QUICK, "--seed", seed, "--output", f"single-{seed}")
        assert same(clip, Path(f"single-{seed}"))


@pytest.mark.parametrize("command", ["animate", "interpolate"])
def test_clips_made_at_once_are_those_made_one_by_one(
    run: Run, pictures: dict[str, Path], command: str
) -> None:
    """But for rounding: other batch sizes add up in another order."""
    files = (pictures["wide"], pictures["other"])
    seeds = ("--seed", "5,6,7") if command == "interpolate" else ()
    for batch in (1, 2):
        run(command, *files, *QUICK, *seeds, "--batch", batch, "--output", f"batch{batch}")
    numbers = range(1, 4 if seeds else 3)
    clips = [[read_frames(f"batch{batch}-{number}") for number in numbers] for batch in (1, 2)]
    assert all(distance(one, two) <= 1 for one, two in zip(*clips, strict=True))
    assert not torch.equal(clips[0][0], clips[0][1])


def test_only_clips_of_one_size_are_made_at_once(
    run: Run, pictures: dict[str, Path], wide_weights: Path
) -> None:
    files = [pictures[name] for name in ("wide", "tall", "other")]
    ran = run("animate", *files, *QUICK, "--model", wide_weights, "--batch", "3", "--json")
    assert ran.code == 0, ran.out
    assert [(clip["width"], clip["height"]) for clip in ran.json["clips"]] == [
        (128, 64),
        (64, 128),
        (128, 64),
    ]


def test_pictures_of_one_name_get_numbered_clips(run: Run, tmp_path: Path) -> None:
    files: list[Path] = []
    for folder, name in (("a", "boat.png"), ("b", "Boat.png")):
        (tmp_path / folder).mkdir()
        files.append(paint(tmp_path / folder / name, 64, 64))
    names = "boat-animate-1.mp4", "Boat-animate-2.mp4"
    assert planned(run, "animate", *files) == [Path(name).resolve() for name in names]


# For programs and for people


def test_json_is_all_that_is_printed(run: Run, pictures: dict[str, Path]) -> None:
    ran = run("animate", pictures["wide"], *QUICK[:-1], "--json", "--output", "clip.webp")
    (clip,) = ran.json["clips"]
    assert ran.err == ""
    assert {key: clip[key] for key in ("output", "frames", "width", "height", "fps")} == {
        "output": str(Path("clip.webp").resolve()),
        "frames": 4,
        "width": 64,
        "height": 64,
        "fps": 8,
    }
    assert clip["seconds"] > 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(run: Run, monkeypatch: pytest.MonkeyPatch, *words: Any) -> str:
    """What a command shows on a terminal besides its result."""
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert run(*words).code == 0
    return terminal.getvalue()


def test_a_terminal_sees_every_stage_with_the_time_left(
    run: Run,
    pictures: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    kept_networks: dict[object, Any],
) -> None:
    kept_networks.clear()
    words = "animate", pictures["wide"], "--model", "random", "--frames", "2", "--output", "clip.mp4"
    bars = shown(run, monkeypatch, *words, "--steps", "30")
    stages = ["random: loading", "clip.mp4: encoding", "clip.mp4: sampling", "clip.mp4: decoding"]
    assert sorted(stages, key=bars.index) == stages
    assert re.search(r"sampling: .*/30 \[\d\d:\d\d<\d\d:\d\d", bars)
    assert shown(run, monkeypatch, *words, "--steps", "1", "--quiet") == ""
    assert shown(run, monkeypatch, *words, "--steps", "1", "--json") == ""


def test_a_terminal_sees_the_hash_of_a_model_that_is_new(
    run: Run, pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "new home"))
    words = "animate", pictures["wide"], "--frames", "2", "--steps", "1", "--output", "clip.mp4"
    assert "tiny: hashing" in shown(run, monkeypatch, *words)
    assert "tiny: hashing" not in shown(run, monkeypatch, *words)


def test_no_bars_where_nobody_looks(run: Run, pictures: dict[str, Path]) -> None:
    assert run("animate", pictures["wide"], *QUICK[:-1]).err == ""


# Before it starts


def test_a_dry_run_names_a_sampler_that_is_not_the_released_one(
    run: Run, pictures: dict[str, Path], random_weights: Path
) -> None:
    ran = run(
        *("animate", pictures["wide"], "--model", random_weights, "--dry-run"),
        *("--sampler", "heun", "--steps", "4", "--seed", "2"),
    )
    assert "at 8 fps, 4 steps of heun, seed 2, from" in ran.out


def test_a_sampler_without_noise_needs_no_eta_and_rejects_one(
    run: Run, pictures: dict[str, Path], random_weights: Path
) -> None:
    words = "animate", pictures["wide"], "--model", random_weights, "--dry-run", "--sampler", "dpmpp_2m"
    assert run(*words).code == 0
    ran = run(*words, "--eta", "1")
    assert ran.code == 2
    assert "eta must be 0 with sampler dpmpp_2m, which adds no noise, but 1 was given; use 0, or" in ran.err


def test_a_dry_run_says_what_would_be_made_and_loads_nothing(
    run: Run, pictures: dict[str, Path], random_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dynamicrafter.api.load_components", None)
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "home"))  # Where no run is remembered.
    words = "loop", pictures["wide"], "--model", random_weights, "--seed", "1,2", "--fs", "4", "--dry-run"
    ran = run(*words)
    assert ran.code == 0, ran.err
    assert ran.err == "note: fs is 4, but 8 to 30 is recommended for small\n"
    lines = ran.out.splitlines()
    assert lines[:4] == [
        *(
            f"{Path(f'wide-loop-{seed}.mp4').resolve()}: 64x64, 15 frame(s) at 8 fps, 10 steps, seed {seed}, "
            f"from {pictures['wide']}"
            for seed in (1, 2)
        ),
        f"model: small, from {random_weights}",
        "computed on: cpu in float32",
    ]
    assert re.fullmatch(
        r"memory: about \d+ MB for weights and \d+ MB for activations, besides PyTorch itself", lines[4]
    )
    assert lines[5:] == [
        "time: unknown, because it is estimated from the last run with this model, device, precision, weights, memory "
        "and compilation"
    ]
    told = run(*words, "--json").json
    assert [clip["settings"]["seed"] for clip in told["clips"]] == [1, 2]
    assert told["model"]["files"] == [str(random_weights)]
    assert (told["seconds"], told["notes"]) == (None, [ran.err.removeprefix("note: ").rstrip()])
    assert list(Path.cwd().iterdir()) == []


def test_a_dry_run_finds_what_is_wrong(run: Run, pictures: dict[str, Path]) -> None:
    assert run("animate", pictures["wide"], "gone.png", *QUICK, "--dry-run").code == 1
    assert run("animate", pictures["wide"], *QUICK, "--steps", "0", "--dry-run").code == 2


def test_verbose_says_the_same_and_goes_on_and_the_next_time_is_known(
    run: Run, pictures: dict[str, Path]
) -> None:
    words = "animate", pictures["wide"], *QUICK, "--output", "clip.mp4"
    ran = run(*words, "-v")
    assert ran.code == 0
    assert ran.err.splitlines()[:-1] == run(*words, "--dry-run").out.splitlines()[:-1]
    assert ran.out.startswith(f"{Path('clip.mp4').resolve()}: 64x64, 4 frame(s)")
    again = "again", "clip.mp4", "--picture", pictures["wide"], "--dry-run"
    ran = run(*again)
    assert re.fullmatch(
        r"time: about \d+ s, in proportion to the last run with this model, device, precision, weights, memory "
        r"and compilation",
        ran.out.splitlines()[-1],
    )
    assert 0 < run(*again, "--json").json["seconds"] < 100
