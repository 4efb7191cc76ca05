"""The templates: one function for each, named as its files are."""

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
"""Comes with ComfyUI, in its input folder; only for graphs that open with a released model."""
REAL_PROMPT = "a girl in a pink dress moves right"
STORY = ("a red circle moves right", "a red circle moves up", "a red circle moves left")


def animate_one_node(built_in: str) -> Graph:
    """A picture and a prompt in, a clip out."""
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
    graph.add("PreviewImage", title="Last frame, to go on from", images=clip["last_frame"])
    graph.note(
        WHAT,
        f"""\
## A picture becomes a clip

1. Press **Run**: the red circle moves to the right. {SAVE}
2. Write something else in **prompt**: *a red circle moves up*, *a red circle becomes blue*.
3. Choose another **picture**, and name its shape in the prompt.

Connect a second picture to `last_image` for the clip between two pictures, or switch on `loop` for a clip \
without end. Of the released models, an interpolation model does both.

{weights_note("1024_bf16", "512_interp_bf16")}
The first one sets pictures in motion at 1024x576, the second one is for two pictures and loops at 512x320.
""",
    )
    graph.note(MORE, DIALS)
    return graph


def image_to_video(
    built_in: str, size: str, sample_picture: str, prompt: str, releases: tuple[str, ...], remark: str
) -> Graph:
    """The parts of image-to-video, for the model of one size."""
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
2. Write what else should happen in **prompt**, or choose another **picture**.

Another `seed` gives another clip; only sampling and decoding run again.

{weights_note(*releases)}
{remark}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def image_to_video_256(built_in: str) -> Graph:
    """Image-to-video with the first, smallest model."""
    remark = (
        "It makes 256x256 pixels and is the quickest. Here `fs` counts a frame stride: more is livelier. `motion` "
        "knows this. Clips may show a stock-footage watermark: the model learned it from its training clips."
    )
    return image_to_video(built_in, "256", "blue_square", "a blue square moves up", ("256",), remark)


def image_to_video_512(built_in: str) -> Graph:
    """Image-to-video with the 512 model."""
    remark = (
        "It makes 512x320 pixels. A file of a third of that size, which wants two encoder files besides, is in "
        "the template *pruned_checkpoint_with_core_loaders*."
    )
    return image_to_video(
        built_in, "512", "green_triangle", "a green triangle moves left", ("512_full",), remark
    )


def image_to_video_1024(built_in: str) -> Graph:
    """Image-to-video with the largest model."""
    remark = (
        "It makes 1024x576 pixels, the best pictures of all, and takes the most memory. Make a first draft with "
        "10 steps."
    )
    return image_to_video(
        built_in, "1024", "yellow_cross", "a yellow cross moves down", ("1024_bf16",), remark
    )


def pruned_checkpoint_with_core_loaders(built_in: str) -> Graph:
    """A checkpoint without encoders, with ComfyUI's own loaders for these."""
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

Pruned files leave out both CLIP encoders. They then come from **Load CLIP** (type `stable_diffusion`) and \
**Load CLIP Vision**. This graph needs files that do not come with the pack:

{linked("512")}
{linked("towers", "text_encoders")}
- the same file once more in `models/clip_vision`

The last file holds both encoders, and each loader takes its own half. Separate files of the SD 2.1 text encoder \
and of CLIP-ViT-H-14 work as well. SD 1.5 and SDXL encoders do not: the model wants a text width of 1024.

`variant` says `512_v1` because nothing in the weights tells the 512 model from the interpolation one. \
For an interpolation file choose `512_interp_v1` and use the interpolation or looping node.
""",
    )
    graph.note(MORE, DIALS)
    return graph


def interpolation(built_in: str) -> Graph:
    """The clip between two pictures."""
    graph = Graph()
    loader = load(graph, built_in, "512_interp_bf16")
    conditioning = condition(
        graph,
        loader,
        "Interpolation",
        first_image=picture(graph, "red_circle_left", "First picture"),
        last_image=picture(graph, "red_circle_right", "Last picture"),
    )
    own_picture(graph, "Your own first picture")
    own_picture(graph, "Your own last picture")
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "between")
    graph.note(
        WHAT,
        f"""\
## From one picture to another

1. Press **Run**: the circle goes from where it is in the **first picture** to where it is in the **last**. {SAVE}
2. Exchange the two pictures, and write *a red circle moves left*.

**prompt** says what happens on the way. Both pictures should show the same place or subject: the model was trained on \
the ends of one shot. A last picture of another shape is brought to the first one's size in the way `fit` says.

{weights_note("512_interp_bf16")}
Two of your own: one node for each, connected in place of both.
""",
    )
    graph.note(MORE, DIALS)
    return graph


def loop(built_in: str) -> Graph:
    """A clip that plays without end."""
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
## A clip without end

1. Press **Run**: the square moves up and comes back. {SAVE} Right-click the player and choose *Loop* to see it go \
round.
2. Say in **prompt** what else moves, or choose another **picture**.

The clip has one frame less than `frames` says: the last one repeats the first and is dropped.

{weights_note("512_interp_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def core_ksampler(built_in: str) -> Graph:
    """The model under ComfyUI's own sampler and VAE decode."""
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

The loader's MODEL is an ordinary one: any core sampler, LoRA (SD 2.1), Torch Compile and previews work on it.

- **DynamiCrafter Preset** gives KSampler the model's own `steps` and `cfg`. To set a number yourself, drag its link \
away from KSampler.
- `euler` with `simple` is our sampler at `eta` 0. Samplers that add noise (`euler_ancestral`, `dpmpp_2m_sde`) move \
more, `dpmpp_2m` needs fewer steps.
- For the 256 model take the scheduler `ddim_uniform`.
- **RescaleCFG** keeps contrast and colour where they belong.
- With the looping node, the last frame repeats the first one. Core VAE Decode keeps it; ours drops it.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def dual_cfg(built_in: str) -> Graph:
    """Prompt and picture with a scale of their own, by core nodes."""
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
## Two scales: one for the prompt, one for the picture

- `cfg_conds`: how strongly the **prompt** is followed.
- `cfg_cond2_negative`: how strongly the **picture** is kept.

Both begin as the model's own scale, from **DynamiCrafter Preset**: drag a link away from the guider and write a \
number. Equal scales are ordinary guidance. A higher picture scale stays closer to the picture, a higher prompt scale \
does more of what the text says. Every step takes three evaluations, half as much time again as with one scale.

The template *two_scale_guidance* does the same with our sampler, with the contrast correction of the original.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def two_scale_guidance(built_in: str) -> Graph:
    """Prompt and picture with a scale of their own, by our sampler."""
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
## Two scales with our sampler

With `image_only` connected, `cfg` is the prompt's scale and `image_cfg` the picture's. At -1, `cfg` is the model's \
own scale, and `image_cfg` equal to `cfg`; equal values are ordinary guidance.

- The clip leaves the picture too far: raise `image_cfg`.
- The prompt is not followed: raise `cfg`.
- Colours burn: lower both, or raise `guidance_rescale`.

Every step takes three evaluations, half as much time again.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def batch_of_pictures(built_in: str) -> Graph:
    """Several pictures, a clip of each."""
    graph = Graph()
    loader = load(graph, built_in, "1024_bf16")
    one = picture(graph, "red_circle_left", "Picture 1")
    other = picture(graph, "red_circle", "Picture 2")
    own_picture(graph)
    pair: dict[str, Any] = {"images.image0": one, "images.image1": other}
    both = graph.add("BatchImagesNode", **pair)
    pictures = graph.add("RebatchImages", images=both["IMAGE"], batch_size=1)
    conditioning = condition(graph, loader, image=pictures["IMAGE"])
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "clip_of_many")
    graph.note(
        WHAT,
        f"""\
## A clip of each picture

**Rebatch Images** with size 1 turns a batch into a list, and every node after it runs once for each picture. \
{SAVE}

- More pictures: more nodes on **Batch Images**, which grows with them. The prompt is the same for all.
- Batch Images brings all pictures to the first one's shape. To keep shapes, connect a node that loads a folder as a \
list straight to the conditioning.

{weights_note("1024_bf16")}
""",
    )
    graph.note(MORE, DIALS)
    return graph


def longer_clip(built_in: str) -> Graph:
    """A story of three clips, each going on from the last frame of the one before."""
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
            # A part begins with the frame that the one before ended with.
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
## A longer clip, told in parts

1. Press **Run**: the circle moves right, then up, then left. {SAVE}
2. Write your own story: a **prompt** for each part.

Each part begins with `last_frame` of the one before. ComfyUI keeps what is finished: set the seed of a part you like \
to *fixed*, and change only those after it. Another part: copy one with its *Without its first frame* (Ctrl+C, \
Ctrl+Shift+V) and connect it to **All parts**, which grows. Small faults add up from part to part; three or four \
are a good length.

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
