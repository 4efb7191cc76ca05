"""The templates: one function for each, and the name of its files, which is all that the Templates dialog shows and
searches: its title, its description and its place in the list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamicrafter.weights.catalogue import find

from .graphs import OUTSIDE, Graph
from .template_parts import (
    CANNY_CONTROL,
    DEPTH_ANYTHING,
    DIALS,
    FILM,
    FPS,
    MORE,
    OWN_IMAGES,
    OWN_PICTURE,
    POSES,
    POSES_TEXT,
    PROMPT,
    QWEN,
    REAL_ESRGAN,
    SAVE,
    SDPOSE,
    SKETCH_ENCODER,
    TINY_PERSON,
    WHAT,
    apply_control,
    condition,
    decode,
    load,
    load_control,
    load_encoder,
    load_released,
    offer,
    own_images_note,
    own_people_note,
    own_picture,
    picture,
    released_note,
    sample,
    sample_poses,
    save,
    save_video,
)

LOADER = "DynamiCrafter Checkpoint Loader"
STORY = ("a red circle moves right", "a red circle moves up", "a red circle moves left")
THREE_SCENES = """\
sound: sea
scenes:
- picture: 1
  prompt: a red circle moves right
- prompt: a red circle moves left
- picture: 2
  prompt: a red circle moves up
  transition: cross-fade
  sound: rain"""
HARBOUR = "a sailing boat rocks on the waves of a harbour"
DUSK = "time lapse, night falls over the hill"
OWN_CLIP = "Your own clip"
NARROW = 270
"""Width of nodes where five columns stand side by side."""


def animate_picture(built_in: str) -> Graph:
    """An image and a prompt in, a clip out."""
    graph = Graph()
    clip = graph.add("DynamiCrafterAnimate", image=picture(graph), prompt=PROMPT, checkpoint=built_in)
    own_picture(graph)
    save_video(graph, clip["video"], "clip")
    graph.add("PreviewImage", title="Last frame, to continue from", images=clip["last_frame"], column=3)
    graph.note(
        WHAT,
        f"""\
## From an image to a clip

1. Press **Run**: the red circle moves to the right. {SAVE}
2. Change the **prompt**: *a red circle moves up*, *a red circle becomes blue*.
3. Select another **picture**, and name its shape in the prompt.

Connect a second image to `last_image` to interpolate between two images, or enable `loop` for a seamless loop. \
Of the released models, interpolation models support both.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def separate_nodes(built_in: str) -> Graph:
    """Image-to-video with separate nodes."""
    graph = Graph()
    loader = load(graph, built_in)
    prompt = "a blue square moves up"
    conditioning = condition(graph, loader, image=picture(graph, "blue_square"), prompt=prompt)
    own_picture(graph)
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "clip")
    graph.note(
        WHAT,
        f"""\
## Image to video with separate nodes

1. Press **Run**: {prompt}. {SAVE}
2. Change the **prompt**, or select another **picture**.

A different `seed` gives a different clip; only sampling and decoding run again.

The 1024 model has the highest quality and needs the most memory; 512 is faster. The 256 model is the fastest; its \
clips may show a stock-footage watermark, which it learned from its training clips.
""",
    )
    own_images_note(graph, LOADER, "1024", "512")
    graph.note(MORE, DIALS)
    return graph


def released_1024(_: str) -> Graph:
    """The largest released model in one node."""
    graph = Graph()
    release = find("1024")
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=picture(graph, "harbour"),
        prompt=HARBOUR,
        checkpoint=release.saved_as,
        clip=load_encoder(graph)["CLIP"],
        variant=release.variant,
        models=[offer("1024")],
        column=2,
    )
    own_picture(graph)
    save_video(graph, clip["video"], "clip_1024")
    graph.note(
        WHAT,
        f"""\
## The 1024 model

1. Press **Run**: the boat rocks on the waves, at 1024x576 pixels. {SAVE}
2. Change the **prompt**, or select another **picture**.

This model has the highest quality and needs the most memory. Set `steps` to 10 for a first draft. On a CPU, a clip \
takes hours; use a GPU.
""",
    )
    released_note(graph, "1024")
    graph.note(MORE, DIALS)
    return graph


def released_512(_: str) -> Graph:
    """The released 512 model with separate nodes."""
    graph = Graph()
    loader, encoder = load_released(graph, "512")
    conditioning = condition(
        graph, loader, clip=encoder["CLIP"], image=picture(graph, "harbour"), prompt=HARBOUR
    )
    own_picture(graph)
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "clip_512")
    graph.note(
        WHAT,
        f"""\
## The 512 model

1. Press **Run**: the boat rocks on the waves, at 512x320 pixels. {SAVE}
2. Change the **prompt**, or select another **picture**.

`variant` is `512_v1` because the weights of pruned files do not tell the 512, 1024 and interpolation models apart.

Separate files of the SD 2.1 text encoder and of CLIP-ViT-H-14 also work, the second with **Load CLIP Vision**. SD 1.5 \
and SDXL encoders do not: the model needs a text encoder of width 1024.
""",
    )
    released_note(graph, "512")
    graph.note(MORE, DIALS)
    return graph


def released_interpolation(_: str) -> Graph:
    """The released interpolation model, between two images."""
    graph = Graph()
    loader, encoder = load_released(graph, "512_interp")
    conditioning = condition(
        graph,
        loader,
        "Interpolation",
        clip=encoder["CLIP"],
        first_image=picture(graph, "hill_day", "First image"),
        last_image=picture(graph, "hill_dusk", "Last image"),
        prompt=DUSK,
    )
    own_picture(graph, column=1)
    own_picture(graph, "Your own last image", column=1)
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "between_512")
    graph.note(
        WHAT,
        f"""\
## The interpolation model

1. Press **Run**: day turns to dusk between the **first image** and the **last image**, at 512x320 pixels. {SAVE}
2. Change the **prompt**, which describes what happens in between, or select other images.

Both images should show the same place or subject: the model was trained on the two ends of a single shot. `fit` \
controls how a last image with a different aspect ratio is resized. The same model makes loops, with the looping node.
""",
    )
    released_note(graph, "512_interp")
    graph.note(MORE, DIALS)
    return graph


def interpolation(built_in: str) -> Graph:
    """Interpolation between two images."""
    graph = Graph()
    loader = load(graph, built_in)
    conditioning = condition(
        graph,
        loader,
        "Interpolation",
        first_image=picture(graph, "red_circle_left", "First image"),
        last_image=picture(graph, "red_circle_right", "Last image"),
    )
    own_picture(graph, column=1)
    own_picture(graph, "Your own last image", column=1)
    decode(graph, loader, sample(graph, loader, conditioning)["latent"], "between")
    graph.note(
        WHAT,
        f"""\
## From one image to another

1. Press **Run**: the circle moves from its position in the **first image** to that in the **last image**. {SAVE}
2. Swap the two images, and change the prompt to *a red circle moves left*.

**prompt** describes what happens in between. Both images should show the same place or subject: the model was trained \
on the two ends of a single shot. `fit` controls how a last image with a different aspect ratio is resized.
""",
    )
    own_images_note(graph, LOADER, "512_interp")
    graph.note(MORE, DIALS)
    return graph


def loop(built_in: str) -> Graph:
    """A seamless loop."""
    graph = Graph()
    loader = load(graph, built_in)
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
""",
    )
    own_images_note(graph, LOADER, "512_interp")
    graph.note(MORE, DIALS)
    return graph


def core_ksampler(built_in: str) -> Graph:
    """The model with ComfyUI's own sampler and VAE decode."""
    graph = Graph()
    loader = load(graph, built_in)
    preset = graph.add("DynamiCrafterPreset", model=loader["model"], column=1)
    rescaled = graph.add("RescaleCFG", model=loader["model"], multiplier=preset["guidance_rescale"], column=1)
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
        """\
## ComfyUI's own sampler

The loader's MODEL is a regular one: core samplers, LoRA (SD 2.1), Torch Compile and previews work with it.

- **DynamiCrafter Preset** sets `steps` and `cfg` of KSampler to the model's defaults. To set a value yourself, \
disconnect its link and enter the value.
- `euler` with `simple` is equivalent to DynamiCrafter Sampler with `eta` 0, except for the last step. Samplers that \
add noise (`euler_ancestral`, `dpmpp_2m_sde`) give more motion; `dpmpp_2m` needs fewer steps.
- For the 256 model, use the scheduler `ddim_uniform`.
- **RescaleCFG** reduces over-exposure and oversaturation.
- With the looping node, the last frame repeats the first. Core VAE Decode keeps it; DynamiCrafter VAE Decode drops it.
""",
    )
    own_images_note(graph, LOADER, "1024")
    graph.note(MORE, DIALS)
    return graph


def dual_cfg(built_in: str) -> Graph:
    """Separate guidance scales for prompt and image, with core nodes."""
    graph = Graph()
    loader = load(graph, built_in)
    conditioning = condition(
        graph, loader, image=picture(graph, "green_triangle"), prompt="a green triangle moves left"
    )
    own_picture(graph)
    preset = graph.add("DynamiCrafterPreset", model=loader["model"], column=1)
    noise = graph.add("RandomNoise", noise_seed=123, column=1)
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
    sampler = graph.add("KSamplerSelect", sampler_name="euler", column=1)
    levels = graph.add(
        "BasicScheduler",
        model=loader["model"],
        scheduler="simple",
        steps=preset["steps"],
        denoise=1.0,
        column=1,
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
        """\
## Separate guidance scales for prompt and image

- `cfg_conds`: guidance scale for the **prompt**.
- `cfg_cond2_negative`: guidance scale for the **image**.

Both default to the model's scale, from **DynamiCrafter Preset**. To change one, disconnect its link from the guider \
and enter a value. Equal scales are standard guidance. A higher image scale keeps the clip closer to the image, a \
higher prompt scale follows the text more closely. Every step takes three evaluations, 1.5 times as long as with one \
scale.

The template *DynamiCrafter image CFG guidance* does the same with DynamiCrafter Sampler, with the contrast \
correction of the original.
""",
    )
    own_images_note(graph, LOADER, "1024")
    graph.note(MORE, DIALS)
    return graph


def two_scale_guidance(built_in: str) -> Graph:
    """Separate guidance scales for prompt and image, with our sampler."""
    graph = Graph()
    loader = load(graph, built_in)
    conditioning = condition(
        graph, loader, image=picture(graph, "yellow_cross"), prompt="a yellow cross moves down"
    )
    own_picture(graph)
    sampled = sample(graph, loader, conditioning, image_only=conditioning["image_only"])
    decode(graph, loader, sampled["latent"], "clip_two_scales")
    graph.note(
        WHAT,
        """\
## Separate guidance scales with DynamiCrafter Sampler

With `image_only` connected, `cfg` is the guidance scale for the prompt and `image_cfg` the one for the image. -1 \
selects the model's default for `cfg`, and the value of `cfg` for `image_cfg`; equal values are standard guidance.

- The clip departs from the image: increase `image_cfg`.
- The prompt is not followed: increase `cfg`.
- Colours are oversaturated: decrease both, or increase `guidance_rescale`.

Every step takes three evaluations, 1.5 times as long as with one scale.
""",
    )
    own_images_note(graph, LOADER, "1024")
    graph.note(MORE, DIALS)
    return graph


def batch_of_pictures(built_in: str) -> Graph:
    """Several images, one clip each."""
    graph = Graph()
    loader = load(graph, built_in)
    one = picture(graph, "red_circle_left", "Image 1")
    other = picture(graph, "red_circle", "Image 2")
    own_picture(graph)
    pair: dict[str, Any] = {"images.image0": one, "images.image1": other}
    both = graph.add("BatchImagesNode", column=1, **pair)
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
""",
    )
    own_images_note(graph, LOADER, "1024")
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
            column=1 + number,
            width=300,
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
                column=1 + len(STORY),
                width=NARROW,
            )
            images = rest["IMAGE"]
        parts[f"images.image{number}"] = images
    whole = graph.add("BatchImagesNode", title="All parts", column=1 + len(STORY), width=NARROW, **parts)
    save(graph, whole["IMAGE"], "story", NARROW)
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
""",
    )
    own_images_note(graph, "each Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def person(_: str) -> Graph:
    """An image of a character and poses in, a clip out."""
    graph = Graph()
    clip = graph.add(
        "DynamiCrafterAnimatePerson",
        image=picture(graph, "character"),
        poses=sample_poses(graph),
        checkpoint=TINY_PERSON,
    )
    own_picture(graph)
    save_video(graph, clip["video"], "person")
    graph.note(
        WHAT,
        f"""\
## A character moves by poses

1. Press **Run**: the character walks. {SAVE}
2. Select other **poses** in **DynamiCrafter Sample Poses**.

`steps`, `cfg`, `window` and `overlap` at their lowest values are the model's own.
""",
    )
    own_people_note(graph, "Animate a Person (DynamiCrafter)")
    graph.note(POSES, POSES_TEXT)
    return graph


def person_parts(_: str) -> Graph:
    """AnimateAnyone with separate nodes, poses aligned to the character."""
    graph = Graph()
    loader = graph.add("DynamiCrafterPersonLoader", checkpoint=TINY_PERSON, column=1)
    character = picture(graph, "character")
    own_picture(graph)
    aligned = graph.add(
        "DynamiCrafterPoseAlignment", poses=sample_poses(graph, "jumping_jacks"), image=character, column=1
    )
    drawn = graph.add("DynamiCrafterPoseDrawing", poses=aligned["poses"], column=2)
    conditioning = graph.add(
        "DynamiCrafterPersonConditioning",
        model=loader["model"],
        vae=loader["vae"],
        image=character,
        poses=drawn["images"],
        column=2,
    )
    sampled = graph.add(
        "DynamiCrafterPersonSampler",
        model=loader["model"],
        positive=conditioning["positive"],
        negative=conditioning["negative"],
        latent=conditioning["latent"],
    )
    decode(graph, loader, sampled["latent"], "person_parts")
    graph.note(
        WHAT,
        f"""\
## AnimateAnyone with separate nodes

1. Press **Run**: the character jumps. {SAVE}
2. Change `scale` and `shift_x` of **DynamiCrafter Pose Alignment**; its preview shows the poses over the image.

Connect keypoints of the image to `reference` to give the poses the size and place of its person. Clips of any length \
are sampled in windows, with the memory of one.
""",
    )
    own_people_note(graph, "DynamiCrafter Person Loader")
    graph.note(POSES, POSES_TEXT)
    return graph


def person_from_video(_: str) -> Graph:
    """The poses of a person in a video, found by core's SDPose, move a character."""
    graph = Graph()
    # It names no file, because none is certain to exist.
    video = graph.add("LoadVideo", title=OWN_CLIP, file="", column=0)
    character = picture(graph, "character")
    own = own_picture(graph)
    detector = graph.add("CheckpointLoaderSimple", ckpt_name=SDPOSE.name, models=[SDPOSE.offer], column=1)
    part = graph.add("Video Slice", video=video["VIDEO"], duration=2.0, column=1)
    frames = graph.add("GetVideoComponents", video=part["VIDEO"], column=1)
    networks: dict[str, Any] = {"model": detector["MODEL"], "vae": detector["VAE"]}
    found = graph.add("SDPoseKeypointExtractor", image=frames["images"], column=2, **networks)
    reference = sample_poses(graph, title="Keypoints of the character", column=1)
    graph.add(
        "SDPoseKeypointExtractor",
        title="Your own image's keypoints",
        image=own["IMAGE"],
        spare=True,
        column=2,
        **networks,
    )
    clip = graph.add(
        "DynamiCrafterAnimatePerson",
        image=character,
        poses=found["keypoints"],
        reference=reference,
        checkpoint=TINY_PERSON,
        hands=False,
        face=False,
        column=3,
    )
    whole = graph.add(
        "CreateVideo", images=clip["images"], audio=frames["audio"], fps=frames["fps"], column=4
    )
    save_video(graph, whole["VIDEO"], "person_from_video")
    graph.note(
        WHAT,
        f"""\
## A character moves as a person in a video does

1. Select a clip in **{OWN_CLIP}**: one person, seen whole. **Trim Video** takes its first 2 seconds; 0 takes all.
2. Press **Run**: **SDPose Keypoint Extractor** finds the person's poses, the character takes them, and the sound is \
kept. {SAVE}

The person may stand elsewhere or be of another size: the poses get size and place of those at `reference`.
""",
    )
    graph.note(
        OWN_IMAGES,
        f"""\
SDPose needs one file, which does not ship with the pack; ComfyUI offers its download when the workflow opens:

{SDPOSE.linked}

The built-in model of persons needs no download, but knows only cartoon characters such as this one, without hands and \
faces. For your own images:

1. Run `dynamicrafter download animate_anyone` (10 GB), and put the files into a folder of their own in \
`models/checkpoints`. Press R, and select the folder as `checkpoint` of **Animate a Person (DynamiCrafter)**. Enable \
`hands` and `face`.
2. Select your image in **{OWN_PICTURE}**, and connect that node instead of **DynamiCrafter Sample Picture**, and \
**Your own image's keypoints** to `reference`.
""",
    )
    graph.note(
        POSES,
        """\
**Several people.** SDPose sees one person in a frame. For several, connect the boxes of core *Run Real-Time Detection \
(RT-DETR)* to `bboxes`; the person with the highest score is used.

**Drawn poses.** Images of OpenPose skeletons can be connected to `poses` as they are, without `reference`.

**Gaps.** Points that are missing for a few frames are filled in. For other lengths, and for smoothing, use \
**DynamiCrafter Pose Alignment** before `poses`.
""",
    )
    return graph


def long_clip(built_in: str) -> Graph:
    """Continuation over three clips, with a prompt for each."""
    graph = Graph()
    length = graph.add("DynamiCrafterLongClip", column=0)
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=picture(graph),
        prompt="a red circle moves right | 15: a red circle moves up | 30: a red circle moves left",
        checkpoint=built_in,
        frames=46,
        length=length["length"],
    )
    own_picture(graph)
    save_video(graph, clip["video"], "long_clip")
    graph.note(
        WHAT,
        f"""\
## A clip of any length

1. Press **Run**: 46 frames, in which the circle moves right, from frame 15 up, and from frame 30 left. {SAVE}
2. Change **frames**, and the **prompt** with the frames at which its parts begin.

**DynamiCrafter Long Clip** continues from the end of each clip of 16 frames. If colours drift, set `colour_match` to \
1 and `reanchor` to 2; if clips join with a pause, set `continue_from` to 4.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def keyframes(built_in: str) -> Graph:
    """A clip through three images, with a prompt and a duration for each gap."""
    graph = Graph()
    left = picture(graph, "red_circle_left", "First and last image")
    right = picture(graph, "red_circle_right", "Second image")
    images: dict[str, Any] = {"images.image0": left, "images.image1": right, "images.image2": left}
    batch = graph.add("BatchImagesNode", column=1, **images)
    clip = graph.add(
        "DynamiCrafterKeyframes",
        images=batch["IMAGE"],
        prompts="a red circle moves right\na red circle moves left",
        durations="15,12",
        checkpoint=built_in,
        width=380,
    )
    own_picture(graph, column=1)
    save_video(graph, clip["video"], "keyframes")
    graph.note(
        WHAT,
        f"""\
## A clip through several images

1. Press **Run**: the circle moves to the right in 15 frames, and back in 12. {SAVE}
2. Change **prompts**, one line for each gap, and **durations**, in frames.

Each image is in the clip once. To add one, connect it to **Batch Images**, which adds inputs as needed. Neighbouring \
images should show the same place or subject. Against a pause at each image, set `cut_still` to 2.
""",
    )
    own_images_note(graph, "DynamiCrafter Keyframes", "512_interp")
    graph.note(MORE, DIALS)
    return graph


def endless_loop(built_in: str) -> Graph:
    """A loop of twice the usual length, by windows."""
    graph = Graph()
    length = graph.add("DynamiCrafterLongClip", length_method="windows", column=0)
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=picture(graph),
        prompt=PROMPT,
        checkpoint=built_in,
        loop=True,
        frames=33,
        length=length["length"],
    )
    own_picture(graph)
    save_video(graph, clip["video"], "endless_loop")
    graph.note(
        WHAT,
        f"""\
## A loop of any length

1. Press **Run**: a loop of 32 frames. {SAVE} Right-click the player and select *Loop* to repeat it.
2. Change **frames**, from 17, and the **prompt**.

With `length_method` *windows*, overlapping windows of 16 frames go round the loop, each beginning with the image: the \
motion returns instead of travelling away. Models that animate make these loops; no interpolation model is needed.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def paint_what_moves(built_in: str) -> Graph:
    """A mask of what may move."""
    graph = Graph()
    image = picture(graph)
    still = graph.add("SolidMask", title="Nothing moves", value=0.0, height=64, column=0)
    band = graph.add("SolidMask", title="What may move", value=1.0, height=36, column=0)
    for one in (still, band):
        # As an argument, it would be that of the node.
        one.values["width"] = 64
    mask = graph.add(
        "MaskComposite",
        destination=still["MASK"],
        source=band["MASK"],
        x=0,
        y=14,
        operation="add",
        column=1,
    )
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=image,
        prompt=PROMPT,
        checkpoint=built_in,
        mask=mask["MASK"],
        column=2,
    )
    own_picture(graph, column=1)
    save_video(graph, clip["video"], "masked")
    graph.note(
        WHAT,
        f"""\
## Paint what moves

1. Press **Run**: the circle moves in a band across the middle; above and below it, every pixel stays. {SAVE}
2. With your own image: select it in **{OWN_PICTURE}**, right-click that node, select *Open in MaskEditor*, and paint \
over what may move.
3. Connect its `IMAGE` to `image` and its `MASK` to `mask`.

Paint generously: a mask that ends at the subject's outline holds it in place.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def low_and_high_motion(built_in: str) -> Graph:
    """The same clip with little motion and with much."""
    graph = Graph()
    image = picture(graph)
    own_picture(graph)
    for column, (title, motion) in enumerate((("Low motion", 0.1), ("High motion", 1.0))):
        clip = graph.add(
            "DynamiCrafterAnimate",
            title=title,
            image=image,
            prompt=PROMPT,
            checkpoint=built_in,
            motion=motion,
            column=1 + 2 * column,
            width=330,
        )
        save_video(graph, clip["video"], title.lower().replace(" ", "_"), width=330)
    graph.note(
        WHAT,
        f"""\
## Low motion against high motion

1. Press **Run**: the same image, prompt and seed, with `motion` 0.1 and 1. {SAVE}
2. Change **motion** of each, or both prompts and seeds.

`motion` has the same direction for every model. If a released model moves too little at 1, use a CIL model, or \
connect **DynamiCrafter Techniques** to **DynamiCrafter Long Clip**, that to `length`, and set `start_time` to 940.
""",
    )
    own_images_note(graph, "each Animate (DynamiCrafter)", "512")
    graph.note(MORE, DIALS)
    return graph


def photo_to_film(built_in: str) -> Graph:
    """A clip with sound of an image alone, without a language model."""
    graph = Graph()
    image = picture(graph, "green_triangle")
    own_picture(graph)
    found = graph.add("DynamiCrafterSuggest", image=image, checkpoint=built_in, column=1)
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=image,
        prompt=found["prompt"],
        motion=found["motion"],
        checkpoint=built_in,
    )
    sound = graph.add("DynamiCrafterAmbience", sound="wind", images=clip["images"], column=3)
    video = graph.add("CreateVideo", images=clip["images"], audio=sound["audio"], fps=FPS, column=4)
    save_video(graph, video["VIDEO"], "film")
    graph.note(
        WHAT,
        f"""\
## From a photo to a film

1. Press **Run**: **DynamiCrafter Suggest** sees a green triangle and proposes how it moves; wind is its sound. {SAVE}
2. Select another **picture**, or set `count` to 3 for a clip of each of three proposals.

With a released model, connect `sound` of **DynamiCrafter Suggest** to **DynamiCrafter Ambience** as well: a photo of \
the sea then sounds like the sea. No language model is needed.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def photo_to_film_by_language_model(_: str) -> Graph:
    """A clip with sound of an image, as core's local language model plans it."""
    graph = Graph()
    release = find("1024")
    image = picture(graph, "harbour")
    own_picture(graph)
    question = graph.add("DynamiCrafterDirectorPrompt", column=1)
    sampling = {"temperature": 0.3, "top_k": 64, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}
    choices: dict[str, Any] = {
        f"sampling_mode.{name}": value for name, value in (*sampling.items(), ("seed", 0))
    }
    model = graph.add(
        "CLIPLoader",
        title="Load the language model",
        clip_name=QWEN.name,
        type="stable_diffusion",
        models=[QWEN.offer],
        column=1,
    )
    answer = graph.add(
        "TextGenerate",
        clip=model["CLIP"],
        prompt=question["text"],
        image=image,
        max_length=512,
        sampling_mode="on",
        column=2,
        **choices,
    )
    plan = graph.add("DynamiCrafterDirectorPlan", answer=answer["generated_text"], column=2)
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=image,
        prompt=plan["prompt"],
        motion=plan["motion"],
        negative_prompt=plan["negative_prompt"],
        checkpoint=release.saved_as,
        clip=load_encoder(graph)["CLIP"],
        variant=release.variant,
        models=[offer("1024")],
        column=3,
    )
    sound = graph.add("DynamiCrafterAmbience", sound=plan["sound"], images=clip["images"], column=4)
    film = graph.add("CreateVideo", images=clip["images"], audio=sound["audio"], fps=FPS, column=4)
    save_video(graph, film["VIDEO"], "film_by_language_model")
    graph.note(
        WHAT,
        f"""\
## From a photo to a film, planned by a local language model

1. Press **Run**: the language model looks at the harbour and plans what moves, how much, and which sound fits. {SAVE}
2. Enter an **idea** in **DynamiCrafter Director Prompt**, or select another **picture**.

The language model is a third file, which ComfyUI offers to download when the workflow opens:

{QWEN.linked}

If **DynamiCrafter Director Plan** finds no plan in the answer, change `seed` of **Generate Text**, or use a larger \
model, such as Qwen3.5 4B. Nothing leaves your computer.
""",
    )
    released_note(graph, "1024")
    graph.note(MORE, DIALS)
    return graph


def story(built_in: str) -> Graph:
    """A film of three scenes with sound."""
    graph = Graph()
    images: dict[str, Any] = {
        "images.image0": picture(graph, "red_circle", "Image 1"),
        "images.image1": picture(graph, "red_circle_left", "Image 2"),
    }
    batch = graph.add("BatchImagesNode", column=1, **images)
    film = graph.add(
        "DynamiCrafterStory",
        images=batch["IMAGE"],
        story=THREE_SCENES,
        checkpoint=built_in,
        column=2,
        width=400,
    )
    own_picture(graph, column=1)
    save_video(graph, film["video"], "film_of_a_story")
    graph.note(
        WHAT,
        f"""\
## A story of three scenes with sound

1. Press **Run**: the circle moves right and left to the sound of the sea, and another one up in the rain. {SAVE}
2. Change **story**: each scene begins with the *picture* of a number, or continues the one before.

A paragraph for each scene is enough; YAML also says durations, transitions and sounds. Scenes before the one that you \
change are not generated again while the seed stays: set it to *fixed*. `between_checkpoint` is for interpolations.
""",
    )
    own_images_note(graph, "DynamiCrafter Story", "1024")
    graph.note(MORE, DIALS)
    return graph


def camera_move(_: str) -> Graph:
    """A camera around an image with the depth that core's Depth Anything 3 finds, by the interpolation model."""
    graph = Graph()
    release = find("512_interp")
    image = picture(graph, "hill_day")
    own_picture(graph)
    model = graph.add(
        "LoadDA3Model", model_name=DEPTH_ANYTHING.name, models=[DEPTH_ANYTHING.offer], column=1, width=340
    )
    found = graph.add(
        "DA3Inference", da3_model=model["DA3_MODEL"], image=image, mode="mono", column=1, width=340
    )
    choices: dict[str, Any] = {"output.normalization": "v2_style", "output.apply_sky_clip": False}
    shown = graph.add(
        "DA3Render", da3_geometry=found["da3_geometry"], output="depth", column=1, width=340, **choices
    )
    # The renderer is linear in the distance with near bright, which is none of the guide's kinds.
    depth = graph.add("ImageInvert", title="Far is bright", image=shown["IMAGE"], column=1, width=340)
    # The size of the model, so that the last frame is cropped as the image is.
    guide = graph.add(
        "DynamiCrafterCameraGuide",
        image=image,
        depth=depth["IMAGE"],
        path="orbit:10",
        frames=16,
        depth_kind="depth",
        height=320,
        column=2,
    )
    guide.values["width"] = 512
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=image,
        last_image=guide["last_frame"],
        prompt="the camera moves around a hill",
        checkpoint=release.saved_as,
        clip=load_encoder(graph)["CLIP"],
        variant=release.variant,
        models=[offer("512_interp")],
        column=3,
    )
    save_video(graph, clip["video"], "camera_move")
    graph.add("PreviewImage", title="Guide clip", images=guide["guide"], column=2)
    graph.note(
        WHAT,
        f"""\
## A camera move around an image

1. Press **Run**: the camera moves around the hill, from the image to the last frame of the **guide clip**. {SAVE}
2. Draw a **path** on **DynamiCrafter Camera Guide**. If near things move too much, increase `near`.

Black parts of the guide are not filled, so choose small moves; a ViewCrafter model with **DynamiCrafter Views** fills \
them. For portrait images, swap `width` and `height` of the guide.

Depth Anything 3 is a third file, which ComfyUI offers to download when the workflow opens:

{DEPTH_ANYTHING.linked}
""",
    )
    released_note(graph, "512_interp")
    graph.note(MORE, DIALS)
    return graph


def edges_of_a_clip(built_in: str) -> Graph:
    """The edges of a clip, which the frames of another one follow by a ControlNet of Stable Diffusion 2.1."""
    graph = Graph()
    image = picture(graph, "yellow_cross")
    own_picture(graph)
    prompt = "a yellow cross moves right"
    clip = graph.add(
        "DynamiCrafterAnimate",
        title="A clip to follow",
        image=image,
        prompt=prompt,
        checkpoint=built_in,
        column=1,
        width=NARROW,
    )
    own = graph.add("LoadVideo", title=OWN_CLIP, file="", column=0, spare=True)
    graph.add("GetVideoComponents", title="Its frames", video=own["VIDEO"], column=0, width=260, spare=True)
    # Of the model's size, as the edges are then as thin as those that the ControlNet knows.
    scaled = graph.add(
        "ImageScale",
        title="To the size of the model",
        image=clip["images"],
        upscale_method="bicubic",
        height=320,
        crop="center",
        width=NARROW,
    )
    scaled.values["width"] = 512
    # The shapes are hardly brighter or darker than what is behind them.
    thresholds: dict[str, Any] = {"low_threshold": 0.05, "high_threshold": 0.1}
    edges = graph.add("Canny", image=scaled["IMAGE"], column=2, width=NARROW, **thresholds)
    loader, encoder = load_released(graph, "512", 2, NARROW)
    net = load_control(graph, CANNY_CONTROL, 3, NARROW)
    conditioning = condition(
        graph, loader, clip=encoder["CLIP"], image=image, prompt=prompt, column=3, width=NARROW
    )
    applied = apply_control(graph, conditioning, net, edges["IMAGE"], strength=1.0, column=4, width=NARROW)
    sampled = sample(graph, loader, conditioning, applied, column=4, width=NARROW)
    decode(graph, loader, sampled["latent"], "controlled", column=5, width=320)
    graph.note(
        WHAT,
        f"""\
## A clip that follows another one

1. Press **Run**: the 512 model makes a clip with the edges of one that the built-in model makes. {SAVE}
2. Select a clip in **{OWN_CLIP}**, connect **Its frames** and an image like the first of them instead, and set both \
thresholds of **Detect Edges (Canny)** higher.
3. Frame j follows frame j; a lower `strength` of **Apply ControlNet** follows less. All ControlNets for Stable \
Diffusion 2.1 work, with hints of their kinds. They know only single images, so results vary.

This one is a third file, which ComfyUI offers to download when the workflow opens:

{CANNY_CONTROL.linked}
""",
    )
    released_note(graph, "512")
    graph.note(MORE, DIALS)
    return graph


def sketch(_: str) -> Graph:
    """A drawing of a frame between two images, which ToonCrafter's sketch encoder follows."""
    graph = Graph()
    ends = picture(graph, "red_circle_left", "First and last image")
    drawn = picture(graph, "red_circle_right", "What to draw")
    own_picture(graph)
    own_picture(graph, "Your own drawing", column=1)
    lines = graph.add("Canny", image=drawn, low_threshold=0.05, high_threshold=0.1, column=1)
    drawing = graph.add("ImageInvert", title="Dark lines on light paper", image=lines["IMAGE"], column=1)
    loader, encoder = load_released(graph, "tooncrafter", 1)
    conditioning = condition(
        graph,
        loader,
        "Interpolation",
        clip=encoder["CLIP"],
        first_image=ends,
        last_image=ends,
        prompt="a red circle moves right and back",
    )
    net = load_control(graph, SKETCH_ENCODER, 2)
    named = graph.add("DynamiCrafterHintFrames", control_net=net, hint_frames="8", column=2)
    applied = apply_control(
        graph, conditioning, named["control_net"], drawing["IMAGE"], strength=0.6, column=3
    )
    sampled = sample(graph, loader, conditioning, applied, column=3)
    decode(graph, loader, sampled["latent"], "sketched", column=4)
    graph.note(
        WHAT,
        f"""\
## Drawings of chosen frames

1. Press **Run**: the circle starts and ends at the left; at frame 8, it is where the drawing has it. {SAVE}
2. Select a drawing, dark lines on light paper, in **Your own drawing**; connect it to `image` of **Apply \
ControlNet**, and your images to **Interpolation**. Name the drawing's frame in **DynamiCrafter Hint Frames**.

For several drawings, connect **Batch Images**, and name a frame for each, such as `5,10`.

ToonCrafter's sketch encoder is a third file, which ComfyUI offers to download when the workflow opens:

{SKETCH_ENCODER.linked}
""",
    )
    released_note(graph, "tooncrafter")
    graph.note(MORE, DIALS)
    return graph


def frame_interpolation(built_in: str) -> Graph:
    """A clip with twice the frame rate, by core's frame interpolation."""
    graph = Graph()
    clip = graph.add("DynamiCrafterAnimate", image=picture(graph), prompt=PROMPT, checkpoint=built_in)
    own_picture(graph)
    model = graph.add(
        "FrameInterpolationModelLoader", model_name=FILM.name, models=[FILM.offer], column=2, width=330
    )
    more = graph.add(
        "FrameInterpolate",
        interp_model=model["INTERP_MODEL"],
        images=clip["images"],
        multiplier=2,
        column=2,
        width=330,
    )
    save(graph, more["IMAGE"], "smooth", fps=2 * FPS)
    graph.note(
        WHAT,
        f"""\
## A higher frame rate

1. Press **Run**: the circle moves to the right in 31 frames, 16 per second, instead of 16 frames, 8 per second. {SAVE}
2. Change **multiplier** of **Run Frame Interpolation Model**, and set `fps` of **Create Video** to 8 times as much. \
For slow motion, leave `fps` at 8.

The frames in between are made by FILM, a file that ComfyUI offers to download when the workflow opens:

{FILM.linked}

For a clip between two images, use the template *DynamiCrafter interpolation*.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def upscale(built_in: str) -> Graph:
    """A clip four times as wide and high, by core's upscaling with a model."""
    graph = Graph()
    clip = graph.add(
        "DynamiCrafterAnimate",
        image=picture(graph, "blue_square"),
        prompt="a blue square moves up",
        checkpoint=built_in,
    )
    own_picture(graph)
    model = graph.add(
        "UpscaleModelLoader", model_name=REAL_ESRGAN.name, models=[REAL_ESRGAN.offer], column=2, width=330
    )
    larger = graph.add(
        "ImageUpscaleWithModel",
        upscale_model=model["UPSCALE_MODEL"],
        image=clip["images"],
        column=2,
        width=330,
    )
    save(graph, larger["IMAGE"], "upscaled")
    graph.note(
        WHAT,
        f"""\
## A larger clip

1. Press **Run**: the square moves up, at 256x256 pixels instead of 64x64. {SAVE}
2. Select another upscale model in **Load Upscale Model**.

The frames are enlarged by Real-ESRGAN, a file that ComfyUI offers to download when the workflow opens:

{REAL_ESRGAN.linked}

Clips of 1024x576 become 4096x2304, with 1.8 GB for 16 frames in main memory. For twice the size, put core **Upscale \
Image By** with 0.5 after it.
""",
    )
    own_images_note(graph, "Animate (DynamiCrafter)", "1024")
    graph.note(MORE, DIALS)
    return graph


def blueprint(release: str, kind: str, *pictures: str) -> Graph:
    """A chain from images to a clip with a released model; ``pictures`` are the inputs of its conditioning node."""
    graph = Graph()
    loader, encoder = load_released(graph, release)
    images = dict.fromkeys(pictures, OUTSIDE)
    conditioning = condition(graph, loader, kind, clip=encoder["CLIP"], prompt="", column=2, **images)
    sampler = sample(graph, loader, conditioning)
    frames = graph.add("DynamiCrafterVAEDecode", vae=loader["vae"], latent=sampler["latent"])
    graph.expose(conditioning, *pictures, "prompt", "frames", "motion", "width", "height")
    graph.expose(sampler, "steps", "cfg")
    graph.expose(frames, "fps")
    graph.expose(loader, "checkpoint", "variant")
    graph.result("video", frames["video"])
    graph.result("images", frames["images"])
    return graph


BLUEPRINTS: dict[str, tuple[str, Graph]] = {
    "Image to Video (DynamiCrafter 1024)": (
        "Animates an image as a prompt says, with the DynamiCrafter 1024 model.",
        blueprint("1024", "ImageConditioning", "image"),
    ),
    "First-Last-Frame to Video (DynamiCrafter 512)": (
        "Generates the frames between two images, with the DynamiCrafter interpolation model.",
        blueprint("512_interp", "Interpolation", "first_image", "last_image"),
    ),
    "Seamless Loop (DynamiCrafter 512)": (
        "Generates a clip that begins and ends with the same image, with the DynamiCrafter interpolation model.",
        blueprint("512_interp", "Looping", "image"),
    ),
}
"""What every subgraph does and how it is built, by the name of its file and in the editor's library."""

TEMPLATES: dict[str, Callable[[str], Graph]] = {
    "DynamiCrafter animate picture - image to video in one node": animate_picture,
    "DynamiCrafter batch - one video for each image": batch_of_pictures,
    "DynamiCrafter camera move - depth and orbit of a photo, 8 GB download": camera_move,
    "DynamiCrafter ControlNet - edges of a clip to follow, 8 GB download": edges_of_a_clip,
    "DynamiCrafter dual CFG guidance - prompt and image, core nodes": dual_cfg,
    "DynamiCrafter endless loop - any length by windows": endless_loop,
    "DynamiCrafter frame interpolation - smoother video, 70 MB download": frame_interpolation,
    "DynamiCrafter image CFG guidance - prompt and image, own sampler": two_scale_guidance,
    "DynamiCrafter image to video - separate nodes": separate_nodes,
    "DynamiCrafter interpolation - video between two images": interpolation,
    "DynamiCrafter keyframes - several images with prompts": keyframes,
    "DynamiCrafter KSampler - image to video with the core sampler": core_ksampler,
    "DynamiCrafter long clip - any length by continuation": long_clip,
    "DynamiCrafter longer video - three clips in a row": longer_clip,
    "DynamiCrafter loop - seamless video from one image": loop,
    "DynamiCrafter low motion against high motion - two clips": low_and_high_motion,
    "DynamiCrafter model 1024 - image to video, 7 GB download": released_1024,
    "DynamiCrafter model 512 - image to video, 7 GB download": released_512,
    "DynamiCrafter model 512 interpolation - two images, 7 GB download": released_interpolation,
    "DynamiCrafter paint what moves - a mask of the motion": paint_what_moves,
    "DynamiCrafter photo to film - no prompt, with sound": photo_to_film,
    "DynamiCrafter photo to film LLM - local language model, 12 GB download": photo_to_film_by_language_model,
    "DynamiCrafter person SDPose - dance video to character, 2 GB download": person_from_video,
    "DynamiCrafter person - AnimateAnyone, a character moved by poses": person,
    "DynamiCrafter person parts - AnimateAnyone with separate nodes": person_parts,
    "DynamiCrafter sketch - drawings of chosen frames, 9 GB download": sketch,
    "DynamiCrafter story - three scenes with sound": story,
    "DynamiCrafter upscale - video four times as large, 70 MB download": upscale,
}
"""Every template by the name of its files; the one to start with is the first in alphabetical order."""
