"""The nodes that move a person: the command's numbers, core's samplers, and what is said about wrong inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import PICTURE, Prompt, node, upload_pictures, video_of

if TYPE_CHECKING:
    from comfyui_client import Client
    from comfyui_host import Host
    from comfyui_server import Server

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


@pytest.mark.parametrize("clip", ["5 4", "10 11"])
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


def test_device_memory_does_not_grow_with_the_clip(measured: Measured) -> None:
    peaks = found(measured, "flat")
    assert peaks["4"] > 100_000
    assert peaks["40"] < 1.05 * peaks["4"]


def test_weights_that_do_not_fit_are_streamed(measured: Measured) -> None:
    places = found(measured, "partial")
    for name in ("reference", "denoising"):
        assert all(places[name]), "nothing was left behind, or nothing loaded"
    assert places["device"] == "meta"


def test_poses_are_drawn_as_the_package_draws_them(measured: Measured) -> None:
    poses = found(measured, "poses")
    assert poses["drawn"] < 1e-6
    # The short side of training, and a multiple of 64.
    assert poses["size"] == [3, 512, 1024, 3]
    assert poses["hands"]
    assert poses["images"]
    assert poses["resized"] == [11, 96, 64, 3]


def test_keypoints_of_cores_sdpose_are_drawn(measured: Measured) -> None:
    """Core calls the left hand the right one, so that the order of drawing differs where hands overlap."""
    same = found(measured, "sdpose")
    if "lacking" in same:
        pytest.skip(f"this host has no {same['lacking']}")
    assert same["lit"] > 0.1
    assert same["differing"] < 0.05 * same["lit"]


def test_what_cores_extractor_outputs_takes_the_place_of_the_character(measured: Measured) -> None:
    """As in the template: core's own node but for its networks, then our alignment and drawing."""
    of_core = found(measured, "extracted")
    if "lacking" in of_core:
        pytest.skip(f"this host has no {of_core['lacking']}")
    assert of_core["form"] == {"canvas_width": "int", "canvas_height": "int", "people": "list"}
    assert of_core["person"] == {
        "pose_keypoints_2d": 54,
        "foot_keypoints_2d": 18,
        "face_keypoints_2d": 210,
        "hand_right_keypoints_2d": 63,
        "hand_left_keypoints_2d": 63,
    }
    assert of_core["absent"] == [-1, -1, 0]
    assert (of_core["canvas"], of_core["hands"]) == ([128, 192], 0)
    assert of_core["apart"] < 0.1
    # The wrist that was not found, on the line between where it was before and after.
    assert of_core["filled"] < 2
    assert of_core["size"] == [6, 768, 512, 3]
    assert 0.01 < of_core["lit"] < 0.2


def test_poses_take_the_place_and_size_of_the_reference(measured: Measured) -> None:
    poses = found(measured, "poses")
    assert poses["canvas"] == [60, 90]
    for made, wanted in zip(poses["aligned"], poses["reference"], strict=True):
        assert made == pytest.approx(wanted, abs=0.01)
    assert poses["filled"] == [1, 1, 1]
    assert poses["preview"] == [3, 384, 256, 3]
    # Of the image, half as bright; a corner that no pose reaches.
    assert all(0 < max(corner) <= 0.5 for corner in poses["below"])


def test_poses_are_moved_and_smoothed_by_hand(measured: Measured) -> None:
    poses = found(measured, "poses")
    assert poses["unfilled"] == [1, 0, 1]
    (neck, right, left), (x, y) = poses["before"], (0.1 * 200, -0.05 * 100)
    about = [sum(values) / 3 for values in zip(neck, right, left, strict=True)]
    wanted = [about[0] + 2 * (neck[0] - about[0]) + x, about[1] + 2 * (neck[1] - about[1]) + y]
    assert poses["by hand"][0] == pytest.approx(wanted, abs=1e-3)
    # The middle of three frames, of which the gap was filled: a person that moves from a quarter to 0.35.
    assert poses["smoothed"][0][0] == pytest.approx(0.3 * 200, abs=1e-3)


def test_folders_of_the_original_and_built_in_models_are_listed(measured: Measured) -> None:
    folders = found(measured, "folders")
    assert folders["listed"][1:] == ["anyone/", "my_person.safetensors", "a.safetensors"]
    assert folders["with built-in"] == ["tiny_person (built in)", "anyone/"]
    assert folders["place"] and folders["changed"]
    assert (
        folders["gone"]["gone/"] == "the folder gone/ no longer exists; press R to reload the list of files"
    )
    assert "no longer exists; press R" in folders["gone"]["gone.safetensors"]


def test_sizes_follow_the_image_and_ranges_are_the_settings(measured: Measured) -> None:
    sizes = found(measured, "sizes")
    assert sizes["sizes"] == [[512, 768], [72, 88], [256, 384], [216, 320], [64, 72]]
    assert set(sizes["accepted"]) == {"steps", "cfg", "eta", "seed", "window", "overlap"}
    for name, ends in sizes["accepted"].items():
        assert ends == [True, True, False, False], name


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("one side", "width and height are 64 and 0; set both, or 0 for both to have them chosen"),
        (
            "no canvas",
            "the keypoints do not say the size of their image (canvas_width and canvas_height); use",
        ),
        ("nobody", "poses has no person in any of its 1 frames; use another clip"),
        ("even", "smooth must be an odd number of frames, but is 2; set 3"),
        ("no limb", "the reference and the clip of poses have no limb in common; set the scale by hand"),
        ("overlap", "overlap must be 0 to 7, less than the window, but 8 was given"),
        ("width", "width must be a multiple of 8 from 64 to 2048, but 65 was given"),
        ("steps", "steps must be 1 to 1000, but 1001 was given"),
        ("long", "poses has 2001 frames, but a clip has at most 2000; use a part of the clip"),
        (
            "size",
            "the latent is 64x96 with 3 frames, but the poses are 64x96 with 4 frames; connect the latent",
        ),
        ("video", "the latent has the shape 1 x 16 x 5 x 8 x 8, but must have frames x 4 x height x width"),
        ("no person", "the positive conditioning has no person; connect the output of DynamiCrafter Person"),
        (
            "no negative",
            "this model needs a person and poses, but the conditioning has none; connect positive",
        ),
        ("mask", "the latent has a noise mask, which this sampler does not support yet"),
        ("windows", "this model has windows of its own; remove the Context Windows node"),
        ("model", "model is not a person model; connect the MODEL output of DynamiCrafter Person Loader"),
        ("frames", "frames is 12, but there are only 11 poses; set fewer frames, or 0 for all of them"),
        ("batch", "image must be a single image, but it is a batch of 11; select one with core Image"),
    ],
)
def test_what_does_not_fit_is_refused(measured: Measured, kind: str, message: str) -> None:
    assert message in found(measured, "messages")[kind]


FILE = "small_person.safetensors"
WITH_PREVIEWS = {"preview_method": "latent2rgb"}


@pytest.fixture(scope="module")
def small_model(pack_server: Server) -> str:
    """The small random model among the server's checkpoints."""
    import sys

    sys.path.append(str(REPOSITORY / "tests" / "animate_anyone"))
    from small_person import small_person, write_person

    folder = pack_server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    write_person(folder / FILE, small_person())
    return FILE


def animated(**choices: Any) -> Prompt:
    """The one-node start as ``animate`` with five drawn poses, and what saves its video."""
    inputs: dict[str, Any] = {
        "image": ["image", 0],
        "poses": ["poses", 0],
        "checkpoint": FILE,
        "seed": 1,
        "steps": 3,
        "cfg": 2.0,
        "width": 64,
        "height": 96,
        **choices,
    }
    return {
        "image": node("LoadImage", image=PICTURE),
        "poses": node("RepeatImageBatch", image=["image", 0], amount=5),
        "animate": node("DynamiCrafterAnimatePerson", **inputs),
        "save": node(
            "SaveVideo", video=["animate", 0], filename_prefix="person", format="auto", codec="auto"
        ),
    }


@pytest.mark.usefixtures("small_model")
class TestOneNodeStart:
    def test_it_makes_a_clip_with_previews_and_progress(self, client: Client) -> None:
        upload_pictures(client)
        run = client.run(animated(), WITH_PREVIEWS)
        sizes, rate = video_of(client, run)
        assert (sizes, rate) == ([(64, 96)] * 5, 24)
        assert [p for p in run.previews if p.metadata["node_id"].split(".")[0] == "animate"]
        # The clip plays on the node when it is done.
        (shown,) = (output for name, output in run.outputs.items() if name.startswith("animate"))
        assert shown["animated"] == [True] or shown["animated"] == (True,)
        again = client.run(animated(seed=2))
        assert again.status == "success", again.error
        # In the order in which the node puts them together: loader, drawing, conditioning, sampler, decode.
        assert {name.rsplit(".", 1)[1] for name in again.executed if name.startswith("animate.")} == {
            "4",
            "5",
        }

    def test_it_is_cancelled_within_a_step_and_leaves_the_memory_clean(
        self, client: Client, pack_server: Server
    ) -> None:
        upload_pictures(client)
        assert client.run(animated(seed=3)).status == "success"
        before = pack_server.resident_bytes()
        prompt_id = client.queue(animated(seed=4, steps=900), WITH_PREVIEWS)
        client.wait_for_preview(prompt_id, 1)
        client.interrupt(prompt_id)
        run = client.wait(prompt_id, timeout=120)
        assert run.status == "interrupted"
        assert client.run(animated(seed=5)).status == "success"
        assert pack_server.resident_bytes() < 1.05 * before

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            (
                {"checkpoint": "other.safetensors"},
                "is not a file of AnimateAnyone but of an unknown architecture",
            ),
            ({"frames": 6}, "frames is 6, but there are only 5 poses; set fewer frames"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(
        self, client: Client, pack_server: Server, choices: dict[str, Any], message: str
    ) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, pack_server.base / "models" / "checkpoints" / "other.safetensors")
        upload_pictures(client)
        run = client.run(animated(seed=6, **choices))
        assert run.status == "error"
        assert message in run.error["exception_message"]
        assert run.error["exception_type"] == "ValueError"
