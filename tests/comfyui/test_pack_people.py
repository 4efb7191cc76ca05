"""The nodes that move a person: the command's numbers, core's samplers, and what is said about wrong inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from comfyui_host import Host

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
Measured = dict[str, Any]


@pytest.fixture(scope="module")
def measured(comfyui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Everything that was measured in the host, by name."""
    from comfyui_host import run_in_host

    working = tmp_path_factory.mktemp("people")
    run_in_host(comfyui_host, HERE / "people_in_host.py", str(REPOSITORY), str(working), timeout=900)
    return json.loads((working / "people.json").read_text(encoding="utf-8"))


def found(measured: Measured, name: str) -> Any:
    assert not isinstance(measured[name], str), f"{name} failed in the host:\n{measured[name]}"
    return measured[name]


@pytest.mark.parametrize(
    ("name", "frames"),
    [("plain", 4), ("windows", 11), ("exact windows", 11), ("no guidance", 4), ("noise", 4)],
)
def test_the_graph_makes_what_the_package_makes(measured: Measured, name: str, frames: int) -> None:
    same = found(measured, f"package {name}")
    assert same["latents"] < 1e-5
    assert same["levels"] <= 1
    assert same["frames"] == frames


@pytest.mark.parametrize("clip", ["5 4", "10 4", "25 4", "10 11"])
def test_core_euler_is_our_sampler(measured: Measured, clip: str) -> None:
    """The rest is float32: at pure noise, a finite number stands in for an infinite sigma."""
    assert found(measured, "core")[clip] < 1e-4


def test_reference_and_poses_matter(measured: Measured) -> None:
    """The pose guider of random weights says little, yet 50 times more than rounding."""
    changes = found(measured, "kinds")
    assert changes["reference"] > 0.05
    assert changes["poses"] > 5e-5


def test_weights_can_be_stored_in_fewer_bits(measured: Measured) -> None:
    kinds = found(measured, "dtypes")
    assert kinds["bfloat16"]["kept"] == ["torch.bfloat16"]
    assert kinds["fp8_e4m3fn"]["kept"] == ["torch.float8_e4m3fn"]
    assert "torch.int8" in kinds["int8"]["kept"]
    assert kinds["bfloat16"]["error"] < 0.02
    assert kinds["int8"]["error"] < 0.05
    assert 0.01 < kinds["fp8_e4m3fn"]["error"] < 0.3


def test_a_long_clip_asks_for_the_memory_of_one_window(measured: Measured) -> None:
    needed = found(measured, "memory")
    assert needed["24"] < needed["32"] == needed["240"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "size",
            "the latent is 64x96 with 3 frames, but the poses are 64x96 with 4 frames; connect the latent",
        ),
        ("no person", "the positive conditioning has no person; connect the output of DynamiCrafter Person"),
        (
            "no negative",
            "this model needs a person and poses, but the conditioning has none; connect positive",
        ),
        ("mask", "the latent has a noise mask, which this sampler does not support yet"),
        ("windows", "this model has windows of its own; remove the Context Windows node"),
        ("model", "model is not a person model; connect the MODEL output of DynamiCrafter Person Loader"),
        ("lora", "a LoRA cannot be added to weights in int8; load the checkpoint with another weight_dtype"),
        ("frames", "frames is 12, but there are only 11 poses; set fewer frames, or 0 for all of them"),
        ("batch", "image must be a single image, but it is a batch of 11; select one with core Image"),
    ],
)
def test_what_does_not_fit_is_refused(measured: Measured, kind: str, message: str) -> None:
    assert message in found(measured, "messages")[kind]
