"""What templates are made of: released weights, notes, and the nodes that most of them share."""

from __future__ import annotations

from typing import Any

from dynamicrafter.weights.catalogue import Release, find

from .graphs import Graph, Node, Output

SAMPLE = "red_circle"
"""A picture of the pack that the built-in model knows the like of."""
PROMPT = "a red circle moves right"
OWN_PICTURE = "Your own picture"
FPS = 8.0

# --- released weights ---

SAVED_AS = {
    "256": "dynamicrafter_256.ckpt",
    "512_full": "dynamicrafter_512.ckpt",
}
"""Names for files whose own name, model.ckpt, says nothing."""


def saved_as(release: Release) -> str:
    """The name a released file is expected under."""
    return SAVED_AS.get(release.name, release.filename)


def offer(name: str, directory: str = "checkpoints") -> dict[str, str]:
    """What the editor needs to offer the download of a released file."""
    release = find(name)
    return {"name": saved_as(release), "url": release.url, "directory": directory}


def linked(name: str, directory: str = "checkpoints") -> str:
    """A line of a note about a released file: link, size, folder, and what it is where its weights do not tell."""
    release = find(name)
    rename = "" if saved_as(release) == release.filename else f", saved as `{saved_as(release)}`"
    told = f"; `variant` {release.variant}" if release.variant in ("512_v1", "512_interp_v1") else ""
    return (
        f"- [{release.filename}]({release.url}) ({release.size_gb} GB) in `models/{directory}`{rename}{told}"
    )


def weights_note(*names: str) -> str:
    """The part of a note that says where real weights are."""
    files = "\n".join(linked(name) for name in names)
    return (
        "**This model.** The graph opens with a small model that comes with the pack, so that it runs at once. It "
        "knows circles, squares, triangles and crosses of eight colours, at 64x64 pixels, and makes a blur of all "
        "else. Other words it knows: *moves left*, *moves up*, *moves down*, *becomes blue*, *stands still*.\n\n"
        f"**Your own picture.** Choose it in **{OWN_PICTURE}**, connect that node in place of "
        "**DynamiCrafter Sample Picture**, put a released file in place, press R, and choose it as `checkpoint`. "
        f"Steps and scales are then that model's own.\n\n{files}\n"
    )


# --- notes ---

WHAT = "What to change"
MORE = "Motion, size, memory"
DIALS = """\
**Motion.** Too little: raise `motion` (0 still, 1 lively), or say in the prompt what moves. Too much: lower it. \
-1 is the model's own default.

**Size.** Width and height 0 take the size the model was trained for, turned upright for an upright picture. \
Other sizes must be multiples of 64; far from the trained size the picture falls apart.

**Steps and scales.** `steps` 0, `cfg` -1, `eta` -1: the model's own values, with which it gives its best \
results. Fewer steps are quicker: with released models 25 is good and 10 a sketch.

**Length.** 16 frames is what the models were trained on. Fewer or more work, but move less well.

**Memory.** ComfyUI keeps on the graphics card what fits and streams the rest. If memory still runs out: \
a smaller size, then fewer frames, then `--novram` when starting ComfyUI; `weight_dtype` fp8 halves the weights.
"""
SAVE = "The clip is saved in ComfyUI's output folder, below `DynamiCrafter`."


# --- parts that templates share ---


def picture(graph: Graph, name: str = SAMPLE, title: str = "") -> Output:
    """A picture that comes with the pack."""
    return graph.add("DynamiCrafterSamplePicture", title=title, picture=name)["image"]


def own_picture(graph: Graph, title: str = OWN_PICTURE) -> None:
    """A Load Image that lies ready, for a picture of the artist's own; it names no file, since none is sure to be."""
    graph.add("LoadImage", title=title, image="", column=0, spare=True)


def load(graph: Graph, checkpoint: str, *models: str, **values: Any) -> Node:
    """Our loader; ``models`` are released files that the editor offers when their name is chosen."""
    offers = [offer(name) for name in models]
    return graph.add("DynamiCrafterCheckpointLoader", checkpoint=checkpoint, models=offers, **values)


def condition(graph: Graph, loader: Node, kind: str = "ImageConditioning", **values: Any) -> Node:
    """One of our conditioning nodes with the networks of a loader."""
    towers = {"clip": loader["clip"], "clip_vision": loader["clip_vision"]}
    values = {"prompt": PROMPT, **towers, **values}
    return graph.add(f"DynamiCrafter{kind}", model=loader["model"], vae=loader["vae"], **values)


def sample(graph: Graph, loader: Node, conditioning: Node, **values: Any) -> Node:
    """Our sampler on what a conditioning node gives."""
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
