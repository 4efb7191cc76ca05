"""The arguments of the command line; the help of every option states its unit and its default."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from ..backends.choice import TORCH
from ..errors import UsageError
from ..model.configs import COMPILE, MEMORY, WEIGHTS
from ..model.variants import VARIANTS
from ..parameters import PARAMETERS, Group, Parameter, of_group

EPILOG = """\
examples:
  dynamicrafter animate boat.png --model 512 --prompt "a boat rocks on the waves"
  dynamicrafter interpolate day.png dusk.png --model 512_interp -o dusk.webm
  dynamicrafter loop fire.png --model 512_interp --motion 0.8 -o fire.gif
  dynamicrafter again clip.mp4 -o once_more.mp4
  dynamicrafter batch jobs.jsonl --out clips --model 512

'dynamicrafter COMMAND --help' describes a command; 'dynamicrafter models' lists the weights.
"""

CLIP_COMMANDS = ("animate", "interpolate", "loop")
"""The commands that generate clips, with the same options."""

_VARIANT_HELP = f"variant of {{}}, if its weights are ambiguous: {', '.join(VARIANTS)}"
_TINY_HELP = "tiny, the built-in model, which knows coloured shapes only"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of printing its usage and exiting.

    Options cannot be abbreviated: an abbreviation may become ambiguous when options are added. ``advice`` ends the
    message.
    """

    def __init__(self, *arguments: Any, advice: str = "", **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})
        self._words: list[str] = []
        self._advice = advice or f"see '{self.prog} --help'"

    def error(self, message: str) -> NoReturn:
        """Raise the parser's message as one sentence."""
        raise UsageError(f"{message}; {self._value_with_hyphen(message) or self._advice}")

    def _value_with_hyphen(self, message: str) -> str | None:
        """What to write if the message complains of a missing value that is there, but looks like an option."""
        found = re.fullmatch(r"argument (\S+): expected one argument", message)
        names = found[1].split("/") if found else []
        for name, value in pairwise(self._words):
            if name in names and value.startswith("-") and value not in self._option_string_actions:
                return f"write {names[-1]}={shlex.quote(value)} for a value that starts with a hyphen"
        return None

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Reject unknown options here: a subcommand would leave them to the main parser, which names its own help."""
        self._words = list(arguments[0])
        namespace, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def make_parser(version: str) -> argparse.ArgumentParser:
    """The parser of the ``dynamicrafter`` command."""
    parser = Parser(
        prog="dynamicrafter",
        description="Animate still images with DynamiCrafter.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dynamicrafter {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    animate = _command(
        commands,
        "animate",
        "animate still images",
        'animate boat.png --model 512 --prompt "a boat rocks on the waves"',
        "animate *.png --seed 1,2 -o clips/clip.gif",
    )
    _pictures(animate)
    _clip_options(animate)
    _source_clip_options(animate)

    interpolate = _command(
        commands,
        "interpolate",
        "generate a clip between two images, or through several",
        "interpolate day.png dusk.png --model 512_interp -o dusk.webm",
        'interpolate a.png b.png c.png --model 512_interp --prompt "she rises | she waves" --keys 0,15,40',
    )
    interpolate.add_argument(
        "first", type=_name, metavar="FIRST", help=f"image the clip starts with, {_STDIN}"
    )
    interpolate.add_argument(
        "rest",
        nargs="+",
        type=_name,
        metavar="NEXT",
        help=f"image the clip ends with, {_STDIN}, after the images on the way, if any",
    )
    _clip_options(interpolate, keys=True)
    _source_clip_options(interpolate)

    loop = _command(
        commands,
        "loop",
        "generate seamless loops",
        "loop fire.png --model 512_interp --motion 0.8 -o fire.gif",
        "loop fire.png --model 512_interp --frames 24 --fps 12",
    )
    _pictures(loop)
    _clip_options(loop)
    _source_clip_options(loop)

    directed = _command(
        commands,
        "direct",
        "propose what moves in an image, and generate it",
        "direct boat.png --model 512",
        'direct boat.png --model 512 --llm gemini --idea "a storm is coming" --yes',
    )
    directed.add_argument("picture", type=_name, metavar="PICTURE", help="image file")
    _directing_options(directed)
    _clip_options(directed, batch=False, prompt=False)
    _source_clip_options(directed)
    directed.set_defaults(batch=1, prompt="")

    moved = _command(
        commands,
        "person",
        "move the person in an image by a clip of poses (AnimateAnyone)",
        "person dancer.png --poses dance.json --model person.safetensors",
        "person dancer.png --poses walk.mp4 --model AnimateAnyone/ --frames 24 -o walk.webm",
    )
    _person_options(moved)

    again = _command(
        commands,
        "again",
        "regenerate a clip from the settings stored in its file",
        "again clip.mp4",
        "again clip.mp4 --picture moved/boat.png -o once_more.webm",
    )
    again.add_argument("clip", type=_path, metavar="CLIP", help="clip written by this program")
    again.add_argument(
        "--picture",
        type=_path,
        action="append",
        metavar="FILE",
        help="new path of the image, if it was moved (twice for an interpolation)",
    )
    again.add_argument(
        "--poses",
        type=_path,
        metavar="FILE",
        help="new path of the poses of a clip of a person, if they were moved",
    )
    _run_by_options(_model_options(again, "the one the clip was made with"), None, "the clip's")
    _run_options(again.add_argument_group("output"), "CLIP-again")
    again.add_argument(
        "--yes",
        action="store_true",
        help="do not ask, even if the clip takes more than 4 times the work of the model's default settings",
    )

    batch = _command(
        commands,
        "batch",
        "generate many clips from a list of jobs",
        "batch jobs.jsonl --out clips --model 512",
        "batch jobs.jsonl --out clips --devices cuda:0,cuda:1 --shard 1/4",
    )
    _batch_options(batch)

    compare = _command(
        commands,
        "compare",
        "generate one clip in two ways and compare them",
        'compare tiny tiny:dtype=bf16 red_circle.png --prompt "a red circle moves right"',
        "compare 512 512:steps=10,spacing=linspace boat.png --seed 7 -o steps.mp4",
    )
    way = "a model, options of animate or both, such as 512:steps=25,dtype=bf16; without a model, that of --model"
    compare.add_argument("a", type=_name, metavar="A", help=f"the reference: {way}")
    compare.add_argument("b", type=_name, metavar="B", help="what is compared with it, likewise")
    compare.add_argument("first", type=_name, metavar="PICTURE", help=f"image file, {_STDIN}")
    compare.add_argument(
        "last", type=_name, nargs="?", metavar="LAST", help="image to end with, for an interpolation"
    )
    compare.add_argument("--loop", action="store_true", help="generate a loop")
    _clip_options(compare, batch=False)

    models = _command(
        commands,
        "models",
        "list the known weights and whether they are downloaded",
        "models",
        "models --json",
    )

    download = _command(
        commands,
        "download",
        "download the weights of a model",
        "download 512",
        "download 512 512_interp --folder /data/weights",
    )
    download.add_argument("names", nargs="+", metavar="NAME", help="names from 'dynamicrafter models'")
    download.add_argument(
        "--folder",
        type=_path,
        help="folder to download to; pass the paths to --model afterwards (default: the weights folder)",
    )

    inspect = _command(
        commands,
        "inspect",
        "describe the contents of a weights file",
        "inspect model.safetensors",
        "inspect model.ckpt --json",
    )
    inspect.add_argument("file", type=_path, metavar="FILE")

    convert = _command(
        commands,
        "convert",
        "convert a weights file to safetensors",
        "convert model.ckpt model.safetensors",
        "convert model.ckpt small.safetensors --dtype fp16 --prune",
    )
    convert.add_argument(
        "source", type=_path, metavar="IN", help="weights file, or a folder of AnimateAnyone's files"
    )
    convert.add_argument("target", type=_path, metavar="OUT", help="file to write, .safetensors")
    convert.add_argument(
        "--dtype",
        type=_stored,
        default="keep",
        metavar="KIND",
        help="precision to store: fp32, bf16, fp16, fp8_e4m3fn, fp8_e5m2, int8 or fp8_scaled (the network's layers "
        "alone, with a scale for each output channel), or keep (default: keep that of IN)",
    )
    convert.add_argument("--prune", action="store_true", help="remove the CLIP encoders")
    convert.add_argument("--variant", metavar="NAME", help=_VARIANT_HELP.format("IN"))

    export = _command(
        commands,
        "export",
        "export a model for OpenVINO",
        "export 512",
        "export 512 --lora my_style.safetensors --weights int8 -o exports/my_style",
    )
    export.add_argument("name", metavar="MODEL", help="a name from 'dynamicrafter models' or a weights file")
    _export_options(export)

    train = _command(
        commands,
        "train",
        "train a model or an adapter (LoRA)",
        "train --print lora > my_lora.toml",
        "train my_lora.toml --folder runs/my_lora --set trainer.steps=200",
    )
    train.add_argument(
        "config", type=_name, metavar="CONFIG", help="a TOML or JSON file, or the name of an included config"
    )
    train.add_argument(
        "--print",
        action="store_true",
        help="print CONFIG as TOML with a comment for every setting, and train nothing",
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of CONFIG, such as trainer.steps=200; may be repeated",
    )
    train.add_argument(
        "--folder",
        type=_path,
        help="folder for state, log and result, from which an interrupted run resumes (default: CONFIG's name)",
    )
    train.add_argument(
        "--stage", metavar="NAME", help="run one stage of a built-in model's recipe (default: all)"
    )
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")

    toys = _command(
        commands,
        "toy-clips",
        "write captioned clips of coloured shapes, to teach the built-in model a new word",
        "toy-clips hops",
        "toy-clips hops --pictures 16 --seed 7",
    )
    toys.add_argument("folder", type=_path, metavar="FOLDER", help="folder for the clips and captions.csv")
    toys.add_argument(
        "--pictures", type=int, default=64, help="first images, with two clips each (default: %(default)s)"
    )
    toys.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")

    statistics = _command(
        commands,
        "statistics",
        "measure the latents of clips, for --analytic-init",
        "statistics my_clips --model 512",
        "statistics clip.mp4 --json",
    )
    statistics.add_argument(
        "folder",
        type=_path,
        metavar="FOLDER",
        help="folder of clips of the kind to be generated, or one clip",
    )
    _model_options(statistics, _TINY_HELP, dtype=False)
    measure = "measure what a model generates, or existing clips"
    evaluate = commands.add_parser(
        "evaluate",
        help=measure,
        advice="use 'evaluate toy', 'evaluate person', 'evaluate folder FOLDER' or 'evaluate videos PATH'",
        **_texts(measure, "evaluate folder pictures --model 512 --csv rows.csv", "evaluate videos clips"),
    )
    subjects = evaluate.add_subparsers(dest="subject", metavar="SUBJECT", required=True, parser_class=Parser)
    toy = _command(
        subjects,
        "toy",
        "measure a model in the toy world on which tiny was trained",
        "evaluate toy --seed 0,1,2",
        "evaluate toy --scales",
    )
    _toy_options(toy)
    characters = _command(
        subjects,
        "person",
        "measure a model of persons in the world of characters on which tiny_person is trained",
        "evaluate person --model tiny_person.safetensors --seed 0,1,2",
        "evaluate person --model tiny_person.safetensors --items 16 --cfg 2",
    )
    _characters_options(characters)
    folder = _command(
        subjects,
        "folder",
        "measure what a model generates from images and prompts",
        "evaluate folder pictures --model 512 --seed 0,1 --csv rows.csv",
        "evaluate folder pictures --loop --model 512_interp --keep clips",
    )
    _folder_options(folder)
    videos = _command(
        subjects,
        "videos",
        "measure existing clips from any source",
        "evaluate videos clips",
        "evaluate videos clips --prompts pictures --csv rows.csv",
    )
    _videos_options(videos)
    profiles = "keep the addresses and keys of language models"
    _language_model_options(
        commands.add_parser(
            "language-model",
            help=profiles,
            advice="use 'language-model add', 'list', 'remove' or 'agree'",
            **_texts(
                profiles,
                "language-model add ollama --url http://localhost:11434/v1 --name qwen3-vl:8b --no-key",
                "language-model list",
            ),
        )
    )
    config = _command(
        commands,
        "config",
        "show your defaults for the options of animate, interpolate and loop",
        "config",
        "config --json",
    )
    completion = _command(
        commands,
        "completion",
        "print a script that completes words in your shell",
        "completion bash > ~/.local/share/bash-completion/completions/dynamicrafter",
        "completion fish > ~/.config/fish/completions/dynamicrafter.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    doctor = _command(
        commands,
        "doctor",
        "report what is installed, and prove that it computes what it should",
        "doctor --quick",
        "doctor --model 512 --device cuda --dtype bf16 --json",
    )
    _run_by_options(_model_options(doctor, "every downloaded one"), TORCH, TORCH)
    extent = doctor.add_argument_group("what is checked")
    extent.add_argument(
        "--quick", action="store_true", help="run no model except to load tiny, and compute no hash of a file"
    )
    extent.add_argument(
        "--comfyui", type=_path, metavar="FOLDER", help="ComfyUI's models folder, to check its files as well"
    )
    # Last, below the options that differ.
    for command in (
        animate,
        interpolate,
        loop,
        directed,
        moved,
        again,
        batch,
        models,
        download,
        inspect,
        convert,
        export,
    ):
        _general_options(command)
    for command in (
        compare,
        train,
        toys,
        statistics,
        toy,
        characters,
        folder,
        videos,
        config,
        completion,
        doctor,
    ):
        _general_options(command)
    return parser


def _texts(purpose: str, *examples: str) -> dict[str, Any]:
    """The description of a command and its examples, which are printed without ``dynamicrafter``."""
    return {
        "description": f"{purpose[0].upper()}{purpose[1:]}.",
        "epilog": "examples:\n" + "".join(f"  dynamicrafter {example}\n" for example in examples),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _command(commands: Any, name: str, purpose: str, *examples: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    return commands.add_parser(name, help=purpose, **_texts(purpose, *examples))


def _general_options(parser: argparse.ArgumentParser) -> None:
    general = parser.add_argument_group("general")
    general.add_argument(
        "--json", action="store_true", help="print the result or the error as one JSON object"
    )
    general.add_argument("-q", "--quiet", action="store_true", help="hide progress")
    general.add_argument("--debug", action="store_true", help="on failure, print the traceback")


_STDIN = "or - for standard input"


def _pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures",
        nargs="+",
        type=_name,
        metavar="PICTURE",
        help=f"image files or patterns such as '*.png', {_STDIN}",
    )


def _run_options(output: Any, default: str) -> None:
    """The options of commands that generate clips: where these go, and what is said about them."""
    output.add_argument(
        "-o",
        "--output",
        type=_name,
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


def _model_options(
    parser: argparse.ArgumentParser, default: str, *, dtype: bool = True, device: bool = True
) -> Any:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME|FILE",
        help=f"a name from 'dynamicrafter models', a weights file, or 'random' (noise) (default: {default})",
    )
    _source_options(group)
    if device:
        _device_option(group)
    if dtype:
        _dtype_option(group)
    return group


def _source_options(group: Any) -> None:
    """What a model consists of besides its weights file."""
    group.add_argument(
        "--lora",
        action="append",
        type=_lora,
        metavar="FILE[:STRENGTH]",
        help="LoRA to merge into the network, with its strength (default: 1, as trained); may be repeated",
    )
    group.add_argument("--variant", metavar="NAME", help=_VARIANT_HELP.format("FILE"))
    group.add_argument(
        "--text-encoder", type=_path, metavar="FILE", help="CLIP text encoder, if the weights file has none"
    )
    group.add_argument(
        "--image-encoder", type=_path, metavar="FILE", help="CLIP image encoder, if the weights file has none"
    )


def _run_by_options(group: Any, default: str | None, said: str) -> None:
    """What computes the networks, and how PyTorch keeps their weights."""
    group.add_argument(
        "--backend",
        default=default,
        metavar="NAME",
        help="what computes the networks: torch, openvino, openvino:GPU or openvino:NPU; OpenVINO needs the model's "
        f"export (default: {said})",
    )
    _storage_options(group)
    group.add_argument(
        "--compile",
        choices=COMPILE,
        default="off",
        help="compile the network's blocks with torch.compile: default, or reduce-overhead (with CUDA graphs); takes "
        "minutes with the first clip of a size (default: off)",
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
        type=_computed,
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


def _export_options(parser: argparse.ArgumentParser) -> None:
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
        type=_path,
        metavar="FOLDER",
        help="with --weights int8, also compute in 8 bits: images and clips like those to generate, each with a prompt "
        "in the .txt file of its name",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=_path,
        metavar="DIR",
        help="folder to write, to be passed to --model afterwards (default: the weights folder, where --backend "
        "openvino finds it by the model's name)",
    )
    _source_options(parser.add_argument_group("model"))


def _clip_options(
    parser: argparse.ArgumentParser, *, batch: bool = True, prompt: bool = True, keys: bool = False
) -> None:
    picture = parser.add_argument_group("what should happen")
    if prompt:
        _option(picture, PARAMETERS["prompt"])
    _happening_options(picture, [123], "one or more seeds, one clip each (default: 123)")
    _shape_options(parser)
    _length_options(parser, keys=keys)
    _sampling_options(parser, batch=batch)

    _run_by_options(_model_options(parser, _TINY_HELP), TORCH, TORCH)

    output = parser.add_argument_group("output")
    _run_options(output, "PICTURE-COMMAND.mp4 in the current folder")
    _options(output, "output")


def _directing_options(parser: argparse.ArgumentParser) -> None:
    plan = parser.add_argument_group("plan")
    plan.add_argument("--idea", default="", metavar="TEXT", help="what should happen, for the language model")
    plan.add_argument(
        "--llm",
        metavar="PROFILE",
        help="language model that looks at the image, see 'dynamicrafter language-model' (default: none; the motion "
        "is suggested by CLIP)",
    )
    plan.add_argument(
        "--towers", type=_path, metavar="FILE", help="complete CLIP encoders, for suggestions without one"
    )
    plan.add_argument(
        "--phrases", type=_path, metavar="FILE", help="bank of motions to suggest (default: the built-in one)"
    )
    plan.add_argument("-y", "--yes", action="store_true", help="generate the first plan without asking")


def _language_model_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    add = _command(
        actions,
        "add",
        "add or replace a profile; the key is asked for, or read from standard input",
        "language-model add ollama --url http://localhost:11434/v1 --name qwen3-vl:8b --no-key",
        "language-model add gemini --url https://generativelanguage.googleapis.com/v1beta/openai "
        "--name gemini-flash-latest --key-variable GEMINI_API_KEY",
    )
    add.add_argument("name", type=_name, metavar="PROFILE", help="name of the profile")
    add.add_argument("--url", required=True, help="address that /chat/completions is appended to")
    add.add_argument(
        "--name", dest="named", required=True, metavar="MODEL", help="the model's name at the server"
    )
    keys = add.add_mutually_exclusive_group()
    keys.add_argument("--key-variable", metavar="NAME", help="take the key from this environment variable")
    keys.add_argument("--no-key", action="store_true", help="the server needs no key")
    add.add_argument("--proxy", metavar="URL", help="HTTP proxy (default: none)")
    add.add_argument("--pictures", action="store_true", help="agree that pictures are sent to this host")
    _general_options(add)
    listed = _command(
        actions,
        "list",
        "list the profiles, without keys",
        "language-model list",
        "language-model list --json",
    )
    _general_options(listed)
    for name, purpose in (
        ("remove", "remove a profile and its key"),
        ("agree", "agree that pictures are sent to a profile's host"),
    ):
        action = _command(
            actions, name, purpose, f"language-model {name} gemini", f"language-model {name} gemini --json"
        )
        action.add_argument("name", type=_name, metavar="PROFILE", help="name of the profile")
        _general_options(action)


def _batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "jobs",
        type=_path,
        metavar="JOBS",
        help='a file with one JSON object a line, such as {"pictures": ["boat.png"], "prompt": "waves", "seed": 7}',
    )
    parser.add_argument(
        "--out",
        type=_path,
        required=True,
        metavar="DIR",
        help="folder for the clips and their records; a repeated command generates only what is missing there",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="i/N",
        help="generate only every N-th line, starting with line i, for N machines (default: all)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything and print which clips are missing"
    )
    group = _model_options(parser, f"{_TINY_HELP}; for jobs that name no model", device=False)
    _run_by_options(group, TORCH, TORCH)
    where = parser.add_argument_group("where clips are generated")
    where.add_argument(
        "--devices",
        type=_names,
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
        type=_name,
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


def _person_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", type=_name, metavar="PICTURE", help="image of the person")
    poses = parser.add_argument_group("poses")
    poses.add_argument(
        "--poses",
        type=_name,
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
        "--every", type=_positive, default=1, metavar="N", help="use every n-th pose (default: 1)"
    )
    poses.add_argument(
        "--frames", type=_positive, metavar="N", help="number of frames, at most 2000 (default: all poses)"
    )
    poses.add_argument(
        "--fit-to",
        type=_path,
        metavar="JSON|PICTURE",
        help="keypoints of the person in PICTURE, whose size and place those of the clip get; with --detect, PICTURE "
        "itself",
    )
    poses.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="make the person of the poses F times as large"
    )
    poses.add_argument(
        "--shift",
        type=_shift,
        default=(0.0, 0.0),
        metavar="X,Y",
        help="move the poses right and down by these fractions of the frame; write --shift=-0.1,0 for a negative one",
    )
    poses.add_argument(
        "--preview-poses",
        type=_path,
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
        type=_size,
        default=(512, 768),
        metavar="WxH",
        help="size of the clip; multiples of 8 (default: 512x768)",
    )
    shape.add_argument(
        "--fit",
        choices=("crop", "pad", "stretch"),
        default="stretch",
        help="how an image or poses with a different aspect ratio are resized (default: stretch, as the original)",
    )
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=int, default=25, help="denoising steps (default: 25)")
    sampling.add_argument("--cfg", type=float, default=3.5, help="guidance scale, 1 for none (default: 3.5)")
    sampling.add_argument(
        "--eta", type=float, default=0.0, help="noise added at each step, 0 to 1 (default: 0)"
    )
    sampling.add_argument("--seed", type=int, default=42, help="(default: 42)")
    sampling.add_argument(
        "--window", type=int, default=24, help="frames seen together, 2 to 32 (default: 24)"
    )
    sampling.add_argument("--overlap", type=int, default=4, help="frames shared by two windows (default: 4)")
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
        type=_path,
        required=True,
        metavar="FILE|FOLDER",
        help="folder with the original's files, or one file made of them by 'dynamicrafter convert'",
    )
    _device_option(model)
    _dtype_option(model)
    _storage_options(model)
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        type=_name,
        metavar="PATH",
        help=".mp4, .webm, .gif, .webp or a folder for PNGs (default: PICTURE-person.mp4 in the current folder)",
    )
    output.add_argument(
        "--fps", type=float, help="frames per second (default: those of the poses, whose sound is then kept)"
    )
    output.add_argument("--side-by-side", action="store_true", help="image, pose and result in one clip")
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print what would be generated, without loading the model",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _shift(text: str) -> tuple[float, float]:
    try:
        across, down = map(float, text.split(","))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"must be two numbers such as 0.1,-0.05, not {text!r}") from problem
    return across, down


def _happening_options(picture: Any, seeds: list[int], seed_help: str) -> None:
    _options(picture, "content", without=("prompt",))
    _seed_option(picture, seeds, seed_help)


def _seed_option(group: Any, seeds: list[int], seed_help: str) -> None:
    group.add_argument("--seed", type=_seeds, default=seeds, metavar="N[,N...]", help=seed_help)


def _shape_options(parser: argparse.ArgumentParser) -> None:
    shape, width = parser.add_argument_group("shape"), PARAMETERS["width"]
    shape.add_argument(
        "--size",
        type=_size,
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


def _source_clip_options(parser: argparse.ArgumentParser) -> None:
    """What a clip starts from besides its images; for one clip, not for a comparison."""
    source = parser.add_argument_group("masks and source clips (docs/techniques)")
    source.add_argument(
        "--mask",
        type=_path,
        metavar="FILE",
        help="image of the size of PICTURE: white may move, black stays as it is",
    )
    source.add_argument(
        "--video",
        type=_path,
        metavar="CLIP",
        help="clip to start from, with --denoise below 1 or --mask (default: the image held still)",
    )


def _sampling_options(parser: argparse.ArgumentParser, *, batch: bool = True) -> None:
    quality = parser.add_argument_group("sampling ('dynamicrafter models' lists the models' defaults)")
    _options(quality, "sampling", without=("seed",))
    if batch:
        quality.add_argument(
            "--batch", type=int, default=1, help="clips generated at once (default: %(default)s)"
        )
    _options(parser.add_argument_group("techniques, all off by default (docs/techniques)"), "techniques")


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
        type=str if parameter.kind is str else _number(parameter),
        choices=None if parameter.numbers else tuple(parameter.choices) or None,
        metavar=_metavar(parameter),
        default=None if parameter.preset else default,
        help=f"{parameter.description} (default: {shown or 'empty'})",
    )


def _metavar(parameter: Parameter) -> str | None:
    if parameter.numbers:
        return "X[,X...]"
    return None if parameter.low is None else f"{parameter.low:g}..{parameter.high:g}"


def _number(parameter: Parameter) -> Callable[[str], float]:
    """A reader of the parameter's numbers; integers stay integers, so that they are stored as such."""

    def read(text: str) -> float:
        try:
            return int(text)
        except ValueError:
            pass
        try:
            # The table rejects what is not an integer but has to be one, with advice.
            return float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {parameter.wanted}, not {text!r}") from None

    return read


def _toy_options(parser: argparse.ArgumentParser) -> None:
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
    _storage_options(_model_options(parser, _TINY_HELP, dtype=False))


def _characters_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, help="characters (default: 64)")
    _seed_option(parser, [0], "one or more seeds; the median of each metric is reported (default: 0)")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--steps", type=int, default=12, help="denoising steps (default: 12)")
    sampling.add_argument("--cfg", type=float, default=1.0, help="guidance scale, 1 for none (default: 1)")
    sampling.add_argument("--window", type=int, default=8, help="frames seen together, 2 to 32 (default: 8)")
    sampling.add_argument("--overlap", type=int, default=2, help="frames shared by two windows (default: 2)")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", type=_path, required=True, metavar="FILE", help="model of persons, as 'train' wrote it"
    )
    _device_option(model)


def _folder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=_path, metavar="FOLDER", help=_PROMPTS_HELP)
    parser.add_argument("--loop", action="store_true", help="generate loops")
    picture = parser.add_argument_group("what should happen")
    _happening_options(picture, [0], "one or more seeds, one clip each (default: 0)")
    _shape_options(parser)
    _length_options(parser)
    _sampling_options(parser)
    _run_by_options(_model_options(parser, _TINY_HELP), TORCH, TORCH)
    _learned_options(parser)
    output = _table_option(parser)
    output.add_argument("--keep", type=_path, metavar="FOLDER", help="folder to keep the clips in, as .mp4")


def _videos_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos",
        type=_path,
        metavar="PATH",
        help="a folder of clips (.mp4, .webm, .gif, .webp, folders of PNGs), or a single clip",
    )
    parser.add_argument(
        "--prompts", type=_path, metavar="FOLDER", help=f"sources of the clips: {_PROMPTS_HELP}"
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
        "--towers", type=_path, metavar="FILE", help="complete CLIP encoders, for the CLIP score"
    )
    learned.add_argument(
        "--i3d",
        type=_path,
        metavar="FILE",
        help="I3D as TorchScript, for FVD and KVD (default: i3d_torchscript.pt in the weights folder)",
    )
    learned.add_argument(
        "--real",
        type=_path,
        metavar="PATH",
        help="real clips to compare with, for FVD and KVD, in addition to those in the list",
    )
    learned.add_argument("--fetch", action="store_true", help="let LPIPS and DreamSim download their weights")
    return learned


def _table_option(parser: argparse.ArgumentParser) -> Any:
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=_path, metavar="FILE", help="write the metrics of every clip")
    return output


_COMPUTED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_STORED = {
    **_COMPUTED,
    "fp8_e4m3fn": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "int8": "int8",
    "fp8_scaled": "fp8_scaled",
}
"""Short names of precisions, and PyTorch's or the package's names."""


def _computed(text: str) -> str:
    return _precision(text, _COMPUTED, "auto")


def _stored(text: str) -> str:
    return _precision(text, _STORED, "keep")


def _precision(text: str, known: dict[str, str], other: str) -> str:
    """PyTorch's name of a precision, from that or from its short name; or ``other``."""
    name = known.get(text, text)
    if name not in (*known.values(), other):
        raise argparse.ArgumentTypeError(f"must be {', '.join(known)} or {other}, not {text!r}")
    return name


def _name(text: str) -> str:
    """A name or path, which an unset variable in a script would make empty."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def _path(text: str) -> Path:
    return Path(_name(text))


def _names(text: str) -> list[str]:
    return [_name(part.strip()) for part in text.split(",")]


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be i/N, such as 1/4 for the first of four, not {text!r}")
    return int(number), int(count)


def _lora(text: str) -> tuple[Path, float]:
    """A path and a strength, 1 if omitted; the colon of a drive letter does not start a strength."""
    stem, _, end = text.rpartition(":")
    try:
        strength = float(end) if stem else None
    except ValueError:
        strength = None
    if strength is None:
        return Path(text), 1.0
    if not math.isfinite(strength):
        raise argparse.ArgumentTypeError(f"the strength must be a number such as 0.8, not {end!r}")
    return Path(stem), strength


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WxH in pixels, such as 512x320, not {text!r}")
    return int(width), int(height)


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be a non-negative integer, or several separated by commas, not {text!r}"
        )
    return [int(part) for part in parts]
