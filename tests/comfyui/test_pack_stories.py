"""Clip Figures and Story on a real server."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pack_graphs import BUILT_IN, REPOSITORY, Prompt, node
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from comfyui_client import Client, Run
    from comfyui_server import Server
    from torch import Tensor

PICTURES = ("red_circle_left", "red_circle_right")


def sample(name: str) -> dict[str, object]:
    """An image that ships with the pack."""
    return node("DynamiCrafterSamplePicture", picture=name)


def failed(client: Client, prompt: Prompt) -> str:
    run = client.run(prompt)
    assert run.status == "error"
    return run.error["exception_message"]


# Clip Figures


def figures(*names: str, **choices: object) -> Prompt:
    """The figures of a clip of two images, one after the other, shown as text."""
    return {
        "image": sample(names[0]),
        "other": sample(names[1]),
        "clip": node("ImageBatch", image1=["image", 0], image2=["other", 0]),
        "figures": node("DynamiCrafterClipFigures", images=["clip", 0], **choices),
        "sentence": node("PreviewAny", source=["figures", 0]),
        "metrics": node("PreviewAny", source=["figures", 1]),
    }


def told(run: Run, name: str) -> str:
    """What core's Preview as Text shows."""
    assert run.status == "success", run.error
    return "".join(run.outputs[name]["text"])


def picture(name: str) -> Tensor:
    from dynamicrafter.media.pictures import normalise, read_picture

    return normalise(read_picture(REPOSITORY / "pictures" / f"{name}.png"))


def test_the_figures_are_those_of_the_package_and_the_sentence_is_on_the_node(client: Client) -> None:
    import torch

    from dynamicrafter.evaluation.figures import measure_clip
    from dynamicrafter.evaluation.sentence import describe

    left, right = picture("red_circle_left"), picture("red_circle_right")
    run = client.run(
        figures("red_circle_left", "red_circle_right", image=["image", 0], last_image=["image", 0])
    )
    wanted = measure_clip(torch.stack([left, right]), left, left)
    found = json.loads(told(run, "metrics"))
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted)
    assert told(run, "sentence") == describe(wanted)
    assert "begins with its image" in describe(wanted)
    assert run.outputs["figures"]["dynamicrafter_notes"] == [describe(wanted)]


def test_a_clip_alone_has_figures_too(client: Client) -> None:
    run = client.run(figures("red_circle", "red_circle"))
    assert told(run, "sentence") == "The clip stands still."
    assert "first frame to the picture, SSIM" not in json.loads(told(run, "metrics"))


def test_frames_that_are_too_small_are_rejected(client: Client) -> None:
    prompt = figures("red_circle", "red_circle", image=["image", 0])
    prompt["figures"]["inputs"]["images"] = ["small", 0]
    prompt["small"] = node("EmptyImage", width=64, height=8, batch_size=2, color=0)
    assert "the clip has frames of 64x8 pixels, but at least 11x11 are needed" in failed(client, prompt)
    prompt["figures"]["inputs"] |= {"images": ["clip", 0], "image": ["clip", 0]}
    assert "image must be a single image, but it is a batch of 2" in failed(client, prompt)


# Story

SCENES = """\
sound: sea
continue_from: 2
scenes:
- {picture: 1, prompt: a boat}
- {prompt: a storm, seconds: 0.5}
- {picture: 2, prompt: a hill, transition: cross-fade, sound: rain, seconds: 0.5}
- {picture: 1, prompt: a boat, transition: interpolate, sound: none, seconds: 0.5}
"""


def story(text: str, **choices: object) -> Prompt:
    """A story of two images with two steps a clip; its film is saved as images, its sound as a file."""
    inputs = {"checkpoint": BUILT_IN, "motion": -1.0, "seed": 7, "steps": 2, "cfg": 1.0, **choices}
    return {
        "one": sample(PICTURES[0]),
        "two": sample(PICTURES[1]),
        "images": node("ImageBatch", image1=["one", 0], image2=["two", 0]),
        "story": node("DynamiCrafterStory", images=["images", 0], story=text, **inputs),
        "frames": node("SaveImage", images=["story", 1], filename_prefix="story"),
        "sound": node("SaveAudio", audio=["story", 2], filename_prefix="story"),
    }


def saved_frames(client: Client, run: Run) -> Tensor:
    """The frames of the film, uint8 ``[n, h, w, 3]``."""
    import torch

    from dynamicrafter.media.pictures import as_picture

    assert run.status == "success", run.error
    files = [Image.open(io.BytesIO(client.view(file))) for file in run.outputs["frames"]["images"]]
    return torch.stack([as_picture(file).pixels for file in files])


def test_a_story_is_the_film_of_the_package_and_unchanged_scenes_are_kept(
    client: Client, pack_server: Server, tmp_path: Path
) -> None:
    import av
    import torch

    import dynamicrafter
    from dynamicrafter.director.scenes import story_of
    from dynamicrafter.media.video import read_frames
    from dynamicrafter.weights.random_model import write_random_checkpoint

    # The host keeps CLIP encoders in float16, so these weights are exact in it.
    checkpoint = pack_server.base / "models" / "checkpoints" / "exact_story.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_random_checkpoint(checkpoint, seed=4, dtype=torch.float16)
    run = client.run(story(SCENES, checkpoint=checkpoint.name), {"preview_method": "latent2rgb"})
    frames = saved_frames(client, run)
    assert {preview.metadata["node_id"].split(".")[0] for preview in run.previews} == {"story"}

    told = story_of(SCENES, "the story")
    files = {str(n): str(REPOSITORY / "pictures" / f"{name}.png") for n, name in enumerate(PICTURES, 1)}
    scenes = tuple(replace(one, picture=files.get(one.picture, one.picture)) for one in told.scenes)
    film = dynamicrafter.story(
        replace(told, scenes=scenes), f"{tmp_path}/film/", model=checkpoint, device="cpu", dtype="float32",
        seed=7, steps=2, cfg=1.0,
    )  # fmt: skip
    wanted = read_frames(tmp_path / "film")
    assert frames.shape == wanted.shape
    assert (frames.int() - wanted.int()).abs().max() <= 2
    with av.open(io.BytesIO(client.view(run.outputs["sound"]["audio"][0]))) as sound:
        samples = sum(frame.samples for frame in sound.decode(audio=0))
    assert samples == pytest.approx(film.frames / film.fps * 48_000, abs=48)

    again = client.run(story(SCENES.replace("a hill", "a valley"), checkpoint=checkpoint.name))
    other = saved_frames(client, again)
    assert torch.equal(other[:16], frames[:16])
    assert not torch.equal(other, frames)
    # Loader, image, clip and film of the first scene, and of the second; then those of the third.
    assert {"story.0.0.3", "story.0.0.5", "story.0.0.8"} <= set(run.executed)
    assert {"story.0.0.3", "story.0.0.5", "story.0.0.8"} & set(again.executed) == {"story.0.0.8"}


def test_a_story_that_is_cancelled_keeps_its_finished_scenes(client: Client) -> None:
    prompt = story("a boat\n\na storm", steps=12, seed=8)
    prompt_id = client.queue(prompt)

    def second(message: object) -> bool:
        """Whether the second scene is being sampled."""
        data = getattr(message, "data", {})
        return (
            getattr(message, "kind", "") == "progress"
            and data["node"] == "story.0.0.5"
            and data["value"] > 300
        )

    client.wait_for(second, prompt_id, timeout=120)
    client.interrupt(prompt_id)
    run = client.wait(prompt_id, timeout=60)
    assert run.status == "interrupted"
    again = client.run(prompt)
    assert again.status == "success", again.error
    assert "story.0.0.3" in run.executed and "story.0.0.3" not in again.executed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "scenes:\n- {picture: 3}",
            "picture must be the number of one of the images, 1 to 2, but '3' was given",
        ),
        ("waves\n\n[boat.png] waves", "scene 2: picture must be the number of one of the images"),
        (
            "scenes:\n- {picture: 1, sound: /etc/bell.wav}",
            "scene 1: sound must be a few words, not the name of a file, but '/etc/bell.wav' was given",
        ),
        ("scenes:\n- {picture: 1, noise_device: device}", "a story in a graph has no noise_device, but 'device'"),
        ("scenes: [", "the story is not a story in YAML"),
        ("\n\n".join(["waves"] * 61), "a story has at most 60 scenes here, but 61 were given"),
    ],
)  # fmt: skip
def test_what_a_story_cannot_say(client: Client, text: str, message: str) -> None:
    assert message in failed(client, story(text))


def test_clips_of_a_film_fit_together(client: Client) -> None:
    prompt: Prompt = {
        "picture": sample("red_circle"),
        "wide": node("EmptyImage", width=128, height=64, batch_size=2, color=0),
        "first": node("DynamiCrafterFilmClip", images=["picture", 0], joint="cut", sound=""),
        "second": node("DynamiCrafterFilmClip", images=["wide", 0], joint="cut", sound="", film=["first", 0]),
        "film": node("DynamiCrafterFilm", film=["second", 0], fps=8.0, fade=0.5),
        "shown": node("PreviewImage", images=["film", 1]),
    }
    message = "all clips of a film must have the size of its first one, 64x64, but this one has 128x64"
    assert message in failed(client, prompt)
    prompt["first"]["inputs"]["joint"] = "shared"
    assert "the first clip of a film has nothing before it, but joint is shared" in failed(client, prompt)
    prompt["first"]["inputs"]["joint"] = "cut"
    prompt["second"]["inputs"] |= {"images": ["picture", 0], "joint": "shared"}
    run = client.run(prompt)
    assert run.status == "success", run.error
    assert len(run.outputs["shown"]["images"]) == 1
