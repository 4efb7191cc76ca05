"""Configs as files: TOML beside JSON, the printed config, changes on the command line, names that are misspelt."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dynamicrafter.cli import main
from dynamicrafter.errors import UsageError
from dynamicrafter.training.config import (
    FinetuneConfig,
    SampleConfig,
    config_from,
    load_config,
    shipped_configs,
)
from dynamicrafter.training.options import Option, settings_of
from dynamicrafter.training.printing import as_toml
from dynamicrafter.training.trainer import TrainerConfig

BASE = 'recipe = "finetune"\nmodel = "m"\ndata = "d"\n'


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str) -> str:
        (tmp_path / "it.toml").write_text(text, encoding="utf-8")
        return str(tmp_path / "it.toml")

    return write


def test_toml_and_json_are_the_same_config(toml, tmp_path: Path) -> None:
    values = {"recipe": "finetune", "model": "m", "data": "d", "strides": [2, 3], "trainer": {"steps": 7}}
    (tmp_path / "it.json").write_text(json.dumps(values), encoding="utf-8")
    text = f"{BASE}strides = [2, 3]\n[trainer]\nsteps = 7\n"
    assert load_config(toml(text)) == load_config(str(tmp_path / "it.json"))


@pytest.mark.parametrize("name", shipped_configs())
def test_a_printed_config_is_the_same_config(toml, name: str) -> None:
    assert load_config(toml(as_toml(load_config(name)))) == load_config(name)


def test_values_of_every_kind_are_printed(toml) -> None:
    made = FinetuneConfig(
        'a "model" of C:\\new\x7f\n',
        "Häfen",
        min_snr=1e-9,
        samples=SampleConfig(every=2, pictures=("a.png", "b.png")),
        trainer=TrainerConfig(betas=(0.5, 1e-20), compile=True),
    )
    assert load_config(toml(as_toml(made))) == made


def test_every_line_of_a_printed_config_can_be_used(toml) -> None:
    printed = as_toml(load_config("lora"))
    whole = re.sub(r"^#(\w+ = )", r"\1", printed, flags=re.MULTILINE)
    assert whole != printed
    made = load_config(toml(whole))
    assert isinstance(made, FinetuneConfig)
    for setting in settings_of(FinetuneConfig):
        name = setting.name.rpartition(".")[2]
        assert f"\n{name} = " in whole or f"\n[{name}]\n" in whole
    assert (made.listing, made.min_snr) == ("clips/some.csv", 5.0)


def test_an_absent_setting_has_an_example_and_every_text_fits_a_sentence() -> None:
    for setting in settings_of(FinetuneConfig):
        assert (setting.default is None) == (setting.option.example is not None), setting.name
        for text in (setting.option.meaning, setting.option.hint):
            assert not text.endswith(".") and text[:1] == text[:1].lower(), setting.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = \n", r"it\.toml is not TOML \(invalid value .*line 1.*\); correct it there"),
        ("rank = 4\nrank = 8\n", r"is not TOML \(cannot overwrite a value"),
        ("a = " + "[" * 100_000, r"is not TOML \(.*; correct it there"),
        (BASE + "drop = nan\n", "drop must be 0 to 1/3, but nan was given"),
        (BASE + "frames = 1979-05-27\n", "frames in .* must be an integer, not datetime.date"),
    ],
)
def test_wrong_toml_is_told(toml, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(toml(text))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rnak": 4}, "unknown settings: rnak; the nearest known one is rank$"),
        ({"steps": 4}, "unknown settings: steps; the nearest known one is trainer.steps$"),
        (
            {"learningrate": 1},
            "unknown settings: learningrate; the nearest known one is trainer.learning_rate$",
        ),
        (
            {"trainer": {"stepps": 4}},
            r"unknown settings: trainer\.stepps; the nearest known one is trainer\.steps$",
        ),
        ({"samples": {"prompt": 4}}, r"unknown settings: samples\.prompt; the nearest .* samples\.prompts$"),
        ({"zzz": 4}, "unknown settings: zzz; remove them$"),
    ],
)
def test_the_nearest_name_is_told(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_from({"recipe": "finetune", "model": "m", "data": "d", **values}, "it")


def test_settings_are_changed_from_the_command_line(tmp_path: Path) -> None:
    changes = [
        "model=512",
        "data = my clips=all",
        "trainer.steps=7",
        "strides=[2, 3]",
        "target=temporal",
        "base=float32",
        "checkpointing=false",
        "min_snr=5",
        "area=null",
        'samples.prompts=["a, b"]',
        "listing='a.csv'",
        "trainer.method_arguments={ d_coef = 2.0 }",
    ]
    made = load_config("lora", changes)
    assert isinstance(made, FinetuneConfig)
    assert (made.model, made.data, made.trainer.steps, made.strides) == ("512", "my clips=all", 7, (2, 3))
    assert (made.target, made.checkpointing, made.min_snr, made.area) == ("temporal", False, 5, None)
    assert (made.samples.prompts, made.listing) == (("a, b",), "a.csv")
    assert made.trainer.method_arguments == {"d_coef": 2.0}
    # What is not changed is that of the file.
    assert (made.trainer.accumulate, made.samples.every) == (4, 500)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "steps",
            "a setting to change must be NAME=VALUE, but 'steps' was given; an example is trainer.steps=200",
        ),
        ("=3", "a setting to change must be NAME=VALUE, but '=3' was given"),
        ("stps=3", "lora has unknown settings: stps; the nearest known one is trainer.steps"),
        ("trainer.steps=many", "trainer.steps in lora must be an integer, not 'many'"),
        ("trainer.steps=0", "steps must be at least 1, but 0 was given"),
        ("model.name=512", "model.name cannot be set, since model contains no settings; use another name"),
    ],
)
def test_wrong_changes_are_told(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config("lora", [change])


def test_printing_from_the_shell(toml, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print", "lora", "--set", "rank=8"]) == 0
    text = capsys.readouterr().out
    assert "\n# Rank of the adapters (an integer, at least 1).\nrank = 8\n" in text
    assert main(["train", "lora", "--print", "--json", "--set", "rank=8"]) == 0
    assert json.loads(capsys.readouterr().out) == {"toml": text}
    assert load_config(toml(text)) == load_config("lora", ["rank=8"])
    for recipe in ("tiny", "tiny_person"):
        assert main(["train", "--print", recipe]) == 0
        assert load_config(toml(capsys.readouterr().out)) == load_config(recipe)


def test_ranges_in_words() -> None:
    assert Option("x", low=1).wanted == "at least 1"
    assert Option("x", low=0, above=True).wanted == "above 0"
    assert Option("x", low=0, high=1, below=True).wanted == "0 to below 1"
    assert Option("x").wanted == ""
    with pytest.raises(UsageError, match="^it must be finite, but inf was given$"):
        Option("x").check("it", float("inf"))
