"""The pack in a real server: what the host says about its nodes, and every shipped API graph, run."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import (
    BUILT_IN,
    CLIP_RATE,
    NEWER,
    OTHER_PICTURE,
    PICTURE,
    REPOSITORY,
    Prompt,
    animate,
    conditioned,
    decoded,
    latents_of,
    node,
    sampled,
    saved_latent,
    upload_pictures,
    video_of,
    with_ksampler,
    write_clip,
)
from PIL import Image

from tools.graphs import inputs_of, is_widget
from tools.make_thumbnails import AFTERWARDS

if TYPE_CHECKING:
    from comfyui_client import Client, Run
    from comfyui_server import Server
    from torch import Tensor

    from dynamicrafter.model.variants import Preset

NODES = {
    "DynamiCrafterAmbience",
    "DynamiCrafterAnimate",
    "DynamiCrafterAnimatePerson",
    "DynamiCrafterCameraGuide",
    "DynamiCrafterCheckpointLoader",
    "DynamiCrafterClipFigures",
    "DynamiCrafterDirector",
    "DynamiCrafterDirectorPlan",
    "DynamiCrafterDirectorPrompt",
    "DynamiCrafterFilm",
    "DynamiCrafterFilmClip",
    "DynamiCrafterGenerate",
    "DynamiCrafterHintFrames",
    "DynamiCrafterImageConditioning",
    "DynamiCrafterInterpolation",
    "DynamiCrafterKeyframes",
    "DynamiCrafterLongClip",
    "DynamiCrafterLooping",
    "DynamiCrafterPersonConditioning",
    "DynamiCrafterPersonLoader",
    "DynamiCrafterPersonSampler",
    "DynamiCrafterPoseAlignment",
    "DynamiCrafterPoseDrawing",
    "DynamiCrafterPreset",
    "DynamiCrafterSamplePicture",
    "DynamiCrafterSamplePoses",
    "DynamiCrafterSampler",
    "DynamiCrafterStory",
    "DynamiCrafterSuggest",
    "DynamiCrafterTechniques",
    "DynamiCrafterVAEDecode",
    "DynamiCrafterViews",
}
WIDGETS = {
    "DynamiCrafterAnimate": (
        [
            *("prompt", "checkpoint", "motion", "seed", "loop", "steps", "cfg", "frames", "fps"),
            *("negative_prompt", "fs", "variant"),
        ],
        ["video", "images", "last_frame"],
    ),
    "DynamiCrafterVAEDecode": (["chunk"], ["images"]),
    "DynamiCrafterImageConditioning": (
        ["prompt", "negative_prompt", "frames", "motion", "width", "height", "fit", "fs"],
        ["positive", "negative", "image_only", "latent"],
    ),
    "DynamiCrafterSampler": (
        ["seed", "steps", "cfg", "eta", "image_cfg", "guidance_rescale", "spacing"],
        ["latent"],
    ),
}
"""Widgets and outputs of 0.1.0, in their order in its saved workflows."""
LINKED = {"image", "model", "vae", "clip_vision", "latent", "positive", "negative"}
"""Inputs that were always connected."""
FLOWS = sorted((REPOSITORY / "workflows" / "api").glob("*.json"))
MARK = "(built in)"
"""What the names of built-in models end with."""
MODEL_FILES = (
    *("checkpoint", "ckpt_name", "clip_name", "control_net_name"),
    *("vae_name", "lora_name", "model_name"),
)
"""Inputs that name a file of weights."""
ANSWER = """I would let it rock:
{"subject": "the boat", "motion_prompt": "a boat rocks on the waves", "camera": "zoom in", "motion": 0.6,
"mode": "animate", "negative_prompt": "people", "seconds": 2, "sound": "sea", "why": "Boats rock."}"""
OF_DOWNLOADS = {
    "DA3Render": node("DynamiCrafterSamplePicture", picture="hill_dusk"),
    "SDPoseKeypointExtractor": node("DynamiCrafterSamplePoses", poses="jumping_jacks"),
    "TextGenerate": node("PrimitiveStringMultiline", value=ANSWER),
}
"""What stands for core nodes whose models are downloaded: a picture as depth, poses, and an answer."""


@pytest.fixture
def ready(client: Client) -> Client:
    """A client whose server has the pictures."""
    upload_pictures(client)
    return client


class TestWhatTheHostSays:
    def test_the_pack_is_imported(self, pack_server: Server, client: Client) -> None:
        log = pack_server.log()
        assert "(IMPORT FAILED)" not in log
        ours = {
            name
            for name, about in client.object_info().items()
            if about["python_module"].startswith("custom_nodes")
        }
        assert ours == NODES

    @pytest.mark.parametrize("name", sorted(NODES))
    def test_every_input_and_output_has_a_tooltip(self, client: Client, name: str) -> None:
        about = client.object_info(name)[name]
        assert about["category"] == "DynamiCrafter"
        assert "DynamiCrafter" in about["display_name"]
        assert len(about["description"]) > 30
        inputs = {**about["input"].get("required", {}), **about["input"].get("optional", {})}
        silent = [key for key, entry in inputs.items() if not (len(entry) > 1 and entry[1].get("tooltip"))]
        assert silent == []
        assert len(about["output_tooltips"]) == len(about["output"]) == len(about["output_name"])
        assert all(about["output_tooltips"])

    def test_sockets_are_the_hosts_own(self, client: Client) -> None:
        infos = client.object_info()
        kinds = set[str]()
        for name in NODES:
            kinds.update(infos[name]["output"])
            for entry in infos[name]["input"].get("required", {}).values():
                kinds.add(entry[0] if isinstance(entry[0], str) else "COMBO")
        own = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
        host = {
            "MODEL",
            "CLIP",
            "CLIP_VISION",
            "VAE",
            "CONDITIONING",
            "CONTROL_NET",
            "LATENT",
            "IMAGE",
            "VIDEO",
        }
        # Core's nodes of poses call theirs so, too; the first is a socket for either.
        host |= {"IMAGE,POSE_KEYPOINT", "POSE_KEYPOINT"}
        # The host has nothing for a set of settings.
        ours = {f"DYNAMICRAFTER_{name}" for name in ("FILM", "LENGTH", "TECHNIQUES")}
        assert kinds <= own | host | ours | {"AUDIO"}

    @pytest.mark.parametrize("name", sorted(WIDGETS))
    def test_saved_workflows_keep_their_values(self, client: Client, name: str) -> None:
        """They store values by position, and links by the number of an output: what is new comes after what was."""
        about = client.object_info(name)[name]
        widgets = [key for key, kind, options, _ in inputs_of(about) if is_widget(kind, options)]
        before, outputs = WIDGETS[name]
        assert widgets[: len(before)] == before
        assert about["output_name"][: len(outputs)] == outputs
        assert set(about["input"]["required"]) <= {*before, *LINKED}

    def test_seeds_change_after_each_run(self, client: Client) -> None:
        infos = client.object_info()
        kinds = ("Animate", "Sampler", "AnimatePerson", "PersonSampler")
        for name in (f"DynamiCrafter{kind}" for kind in kinds):
            assert infos[name]["input"]["required"]["seed"][1]["control_after_generate"]

    @pytest.mark.parametrize("name", ["DynamiCrafterAnimate", "DynamiCrafterCheckpointLoader"])
    def test_built_in_models_are_offered_first(self, client: Client, name: str) -> None:
        options = checkpoints_offered(client, name)
        built_in = [option for option in options if option.endswith(MARK)]
        assert BUILT_IN in built_in
        assert options[: len(built_in)] == built_in

    def test_weights_of_earlier_packs_are_offered(self, pack_server: Server, client: Client) -> None:
        places = {
            "checkpoints/dynamicrafter/telling_dynamicrafter.safetensors": "dynamicrafter",
            "diffusion_models/quiet.safetensors": "",
            "dynamicrafter/own.safetensors": "",
            "dynamicrafter_models/earlier.safetensors": "",
        }
        for place in places:
            file = pack_server.base / "models" / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        try:
            offered = checkpoints_offered(client, "DynamiCrafterCheckpointLoader")
            listed = [name.replace("\\", "/") for name in offered if not name.endswith(MARK)]
            assert {Path(place).name for place in places} <= {Path(name).name for name in listed}
            assert listed[0] == "dynamicrafter/telling_dynamicrafter.safetensors"
        finally:
            for place in places:
                (pack_server.base / "models" / place).unlink()


def checkpoints_offered(client: Client, name: str) -> list[str]:
    """The choices of a node's checkpoint input."""
    entry = client.object_info(name)[name]["input"]["required"]["checkpoint"]
    return entry[0] if isinstance(entry[0], list) else entry[1]["options"]


def smaller(flow: Prompt) -> tuple[Prompt, set[str]]:
    """A graph of five frames in two steps at the model's size, and the weights files it wants that are not built in.

    Of these, checkpoints become a built-in model, and what core loaders would load comes out of it too; ControlNets
    are left, and get a model with levels as wide as core's loader expects.
    """
    changed: Prompt = json.loads(json.dumps(flow))
    controlled = any(entry["class_type"] == "ControlNetLoader" for entry in flow.values())
    built_in = TINY if controlled else BUILT_IN
    wanted = set[str]()
    instead: dict[str, list[Any]] = {}
    for name, entry in flow.items():
        if entry["class_type"] in OF_DOWNLOADS:
            changed[name] = OF_DOWNLOADS[entry["class_type"]]
            continue
        if entry["class_type"] in AFTERWARDS:
            frames_of = entry["inputs"][AFTERWARDS[entry["class_type"]]]
            changed[name] = node("ImageFromBatch", image=frames_of, batch_index=0, length=5)
            continue
        inputs = changed[name]["inputs"]
        ours = entry["class_type"].startswith("DynamiCrafter")
        # The parts of a long clip begin at certain frames.
        frames = inputs.get("frames") if "length" in inputs else 5
        for key, value in (("steps", 2), ("frames", frames), ("width", 0), ("height", 0)):
            if (ours or key == "steps") and isinstance(inputs.get(key), int):
                inputs[key] = value
        if "durations" in inputs:
            inputs["durations"] = "3,2"
        if entry["class_type"] == "ImageScale":
            # Finding the edges of larger frames takes longer than all the rest.
            inputs.update(width=64, height=64)
        if "hint_frames" in inputs:
            inputs["hint_frames"] = "2"
        files = {inputs[key] for key in MODEL_FILES if key in inputs}
        files = {name for name in files if not name.endswith(MARK)}
        wanted |= files
        if files and entry["class_type"] in ("CLIPLoader", "CLIPVisionLoader", "VAELoader"):
            instead[name] = [
                "stand_in",
                {"CLIPLoader": 1, "CLIPVisionLoader": 2, "VAELoader": 3}[entry["class_type"]],
            ]
        elif files and "checkpoint" in inputs:
            inputs.update(checkpoint=built_in, variant="auto")
    for name in instead:
        del changed[name]
    for entry in changed.values():
        for key, value in entry["inputs"].items():
            if isinstance(value, list) and value[0] in instead:
                entry["inputs"][key] = instead[value[0]]
    if instead:
        changed["stand_in"] = node(
            "DynamiCrafterCheckpointLoader", checkpoint=built_in, variant="auto", weight_dtype="auto"
        )
    return changed, wanted


def expected_clip(flow: Prompt) -> tuple[int, int, int, float]:
    """Height, width, frames and frames per second of the video that a graph writes."""
    height, width, frames, rate, own_rate = 0, 0, 0, 0.0, 0
    controlled = any(entry["class_type"] == "ControlNetLoader" for entry in flow.values())
    for entry in flow.values():
        inputs = entry["inputs"]
        if controlled and entry["class_type"] == "DynamiCrafterAnimate":
            # The clip that the other one follows.
            continue
        if "checkpoint" in inputs:
            preset = own_preset(inputs["checkpoint"])
            height, width, own_rate = preset.height, preset.width, preset.fps
        if "frames" in inputs and "path" not in inputs:
            loop = entry["class_type"] == "DynamiCrafterLooping" or bool(inputs.get("loop"))
            frames += inputs["frames"] - loop
        if "durations" in inputs:
            frames = 1 + sum(int(gap) for gap in inputs["durations"].split(","))
        if entry["class_type"] == "ImageFromBatch":
            frames -= inputs["batch_index"]
        if "story" in inputs:
            # Of three scenes, the second shares a frame with the first, and the third is faded in over half a second.
            frames = 16 + 15 + 16 - 4
        fps = inputs.get("fps", rate)
        rate = CLIP_RATE if isinstance(fps, list) else float(fps)
    videos = sum(entry["class_type"] == "SaveVideo" for entry in flow.values())
    return height, width, frames // videos, rate or own_rate


PERSON = "tiny_person (built in)"
TINY = "tiny (built in)"


def write_control(path: Path, channels: int) -> None:
    """A ControlNet of random weights with the layout of released ones, in the sizes of tiny, shown ``channels``."""
    import torch
    from safetensors.torch import save_file

    from dynamicrafter.model.controlnet import ControlNetwork
    from dynamicrafter.model.variants import VARIANTS

    tensors = ControlNetwork(VARIANTS["tiny"].unet, channels).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def own_preset(checkpoint: str) -> Preset:
    """Size and rate of the clips that a built-in model makes of a picture wider than tall."""
    from dynamicrafter.api import find_model
    from dynamicrafter.model.variants import SMALL
    from dynamicrafter.weights.detect import choose, detect
    from dynamicrafter.weights.formats.files import open_weights

    if checkpoint == BUILT_IN:
        return SMALL.preset
    if checkpoint == PERSON:
        return replace(SMALL.preset, width=128, height=192, fps=24)
    file = open_weights(find_model(checkpoint.removesuffix(MARK).strip()).weights)
    return choose(detect(file), None, file).preset


class TestShippedGraphs:
    def test_there_are_at_least_eight(self) -> None:
        assert len(FLOWS) >= 8

    @pytest.mark.parametrize("path", FLOWS, ids=[path.stem for path in FLOWS])
    def test_it_makes_a_video(self, client: Client, pack_server: Server, path: Path, tmp_path: Path) -> None:
        """With nothing in the input folder, unless the graph is for a model that is downloaded."""
        import av

        flow: Prompt = json.loads(path.read_text(encoding="utf-8"))
        empty_folder(pack_server.base / "input")
        prompt, wanted = smaller(flow)
        if wanted:
            kinds = {entry["class_type"] for entry in flow.values()}
            if lacking := kinds & NEWER - set(client.object_info()):
                pytest.skip(f"this host has no {', '.join(sorted(lacking))}")
            assert_only_weights_are_missing(client, flow, wanted)
        for entry in prompt.values():
            if entry["class_type"] == "ControlNetLoader":
                name = entry["inputs"]["control_net_name"]
                channels = 1 if "sketch" in name else 3
                write_control(pack_server.base / "models" / "controlnet" / name, channels)
            if entry["class_type"] == "LoadVideo":
                entry["inputs"]["file"] = client.upload_image(write_clip(tmp_path / "own.mp4"))
        run = client.run(prompt)
        assert run.status == "success", run.error
        videos = [file for file in run.files() if file["filename"].endswith(".mp4")]
        kinds = [entry["class_type"] for entry in flow.values()]
        clips = 2 if "RebatchImages" in kinds else kinds.count("SaveVideo")
        assert len(videos) == clips
        height, width, frames, rate = expected_clip(prompt)
        for file in videos:
            with av.open(pack_server.base / "output" / file["subfolder"] / file["filename"]) as video:
                pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
                assert video.streams.video[0].average_rate == rate
                if any("audio" in entry["inputs"] for entry in flow.values()):
                    assert loudest(video) > 0.01
            if "DynamiCrafterStory" in kinds:
                # A scene that another one continues ends with the sharpest of its last three frames.
                assert frames - 2 <= len(pictures) <= frames
                frames = len(pictures)
            assert [picture.shape for picture in pictures] == [(height, width, 3)] * frames
            assert len({picture.tobytes() for picture in pictures}) > 1

    def test_the_first_clip_moves_as_its_prompt_says(self, client: Client) -> None:
        """As shipped, nothing changed: the red circle is farther right in every third of the clip."""
        flow: Prompt = json.loads(
            next((REPOSITORY / "workflows" / "api").glob("* animate picture*.json")).read_text("utf-8")
        )
        (said,) = (entry["inputs"]["prompt"] for entry in flow.values() if "prompt" in entry["inputs"])
        assert said == "a red circle moves right"
        places = [place_of_red(frame) for frame in frames_of(client, client.run(flow))]
        assert len(places) == 16
        across = [x for x, _ in places]
        third = [sum(across[i : i + 5]) / 5 for i in (0, 5, 11)]
        assert third[1] - third[0] > 2 and third[2] - third[1] > 2
        assert max(y for _, y in places) - min(y for _, y in places) < across[-1] - across[0]

    def test_a_clip_between_two_pictures_goes_from_one_to_the_other(self, client: Client) -> None:
        flow: Prompt = json.loads(
            next((REPOSITORY / "workflows" / "api").glob("DynamiCrafter interpolation*.json")).read_text(
                "utf-8"
            )
        )
        across = [place_of_red(frame)[0] for frame in frames_of(client, client.run(flow))]
        assert across[-1] - across[0] > 5
        assert across[0] < sum(across) / len(across) < across[-1]


def empty_folder(folder: Path) -> None:
    """Remove every file of a folder; ComfyUI's own folders in it stay."""
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()


def loudest(video: Any) -> float:
    """Amplitude of the sound of an opened clip; it is read to its end."""
    import numpy as np

    video.seek(0)
    return max(float(np.abs(frame.to_ndarray()).max()) for frame in video.decode(audio=0))


def frames_of(client: Client, run: Run) -> list[Any]:
    """Frames ``[h, w, 3]`` of the one video that a run wrote."""
    import av

    assert run.status == "success", run.error
    (file,) = (file for file in run.files() if file["filename"].endswith(".mp4"))
    with av.open(io.BytesIO(client.view(file))) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def place_of_red(frame: Any) -> tuple[float, float]:
    """Where the red of a frame is, as its weighted centre (x, y) in pixels."""
    import numpy as np

    red, others = frame[..., 0].astype(float), frame[..., 1:].max(axis=2).astype(float)
    weight = np.clip(red - others - 50, 0, None)
    assert weight.sum() > 0, "nothing is red"
    rows, columns = np.indices(weight.shape)
    return float((weight * columns).sum() / weight.sum()), float((weight * rows).sum() / weight.sum())


def assert_only_weights_are_missing(client: Client, flow: Prompt, wanted: set[str]) -> None:
    """The server refuses a graph as shipped for nothing but the weights files that were not downloaded here."""
    from comfyui_client import RequestRefused

    with pytest.raises(RequestRefused, match="HTTP 400") as refused:
        client.queue(flow)
    errors = [error for entry in refused.value.node_errors().values() for error in entry]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    assert {error["extra_info"]["received_value"] for error in errors} == wanted


class TestOneNodeStart:
    def test_video_frames_and_last_frame(self, ready: Client, pack_server: Server) -> None:
        from PIL import Image

        prompt = {
            **animate(seed=11, fps=5),
            "frames": node("SaveImage", images=["animate", 1], filename_prefix="animate/frame"),
            "last": node("SaveImage", images=["animate", 2], filename_prefix="animate/last"),
        }
        run = ready.run(prompt)
        sizes, rate = video_of(ready, run)
        assert (sizes, rate) == ([(64, 64)] * 4, 5.0)
        shown: dict[str, list[bytes]] = {}
        for name in ("frames", "last"):
            shown[name] = []
            for file in run.outputs[name]["images"]:
                with Image.open(
                    pack_server.base / "output" / file["subfolder"] / file["filename"]
                ) as picture:
                    shown[name].append(picture.convert("RGB").tobytes())
        assert len(set(shown["frames"])) == 4
        assert shown["last"] == shown["frames"][3:]

    def test_the_finished_clip_plays_on_the_node(self, ready: Client) -> None:
        """As an animated image in the host's temporary folder, which the editor shows on the node by itself."""
        from PIL import Image

        run = ready.run(animate(seed=13, fps=5))
        assert run.status == "success", run.error
        shown = [
            message.data["output"]
            for message in run.messages
            if message.kind == "executed" and message.data["display_node"] == "animate"
        ]
        (clip,) = (output for output in shown if "images" in output)
        assert clip["animated"] == [True]
        (file,) = clip["images"]
        assert file["type"] == "temp"
        with Image.open(io.BytesIO(ready.view(file))) as image:
            assert (image.format, image.size, image.n_frames) == ("WEBP", (64, 64), 4)
            assert image.info["loop"] == 0
            image.seek(1)
            image.load()
            assert image.info["duration"] == 200

    @pytest.mark.parametrize(
        ("choices", "size"),
        [
            ({"width": 128}, (128, 64)),
            ({"height": 128, "fit": "pad"}, (192, 128)),
            ({"width": 128, "height": 128}, (128, 128)),
        ],
    )
    def test_size_and_fit(self, ready: Client, choices: dict[str, Any], size: tuple[int, int]) -> None:
        prompt = {
            **animate(seed=15, **choices),
            "frames": node("SaveImage", images=["animate", 1], filename_prefix="size/frame"),
        }
        sizes, _ = video_of(ready, ready.run(prompt))
        assert sizes == [size] * 4

    def test_a_loop_ends_one_frame_before_its_beginning(self, ready: Client) -> None:
        prompt = {
            **animate(seed=12, loop=True),
            "frames": node("SaveImage", images=["animate", 1], filename_prefix="loop/frame"),
            "last": node("SaveImage", images=["animate", 2], filename_prefix="loop/last"),
        }
        run = ready.run(prompt)
        sizes, _ = video_of(ready, run)
        assert len(sizes) == 3
        frames = [ready.view(file) for file in run.outputs["frames"]["images"]]
        (last,) = [ready.view(file) for file in run.outputs["last"]["images"]]
        assert pixels(last) == pixels(frames[2])

    @pytest.mark.parametrize(
        ("kind", "choices"),
        [
            ("DynamiCrafterImageConditioning", {}),
            ("DynamiCrafterInterpolation", {"last_image": ["other", 0]}),
            ("DynamiCrafterLooping", {"loop": True}),
        ],
    )
    def test_it_makes_what_the_chain_of_nodes_makes(
        self, ready: Client, kind: str, choices: dict[str, Any]
    ) -> None:
        chain = decoded(sampled(conditioned(kind), seed=14))
        chain["shown"] = node("SaveImage", images=["decode", 0], filename_prefix="same/chain")
        one = {
            **animate(seed=14, **choices),
            "other": node("LoadImage", image=OTHER_PICTURE),
            "shown": node("SaveImage", images=["animate", 1], filename_prefix="same/one"),
        }
        clips = [
            [pixels(ready.view(file)) for file in ready.run(prompt).outputs["shown"]["images"]]
            for prompt in (chain, one)
        ]
        assert len(clips[0]) == (3 if "loop" in choices else 4)
        assert clips[0] == clips[1]


class TestSameAsTheCommand:
    def test_frames_are_those_of_the_command(
        self, ready: Client, pack_server: Server, tmp_path: Path
    ) -> None:
        import numpy as np
        import torch
        from PIL import Image

        from dynamicrafter.weights.random_model import write_random_checkpoint

        # The host keeps CLIP towers in float16, so these weights are exact in it.
        checkpoint = pack_server.base / "models" / "checkpoints" / "exact.safetensors"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(checkpoint, seed=3, dtype=torch.float16)
        command = "-m dynamicrafter animate {} --model {} --output {} --prompt {} --quiet --device cpu"
        places = [
            str(REPOSITORY / "pictures" / PICTURE),
            str(checkpoint),
            f"{tmp_path / 'frames'}/",
            "a boat",
        ]
        words = [places.pop(0) if word == "{}" else word for word in command.split()]
        choices = "--frames 4 --steps 3 --seed 17 --cfg 2 --dtype float32"
        subprocess.run([sys.executable, *words, *choices.split()], check=True, cwd=REPOSITORY, timeout=300)
        wanted = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "frames").glob("*.png"))]

        prompt = {
            **animate(checkpoint="exact.safetensors", steps=3, seed=17),
            "frames": node("SaveImage", images=["animate", 1], filename_prefix="command/frame"),
        }
        run = ready.run(prompt)
        assert run.status == "success", run.error
        found = [ready.view(file) for file in run.outputs["frames"]["images"]]
        assert len(found) == len(wanted) == 4
        for ours, theirs in zip(found, wanted, strict=True):
            levels = np.frombuffer(pixels(ours), np.uint8).astype(int).reshape(theirs.shape) - theirs
            assert np.abs(levels).max() <= 1


class TestOwnValues:
    def test_what_is_left_to_the_model_is_its_preset(self, ready: Client) -> None:
        from dynamicrafter.model.variants import SMALL

        preset = SMALL.preset
        left = {"steps": 0, "cfg": -1.0, "eta": -1.0, "seed": 51}
        written = {"steps": preset.steps, "cfg": preset.cfg, "eta": preset.eta, "seed": 51}
        more = {"guidance_rescale": preset.guidance_rescale, "spacing": preset.spacing}
        runs = [
            ready.run(saved_latent(sampled(conditioned(), **choices)))
            for choices in (left, {**written, **more})
        ]
        assert runs[0].progress("sampler")[-1] == (preset.steps, preset.steps)
        assert latents_of(ready, runs[0]).equal(latents_of(ready, runs[1]))

    def test_the_pictures_scale_left_alone_is_that_of_the_prompt(self, ready: Client) -> None:
        two = {"image_only": ["cond", 2], "cfg": 3.0, "seed": 52}
        made = [
            latents_of(ready, ready.run(saved_latent(sampled(conditioned(), **two, image_cfg=scale))))
            for scale in (-1.0, 3.0, 1.0)
        ]
        assert made[0].equal(made[1])
        assert not made[0].equal(made[2])

    def test_core_samplers_get_them_from_a_node(self, ready: Client) -> None:
        from dynamicrafter.model.variants import SMALL

        preset = SMALL.preset
        linked = {"steps": ["preset", 0], "cfg": ["preset", 1], "seed": 53}
        prompts = [
            saved_latent(with_ksampler(conditioned(), **choices))
            for choices in (linked, {"steps": preset.steps, "cfg": preset.cfg, "seed": 53})
        ]
        prompts[0]["preset"] = node("DynamiCrafterPreset", model=["loader", 0])
        prompts[0]["shown"] = node("PreviewAny", source=["preset", 2])
        first, second = (ready.run(prompt) for prompt in prompts)
        assert latents_of(ready, first).equal(latents_of(ready, second))
        assert float(first.outputs["shown"]["text"][0]) == preset.guidance_rescale


class TestTechniques:
    def test_what_is_off_changes_nothing_and_what_is_on_does(self, ready: Client) -> None:
        def made(**choices: Any) -> Tensor:
            prompt = saved_latent(sampled(conditioned(), seed=54, cfg=2.0, techniques=["more", 0]))
            prompt["more"] = node("DynamiCrafterTechniques", **choices)
            return latents_of(ready, ready.run(prompt))

        plain = latents_of(ready, ready.run(saved_latent(sampled(conditioned(), seed=54, cfg=2.0))))
        assert made().equal(plain)
        changes = (
            {"stg_scale": 1.0},
            {"alg_ratio": 0.4},
            {"image_noise": 0.1},
            {"denoise": 0.5},
            {"apg_eta": 0.0},
        )
        for change in changes:
            assert not made(**change).equal(plain), change

    def test_a_mask_says_what_may_move(self, ready: Client) -> None:
        def made(value: float | None) -> list[Any]:
            prompt = sampled(conditioned(width=64, height=64, fit="stretch"), seed=54)
            prompt["small"] = node(
                "ImageScale", image=["image", 0], upscale_method="area", width=64, height=64, crop="disabled"
            )
            prompt["cond"]["inputs"]["image"] = ["small", 0]
            if value is not None:
                prompt["mask"] = node("SolidMask", value=value, width=64, height=64)
                prompt["cond"]["inputs"]["mask"] = ["mask", 0]
            prompt["decode"] = node("DynamiCrafterVAEDecode", vae=["loader", 3], latent=["sampler", 0])
            prompt["frames"] = node("SaveImage", images=["decode", 0], filename_prefix="mask/frame")
            prompt["given"] = node("SaveImage", images=["small", 0], filename_prefix="mask/given")
            run = ready.run(prompt)
            assert run.status == "success", run.error
            files = [*run.outputs["frames"]["images"], *run.outputs["given"]["images"]]
            return [Image.open(io.BytesIO(ready.view(file))).convert("RGB").tobytes() for file in files]

        whole, usual, kept = (made(value) for value in (1.0, None, 0.0))
        assert whole == usual
        assert whole[0] != whole[-1]
        *frames, given = kept
        assert len(set(frames)) == 1
        # Images are 8 bits deep here, and rounded; Save Image truncates them.
        assert max(abs(a - b) for a, b in zip(frames[0], given, strict=True)) <= 1


class TestDecode:
    def test_the_video_has_the_models_rate_unless_another_is_chosen(self, ready: Client) -> None:
        for choices, rate in (({}, 8.0), ({"fps": 0}, 8.0), ({"fps": 12}, 12.0)):
            prompt = decoded(sampled(conditioned(), seed=54))
            del prompt["video"]
            prompt["save"]["inputs"]["video"] = ["decode", 1]
            prompt["decode"]["inputs"].update(choices)
            sizes, found = video_of(ready, ready.run(prompt))
            assert (len(sizes), found) == (4, rate)

    def test_a_loop_is_one_frame_shorter_in_the_video_too(self, ready: Client) -> None:
        prompt = decoded(sampled(conditioned("DynamiCrafterLooping"), seed=55))
        prompt["save"]["inputs"]["video"] = ["decode", 1]
        assert len(video_of(ready, ready.run(prompt))[0]) == 3

    def test_it_plays_the_clip_only_when_asked(self, ready: Client) -> None:
        for asked in (False, True):
            prompt = decoded(sampled(conditioned(), seed=56))
            prompt["decode"]["inputs"]["preview"] = asked
            assert ("decode" in ready.run(prompt).outputs) == asked


class TestNotes:
    """What a person is told on the node about a built-in model that cannot do what was asked."""

    def test_tiny_names_the_words_and_the_picture_it_does_not_know(
        self, ready: Client, pack_server: Server
    ) -> None:
        notes = notes_on(ready, "tiny (built in)", PICTURE, "Boats rock, a boat moves right")
        assert notes == [
            "tiny, the built-in model, makes coloured shapes of 64x64 pixels and nothing else. It does not know the "
            "words boats, rock, boat. It cannot show this image, which becomes a blur. For your own images, select a "
            "released model as checkpoint: 512 or 1024 to animate, 512_interp for interpolation and loops."
        ]
        assert notes[0] in pack_server.log()

    def test_tiny_says_nothing_about_what_it_knows(self, ready: Client) -> None:
        ready.upload_image(REPOSITORY / "pictures" / "blue_square.png")
        assert notes_on(ready, "tiny (built in)", "blue_square.png", "The blue square gets bigger.") == []

    def test_tiny_names_one_word(self, ready: Client) -> None:
        ready.upload_image(REPOSITORY / "pictures" / "blue_square.png")
        (note,) = notes_on(ready, "tiny (built in)", "blue_square.png", "a blue square jumps")
        assert "It does not know the word jumps. For your own" in note

    def test_random_says_what_it_is(self, ready: Client) -> None:
        (note,) = notes_on(ready, BUILT_IN, PICTURE, "a boat")
        assert note.startswith("random, a built-in model for tests, is untrained and generates noise.")

    def test_other_files_are_not_spoken_of(self, ready: Client, pack_server: Server) -> None:
        import shutil

        from dynamicrafter.api import find_model

        folder = pack_server.base / "models" / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(find_model("tiny").weights, folder / "trained_further.safetensors")
        assert notes_on(ready, "trained_further.safetensors", PICTURE, "a boat") == []


def notes_on(client: Client, checkpoint: str, picture: str, prompt: str) -> list[str]:
    """What the one-node start reports of itself."""
    graph = animate(checkpoint=checkpoint, prompt=prompt, seed=61)
    graph["image"]["inputs"]["image"] = picture
    run = client.run(graph)
    assert run.status == "success", run.error
    outputs = [
        message.data["output"] or {}
        for message in run.messages
        if message.kind == "executed" and message.data["display_node"] == "animate"
    ]
    (notes,) = (output["dynamicrafter_notes"] for output in outputs if "dynamicrafter_notes" in output)
    return notes


class TestSamplePictures:
    def test_all_of_them_are_as_load_image_gives_them(self, ready: Client) -> None:
        """Toy shapes first, since the built-in model is the first choice too; the node shows what it gives."""
        (entry,) = ready.object_info("DynamiCrafterSamplePicture")["DynamiCrafterSamplePicture"]["input"][
            "required"
        ].values()
        names = entry[0] if isinstance(entry[0], list) else entry[1]["options"]
        assert names[0] == "red_circle"
        folder = REPOSITORY / "pictures"
        assert sorted(names) == sorted(path.stem for path in folder.glob("*.png"))
        for name in names:
            ready.upload_image(folder / f"{name}.png")
            run = ready.run(
                {
                    "sample": node("DynamiCrafterSamplePicture", picture=name),
                    "file": node("LoadImage", image=f"{name}.png"),
                    "ours": node("SaveImage", images=["sample", 0], filename_prefix="sample/ours"),
                    "theirs": node("SaveImage", images=["file", 0], filename_prefix="sample/theirs"),
                }
            )
            assert run.status == "success", run.error
            shown = [
                pixels(ready.view(run.outputs[place]["images"][0])) for place in ("sample", "ours", "theirs")
            ]
            assert shown[0] == shown[1] == shown[2]


def pixels(file: bytes) -> bytes:
    """The values of a picture file, without the graph that core writes into it."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as picture:
        return picture.convert("RGB").tobytes()


class TestCamera:
    """A guide clip of a picture and its depth map, and a clip that follows it."""

    @staticmethod
    def guide(client: Client, tmp_path: Path, **choices: Any) -> Prompt:
        import numpy as np

        rows, columns = np.mgrid[:64, :96]
        image = np.stack([rows * 2 + 60, columns + 90, rows + columns], axis=-1).astype(np.uint8)
        depth = np.where((rows // 24 + columns // 24) % 2, 220, 30).astype(np.uint8)
        for name, pixels in (("seen.png", image), ("depth.png", depth)):
            Image.fromarray(pixels).save(tmp_path / name)
            client.upload_image(tmp_path / name)
        inputs: dict[str, Any] = {"path": "truck:0.1", "frames": 4, "depth_kind": "disparity"}
        inputs |= {"width": 64, "height": 64, "fit": "crop", "image": ["image", 0], "depth": ["depth", 0]}
        return {
            "image": node("LoadImage", image="seen.png"),
            "depth": node("LoadImage", image="depth.png"),
            "guide": node("DynamiCrafterCameraGuide", **{**inputs, **choices}),
        }

    def test_the_clip_is_the_one_of_the_package(
        self, client: Client, pack_server: Server, tmp_path: Path
    ) -> None:
        import torch

        import dynamicrafter
        from dynamicrafter.camera.choices import GuideCamera
        from dynamicrafter.media.pictures import Picture, as_picture, read_picture
        from dynamicrafter.model.variants import SMALL
        from dynamicrafter.settings import make_settings
        from dynamicrafter.shots import FilmedScene, guide_of
        from dynamicrafter.weights.random_model import write_random_checkpoint

        # The host keeps CLIP towers in float16, so these weights are exact in it.
        checkpoint = pack_server.base / "models" / "checkpoints" / "exact_views.safetensors"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(checkpoint, seed=4, dtype=torch.float16)
        prompt = self.guide(client, tmp_path)
        cond = conditioned("DynamiCrafterViews", prompt="a scene", image=None, frames=None, motion=None)
        cond["cond"]["inputs"]["guide"] = ["guide", 0]
        cond["loader"]["inputs"]["checkpoint"] = checkpoint.name
        del cond["image"]
        prompt |= decoded(sampled(cond, seed=5))
        # A picture of each frame instead of a video.
        del prompt["video"]
        prompt["save"] = node("SaveImage", images=["decode", 0], filename_prefix="views")
        prompt["shown"] = node("SaveImage", images=["guide", 0], filename_prefix="guide")
        run = client.run(prompt)
        assert run.status == "success", run.error
        found = {
            name: torch.stack(
                [as_picture(Image.open(io.BytesIO(client.view(file)))).pixels for file in files]
            )
            for name, files in ((name, run.outputs[name]["images"]) for name in ("shown", "save"))
        }
        picture = read_picture(tmp_path / "seen.png")
        settings = make_settings(SMALL, "views", frames=4, size=(64, 64))
        scene = FilmedScene(tmp_path / "depth.png", GuideCamera("truck:0.1"))
        guide = guide_of(scene, picture, settings)
        assert torch.equal(found["shown"], guide)
        assert (guide[-1] == 0).all(-1).any()
        model = dynamicrafter.load(checkpoint, device="cpu", dtype="float32")
        made = dynamicrafter.views(
            model, Picture(guide[0]), guide, "a scene", frames=4, size=(64, 64), seed=5, steps=2, cfg=2.0
        )
        assert (found["save"].int() - made.frames.int()).abs().max() <= 1

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            ({"path": "/etc/hostname"}, "a camera path consists of orbit, rise, dolly, truck, pedestal, but"),
            (
                {"depth": ["other", 0]},
                "the depth map has .* pixels, but the image has 96x64; use a depth map of",
            ),
            ({"path": "truck:1", "centre": 10.0}, "the camera leaves the scene: frame"),
            ({"near": 5.0, "far": 2.0}, "near must be above 0 and below far, but 5 and 2 were given"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(
        self, client: Client, tmp_path: Path, choices: dict[str, Any], message: str
    ) -> None:
        upload_pictures(client)
        prompt = self.guide(client, tmp_path, **choices)
        prompt["other"] = node("LoadImage", image=OTHER_PICTURE)
        prompt["save"] = node("SaveImage", images=["guide", 0], filename_prefix="guide")
        run = client.run(prompt)
        assert run.status == "error"
        assert re.search(message, str(run.error)), run.error
