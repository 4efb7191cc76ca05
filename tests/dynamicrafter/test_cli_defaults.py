"""A user's defaults: the file, the environment above it, the arguments above both."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest
from cli_runs import Run, complaint, left

from dynamicrafter.cli.defaults import defaults_file, user_defaults, with_defaults
from dynamicrafter.cli.parser import make_parser
from dynamicrafter.errors import UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The defaults file in use, which is empty."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("DYNAMICRAFTER_CONFIG", str(path))
    return path


def parsed(*words: str) -> Namespace:
    every = ["animate", "a.png", *words]
    return with_defaults(make_parser("").parse_args(every), every)


def test_arguments_go_before_the_environment_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vars(parsed()) == vars(make_parser("").parse_args(["animate", "a.png"]))
    text = 'steps = 1\nfps = 7.5\ncfg = 2\nimage-cfg = 3.0\nfit = "pad"\n'
    file.write_text(text, encoding="utf-8-sig")  # As some editors on Windows write it.
    monkeypatch.setenv("DYNAMICRAFTER_FPS", "12")
    monkeypatch.setenv("DYNAMICRAFTER_STEPS", "")  # As if it were not there.
    monkeypatch.setenv("DYNAMICRAFTER_CFG", "4")
    made = parsed("--cfg", "5")
    assert (made.steps, made.fps, made.cfg, made.image_cfg, made.fit) == (1, 12, 5, 3.0, "pad")
    assert (made.eta, made.seed, made.pictures) == (None, [123], ["a.png"])


def test_values_are_written_as_on_the_command_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("~").expanduser()
    file.write_text(
        'seed = [1, 2]\nsize = "128x64"\nlora = ["a.safetensors:0.5", "~/b.safetensors"]\nquiet = true\n'
        'dtype = "bf16"\ntext_encoder = "~/clip.safetensors"\nprompt = "~no-such-user/waves"\n'
        'image_encoder = "~no-such-user/clip.safetensors"\n',
        encoding="utf-8",
    )
    made = parsed()
    assert (made.seed, made.size, made.quiet, made.dtype) == ([1, 2], (128, 64), True, "bfloat16")
    assert made.lora == [(Path("a.safetensors"), 0.5), (home / "b.safetensors", 1.0)]
    assert made.text_encoder == home / "clip.safetensors"
    # As in a shell, where there is no such user.
    assert (made.prompt, made.image_encoder) == (
        "~no-such-user/waves",
        Path("~no-such-user/clip.safetensors"),
    )
    monkeypatch.setenv("DYNAMICRAFTER_SEED", "3,4")
    monkeypatch.setenv("DYNAMICRAFTER_QUIET", "0")
    assert (parsed().seed, parsed().quiet) == ([3, 4], False)


@pytest.mark.parametrize(
    ("words", "motion", "fs"), [((), 0.5, None), (("--fs", "9"), None, 9), (("--motion", "1"), 1, None)]
)
def test_an_argument_replaces_what_sets_the_same(
    file: Path, words: tuple[str, ...], motion: float | None, fs: int | None
) -> None:
    file.write_text("motion = 0.5\n", encoding="utf-8")
    made = parsed(*words)
    assert (made.motion, made.fs) == (motion, fs)


def test_another_model_does_not_take_the_files_of_the_first(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('model = "a.ckpt"\nvariant = "512"\nlora = ["b.ckpt"]\nsteps = 4\n', encoding="utf-8")
    made = parsed()
    assert (made.model, made.variant, made.lora) == ("a.ckpt", "512", [(Path("b.ckpt"), 1.0)])
    for made in (parsed("--model", "tiny"), parsed("--model", "tiny", "--lora", "c.ckpt")):
        assert (made.model, made.variant, made.steps) == ("tiny", None, 4)
    assert made.lora == [(Path("c.ckpt"), 1.0)]
    monkeypatch.setenv("DYNAMICRAFTER_MODEL", "random")
    assert (parsed().model, parsed().variant, parsed("--variant", "x").variant) == ("random", None, "x")


@pytest.mark.parametrize("command", [("again", "a.mp4"), ("evaluate", "folder", "a"), ("doctor",)])
def test_other_commands_have_no_defaults_of_the_user(run: Run, file: Path, command: tuple[str, ...]) -> None:
    """``again`` makes a clip as it was made."""
    file.write_text("broken", encoding="utf-8")
    assert "config.toml" not in run(*command).err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a = " + "[" * 100_000,
            r"config\.toml cannot be read \(it is nested too deeply\); correct it or remove it",
        ),
        ("stepz = 1", r"config\.toml has the unknown option 'stepz'; did you mean 'steps'\?"),
        ("[animate]\nx = 1", r"unknown option 'animate'; 'dynamicrafter config' lists the options"),
        ("output = 'a.mp4'", r"unknown option 'output'"),
        ("steps = 'many'", r"^steps in .*config\.toml must be 1 to 1000, not 'many'$"),
        ("steps = 0", r"^.*config\.toml: steps must be 1 to 1000, but 0 was given; 25 to 50 are typical"),
        ("steps = 2.5", r"^.*config\.toml: steps must be an integer from 1 to 1000, but 2\.5 was given"),
        ("steps = true", r"^steps in .*config\.toml must be written as on the command line, not True$"),
        (
            "size = [64, 64]",
            r"^size in .*config\.toml must be written as on the command line, not \[64, 64\]",
        ),
        ("size = 'large'", r"^size in .*config\.toml must be WxH in pixels, such as 512x320, not 'large'"),
        ("fit = 'tile'", r"^fit in .*config\.toml must be one of crop, pad, stretch, not 'tile'$"),
        ("batch = 'x'", r"^batch in .*config\.toml must be written as on the command line, not 'x'"),
        ("quiet = 'maybe'", r"^quiet in .*config\.toml must be true or false, not 'maybe'$"),
        ("steps = ", r"^.*config\.toml cannot be read \(Invalid value.*\); correct it or remove it$"),
        ("# \xff", r"^.*config\.toml cannot be read \(.*utf-8.*\); correct it or remove it$"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_name(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=message):
        user_defaults()


def test_a_variable_that_is_wrong_is_told_with_its_name(
    run: Run, pictures: dict[str, Path], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_STEPS", "0")
    sentence = complaint(run("animate", pictures["wide"]), 2)
    assert sentence.startswith("DYNAMICRAFTER_STEPS: steps must be 1 to 1000, but 0 was given")
    assert left() == []


def test_config_shows_the_defaults_and_where_they_come_from(
    run: Run, file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('model = "512"\nsteps = 30\n', encoding="utf-8")
    monkeypatch.setenv("DYNAMICRAFTER_STEPS", "25")
    ran = run("config")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[:4] == [
        f"file: {file}",
        f"weights folder: {home}",
        f"model = '512'  ({file})",
        "steps = '25'  (DYNAMICRAFTER_STEPS)",
    ]
    assert re_words(ran.out.splitlines()[4]) >= {"prompt", "fps", "device"}
    assert run("config", "--json").json == {
        "file": str(file),
        "exists": True,
        "folder": str(home),
        "defaults": {
            "model": {"value": "512", "source": str(file)},
            "steps": {"value": "25", "source": "DYNAMICRAFTER_STEPS"},
        },
    }


def re_words(line: str) -> set[str]:
    """The names after the colon."""
    return set(line.partition(": ")[2].split(", "))


def test_without_a_file_there_are_no_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(
        UsageError, match=r"there is no file .*gone\.toml; correct or unset DYNAMICRAFTER_CONFIG"
    ):
        defaults_file()
    monkeypatch.delenv("DYNAMICRAFTER_CONFIG")
    for variable in ("XDG_CONFIG_HOME", "APPDATA", "HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert defaults_file().parts[-2:] == ("dynamicrafter", "config.toml")
    assert defaults_file().is_relative_to(tmp_path)
    assert f"{defaults_file()} (does not exist)" in run("config").out
    assert os.environ["DYNAMICRAFTER_HOME"] in run("config").out
