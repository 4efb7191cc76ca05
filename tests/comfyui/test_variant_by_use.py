"""What nodes make of variants and parameters: which variant is taken, what is left to it, which inputs there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from dynamicrafter.errors import RemedyKind
from dynamicrafter.model.variants import TINY, VARIANTS

if TYPE_CHECKING:
    from comfyui_host import Host

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def told(comfyui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from comfyui_host import run_in_host

    script = Path(__file__).with_name("variant_in_host.py")
    result = tmp_path_factory.mktemp("variants") / "told.json"
    run_in_host(comfyui_host, script, str(REPOSITORY), str(result))
    return json.loads(result.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        ("512 animate", "512_v1"),
        ("512 interpolate", "512_interp_v1"),
        ("512 loop", "512_interp_v1"),
        ("pruned loop", "512_interp_v1"),
    ],
)
def test_what_is_wanted_tells_where_the_weights_cannot(told: dict[str, Any], case: str, variant: str) -> None:
    assert told[case] == variant


@pytest.mark.parametrize("case", ["alone", "1024 loop", "nothing"])
def test_the_loader_decides_where_it_can_or_where_nothing_fits(told: dict[str, Any], case: str) -> None:
    assert told[case] == "auto"


def test_the_choices_are_named_where_nothing_tells(told: dict[str, Any]) -> None:
    message = told["pruned animate"]
    assert message.startswith("error: ") and "select it in the variant input" in message
    assert "512_v1" in message and "1024_v1" in message and "512_interp_v1" not in message


def test_released_models_run_with_the_values_of_the_paper(told: dict[str, Any]) -> None:
    released = {name: values for name, values in told["own values"].items() if name not in ("small", "tiny")}
    assert set(released) == set(VARIANTS) - {"small", "tiny"}
    for name, values in released.items():
        first = name == "256_v1"
        assert values == {
            "steps": 50,
            "cfg": 7.5,
            "image_cfg": None,
            "eta": 1.0,
            "guidance_rescale": 0.0 if first else 0.7,
            "spacing": "uniform" if first else "uniform_trailing",
        }


def test_the_built_in_model_runs_with_its_own(told: dict[str, Any]) -> None:
    values, preset = told["own values"]["tiny"], TINY.preset
    assert (values["steps"], values["cfg"], values["eta"]) == (preset.steps, preset.cfg, preset.eta)


def test_numbers_that_are_given_are_kept(told: dict[str, Any]) -> None:
    """0 is a number like any other, where it is not what leaves the choice to the model."""
    assert told["given values"] == {
        "steps": 7,
        "cfg": 0.0,
        "image_cfg": 2.0,
        "eta": 0.0,
        "guidance_rescale": 0.0,
        "spacing": "uniform_trailing",
    }


def test_a_new_parameter_is_an_input_of_the_sampler_by_itself(told: dict[str, Any]) -> None:
    made = told["new parameter"]
    assert made["input"].items() >= {"default": 0.5, "min": 0.0, "max": 9.0, "step": 0.1}.items()
    assert made["input"]["tooltip"] == "How grainy."
    assert made["set"] == 2.5
    assert made["wrong"] == "film_grain must be 0 to 9, but 10.0 was given"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("choose_model", "the README lists the models and their uses"),
        ("download", "put the file of text into models/checkpoints"),
        ("drop_variant", "set the variant input to auto or select another file"),
        ("export", "export it with 'dynamicrafter export', or select the entry without OpenVINO"),
        ("lower_cfg", "set a lower cfg, or select a checkpoint that is not damaged"),
        ("name_encoder", "connect a core loader with the text encoder"),
        ("name_variant", "select it in the variant input"),
        ("widen_dtype", "set weight_dtype to float32 or bfloat16 in the loader"),
    ],
)
def test_an_error_of_the_package_is_told_in_words_of_the_graph(
    told: dict[str, Any], kind: str, words: str
) -> None:
    assert told["advice"][kind] == f"it is not so; {words}"


def test_suggestions_for_an_export_are_those_for_its_model(told: dict[str, Any]) -> None:
    seen = told["suggested"]
    assert seen["offered"] == ["tiny (built in) (OpenVINO)", "random (built in) (OpenVINO)"]
    assert seen["tiny (built in) (OpenVINO)"] == ["a red circle moves right"]
    assert seen["random (built in) (OpenVINO)"].startswith("suggestions need the complete CLIP encoders; put")


def test_only_errors_of_the_command_and_of_figures_have_no_words_in_a_graph(told: dict[str, Any]) -> None:
    left = {"check_model", "fetch", "name_backend", "name_i3d", "name_towers", "skip_learned"}
    left |= {
        "name_lora",
        "name_model",
        "name_output",
        "name_picture",
        "name_mask",
        "place_beside",
    }  # of clips that are made again
    left |= {
        "find_poses",
        "name_poses",
        "name_reference",
        "describe_motion",
        "export_person",
    }  # of files that inputs of a graph stand for
    assert set(get_args(RemedyKind)) - set(told["advice"]) == left


def test_a_pruned_checkpoint_takes_both_encoders_from_the_released_file(told: dict[str, Any]) -> None:
    """It is needed once, in any of the folders, and a loader that ran without it runs again when it has come."""
    without, found = told["encoders of pruned"]
    assert without[:2] == [None, None]
    assert found[:2] == ["text of open_clip_model.safetensors", "vision of open_clip_model.safetensors"]
    assert without[2] != found[2]
    assert told["encoders of full"][1][:2] == [
        "clip of pruned.safetensors",
        "clip_vision of pruned.safetensors",
    ]
