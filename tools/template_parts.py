"""Parts of the templates: released weights, notes, and the nodes that most of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynamicrafter.weights.catalogue import find

from .graphs import Graph, Node, Output

SAMPLE = "red_circle"
"""An image of the pack that is suitable for the built-in model."""
PROMPT = "a red circle moves right"
OWN_PICTURE = "Your own image"
FPS = 8.0
TINY_PERSON = "tiny_person (built in)"

# --- released weights ---


def offer(name: str, directory: str = "checkpoints") -> dict[str, str]:
    """The metadata with which the editor offers the download of a released file."""
    release = find(name)
    return {"name": release.saved_as, "url": release.url, "directory": directory}


def linked(name: str, directory: str = "checkpoints") -> str:
    """A line of a note about a released file: link, size, folder, and the variant that its weights do not tell."""
    release = find(name)
    told = f"; `variant` {release.variant}" if release.variant else ""
    return f"- [{release.saved_as}]({release.url}) ({release.size_gb:.1f} GB) in `models/{directory}`{told}"


@dataclass(frozen=True)
class CoreModel:
    """A file that core nodes of a template load; the package has no use for it."""

    repository: str
    """``owner/name`` on Hugging Face."""
    directory: str
    """Its folder in ``models``, and there unless ``at_root``."""
    name: str
    size_gb: float
    """Size in units of 1e9 bytes."""
    at_root: bool = False
    """Whether it is at the root of its repository, and in its folder only in ``models``."""

    @property
    def offer(self) -> dict[str, str]:
        """The metadata with which the editor offers its download."""
        path = self.name if self.at_root else f"{self.directory}/{self.name}"
        url = f"https://huggingface.co/{self.repository}/resolve/main/{path}"
        return {"name": self.name, "url": url, "directory": self.directory}

    @property
    def linked(self) -> str:
        """A line of a note about it: link, size and folder."""
        size = f"{self.size_gb:.1f} GB" if self.size_gb >= 0.1 else f"{1000 * self.size_gb:.0f} MB"
        return f"- [{self.name}]({self.offer['url']}) ({size}) in `models/{self.directory}`"


SDPOSE = CoreModel("Comfy-Org/SDPose", "checkpoints", "sdpose_wholebody_fp16.safetensors", 1.92)
"""Finds the poses of a person; the file of core's own subgraphs."""
QWEN = CoreModel("Comfy-Org/Qwen3.5", "text_encoders", "qwen3.5_2b_bf16.safetensors", 4.55)
"""The smallest language model that core's own subgraphs use; it sees images."""
FILM = CoreModel("Comfy-Org/frame_interpolation", "frame_interpolation", "film_net_fp16.safetensors", 0.069)
"""Interpolates frames. Size: the 34.4 million values of core's network in float16."""
REAL_ESRGAN = CoreModel(
    "Comfy-Org/Real-ESRGAN_repackaged", "upscale_models", "RealESRGAN_x4plus.safetensors", 0.067, at_root=True
)
"""Upscales images four times. Size: the 16.7 million values of its network in float32."""
DEPTH_ANYTHING = CoreModel(
    "Comfy-Org/Depth-Anything-3", "geometry_estimation", "depth_anything_3_mono_large.safetensors", 1.34
)
"""Finds the distances of an image. Size: the 334 million values of core's network in float32."""
CORE_MODELS = (SDPOSE, QWEN, FILM, REAL_ESRGAN, DEPTH_ANYTHING)
"""Files of core's own subgraphs."""
CANNY_CONTROL = CoreModel(
    "thibaud/controlnet-sd21", "controlnet", "control_v11p_sd21_canny.safetensors", 0.728, at_root=True
)
"""Follows edges. Size: that of the repository's Git LFS pointer."""
SKETCH_ENCODER = CoreModel("Doubiiu/ToonCrafter", "controlnet", "sketch_encoder.ckpt", 1.46, at_root=True)
"""Follows drawings. Address and size: those of its authors' pages."""
CONTROL_MODELS = (CANNY_CONTROL, SKETCH_ENCODER)
"""ControlNets for released models; core's own subgraphs have none of Stable Diffusion 2.1."""


def own_images_note(graph: Graph, node: str, *names: str) -> None:
    """The note of a workflow with the built-in model: how to go on to a released one."""
    files = "\n".join([*(linked(name) for name in names), linked("towers", "text_encoders")])
    graph.note(
        OWN_IMAGES,
        f"""\
The built-in model needs no download, but knows only coloured circles, squares, triangles and crosses of 64x64 pixels.

1. Press **Download a model** on **{node}**. The downloaded model is selected as `checkpoint`.
2. Select your image in **{OWN_PICTURE}**, and connect it instead of **DynamiCrafter Sample Picture**.

To download in the browser instead, put these files where they belong and press R:

{files}
""",
    )


def own_people_note(graph: Graph, node: str) -> None:
    """The note of a workflow with the built-in model of persons: how to go on to AnimateAnyone."""
    graph.note(
        OWN_IMAGES,
        f"""\
The built-in model needs no download, but knows only cartoon characters such as this one, at 128x192 pixels.

1. Run `dynamicrafter download animate_anyone` (10 GB), and put the files into a folder of their own in \
`models/checkpoints`. Press R, and select the folder as `checkpoint` of **{node}**.
2. Select your image in **{OWN_PICTURE}**, and connect that node instead of **DynamiCrafter Sample Picture**.
""",
    )


def released_note(graph: Graph, name: str) -> None:
    """The note of a workflow that starts with a released model: its files, and where they go."""
    graph.note(
        OWN_IMAGES,
        f"""\
This workflow needs two files, which do not ship with the pack. Press **Download** on the node with the `checkpoint`, \
or download them in the browser and press R:

{linked(name)}
{linked("towers", "text_encoders")}

The second file contains both CLIP encoders of every model; it is needed once. **Load CLIP** takes the text encoder \
from it, and the node with the `checkpoint` the image encoder.

Then select your image in **{OWN_PICTURE}**, and connect that node instead of **DynamiCrafter Sample Picture**.
""",
    )


# --- notes ---

WHAT = "What to change"
OWN_IMAGES = "Your own images"
MORE = "Motion, size, memory"
DIALS = """\
**Motion.** Too little: increase `motion` (0 still, 1 lively), or describe the movement in the prompt. Too much: \
decrease it. -1 is the model's default.

**Size.** Width and height 0 use the model's training size, swapped for portrait images. Other sizes must be \
multiples of 64. The models were trained on 16 frames; other lengths move less.

**Steps and scales.** `steps` 0, `cfg` -1 and `eta` -1 use the model's recommended values. With released models, 25 \
steps are good and 10 are enough for a draft.

**Memory.** ComfyUI streams what does not fit on the GPU. If memory runs out, try a smaller size, then fewer frames, \
then start ComfyUI with `--novram`. fp8 as `weight_dtype` halves the size of the weights.
"""
POSES = "Your own poses"
POSES_TEXT = """\
**From a video.** Load it with core **Load Video**, connect **Get Video Components** to core **SDPose Keypoint \
Extractor**, and its keypoints instead of **DynamiCrafter Sample Poses**.

**Drawn poses.** Images of OpenPose skeletons can be connected as they are.

**Another build.** A skeleton of other proportions changes the character's; **DynamiCrafter Pose Alignment** gives it \
the size and place of the character.
"""
SAVE = "The clip is saved to `DynamiCrafter` in ComfyUI's output folder."


# --- parts that templates share ---


def picture(graph: Graph, name: str = SAMPLE, title: str = "") -> Output:
    """An image that ships with the pack."""
    return graph.add("DynamiCrafterSamplePicture", title=title, picture=name)["image"]


def sample_poses(graph: Graph, name: str = "walking", title: str = "", column: int = 0) -> Output:
    """Poses that ship with the pack."""
    return graph.add("DynamiCrafterSamplePoses", title=title, poses=name, column=column)["poses"]


def own_picture(graph: Graph, title: str = OWN_PICTURE, column: int = 0) -> Node:
    """A spare Load Image for the user's own image; it names no file, because none is certain to exist."""
    return graph.add("LoadImage", title=title, image="", column=column, spare=True)


def load(graph: Graph, checkpoint: str) -> Node:
    """Our loader."""
    return graph.add("DynamiCrafterCheckpointLoader", checkpoint=checkpoint, column=1)


def load_released(graph: Graph, name: str, column: int = 1, width: int | None = None) -> tuple[Node, Node]:
    """Our loader with a released file, and core's loader of its text encoder."""
    release = find(name)
    loader = graph.add(
        "DynamiCrafterCheckpointLoader",
        checkpoint=release.saved_as,
        variant=release.variant,
        models=[offer(name)],
        column=column,
        width=width,
    )
    return loader, load_encoder(graph, column, width)


def load_encoder(graph: Graph, column: int = 1, width: int | None = None) -> Node:
    """Core's loader of the text encoder; its value is the file that the editor offers to download."""
    return graph.add(
        "CLIPLoader",
        clip_name=find("towers").saved_as,
        type="stable_diffusion",
        models=[offer("towers", "text_encoders")],
        column=column,
        width=width,
    )


def load_control(graph: Graph, model: CoreModel, column: int, width: int | None = None) -> Output:
    """Core's loader of a ControlNet."""
    loader = graph.add(
        "ControlNetLoader", control_net_name=model.name, models=[model.offer], column=column, width=width
    )
    return loader["CONTROL_NET"]


def condition(graph: Graph, loader: Node, kind: str = "ImageConditioning", **values: Any) -> Node:
    """One of our conditioning nodes with the networks of a loader."""
    encoders = {"clip": loader["clip"], "clip_vision": loader["clip_vision"]}
    values = {"prompt": PROMPT, **encoders, **values}
    return graph.add(f"DynamiCrafter{kind}", model=loader["model"], vae=loader["vae"], **values)


def sample(
    graph: Graph, loader: Node, conditioning: Node, control: Node | None = None, **values: Any
) -> Node:
    """Our sampler, connected to a conditioning node, whose prompts may come by way of core's Apply ControlNet."""
    prompts = control or conditioning
    return graph.add(
        "DynamiCrafterSampler",
        model=loader["model"],
        positive=prompts["positive"],
        negative=prompts["negative"],
        latent=conditioning["latent"],
        **values,
    )


def apply_control(
    graph: Graph, conditioning: Node, net: Output, hints: Output, strength: float, **values: Any
) -> Node:
    """Core's Apply ControlNet, connected to a conditioning node."""
    return graph.add(
        "ControlNetApplyAdvanced",
        positive=conditioning["positive"],
        negative=conditioning["negative"],
        control_net=net,
        image=hints,
        strength=strength,
        **values,
    )


def save(graph: Graph, images: Output, name: str, width: int | None = None, fps: float = FPS) -> None:
    """Frames to a clip in the output folder."""
    video = graph.add("CreateVideo", images=images, fps=fps, width=width)
    save_video(graph, video["VIDEO"], name, width=width)


def save_video(graph: Graph, video: Output, name: str, **place: int | None) -> None:
    """A clip in the output folder."""
    prefix = f"DynamiCrafter/{name}"
    graph.add("SaveVideo", video=video, filename_prefix=prefix, format="auto", codec="auto", **place)


def decode(graph: Graph, loader: Node, latent: Output, name: str, **place: int | None) -> None:
    """Latents to a clip in the output folder, by our decode node."""
    frames = graph.add("DynamiCrafterVAEDecode", vae=loader["vae"], latent=latent, **place)
    save_video(graph, frames["video"], name, **place)
