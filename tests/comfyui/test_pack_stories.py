"""Clip Figures on a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pack_graphs import REPOSITORY, Prompt, node

if TYPE_CHECKING:
    from comfyui_client import Client, Run
    from torch import Tensor


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
