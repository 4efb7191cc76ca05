"""The options of the command line in groups; the help of every option states its unit and its default."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..animate_anyone.config import BUILT_IN_PERSON
from ..backends.choice import TORCH
from ..camera.choices import FAR, KINDS, MOVES, NEAR, GuideCamera
from ..director.scenes import FILM_DEFAULTS
from ..model.configs import COMPILE, MEMORY, WEIGHTS
from ..model.variants import VARIANTS, VIEWS_PROMPT
from ..page.limits import Limits
from ..parameters import PARAMETERS, Group, Parameter, of_group
from ..weights.mixture import Mixture
from .readers import (
    number_of,
    to_computed,
    to_hint,
    to_lora,
    to_name,
    to_names,
    to_path,
    to_plain,
    to_positive,
    to_seeds,
    to_shard,
    to_shift,
    to_size,
)

VARIANT_HELP = f"variant of {{}}, if its weights are ambiguous: {', '.join(VARIANTS)}"

TINY_HELP = "tiny, the built-in model, which knows coloured shapes only"


def general_options(parser: argparse.ArgumentParser) -> None:
    """What every command has."""
    general = parser.add_argument_group("general")
    general.add_argument(
        "--json", action="store_true", help="print the result or the error as one JSON object"
    )
    general.add_argument("-q", "--quiet", action="store_true", help="hide progress")
    general.add_argument("--debug", action="store_true", help="on failure, print the traceback")


STDIN = "or - for standard input"


def pictures(parser: argparse.ArgumentParser) -> None:
    """The images of a command that takes any number."""
    parser.add_argument(
        "pictures",
        nargs="+",
        type=to_name,
        metavar="PICTURE",
        help=f"image files or patterns such as '*.png', {STDIN}",
    )


def run_options(output: Any, default: str) -> None:
    """The options of commands that generate clips: where these go, and what is said about them."""
    output.add_argument(
        "-o",
        "--output",
        type=to_name,
        metavar="PATH",
        help=".mp4, .webm, .gif, .webp, a folder for PNGs, or - for MP4 on standard output; several clips are "
        f"numbered (default: {default})",
    )
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print what would be generated, without loading the model",
    )
    output.add_argument(
        "-v", "--verbose", action="store_true", help="print the same before the clips are generated"
    )


def model_options(
    parser: argparse.ArgumentParser,
    default: str,
    *,
    dtype: bool = True,
    device: bool = True,
    lora: bool = True,
) -> Any:
    """The model and where it runs; returns the group, for options that belong to it."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME|FILE",
        help=f"a name from 'dynamicrafter models', a weights file, or 'random' (noise) (default: {default})",
    )
    _source_options(group, lora)
    if device:
        _device_option(group)
    if dtype:
        _dtype_option(group)
    return group


def _source_options(group: Any, lora: bool = True) -> None:
    """What a model consists of besides its weights file."""
    if lora:
        group.add_argument(
            "--lora",
            action="append",
            type=to_lora,
            metavar="FILE[:STRENGTH]",
            help="LoRA to merge into the network, with its strength (default: 1, as trained); may be repeated",
        )
    group.add_argument("--variant", metavar="NAME", help=VARIANT_HELP.format("FILE"))
    group.add_argument(
        "--text-encoder", type=to_path, metavar="FILE", help="CLIP text encoder, if the weights file has none"
    )
    group.add_argument(
        "--image-encoder",
        type=to_path,
        metavar="FILE",
        help="CLIP image encoder, if the weights file has none",
    )


def run_by_options(group: Any, default: str | None, said: str) -> None:
    """What computes the networks, and how PyTorch keeps their weights."""
    _backend_option(group, default, said)
    _storage_options(group)
    group.add_argument(
        "--compile",
        choices=COMPILE,
        default="off",
        help="compile the network's blocks with torch.compile: default, or reduce-overhead (with CUDA graphs); takes "
        "minutes with the first clip of a size (default: off)",
    )


def _backend_option(group: Any, default: str | None, said: str) -> None:
    group.add_argument(
        "--backend",
        default=default,
        metavar="NAME",
        help="what computes the networks: torch, openvino, openvino:GPU or openvino:NPU; OpenVINO needs the model's "
        f"export (default: {said})",
    )


def _storage_options(group: Any) -> None:
    """How PyTorch keeps the weights of the networks."""
    group.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="how the network's weights are kept: int8 or fp8_scaled (1 byte each), full (as computed), or auto "
        "(as in the file; default)",
    )
    group.add_argument(
        "--memory",
        choices=MEMORY,
        default="auto",
        help="networks on the device: high (all), low (each while it works), min (layer by layer), or auto (by its "
        "free memory; default)",
    )


def _dtype_option(group: Any) -> None:
    group.add_argument(
        "--dtype",
        type=to_computed,
        default="auto",
        metavar="KIND",
        help="compute precision: auto, fp32, bf16 or fp16 (default: auto, which is fp32 on the CPU, else 16 bits)",
    )


def _device_option(group: Any) -> None:
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1 or mps (default: auto, the fastest available)",
    )


def export_options(parser: argparse.ArgumentParser) -> None:
    """What ``export`` writes, and for which sizes."""
    parser.add_argument(
        "--backend",
        choices=("openvino",),
        default="openvino",
        help="what to export for (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        choices=("fp16", "int8"),
        default="fp16",
        help="precision to store: fp16, or int8 for half the size (default: %(default)s)",
    )
    parser.add_argument(
        "--calibrate",
        type=to_path,
        metavar="FOLDER",
        help="with --weights int8, also compute in 8 bits: images and clips like those to generate, each with a prompt "
        "in the .txt file of its name",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=to_path,
        metavar="DIR",
        help="folder to write, to be passed to --model afterwards (default: the weights folder, where --backend "
        "openvino finds it by the model's name)",
    )
    _source_options(parser.add_argument_group("model"))


def merge_options(parser: argparse.ArgumentParser) -> None:
    """What ``merge`` merges, how, and what it writes."""
    known = "a name from 'dynamicrafter models' or a weights file"
    parser.add_argument("base", type=to_name, metavar="BASE", help=f"the model before fine-tuning: {known}")
    parser.add_argument("tuned", type=to_name, metavar="TUNED", help="the same model fine-tuned, likewise")
    for name, when in (("dynamic", "the noisy steps"), ("consistent", "the other steps")):
        parser.add_argument(
            f"--{name}",
            type=to_path,
            required=True,
            metavar="FILE",
            help=f"file to write, .safetensors: the model for {when}",
        )
    mixture = Mixture()
    parser.add_argument(
        "--dynamic-weight",
        type=float,
        default=mixture.dynamic,
        metavar="W",
        help="how far the dynamic model goes from BASE, away from TUNED, where 1 is their difference (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--consistent-weight",
        type=float,
        default=mixture.consistent,
        metavar="W",
        help="how far the consistent model goes beyond TUNED (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=mixture.keep,
        metavar="SHARE",
        help="share of the changes that is kept, above 0 and up to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=mixture.seed,
        help="decides which changes are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        type=to_plain,
        default="keep",
        metavar="KIND",
        help="precision to store: fp32, bf16, fp16, or keep (default: keep that of BASE)",
    )
    parser.add_argument("--variant", metavar="NAME", help=VARIANT_HELP.format("BASE"))


def clip_options(
    parser: argparse.ArgumentParser, *, batch: bool = True, prompt: bool = True, keys: bool = False
) -> None:
    """What a clip shows, its shape, its sampling, its model and where it goes."""
    picture = parser.add_argument_group("what should happen")
    if prompt:
        _option(picture, PARAMETERS["prompt"])
    _happening_options(picture, [123], "one or more seeds, one clip each (default: 123)")
    _shape_options(parser)
    _length_options(parser, keys=keys)
    _sampling_options(parser, batch=batch)

    run_by_options(model_options(parser, TINY_HELP), TORCH, TORCH)

    output = parser.add_argument_group("output")
    run_options(output, "PICTURE-COMMAND.mp4 in the current folder")
    _options(output, "output")


def camera_options(parser: argparse.ArgumentParser) -> None:
    """The depth of an image, the camera's path, and what is done with the guide clip."""
    default = GuideCamera("orbit:0")
    scene = parser.add_argument_group("scene")
    depth = scene.add_mutually_exclusive_group(required=True)
    depth.add_argument(
        "--depth",
        type=to_path,
        metavar="FILE",
        help="depth map of the size of PICTURE: .png (grey, best with 16 bits), .exr or .npy",
    )
    depth.add_argument(
        "--depth-model",
        type=to_name,
        metavar="NAME|FOLDER",
        help="estimate the depth map with this model of transformers, a folder or a name in the cache of the Hugging "
        "Face hub, and write it next to the output as .npy",
    )
    scene.add_argument(
        "--depth-kind",
        choices=KINDS,
        default=default.depth_kind,
        help="disparity (near is bright; MiDaS, Depth Anything), depth (far is bright), or metric (metres, or "
        "millimetres in whole numbers) (default: %(default)s)",
    )
    scene.add_argument(
        "--near",
        type=float,
        metavar="DISTANCE",
        help=f"distance of the nearest point; a lower limit for metric depth (default: {NEAR:g}; none)",
    )
    scene.add_argument(
        "--far",
        type=float,
        metavar="DISTANCE",
        help=f"distance of the farthest point; an upper limit for metric depth (default: {FAR:g}; none)",
    )
    scene.add_argument(
        "--fov",
        type=float,
        default=default.fov,
        metavar="DEGREES",
        help="angle that PICTURE shows across its width (default: %(default)g)",
    )
    scene.add_argument(
        "--elevation",
        type=float,
        default=default.elevation,
        metavar="DEGREES",
        help="angle by which PICTURE looks down (default: %(default)g)",
    )
    scene.add_argument(
        "--centre",
        type=float,
        default=default.centre,
        metavar="F",
        help="distance of the centre of the scene, as a multiple of that in the middle of PICTURE (default: "
        "%(default)g)",
    )
    path = parser.add_argument_group("camera path (docs/techniques/camera.md)")
    path.add_argument(
        "--path",
        type=to_name,
        required=True,
        metavar="MOVES|FILE",
        help=f"{', '.join(MOVES)}, such as orbit:30+dolly:-0.3, or a file of RealEstate10K or COLMAP (images.txt)",
    )
    path.add_argument(
        "--path-scale",
        type=float,
        default=default.path_scale,
        metavar="F",
        help="factor of the positions in a file (default: %(default)g)",
    )
    guide = parser.add_argument_group("guide clip")
    guide.add_argument(
        "--radius",
        type=float,
        default=default.radius,
        metavar="PIXELS",
        help="radius of the discs that are drawn for the pixels of PICTURE (default: %(default)g)",
    )
    written = guide.add_mutually_exclusive_group()
    written.add_argument("--guide", type=to_name, metavar="PATH", help="also write the guide clip there")
    written.add_argument(
        "--guide-only", action="store_true", help="write the guide clip to the output, and generate nothing"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help=f"what the clip shows (default: {VIEWS_PROMPT!r} for models of guide clips, empty for others)",
    )


def directing_options(parser: argparse.ArgumentParser) -> None:
    """Who proposes the plan, and what is done with it."""
    plan = parser.add_argument_group("plan")
    plan.add_argument("--idea", default="", metavar="TEXT", help="what should happen, for the language model")
    plan.add_argument(
        "--llm",
        metavar="PROFILE",
        help="language model that looks at the image, see 'dynamicrafter language-model' (default: none; the motion "
        "is suggested by CLIP)",
    )
    plan.add_argument(
        "--towers", type=to_path, metavar="FILE", help="complete CLIP encoders, for suggestions without one"
    )
    plan.add_argument(
        "--phrases",
        type=to_path,
        metavar="FILE",
        help="bank of motions to suggest (default: the built-in one)",
    )
    plan.add_argument(
        "--rounds",
        type=int,
        default=0,
        metavar="N",
        help="measure the clip and generate it up to N times more, 0 to 3, each time with one setting changed; the "
        "best is kept (default: %(default)s)",
    )
    plan.add_argument("-y", "--yes", action="store_true", help="generate the first plan without asking")
    plan.add_argument("--mute", action="store_true", help="write the clip without the plan's sound")


def story_options(parser: argparse.ArgumentParser) -> None:
    """The scenes of ``story``, what they have in common, the models and the film."""
    parser.add_argument(
        "story",
        type=to_path,
        metavar="STORY",
        help="scenes as .yaml, or plain text as .txt with a scene in each paragraph",
    )
    scenes = parser.add_argument_group("scenes")
    scenes.add_argument("--picture", default="", metavar="FILE", help="image that a plain text begins with")
    scenes.add_argument(
        "--llm",
        metavar="PROFILE",
        help="language model that splits a plain text into scenes, see 'dynamicrafter language-model' (default: none)",
    )
    scenes.add_argument(
        "--style", default="", metavar="TEXT", help="words added to every prompt (default: the story's)"
    )
    scenes.add_argument(
        "--sounds", type=to_path, metavar="DIR", help="folder of sounds, chosen by the words of their names"
    )
    scenes.add_argument("--mute", action="store_true", help="write the film without sound")
    changed = {name: replace(PARAMETERS[name], default=value) for name, value in FILM_DEFAULTS.items()}
    picture = parser.add_argument_group("what should happen, unless a scene says otherwise")
    _options(picture, "content", without=("prompt", "frames"))
    seed = PARAMETERS["seed"]
    picture.add_argument(
        "--seed", type=number_of(seed), metavar="N", help=f"seed of the noise (default: {seed.default})"
    )
    _shape_options(parser)
    _option(parser.add_argument_group("joints"), changed.pop("continue_from"))
    faithfulness = parser.add_argument_group("faithfulness to the image")
    for parameter in changed.values():
        _option(faithfulness, parameter)
    _sampling_options(parser, batch=False, without=("denoise",))
    # What was not typed is the story's.
    parser.set_defaults(batch=1, **{name: None for name in PARAMETERS if name not in ("width", "height")})
    model = model_options(parser, TINY_HELP)
    model.add_argument(
        "--between-model",
        metavar="NAME|FILE",
        help="model for interpolations between two images (default: that of --model)",
    )
    run_by_options(model, TORCH, TORCH)
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--out",
        "--output",
        dest="output",
        type=to_path,
        metavar="PATH",
        help=".mp4, .webm, .gif, .webp or a folder for PNGs; clips are kept in PATH-scenes beside it (default: "
        "STORY.mp4 in the current folder)",
    )
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print scenes, time and memory, without loading the model or asking anybody",
    )
    output.add_argument(
        "-v", "--verbose", action="store_true", help="print the same before the clips are generated"
    )
    _options(output, "output")


def batch_options(parser: argparse.ArgumentParser) -> None:
    """The jobs of ``batch``, their workers and the defaults of their lines."""
    parser.add_argument(
        "jobs",
        type=to_path,
        metavar="JOBS",
        help='a file with one JSON object a line, such as {"pictures": ["boat.png"], "prompt": "waves", "seed": 7}',
    )
    parser.add_argument(
        "--out",
        type=to_path,
        required=True,
        metavar="DIR",
        help="folder for the clips and their records; a repeated command generates only what is missing there",
    )
    parser.add_argument(
        "--shard",
        type=to_shard,
        default=(1, 1),
        metavar="i/N",
        help="generate only every N-th line, starting with line i, for N machines (default: all)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and print which clips are missing"
    )
    group = model_options(parser, f"{TINY_HELP}; for jobs that name no model", device=False)
    run_by_options(group, TORCH, TORCH)
    where = parser.add_argument_group("where clips are generated")
    where.add_argument(
        "--devices",
        type=to_names,
        default=["auto"],
        metavar="NAME[,NAME...]",
        help="devices of this machine, each with a process of its own, such as cuda:0,cuda:1 (default: auto, one "
        "device)",
    )
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes for each device (default: 1); with --ray in all (default: one for each GPU, else machine)",
    )
    elsewhere = where.add_mutually_exclusive_group()
    elsewhere.add_argument(
        "--ray",
        type=to_name,
        metavar="ADDRESS",
        help="a Ray cluster with this package, such as 10.0.0.1:6379, auto or local (one on this machine), instead of "
        "devices",
    )
    elsewhere.add_argument(
        "--server",
        nargs="+",
        metavar="URL",
        help="running ComfyUI servers with this pack and the models, such as http://127.0.0.1:8188, instead of devices",
    )
    where.add_argument(
        "--queue", type=int, default=2, metavar="N", help="jobs queued at each server (default: %(default)s)"
    )


def serving_options(parser: argparse.ArgumentParser) -> None:
    """The models of ``serve``, where clips are generated, who may open the page, and its limits."""
    group = model_options(
        parser, f"{TINY_HELP}; chosen first, besides those that are downloaded", device=False
    )
    run_by_options(group, TORCH, TORCH)
    where = parser.add_argument_group("where clips are generated")
    where.add_argument(
        "--devices",
        type=to_names,
        default=["auto"],
        metavar="NAME[,NAME...]",
        help="devices of this machine, each with a process of its own, such as cuda:0,cuda:1 (default: auto, one "
        "device)",
    )
    where.add_argument(
        "--server",
        nargs="+",
        metavar="URL",
        help="running ComfyUI servers with this pack and the model, such as http://10.0.0.2:8188, instead of devices",
    )
    address = parser.add_argument_group("address")
    address.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; 0.0.0.0 for all of this machine (default: %(default)s, this machine alone)",
    )
    address.add_argument(
        "--port", type=int, default=7860, metavar="N", help="port; 0 for a free one (default: %(default)s)"
    )
    address.add_argument(
        "--name",
        type=to_names,
        default=[],
        metavar="NAME[,NAME...]",
        help="names under which browsers reach the page, such as studio.example.org",
    )
    address.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="path under which a reverse proxy serves the page, such as /studio",
    )
    address.add_argument(
        "--proxy",
        default="",
        metavar="ADDRESS",
        help="address of a reverse proxy whose X-Forwarded-For and -Proto headers are believed (default: none)",
    )
    address.add_argument(
        "--embed",
        type=to_names,
        default=[],
        metavar="URL[,URL...]",
        help="sites that may show the page in a frame, such as https://example.org (default: none)",
    )
    address.add_argument(
        "--logins",
        type=to_path,
        metavar="FILE",
        help="file with name:password on each line (default: no login)",
    )
    bounds = parser.add_argument_group("limits")
    bounds.add_argument(
        "--results",
        type=to_path,
        metavar="DIR",
        help="folder for results (default: page in the weights folder)",
    )
    for option, unit, meaning in (
        ("hours", "N", "hours for which results are kept"),
        ("upload", "MB", "megabytes of an uploaded image"),
        ("pixels", "N", "width times height of a clip"),
        ("frames", "N", "frames of a clip"),
        ("steps", "N", "steps of a clip"),
        ("film", "N", "frames of all clips of a film"),
        ("queued", "N", "clips of one visitor that wait or are generated at once"),
        ("queue", "N", "clips that wait or are generated in all"),
        ("daily", "N", "clips of one visitor in 24 hours"),
    ):
        default = getattr(Limits, option)
        bounds.add_argument(
            f"--max-{option}" if option != "hours" else "--keep",
            dest=option,
            type=float if option == "hours" else int,
            default=default,
            metavar=unit,
            help=f"{meaning} (default: {default:g})",
        )


def person_options(parser: argparse.ArgumentParser, *, compared: bool = False) -> None:
    """The poses, their drawing and fitting, the sampling, the model and the output of ``person``.

    ``compared``: of ``compare-person``, whose video shows both sides and no poses.
    """
    parser.add_argument("picture", type=to_name, metavar="PICTURE", help="image of the person")
    poses = parser.add_argument_group("poses")
    poses.add_argument(
        "--poses",
        type=to_name,
        required=True,
        metavar="CLIP|JSON",
        help="clip or folder of drawn poses, or keypoints of OpenPose or mmpose as JSON",
    )
    poses.add_argument(
        "--detect",
        action="store_true",
        help="CLIP is a video of a person, whose poses are found by rtmlib (extra pose)",
    )
    poses.add_argument(
        "--start",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="where to begin in the clip; keypoints count as 24 frames a second (default: 0)",
    )
    poses.add_argument(
        "--seconds", type=float, metavar="SECONDS", help="how much of it to use (default: all)"
    )
    poses.add_argument(
        "--every", type=to_positive, default=1, metavar="N", help="use every n-th pose (default: 1)"
    )
    poses.add_argument(
        "--frames", type=to_positive, metavar="N", help="number of frames, at most 2000 (default: all poses)"
    )
    poses.add_argument(
        "--fit-to",
        type=to_path,
        metavar="JSON|PICTURE",
        help="keypoints of the person in PICTURE, whose size and place those of the clip get; with --detect, PICTURE "
        "itself",
    )
    poses.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="make the person of the poses F times as large"
    )
    poses.add_argument(
        "--shift",
        type=to_shift,
        default=(0.0, 0.0),
        metavar="X,Y",
        help="move the poses right and down by these fractions of the frame; write --shift=-0.1,0 for a negative one",
    )
    if not compared:
        poses.add_argument(
            "--preview-poses",
            type=to_path,
            metavar="PATH",
            help="also write the poses over the image as a clip, before the long work; alone with --dry-run",
        )
    poses.add_argument(
        "--smooth",
        type=int,
        metavar="N",
        help="fill gaps of up to 5 frames, and average keypoints over N frames, an odd number up to 31",
    )
    poses.add_argument("--no-hands", dest="hands", action="store_false", help="do not draw hands")
    poses.add_argument("--no-face", dest="face", action="store_false", help="do not draw the face")
    shape = parser.add_argument_group("size")
    shape.add_argument(
        "--size",
        type=to_size,
        metavar="WxH",
        help="size of the clip; multiples of 8 (default: the model's, 512x768)",
    )
    shape.add_argument(
        "--fit",
        choices=("crop", "pad", "stretch"),
        default="stretch",
        help="how an image or poses with a different aspect ratio are resized (default: stretch, as the original)",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=int, help="denoising steps (default: the model's, 25)")
    sampling.add_argument("--cfg", type=float, help="guidance scale, 1 for none (default: the model's, 3.5)")
    sampling.add_argument(
        "--eta", type=float, default=0.0, help="noise added at each step, 0 to 1 (default: 0)"
    )
    sampling.add_argument("--seed", type=int, default=42, help="(default: 42)")
    sampling.add_argument(
        "--window", type=int, help="frames seen together, 2 to 32 (default: the model's, 24)"
    )
    sampling.add_argument(
        "--overlap", type=int, help="frames shared by two windows (default: the model's, 4)"
    )
    sampling.add_argument(
        "--exact",
        action="store_true",
        help="windows as the original's, which wrap around to the first frames",
    )
    sampling.add_argument(
        "--noise-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="precision of the noise; float16 repeats seeds of clips made by the original (default: float32)",
    )
    sampling.add_argument(
        "--interpolate",
        type=int,
        default=1,
        metavar="N",
        help="frames for each pose, 1 to 8: from 2 on, the latents between each two are interpolated (default: 1)",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        type=to_path,
        default=Path(BUILT_IN_PERSON),
        metavar="NAME|FILE|FOLDER",
        help="animate_anyone if it is downloaded, a folder with the original's files, one file made of them by "
        "'dynamicrafter convert', or an export (default: tiny_person, the built-in model, which knows cartoon "
        "characters only)",
    )
    _device_option(model)
    _dtype_option(model)
    _backend_option(model, TORCH, TORCH)
    _storage_options(model)
    output = parser.add_argument_group("output")
    fps = "frames per second (default: those of the poses"
    if compared:
        run_options(output, "PICTURE-COMMAND.mp4 in the current folder")
        output.add_argument("--fps", type=float, help=f"{fps})")
        return
    output.add_argument(
        "-o",
        "--output",
        type=to_name,
        metavar="PATH",
        help=".mp4, .webm, .gif, .webp or a folder for PNGs (default: PICTURE-person.mp4 in the current folder)",
    )
    output.add_argument("--fps", type=float, help=f"{fps}, whose sound is then kept)")
    output.add_argument("--side-by-side", action="store_true", help="image, pose and result in one clip")
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print what would be generated, without loading the model",
    )


def _happening_options(picture: Any, seeds: list[int], seed_help: str) -> None:
    _options(picture, "content", without=("prompt",))
    _seed_option(picture, seeds, seed_help)


def _seed_option(group: Any, seeds: list[int], seed_help: str) -> None:
    group.add_argument("--seed", type=to_seeds, default=seeds, metavar="N[,N...]", help=seed_help)


def _shape_options(parser: argparse.ArgumentParser) -> None:
    shape, width = parser.add_argument_group("shape"), PARAMETERS["width"]
    shape.add_argument(
        "--size",
        type=to_size,
        metavar="WxH",
        help=f"width and height in {width.unit}, multiples of {width.multiple} (default: {width.own})",
    )
    _options(shape, "shape", without=("width", "height"))


_OF_KEYS = ("keys", "cut_still")
"""Parameters of interpolations through several images."""


def _length_options(parser: argparse.ArgumentParser, *, keys: bool = False) -> None:
    title = "long clips and keyframes" if keys else "long clips"
    _options(parser.add_argument_group(title), "length", without=() if keys else _OF_KEYS)
    if not keys:
        parser.set_defaults(**{name: PARAMETERS[name].default for name in _OF_KEYS})
    _options(parser.add_argument_group("faithfulness to the image"), "faithfulness")


def source_clip_options(parser: argparse.ArgumentParser) -> None:
    """What a clip starts from and follows besides its images; for one clip, not for a comparison."""
    source = parser.add_argument_group("masks and source clips (docs/techniques)")
    source.add_argument(
        "--mask",
        type=to_path,
        metavar="FILE",
        help="image of the size of PICTURE: white may move, black stays as it is",
    )
    source.add_argument(
        "--video",
        type=to_path,
        metavar="CLIP",
        help="clip to start from, with --denoise below 1 or --mask (default: the image held still)",
    )

    control = parser.add_argument_group("ControlNet and sketches (docs/techniques/control.md)")
    control.add_argument(
        "--control",
        type=to_path,
        metavar="FILE",
        help="ControlNet for Stable Diffusion 2.1, or ToonCrafter's sketch encoder (default: none)",
    )
    control.add_argument(
        "--hint",
        type=to_hint,
        action="append",
        metavar="CLIP|PICTURE[@FRAME]",
        help="what it is shown: a clip with an image for each frame, an image for all frames, or images of chosen "
        "frames, such as a.png@0, counted from 0; may be repeated",
    )
    _options(control, "control")


def _sampling_options(
    parser: argparse.ArgumentParser, *, batch: bool = True, without: tuple[str, ...] = ()
) -> None:
    quality = parser.add_argument_group("sampling ('dynamicrafter models' lists the models' defaults)")
    _options(quality, "sampling", without=("seed",))
    if batch:
        quality.add_argument(
            "--batch", type=int, default=1, help="clips generated at once (default: %(default)s)"
        )
    techniques = parser.add_argument_group("techniques, all off by default (docs/techniques)")
    _options(techniques, "techniques", without=without)
    # Commands with ControlNets have options for these.
    parser.set_defaults(**{parameter.name: parameter.default for parameter in of_group("control")})


_FORMER = {"guidance_rescale": ("--rescale",)}
"""Names in earlier versions, which still work."""


def _options(parser: Any, group: Group, without: tuple[str, ...] = ()) -> None:
    for parameter in of_group(group):
        if parameter.name not in without:
            _option(parser, parameter)


def _option(parser: Any, parameter: Parameter) -> None:
    """The option of a parameter; its range is the metavar."""
    name, default = parameter.name, parameter.default
    shown = (
        parameter.own if default is None else f"{default:g}" if isinstance(default, float) else str(default)
    )
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        *_FORMER.get(name, ()),
        type=str if parameter.kind is str else number_of(parameter),
        choices=None if parameter.numbers else tuple(parameter.choices) or None,
        metavar=_metavar(parameter),
        default=None if parameter.preset else default,
        help=f"{parameter.description} (default: {shown or 'empty'})",
    )


def _metavar(parameter: Parameter) -> str | None:
    if parameter.numbers:
        return "X[,X...]"
    return None if parameter.low is None else f"{parameter.low:g}..{parameter.high:g}"


def toy_options(parser: argparse.ArgumentParser) -> None:
    """What ``evaluate toy`` measures."""
    parser.add_argument(
        "--items", type=int, help="clips per metric (default: 64, with --scales or --lengths 16)"
    )
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument(
        "--scales",
        action="store_true",
        help="measure only the effect of the text and image guidance scales, separately",
    )
    measured.add_argument(
        "--hops",
        action="store_true",
        help="measure only whether the model knows the word taught by 'toy-clips', and still the directions",
    )
    measured.add_argument(
        "--lengths",
        action="store_true",
        help="measure only long clips, loops, keyframes and short clips",
    )
    _seed_option(parser, [0], "one or more seeds; the median of each metric is reported (default: 0)")
    quality = parser.add_argument_group("sampling")
    _option(quality, PARAMETERS["steps"])
    _option(quality, PARAMETERS["cfg"])
    _storage_options(model_options(parser, TINY_HELP, dtype=False))


def characters_options(parser: argparse.ArgumentParser) -> None:
    """What ``evaluate person`` measures."""
    parser.add_argument("--items", type=int, help="characters (default: 64)")
    _seed_option(parser, [0], "one or more seeds; the median of each metric is reported (default: 0)")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=int, help="denoising steps (default: the model's, 12)")
    sampling.add_argument("--cfg", type=float, help="guidance scale, 1 for none (default: the model's, 1)")
    sampling.add_argument(
        "--window", type=int, help="frames seen together, 2 to 32 (default: the model's, 8)"
    )
    sampling.add_argument(
        "--overlap", type=int, help="frames shared by two windows (default: the model's, 2)"
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        type=to_path,
        default=Path(BUILT_IN_PERSON),
        metavar="FILE",
        help="model of persons, as 'train' wrote it (default: tiny_person, the built-in model)",
    )
    _device_option(model)
    _backend_option(model, TORCH, TORCH)


def folder_options(parser: argparse.ArgumentParser) -> None:
    """What ``evaluate folder`` generates and measures."""
    parser.add_argument("folder", type=to_path, metavar="FOLDER", help=_PROMPTS_HELP)
    parser.add_argument("--loop", action="store_true", help="generate loops")
    picture = parser.add_argument_group("what should happen")
    _happening_options(picture, [0], "one or more seeds, one clip each (default: 0)")
    _shape_options(parser)
    _length_options(parser)
    _sampling_options(parser)
    run_by_options(model_options(parser, TINY_HELP), TORCH, TORCH)
    _learned_options(parser)
    output = _table_option(parser)
    output.add_argument("--keep", type=to_path, metavar="FOLDER", help="folder to keep the clips in, as .mp4")


def videos_options(parser: argparse.ArgumentParser) -> None:
    """What ``evaluate videos`` measures."""
    parser.add_argument(
        "videos",
        type=to_path,
        metavar="PATH",
        help="a folder of clips (.mp4, .webm, .gif, .webp, folders of PNGs), or a single clip",
    )
    parser.add_argument(
        "--prompts", type=to_path, metavar="FOLDER", help=f"sources of the clips: {_PROMPTS_HELP}"
    )
    _option(parser, PARAMETERS["fit"])
    _device_option(_learned_options(parser))
    _table_option(parser)


_PROMPTS_HELP = (
    "images with text files of the same name, or with prompts.csv or .jsonl (picture, prompt and optionally end, "
    "clip); or such a list"
)


def _learned_options(parser: argparse.ArgumentParser) -> Any:
    learned = parser.add_argument_group(
        "learned metrics, computed if their package and weights are installed"
    )
    learned.add_argument("--plain", action="store_true", help="skip all of them")
    learned.add_argument(
        "--towers", type=to_path, metavar="FILE", help="complete CLIP encoders, for the CLIP score"
    )
    learned.add_argument(
        "--i3d",
        type=to_path,
        metavar="FILE",
        help="I3D as TorchScript, for FVD and KVD (default: i3d_torchscript.pt in the weights folder)",
    )
    learned.add_argument(
        "--real",
        type=to_path,
        metavar="PATH",
        help="real clips to compare with, for FVD and KVD, in addition to those in the list",
    )
    learned.add_argument("--fetch", action="store_true", help="let LPIPS and DreamSim download their weights")
    return learned


def _table_option(parser: argparse.ArgumentParser) -> Any:
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=to_path, metavar="FILE", help="write the metrics of every clip")
    return output
