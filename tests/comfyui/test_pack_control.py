"""Core's ControlNets reach our network, each frame with its own hint; what does not fit is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from comfyui_host import Host

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
TOLERANCE = 5e-5
"""Of whole clips, as in the parity tests."""

Measured = Callable[[str], Any]


@pytest.fixture(scope="module")
def measured(comfyui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """What was measured in the host, by name; all of it in one process."""
    from comfyui_host import run_in_host

    working = tmp_path_factory.mktemp("controls")
    run_in_host(
        comfyui_host, HERE / "control_in_host.py", str(REPOSITORY), str(working), "controls", timeout=600
    )
    results = json.loads((working / "controls.json").read_text(encoding="utf-8"))

    def found(name: str) -> Any:
        result = results[name]
        assert not isinstance(result, str), f"{name} failed in the host:\n{result}"
        return result

    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_core_and_we_read_the_same_names_and_shapes(measured: Measured, channels: int) -> None:
    assert measured(f"layout {channels}") is True


@pytest.mark.parametrize("name", ["all steps", "part", "sketch", "chained", "blank", "none"])
def test_a_clip_is_the_command_s(measured: Measured, name: str) -> None:
    """With core's nodes and our sampler; two nets of one file add up to their strengths.

    The last two have sketches of two frames, with both ways of treating the others.
    """
    result = measured(name)
    assert result["error"] < TOLERANCE
    assert result["effect"] > 0.01


def test_zeroed_output_convolutions_change_nothing(measured: Measured) -> None:
    assert measured("zeroed") is True


def test_each_frame_is_shown_its_hint(measured: Measured) -> None:
    """Of both branches; missing ones are repeated, as core does, and a window has those of its frames."""
    shown = measured("shown")
    assert shown["1"] in ([0], [0] * 8)
    assert shown["2"] == [0, 1, 0, 1] * 2
    assert shown["4"] == [0, 1, 2, 3] * 2
    assert shown["8"] == [0, 1, 2, 3] * 2
    assert shown["window"] == [2, 3, 7, 0]


def test_chosen_frames_are_shown_their_hints_and_the_others_a_blank_sheet_or_nothing(
    measured: Measured,
) -> None:
    """Also in a window; one without any hint is not evaluated at all if the others are left alone."""
    shown = measured("shown")
    assert shown["blank"] == [[2, 0, 1, 0], [True] * 4]
    assert shown["none"] == [[2, 0, 1, 0], [True, False, True, False]]
    assert shown["blank elsewhere"] == [False, 1]
    assert shown["none elsewhere"] == [True, 0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "family",
            "is of another family: its tokens have 768 values, but this model's have 1024; use a Contr",
        ),
        ("chained", "is of another family: its tokens have 768 values, but this model's have 1024"),
        (
            "sampling",
            "is of another family: its tokens have 32 values, but this model's have 64; use a Contr",
        ),
        ("sizes", "for a network of widths 32, 64, 128, 128, but this model's are 320, 640, 1280, 1280; use"),
        (
            "lora",
            "does not support ControlLora; use a ControlNet for Stable Diffusion 2.1 or Toon.* or remove",
        ),
        (
            "few hints",
            "each hint needs a frame of its own, but 2 hints were given for the frames 0, 2, 3; pass",
        ),
        ("twice", "each hint needs a frame of its own, but 2 hints were given for the frames 2, 2; pass one"),
        (
            "outside",
            "the frames of hints must be from 0 to 3, but 4 was given; use a longer clip, or another",
        ),
        (
            "no frames",
            "hint_frames must be whole numbers from 0, separated by commas, but '0,last' was given; use",
        ),
        ("foreign", "does not support ControlNetSD35; use a ControlNet for Stable Diffusion 2.1"),
        ("adapter", "does not support T2I-Adapters; use a ControlNet"),
        ("count", "has 12 skip connections, but the ControlNet has outputs for 9; use a ControlNet"),
    ],
)
def test_what_does_not_fit_is_refused(measured: Measured, name: str, message: str) -> None:
    assert re.search(message, measured("refused")[name])


def test_wrappers_of_networks_and_attention_are_called(measured: Measured) -> None:
    """With the arguments of the host's own networks: wrappers of other packs take them by their places."""
    result = measured("wrapped")
    assert result["same"] is True
    assert len(result["calls"]) >= 3 and all(call == [6, True] for call in result["calls"])
    assert result["attentions"] > len(result["calls"])
