"""The templates: one function for each, with the name of its files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamicrafter.weights.catalogue import find

from .graphs import Graph
from .template_parts import (
    DIALS,
    MORE,
    PROMPT,
    SAVE,
    WHAT,
    condition,
    decode,
    linked,
    load,
    offer,
    own_picture,
    picture,
    sample,
    save,
    save_video,
    saved_as,
    weights_note,
)

REAL_PICTURE = "example.png"
"""Ships with ComfyUI, in its input folder; only for graphs that start with a released model."""
REAL_PROMPT = "a girl in a pink dress moves right"
STORY = ("a red circle moves right", "a red circle moves up", "a red circle moves left")


def animate_one_node(built_in: str) -> Graph:
    """An image and a prompt in, a clip out."""
    graph = Graph()
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=picture(graph),
        prompt=PROMPT,
        checkpoint=built_in,
        models=[offer("1024_bf16"), offer("512_interp_bf16")],
    )
    own_picture(graph)
    save_video(graph, clip["video"], "clip")
    graph.add("PreviewImage", title="Last frame, to continue from", images=clip["last_frame"])
    graph.note(
        WHAT,
        f"""\
## From an image to a clip

1. Press **Run**: the red circle moves to the right. {SAVE}
2. Change the **prompt**: *a red circle moves up*, *a red circle becomes blue*.
3. Select another **picture**, and name its shape in the prompt.

Connect a second image to `last_image` to interpolate between two images, or enable `loop` for a seamless loop. \
Of the released models, interpolation models support both.

{weights_note("1024_bf16", "512_interp_bf16")}
The first animates images at 1024x576; the second is for interpolation and loops at 512x320.
""",
    )
    graph.note(MORE, DIALS)
    return graph


def image_to_video(
    built_in: str, size: str, sample_picture: str, prompt: str, releases: tuple[str, ...], remark: str
) -> Graph:
    """Image-to-video with separate nodes, for the model of one size."""
    graph = Graph()
    loader = load(graph, built_in, *releases)
    conditioning = condition(graph, loader, image=picture(graph, sample_picture), prompt=prompt)
    own_picture(graph)
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], f"clip_{size}")
    graph.note(
        WHAT,
        f"""\
## Image to video, {size} model

1. Press **Run**: {prompt}. {SAVE}
2. Change the **prompt**, or select another **picture**.

A different `seed` gives a different clip; only sampling and decoding run again.

{weights_note(*releases)}
{remark}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def image_to_video_256(built_in: str) -> Graph:
    """Image-to-video with the first, smallest model."""
    remark = (
        "It generates 256x256 pixels and is the fastest. For this model, `fs` is a frame stride, so higher is "
        "livelier; `motion` takes this into account. Clips may show a stock-footage watermark, which the model "
        "learned from its training clips."
    )
    return image_to_video(built_in, "256", "blue_square", "a blue square moves up", ("256",), remark)


def image_to_video_512(built_in: str) -> Graph:
    """Image-to-video with the 512 model."""
    remark = (
        "It generates 512x320 pixels. The template *pruned_checkpoint_with_core_loaders* uses a file a third of "
        "that size, which needs the encoders as a separate file."
    )
    return image_to_video(
        built_in, "512", "green_triangle", "a green triangle moves left", ("512_full",), remark
    )


def image_to_video_1024(built_in: str) -> Graph:
    """Image-to-video with the largest model."""
    remark = (
        "It generates 1024x576 pixels with the highest quality, and needs the most memory. Use 10 steps for a first "
        "draft."
    )
    return image_to_video(
        built_in, "1024", "yellow_cross", "a yellow cross moves down", ("1024_bf16",), remark
    )


def pruned_checkpoint_with_core_loaders(built_in: str) -> Graph:
    """A checkpoint without encoders, with ComfyUI's own loaders for them."""
    graph = Graph()
    pruned, towers = find("512"), find("towers")
    loader = load(graph, saved_as(pruned), "512", variant="512_v1")
    text = graph.add(
        "CLIPLoader",
        clip_name=towers.filename,
        type="stable_diffusion",
        models=[offer("towers", "text_encoders")],
    )
    vision = graph.add("CLIPVisionLoader", clip_name=towers.filename, models=[offer("towers", "clip_vision")])
    conditioning = condition(
        graph,
        loader,
        clip=text["CLIP"],
        clip_vision=vision["CLIP_VISION"],
        image=graph.add("LoadImage", image=REAL_PICTURE)["IMAGE"],
        prompt=REAL_PROMPT,
    )
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "clip_pruned")
    graph.note(
        WHAT,
        f"""\
## A pruned checkpoint and ComfyUI's own loaders

Pruned files do not contain the two CLIP encoders. Load them with **Load CLIP** (type `stable_diffusion`) and \
**Load CLIP Vision**. This workflow needs files that do not ship with the pack:

{linked("512")}
{linked("towers", "text_encoders")}
- a copy of the same file in `models/clip_vision`

The last file contains both encoders, and each loader uses one of them. Separate files of the SD 2.1 text encoder \
and of CLIP-ViT-H-14 also work. SD 1.5 and SDXL encoders do not: the model needs a text encoder of width 1024.

`variant` is `512_v1` because the weights do not distinguish the 512 model from the interpolation model. \
For an interpolation file, select `512_interp_v1` and use the interpolation or looping node.
""",
    )
    graph.note(MORE, DIALS)
    return graph


def interpolation(built_in: str) -> Graph:
    """Interpolation between two images."""
    graph = Graph()
    loader = load(graph, built_in, "512_interp_bf16")
    conditioning = condition(
        graph,
        loader,
        "Interpolation",
        first_image=picture(graph, "red_circle_left", "First image"),
        last_image=picture(graph, "red_circle_right", "Last image"),
    )
    own_picture(graph, "Your own first image")
    own_picture(graph, "Your own last image")
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "between")
    graph.note(
        WHAT,
        f"""\
## From one image to another

1. Press **Run**: the circle moves from its position in the **first image** to that in the **last image**. {SAVE}
2. Swap the two images, and change the prompt to *a red circle moves left*.

**prompt** describes what happens in between. Both images should show the same place or subject: the model was trained \
on the two ends of a single shot. `fit` controls how a last image with a different aspect ratio is resized.

{weights_note("512_interp_bf16")}
For two images of your own, connect both Load Image nodes.
""",
    )
    graph.note(MORE, DIALS)
    return graph


def loop(built_in: str) -> Graph:
    """A seamless loop."""
    graph = Graph()
    loader = load(graph, built_in, "512_interp_bf16")
    conditioning = condition(
        graph,
        loader,
        "Looping",
        image=picture(graph, "blue_square"),
        prompt="a blue square moves up",
    )
    own_picture(graph)
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "loop")
    graph.note(
        WHAT,
        f"""\
## A seamless loop

1. Press **Run**: the square moves up and comes back. {SAVE} Right-click the player and select *Loop* to repeat it.
2. Change the **prompt**, or select another **picture**.

The clip has one frame fewer than `frames`: the last frame repeats the first and is dropped.

{weights_note("512_interp_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def core_ksampler(built_in: str) -> Graph:
    """The model with ComfyUI's own sampler and VAE decode."""
    graph = Graph()
    loader = load(graph, built_in, "1024_bf16")
    preset = graph.add("DynamiCrafterPreset", model=loader["model"])
    rescaled = graph.add("RescaleCFG", model=loader["model"], multiplier=preset["guidance_rescale"])
    conditioning = condition(graph, loader, image=picture(graph))
    own_picture(graph)
    sampled = graph.add(
        "KSampler",
        model=rescaled["MODEL"],
        positive=conditioning["positive"],
        negative=conditioning["negative"],
        latent_image=conditioning["latent"],
        seed=123,
        steps=preset["steps"],
        cfg=preset["cfg"],
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    frames = graph.add("VAEDecode", samples=sampled["LATENT"], vae=loader["vae"])
    save(graph, frames["IMAGE"], "clip_ksampler")
    graph.note(
        WHAT,
        f"""\
## ComfyUI's own sampler

The loader's MODEL is a regular one: core samplers, LoRA (SD 2.1), Torch Compile and previews work with it.

- **DynamiCrafter Preset** sets `steps` and `cfg` of KSampler to the model's defaults. To set a value yourself, \
disconnect its link and enter the value.
- `euler` with `simple` is equivalent to DynamiCrafter Sampler with `eta` 0, except for the last step. Samplers that \
add noise (`euler_ancestral`, `dpmpp_2m_sde`) give more motion; `dpmpp_2m` needs fewer steps.
- For the 256 model, use the scheduler `ddim_uniform`.
- **RescaleCFG** reduces over-exposure and oversaturation.
- With the looping node, the last frame repeats the first. Core VAE Decode keeps it; DynamiCrafter VAE Decode drops it.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def dual_cfg(built_in: str) -> Graph:
    """Separate guidance scales for prompt and image, with core nodes."""
    graph = Graph()
    loader = load(graph, built_in, "1024_bf16")
    conditioning = condition(
        graph, loader, image=picture(graph, "green_triangle"), prompt="a green triangle moves left"
    )
    own_picture(graph)
    preset = graph.add("DynamiCrafterPreset", model=loader["model"])
    noise = graph.add("RandomNoise", noise_seed=123, column=2)
    guider = graph.add(
        "DualCFGGuider",
        model=loader["model"],
        cond1=conditioning["positive"],
        cond2=conditioning["image_only"],
        negative=conditioning["negative"],
        cfg_conds=preset["cfg"],
        cfg_cond2_negative=preset["cfg"],
        style="regular",
    )
    sampler = graph.add("KSamplerSelect", sampler_name="euler", column=2)
    levels = graph.add(
        "BasicScheduler",
        model=loader["model"],
        scheduler="simple",
        steps=preset["steps"],
        denoise=1.0,
        column=2,
    )
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=noise["NOISE"],
        guider=guider["GUIDER"],
        sampler=sampler["SAMPLER"],
        sigmas=levels["SIGMAS"],
        latent_image=conditioning["latent"],
    )
    decode(graph, loader, sampled["output"], "clip_dual_cfg")
    graph.note(
        WHAT,
        f"""\
## Separate guidance scales for prompt and image

- `cfg_conds`: guidance scale for the **prompt**.
- `cfg_cond2_negative`: guidance scale for the **image**.

Both default to the model's scale, from **DynamiCrafter Preset**. To change one, disconnect its link from the guider \
and enter a value. Equal scales are standard guidance. A higher image scale keeps the clip closer to the image, a \
higher prompt scale follows the text more closely. Every step takes three evaluations, 1.5 times as long as with one \
scale.

The template *two_scale_guidance* does the same with DynamiCrafter Sampler, with the contrast correction of the \
original.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def two_scale_guidance(built_in: str) -> Graph:
    """Separate guidance scales for prompt and image, with our sampler."""
    graph = Graph()
    loader = load(graph, built_in, "1024_bf16")
    conditioning = condition(
        graph, loader, image=picture(graph, "yellow_cross"), prompt="a yellow cross moves down"
    )
    own_picture(graph)
    sampled = sample(graph, loader, conditioning, image_only=conditioning["image_only"])
    decode(graph, loader, sampled["latent"], "clip_two_scales")
    graph.note(
        WHAT,
        f"""\
## Separate guidance scales with DynamiCrafter Sampler

With `image_only` connected, `cfg` is the guidance scale for the prompt and `image_cfg` the one for the image. -1 \
selects the model's default for `cfg`, and the value of `cfg` for `image_cfg`; equal values are standard guidance.

- The clip departs from the image: increase `image_cfg`.
- The prompt is not followed: increase `cfg`.
- Colours are oversaturated: decrease both, or increase `guidance_rescale`.

Every step takes three evaluations, 1.5 times as long as with one scale.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def batch_of_pictures(built_in: str) -> Graph:
    """Several images, one clip each."""
    graph = Graph()
    loader = load(graph, built_in, "1024_bf16")
    one = picture(graph, "red_circle_left", "Image 1")
    other = picture(graph, "red_circle", "Image 2")
    own_picture(graph)
    pair: dict[str, Any] = {"images.image0": one, "images.image1": other}
    both = graph.add("BatchImagesNode", **pair)
    pictures = graph.add("RebatchImages", images=both["IMAGE"], batch_size=1)
    conditioning = condition(graph, loader, image=pictures["IMAGE"])
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "clip_of_many")
    graph.note(
        WHAT,
        f"""\
## One clip per image

**Rebatch Images** with size 1 converts a batch into a list, and every node after it runs once for each image. {SAVE}

- To add images, connect more nodes to **Batch Images**, which adds inputs as needed. All clips use the same prompt.
- Batch Images resizes all images to the size of the first. To keep their aspect ratios, connect a node that loads a \
folder as a list directly to the conditioning node.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def longer_clip(built_in: str) -> Graph:
    """A sequence of three clips, each continuing from the last frame of the previous one."""
    graph = Graph()
    frame = picture(graph)
    own_picture(graph)
    parts: dict[str, Any] = {}
    for number, prompt in enumerate(STORY):
        clip = graph.add(
            "DynamiCrafterAnimate",
            title=f"Part {number + 1}",
            image=frame,
            prompt=prompt,
            checkpoint=built_in,
            models=[offer("1024_bf16")],
            column=1 + number,
        )
        images, frame = clip["images"], clip["last_frame"]
        if number:
            # A part starts with the last frame of the previous part.
            rest = graph.add(
                "ImageFromBatch",
                title="Without its first frame",
                image=images,
                batch_index=1,
                length=4096,
                column=1 + number,
            )
            images = rest["IMAGE"]
        parts[f"images.image{number}"] = images
    whole = graph.add("BatchImagesNode", title="All parts", column=1 + len(STORY), **parts)
    save(graph, whole["IMAGE"], "story")
    graph.note(
        WHAT,
        f"""\
## A longer clip in several parts

1. Press **Run**: the circle moves right, then up, then left. {SAVE}
2. Change the **prompt** of each part.

Each part starts from `last_frame` of the previous one. ComfyUI caches finished parts: set the seed of a part you \
like to *fixed*, and change only those after it. To add a part, copy one together with its *Without its first frame* \
node (Ctrl+C, Ctrl+Shift+V) and connect it to **All parts**. Errors accumulate from part to part; use three or four \
at most.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


TEMPLATES: tuple[Callable[[str], Graph], ...] = (
    animate_one_node,
    image_to_video_256,
    image_to_video_512,
    image_to_video_1024,
    pruned_checkpoint_with_core_loaders,
    interpolation,
    loop,
    core_ksampler,
    dual_cfg,
    two_scale_guidance,
    batch_of_pictures,
    longer_clip,
)
"""Every template; the name of a function is the name of its files."""
