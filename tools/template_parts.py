"""Parts of the templates: released weights, notes, and the nodes that most of them share."""

from __future__ import annotations

from typing import Any

from dynamicrafter.weights.catalogue import Release, find

from .graphs import Graph, Node, Output

SAMPLE = "red_circle"
"""An image of the pack that is suitable for the built-in model."""
PROMPT = "a red circle moves right"
OWN_PICTURE = "Your own image"
FPS = 8.0

# --- released weights ---

SAVED_AS = {
    "256": "dynamicrafter_256.ckpt",
    "512_full": "dynamicrafter_512.ckpt",
}
"""Names for files whose original name, model.ckpt, is not descriptive."""


def saved_as(release: Release) -> str:
    """The name under which a released file is expected."""
    return SAVED_AS.get(release.name, release.filename)


def offer(name: str, directory: str = "checkpoints") -> dict[str, str]:
    """The metadata with which the editor offers the download of a released file."""
    release = find(name)
    return {"name": saved_as(release), "url": release.url, "directory": directory}


def linked(name: str, directory: str = "checkpoints") -> str:
    """A line of a note about a released file: link, size, folder, and the variant if its weights are ambiguous."""
    release = find(name)
    rename = "" if saved_as(release) == release.filename else f", saved as `{saved_as(release)}`"
    told = f"; `variant` {release.variant}" if release.variant in ("512_v1", "512_interp_v1") else ""
    return (
        f"- [{release.filename}]({release.url}) ({release.size_gb} GB) in `models/{directory}`{rename}{told}"
    )


def weights_note(*names: str) -> str:
    """The part of a note with the links to released weights."""
    files = "\n".join(linked(name) for name in names)
    return (
        "**The built-in model.** The workflow starts with a small model that ships with the pack, so it runs without "
        "downloads. The model knows circles, squares, triangles and crosses in eight colours, at 64x64 pixels; "
        "anything else becomes a blur. It also knows *moves left*, *moves up*, *moves down*, *becomes blue* and "
        "*stands still*.\n\n"
        f"**Your own image.** Select it in **{OWN_PICTURE}**, connect that node instead of "
        "**DynamiCrafter Sample Picture**, download one of the files below into the folder given, press R, and "
        f"select it as `checkpoint`. Steps and scales then follow that model's defaults.\n\n{files}\n"
    )


# --- notes ---

WHAT = "What to change"
MORE = "Motion, size, memory"
DIALS = """\
**Motion.** Too little: increase `motion` (0 still, 1 lively), or describe the movement in the prompt. Too much: \
decrease it. -1 is the model's default.

**Size.** Width and height 0 use the model's training size, swapped for portrait images. Other sizes must be \
multiples of 64; far from the training size the image falls apart.

**Steps and scales.** `steps` 0, `cfg` -1 and `eta` -1 use the model's recommended values. Fewer steps are faster: \
with released models, 25 is good and 10 is enough for a draft.

**Length.** The models were trained on 16 frames. Fewer or more frames work, with less motion.

**Memory.** ComfyUI keeps what fits on the GPU and streams the rest. If memory runs out, try a smaller size, then \
fewer frames, then start ComfyUI with `--novram`. fp8 as `weight_dtype` halves the size of the weights.
"""
SAVE = "The clip is saved to `DynamiCrafter` in ComfyUI's output folder."


# --- parts that templates share ---


def picture(graph: Graph, name: str = SAMPLE, title: str = "") -> Output:
    """An image that ships with the pack."""
    return graph.add("DynamiCrafterSamplePicture", title=title, picture=name)["image"]


def own_picture(graph: Graph, title: str = OWN_PICTURE) -> None:
    """An unconnected Load Image for the user's own image; it names no file, because none is certain to exist."""
    graph.add("LoadImage", title=title, image="", column=0, spare=True)


def load(graph: Graph, checkpoint: str, *models: str, **values: Any) -> Node:
    """Our loader; ``models`` are released files that the editor offers to download when their name is selected."""
    offers = [offer(name) for name in models]
    return graph.add("DynamiCrafterCheckpointLoader", checkpoint=checkpoint, models=offers, **values)


def condition(graph: Graph, loader: Node, kind: str = "ImageConditioning", **values: Any) -> Node:
    """One of our conditioning nodes with the networks of a loader."""
    towers = {"clip": loader["clip"], "clip_vision": loader["clip_vision"]}
    values = {"prompt": PROMPT, **towers, **values}
    return graph.add(f"DynamiCrafter{kind}", model=loader["model"], vae=loader["vae"], **values)


def sample(graph: Graph, loader: Node, conditioning: Node, **values: Any) -> Node:
    """Our sampler, connected to a conditioning node."""
    return graph.add(
        "DynamiCrafterSampler",
        model=loader["model"],
        positive=conditioning["positive"],
        negative=conditioning["negative"],
        latent=conditioning["latent"],
        **values,
    )


def save(graph: Graph, images: Output, name: str) -> None:
    """Frames to a clip in the output folder."""
    video = graph.add("CreateVideo", images=images, fps=FPS)
    save_video(graph, video["VIDEO"], name)


def save_video(graph: Graph, video: Output, name: str) -> None:
    """A clip in the output folder."""
    prefix = f"DynamiCrafter/{name}"
    graph.add("SaveVideo", video=video, filename_prefix=prefix, format="auto", codec="auto")


def decode(graph: Graph, loader: Node, latent: Output, name: str) -> None:
    """Latents to a clip in the output folder, by our decode node."""
    frames = graph.add("DynamiCrafterVAEDecode", vae=loader["vae"], latent=latent)
    save(graph, frames["images"], name)
