"""Every value of a config is of its type and in its range, or the config is refused before anything is read."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from dynamicrafter.errors import UsageError
from dynamicrafter.training.config import RELEASED, FinetuneConfig, SampleConfig, config_from, load_config
from dynamicrafter.training.trainer import TrainerConfig

BASE = {"recipe": "finetune", "model": "m", "data": "d"}
INFINITE, NOT_A_NUMBER = float("inf"), float("nan")


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as told:
        config_from({**BASE, **values}, "it")
    return str(told.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": 5}, "data in it must be a string or a list, each an object, not 5"),
        ({"listing": 5}, "listing in it must be a string or null, not 5"),
        ({"frames": "16"}, "frames in it must be an integer, not '16'"),
        ({"batch": 1.5}, "batch in it must be an integer, not 1.5"),
        ({"rank": True}, "rank in it must be an integer, not True"),
        ({"strides": [1, 2, 3]}, "strides in it must be a list of 2, each an integer, not [1, 2, 3]"),
        ({"strides": 3}, "strides in it must be a list of 2, each an integer, not 3"),
        ({"drop": "x"}, "drop in it must be a number, not 'x'"),
        ({"min_snr": "5"}, "min_snr in it must be a number or null, not '5'"),
        ({"checkpointing": "false"}, "checkpointing in it must be true or false, not 'false'"),
        (
            {"target": "everything"},
            "target in it must be one of all, spatial, temporal, image_proj, lora, not",
        ),
        ({"trainer": {"steps": 2.5}}, "trainer.steps in it must be an integer, not 2.5"),
        ({"trainer": {"learning_rate": "1e-3"}}, "trainer.learning_rate in it must be a number, not '1e-3'"),
        ({"trainer": {"betas": [0.9]}}, "trainer.betas in it must be a list of 2, each a number, not [0.9]"),
        ({"trainer": {"compile": "no"}}, "trainer.compile in it must be true or false, not 'no'"),
        (
            {"samples": {"prompts": "a ball"}},
            "samples.prompts in it must be a list, each a string, not 'a ball'",
        ),
        ({"samples": {"every": "1"}}, "samples.every in it must be an integer, not '1'"),
    ],
)
def test_types(values: dict[str, Any], message: str) -> None:
    assert refused(values).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "frames must be at least 1, but 0 was given"),
        ({"batch": -1}, "batch must be at least 1, but -1 was given"),
        ({"views": 0}, "views must be at least 1, but 0 was given"),
        ({"rank": 0}, "rank must be at least 1, but 0 was given"),
        ({"held_out": -1}, "held_out must be at least 0, but -1 was given"),
        (
            {"strides": [6, 1]},
            "strides must be a minimum and a maximum, but 6 and 1 were given; 1 and 6 are usual",
        ),
        ({"strides": [0, 1]}, "strides must be at least 1, but 0 and 1 were given; 1 and 6 are usual"),
        ({"area": 1000}, "area must be at least 4096, but 1000 was given; 64x64 is the smallest size"),
        ({"drop": 2.0}, "drop must be 0 to 1/3, but 2.0 was given; 0.05 is usual"),
        ({"drop": -1}, "drop must be 0 to 1/3"),
        ({"drop": NOT_A_NUMBER}, "drop must be 0 to 1/3"),
        ({"min_snr": 0}, "min_snr must be above 0, but 0 was given; 5 is usual"),
        ({"min_snr": INFINITE}, "min_snr must be above 0, but inf"),
        ({"trainer": {"learning_rate": INFINITE}}, "learning_rate must be above 0, but inf was given"),
        ({"trainer": {"learning_rate": NOT_A_NUMBER}}, "learning_rate must be above 0, but nan was given"),
        ({"trainer": {"ema": NOT_A_NUMBER}}, "ema must be 0"),
        ({"trainer": {"betas": [0.9, 1.5]}}, "betas must be 0 to below 1, but 0.9 and 1.5 were given"),
        ({"trainer": {"weight_decay": -1}}, "weight_decay must be at least 0, but -1 was given"),
        ({"trainer": {"max_grad_norm": -1}}, "max_grad_norm must be at least 0, but -1 was given"),
        ({"trainer": {"warm_up": -5}}, "warm_up must be at least 0, but -5 was given"),
        ({"samples": {"every": -1}}, "samples.every must be at least 0, but -1 was given"),
        ({"trainer": {"seed": -1}}, "seed must be 0 to 2^63 - 1, but -1 was given"),
        ({"samples": {"seed": 2**63}}, "seed must be 0 to 2^63 - 1 in samples, but 9223372036854775808"),
    ],
)
def test_ranges(values: dict[str, Any], message: str) -> None:
    assert refused(values).startswith(message)


def test_a_setting_is_read_by_its_former_name_as_well() -> None:
    """Configs of version 0.1 call the largest norm of the gradient ``clip``."""
    made = config_from({**BASE, "trainer": {"clip": 0.25}}, "it")
    assert isinstance(made, FinetuneConfig)
    assert made.trainer.max_grad_norm == 0.25
    assert refused({"trainer": {"clip": 0.25, "max_grad_norm": 0.5}}).startswith(
        "clip in it is the former name of max_grad_norm, which is also given; keep max_grad_norm"
    )


def test_what_an_inner_object_leaves_out_is_as_without_the_object() -> None:
    made = config_from({**BASE, "trainer": {"steps": 10}, "samples": {"every": 5}}, "it")
    assert isinstance(made, FinetuneConfig)
    assert (made.trainer.learning_rate, made.trainer.accumulate) == (1e-5, 2)
    assert made.trainer != RELEASED == FinetuneConfig("m", "d").trainer
    assert made.samples == SampleConfig(every=5)


def test_whole_numbers_are_good_for_fractions() -> None:
    made = config_from({**BASE, "drop": 0, "min_snr": 5, "trainer": {"ema": 0}}, "it")
    assert isinstance(made, FinetuneConfig)
    assert (made.drop, made.min_snr, made.trainer.ema) == (0, 5, 0)


def test_settings_that_are_given_twice_are_named(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_text(
        '{"recipe": "finetune", "model": "m", "data": "d", "rank": 4, "rank": 8}', encoding="utf-8"
    )
    with pytest.raises(UsageError, match="has duplicate settings: rank; keep one of each"):
        load_config(str(path))


def test_the_mark_of_an_editor_is_no_part_of_a_config(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_text(json.dumps(BASE), encoding="utf-8-sig")
    assert load_config(str(path)) == FinetuneConfig("m", "d")


def test_a_config_in_another_encoding_is_told_as_that(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(json.dumps({**BASE, "data": "Häfen"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(
        UsageError, match=re.escape(f"{path} is not a TOML or JSON file in UTF-8; save it as one")
    ):
        load_config(str(path))


def test_the_released_recipes_own_seed_is_good() -> None:
    from dynamicrafter.training.trainer import step_seed

    assert TrainerConfig(seed=20230211).seed == 20230211
    seeds = {step_seed(20230211, step, micro, 1) for step in range(50) for micro in range(4)}
    assert len(seeds) == 200
    assert max(seeds) < 2**64
    assert step_seed(0, 2, 3, 4) == (2 * 4096 + 3) * 1024 + 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"seed": ' + "9" * 5000 + "}",
            "is not JSON .an integer in it has more than 20 digits.; correct it there",
        ),
        ('{"drop": NaN}', "is not JSON .NaN in it is not valid JSON"),
        (
            '{"samples": ' + "[" * 10_000 + "]" * 10_000 + "}",
            "is not JSON .it is nested more than 32 levels deep",
        ),
        ('{"a": 1, "b": 2, "a": 3}', "has duplicate settings: a; keep one of each"),
        (
            "{" + ", ".join(f'"a{i}": {i}' for i in range(20_000)) + "}",
            "must have a recipe, finetune, tiny or tiny_person, not None",
        ),
    ],
)
def test_a_file_that_is_hard_to_read_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.json").write_text(text, encoding="utf-8")
    begun = time.perf_counter()
    with pytest.raises(UsageError, match=message):
        load_config(str(tmp_path / "mine.json"))
    assert time.perf_counter() - begun < 5
