"""Graphs of the pack's nodes as API prompts, with the built-in small model, and what their outputs hold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfyui_client import Client, Run
    from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
BUILT_IN = "random (built in)"
PICTURE = "harbour.png"
"""A picture of the repository, as the client uploads it."""
OTHER_PICTURE = "hill_day.png"
CLIP_RATE = 25
"""Frames per second of a person's own clip."""
NEWER = {"DA3Inference", "FrameInterpolate", "SDPoseKeypointExtractor", "TextGenerate", "Video Slice"}
"""Core nodes of templates that not every host has which the pack runs in."""

Prompt = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def upload_pictures(client: Client) -> None:
    """Both pictures into the server's input folder."""
    for name in (PICTURE, OTHER_PICTURE):
        client.upload_image(REPOSITORY / "pictures" / name)


def conditioned(kind: str = "DynamiCrafterImageConditioning", **choices: Any) -> Prompt:
    """Loader and conditioning, with the ids ``loader``, ``image`` and ``cond``; four frames unless said otherwise."""
    pictures: dict[str, Any] = {"image": ["image", 0]}
    if kind == "DynamiCrafterInterpolation":
        pictures = {"first_image": ["image", 0], "last_image": ["other", 0]}
    inputs: dict[str, Any] = {
        "model": ["loader", 0],
        "clip": ["loader", 1],
        "clip_vision": ["loader", 2],
        "vae": ["loader", 3],
        "prompt": "a boat",
        "negative_prompt": "",
        "frames": 4,
        "motion": -1.0,
        "width": 0,
        "height": 0,
        "fit": "crop",
        **pictures,
        **choices,
    }
    prompt = {
        "loader": node(
            "DynamiCrafterCheckpointLoader", checkpoint=BUILT_IN, variant="auto", weight_dtype="auto"
        ),
        "image": node("LoadImage", image=PICTURE),
        "cond": node(kind, **{name: value for name, value in inputs.items() if value is not None}),
    }
    if kind == "DynamiCrafterInterpolation":
        prompt["other"] = node("LoadImage", image=OTHER_PICTURE)
    return prompt


def sampled(prompt: Prompt, **choices: Any) -> Prompt:
    """``prompt`` of :func:`conditioned` and our sampler ``sampler``: two steps with guidance."""
    inputs: dict[str, Any] = {
        "model": ["loader", 0],
        "positive": ["cond", 0],
        "negative": ["cond", 1],
        "latent": ["cond", 3],
        "seed": 1,
        "steps": 2,
        "cfg": 2.0,
        "eta": 1.0,
        **choices,
    }
    return {**prompt, "sampler": node("DynamiCrafterSampler", **inputs)}


def with_ksampler(prompt: Prompt, **choices: Any) -> Prompt:
    """``prompt`` of :func:`conditioned` and core's KSampler as ``sampler``."""
    inputs: dict[str, Any] = {
        "model": ["loader", 0],
        "positive": ["cond", 0],
        "negative": ["cond", 1],
        "latent_image": ["cond", 3],
        "seed": 1,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        **choices,
    }
    return {**prompt, "sampler": node("KSampler", **inputs)}


def decoded(prompt: Prompt) -> Prompt:
    """``prompt`` with our decode of ``sampler`` as ``decode``, written as a video by ``save``."""
    return {
        **prompt,
        "decode": node("DynamiCrafterVAEDecode", vae=["loader", 3], latent=["sampler", 0]),
        **saved_video(["decode", 0]),
    }


def saved_video(images: list[Any], fps: float = 8.0) -> Prompt:
    """Frames into a video file, by ``video`` and ``save``."""
    return {
        "video": node("CreateVideo", images=images, fps=fps),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="clip", format="auto", codec="auto"),
    }


def saved_latent(prompt: Prompt) -> Prompt:
    """``prompt`` with the latents of ``sampler`` written by core's Save Latent."""
    return {**prompt, "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/of")}


def animate(**choices: Any) -> Prompt:
    """The one-node start as ``animate``, two steps and four frames, written as a video by ``save``."""
    inputs: dict[str, Any] = {
        "image": ["image", 0],
        "prompt": "a boat",
        "checkpoint": BUILT_IN,
        "motion": -1.0,
        "seed": 1,
        "loop": False,
        "steps": 2,
        "cfg": 2.0,
        "frames": 4,
        **choices,
    }
    return {
        "image": node("LoadImage", image=PICTURE),
        "animate": node("DynamiCrafterAnimate", **inputs),
        "save": node("SaveVideo", video=["animate", 0], filename_prefix="clip", format="auto", codec="auto"),
    }


def latents_of(client: Client, run: Run) -> Tensor:
    """What core's Save Latent wrote in a run."""
    from safetensors.torch import load

    assert run.status == "success", run.error
    (file,) = run.files()
    return load(client.view(file))["latent_tensor"]


def video_of(client: Client, run: Run) -> tuple[list[tuple[int, int]], float]:
    """Size of each frame of the one video a run wrote, and its frames per second."""
    import av

    assert run.status == "success", run.error
    (file,) = (file for file in run.files() if file["filename"].endswith(".mp4"))
    with av.open(io.BytesIO(client.view(file))) as video:
        sizes = [(frame.width, frame.height) for frame in video.decode(video=0)]
        rate = video.streams.video[0].average_rate
        assert rate is not None
        return sizes, float(rate)


def write_clip(path: Path) -> Path:
    """A clip of a second with a tone, shorter than what a template takes of one; grey, as nobody looks for a person."""
    import av
    import numpy as np

    with av.open(path, "w") as file:
        video, audio = file.add_stream("h264", rate=CLIP_RATE), file.add_stream("aac", rate=44100)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for _ in range(CLIP_RATE):
            grey = np.full((48, 64, 3), 128, np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        tone = 0.5 * np.sin(np.arange(44100, dtype=np.float32)[None] * 2 * np.pi * 440 / 44100)
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packets in (audio.encode(frame), video.encode(None), audio.encode(None)):
            file.mux(packets)
    return path
