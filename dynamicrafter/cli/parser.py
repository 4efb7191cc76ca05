"""The commands of the ``dynamicrafter`` command line and the parser that reads them."""

from __future__ import annotations

import argparse
import re
import shlex
from itertools import pairwise
from typing import Any, NoReturn

from ..backends.choice import TORCH
from ..errors import UsageError
from .options import (
    STDIN,
    TINY_HELP,
    VARIANT_HELP,
    batch_options,
    camera_options,
    characters_options,
    clip_options,
    directing_options,
    export_options,
    folder_options,
    general_options,
    merge_options,
    model_options,
    person_options,
    pictures,
    run_by_options,
    run_options,
    serving_options,
    source_clip_options,
    story_options,
    toy_options,
    videos_options,
)
from .readers import to_name, to_path, to_stored

EPILOG = """\
examples:
  dynamicrafter animate boat.png --model 512 --prompt "a boat rocks on the waves"
  dynamicrafter interpolate day.png dusk.png --model 512_interp -o dusk.webm
  dynamicrafter loop fire.png --model 512_interp --motion 0.8 -o fire.gif
  dynamicrafter again clip.mp4 -o once_more.mp4
  dynamicrafter story harbour.yaml --model 512 --out film.mp4
  dynamicrafter batch jobs.jsonl --out clips --model 512

'dynamicrafter COMMAND --help' describes a command; 'dynamicrafter models' lists the weights.
"""

CLIP_COMMANDS = ("animate", "interpolate", "loop")
"""The commands that generate clips, with the same options."""


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

    animate = _add_command(
        commands,
        "animate",
        "animate still images",
        'animate boat.png --model 512 --prompt "a boat rocks on the waves"',
        "animate *.png --seed 1,2 -o clips/clip.gif",
    )
    pictures(animate)
    clip_options(animate)
    source_clip_options(animate)

    interpolate = _add_command(
        commands,
        "interpolate",
        "generate a clip between two images, or through several",
        "interpolate day.png dusk.png --model 512_interp -o dusk.webm",
        'interpolate a.png b.png c.png --model 512_interp --prompt "she rises | she waves" --keys 0,15,40',
    )
    interpolate.add_argument(
        "first", type=to_name, metavar="FIRST", help=f"image the clip starts with, {STDIN}"
    )
    interpolate.add_argument(
        "rest",
        nargs="+",
        type=to_name,
        metavar="NEXT",
        help=f"image the clip ends with, {STDIN}, after the images on the way, if any",
    )
    clip_options(interpolate, keys=True)
    source_clip_options(interpolate)

    loop = _add_command(
        commands,
        "loop",
        "generate seamless loops",
        "loop fire.png --model 512_interp --motion 0.8 -o fire.gif",
        "loop fire.png --model 512_interp --frames 24 --fps 12",
    )
    pictures(loop)
    clip_options(loop)
    source_clip_options(loop)

    camera = _add_command(
        commands,
        "camera",
        "move a camera through the scene of an image with a depth map",
        "camera harbour.png --depth harbour_depth.png --path orbit:20 --guide-only",
        "camera harbour.png --depth depth.exr --depth-kind metric --path 'orbit:15+dolly:-0.2' --model model.ckpt "
        "--variant viewcrafter_25",
    )
    camera.add_argument("picture", type=to_name, metavar="PICTURE", help=f"image file, {STDIN}")
    camera_options(camera)
    clip_options(camera, batch=False, prompt=False)
    camera.set_defaults(batch=1)

    directed = _add_command(
        commands,
        "direct",
        "propose what moves in an image, and generate it",
        "direct boat.png --model 512",
        'direct boat.png --model 512 --llm gemini --idea "a storm is coming" --yes',
    )
    directed.add_argument("picture", type=to_name, metavar="PICTURE", help="image file")
    directing_options(directed)
    clip_options(directed, batch=False, prompt=False)
    source_clip_options(directed)
    directed.set_defaults(batch=1, prompt="")

    told = _add_command(
        commands,
        "story",
        "generate a film of several scenes, with sound",
        "story harbour.yaml --model 512 --between-model 512_interp --out film.mp4",
        'story tale.txt --picture boat.png --style "soft watercolour" --dry-run',
    )
    story_options(told)

    moved = _add_command(
        commands,
        "person",
        "move the person in an image by a clip of poses (AnimateAnyone)",
        "person dancer.png --poses dance.json --model person.safetensors",
        "person dancer.png --poses walk.mp4 --model AnimateAnyone/ --frames 24 -o walk.webm",
    )
    person_options(moved)

    again = _add_command(
        commands,
        "again",
        "regenerate a clip from the settings stored in its file",
        "again clip.mp4",
        "again clip.mp4 --picture moved/boat.png -o once_more.webm",
    )
    again.add_argument("clip", type=to_path, metavar="CLIP", help="clip written by this program")
    again.add_argument(
        "--picture",
        type=to_path,
        action="append",
        metavar="FILE",
        help="new path of the image, if it was moved (twice for an interpolation)",
    )
    again.add_argument(
        "--poses",
        type=to_path,
        metavar="FILE",
        help="new path of the poses of a clip of a person, if they were moved",
    )
    again.add_argument(
        "--fit-to",
        type=to_path,
        metavar="FILE",
        help="new path of the keypoints that the poses were fitted to",
    )
    again.add_argument("--video", type=to_path, metavar="CLIP", help="new path of the clip it started from")
    again.add_argument("--mask", type=to_path, metavar="FILE", help="new path of the mask")
    run_by_options(model_options(again, "the one the clip was made with"), None, "the clip's")
    run_options(again.add_argument_group("output"), "CLIP-again")
    again.add_argument(
        "--yes",
        action="store_true",
        help="do not ask, even if the clip takes more than 4 times the work of the model's default settings",
    )

    batch = _add_command(
        commands,
        "batch",
        "generate many clips from a list of jobs",
        "batch jobs.jsonl --out clips --model 512",
        "batch jobs.jsonl --out clips --devices cuda:0,cuda:1 --shard 1/4",
    )
    batch_options(batch)

    serve = _add_command(
        commands,
        "serve",
        "serve a page on which clips are made in a browser",
        "serve",
        "serve --model 512 --host 0.0.0.0 --name studio.example.org --logins logins.txt",
    )
    serving_options(serve)

    compare = _add_command(
        commands,
        "compare",
        "generate one clip in two ways and compare them",
        'compare tiny tiny:dtype=bf16 red_circle.png --prompt "a red circle moves right"',
        "compare 512 512:steps=10,spacing=linspace boat.png --seed 7 -o steps.mp4",
    )
    _sides(compare, "animate", "512:steps=25,dtype=bf16")
    compare.add_argument("first", type=to_name, metavar="PICTURE", help=f"image file, {STDIN}")
    compare.add_argument(
        "last", type=to_name, nargs="?", metavar="LAST", help="image to end with, for an interpolation"
    )
    compare.add_argument("--loop", action="store_true", help="generate a loop")
    clip_options(compare, batch=False)

    compare_person = _add_command(
        commands,
        "compare-person",
        "move the person in an image in two ways and compare them",
        "compare-person tiny_person tiny_person:dtype=bf16 character.png --poses walking.json --frames 8",
        "compare-person :dtype=fp32 :backend=openvino dancer.png --poses dance.json --model person.safetensors",
    )
    _sides(compare_person, "person", "person.safetensors:steps=15,dtype=bf16")
    person_options(compare_person, compared=True)

    _add_command(
        commands,
        "models",
        "list the known weights and whether they are downloaded",
        "models",
        "models --json",
    )

    download = _add_command(
        commands,
        "download",
        "download the weights of a model",
        "download 512",
        "download 512 512_interp --folder /data/weights",
    )
    download.add_argument("names", nargs="+", metavar="NAME", help="names from 'dynamicrafter models'")
    download.add_argument(
        "--folder",
        type=to_path,
        help="folder to download to; pass the paths to --model afterwards (default: the weights folder)",
    )

    inspect = _add_command(
        commands,
        "inspect",
        "describe the contents of a weights file",
        "inspect model.safetensors",
        "inspect model.ckpt --json",
    )
    inspect.add_argument("file", type=to_path, metavar="FILE")

    convert = _add_command(
        commands,
        "convert",
        "convert a weights file to safetensors",
        "convert model.ckpt model.safetensors",
        "convert model.ckpt small.safetensors --dtype fp16 --prune",
    )
    convert.add_argument(
        "source", type=to_path, metavar="IN", help="weights file, or a folder of AnimateAnyone's files"
    )
    convert.add_argument("target", type=to_path, metavar="OUT", help="file to write, .safetensors")
    convert.add_argument(
        "--dtype",
        type=to_stored,
        default="keep",
        metavar="KIND",
        help="precision to store: fp32, bf16, fp16, fp8_e4m3fn, fp8_e5m2, int8 or fp8_scaled (the network's layers "
        "alone, with a scale for each output channel), or keep (default: keep that of IN)",
    )
    convert.add_argument("--prune", action="store_true", help="remove the CLIP encoders")
    convert.add_argument("--variant", metavar="NAME", help=VARIANT_HELP.format("IN"))

    merged = _add_command(
        commands,
        "merge",
        "merge a model and the same one fine-tuned into a pair for more motion (EDG)",
        "merge 512 cil_512 --dynamic dynamic.safetensors --consistent consistent.safetensors",
        "merge model.ckpt tuned.ckpt --variant 512 --dynamic d.safetensors --consistent c.safetensors --dtype fp16",
    )
    merge_options(merged)

    export = _add_command(
        commands,
        "export",
        "export a model for OpenVINO",
        "export 512 --lora my_style.safetensors --weights int8 -o exports/my_style",
        "export person.safetensors",
    )
    export.add_argument(
        "model",
        metavar="MODEL",
        help="a name from 'dynamicrafter models', a weights file, or a folder of AnimateAnyone's files",
    )
    export_options(export)

    train = _add_command(
        commands,
        "train",
        "train a model or an adapter (LoRA)",
        "train --print lora > my_lora.toml",
        "train my_lora.toml --folder runs/my_lora --set trainer.steps=200",
    )
    train.add_argument(
        "config",
        type=to_name,
        metavar="CONFIG",
        help="a TOML or JSON file, or the name of an included config",
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
        type=to_path,
        help="folder for state, log and result, from which an interrupted run resumes (default: CONFIG's name)",
    )
    train.add_argument(
        "--stage", metavar="NAME", help="run one stage of a built-in model's recipe (default: all)"
    )
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")

    toys = _add_command(
        commands,
        "toy-clips",
        "write captioned clips of coloured shapes, to teach the built-in model a new word",
        "toy-clips hops",
        "toy-clips hops --pictures 16 --seed 7",
    )
    toys.add_argument("folder", type=to_path, metavar="FOLDER", help="folder for the clips and captions.csv")
    toys.add_argument(
        "--pictures", type=int, default=64, help="first images, with two clips each (default: %(default)s)"
    )
    toys.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")

    statistics = _add_command(
        commands,
        "statistics",
        "measure the latents of clips, for --analytic-init",
        "statistics my_clips --model 512",
        "statistics clip.mp4 --json",
    )
    statistics.add_argument(
        "folder",
        type=to_path,
        metavar="FOLDER",
        help="folder of clips of the kind to be generated, or one clip",
    )
    # The autoencoder, which makes the latents, has no LoRA.
    model_options(statistics, TINY_HELP, dtype=False, lora=False)
    measure = "measure what a model generates, or existing clips"
    evaluate = commands.add_parser(
        "evaluate",
        help=measure,
        advice="use 'evaluate toy', 'evaluate person', 'evaluate folder FOLDER' or 'evaluate videos PATH'",
        **_texts(measure, "evaluate folder pictures --model 512 --csv rows.csv", "evaluate videos clips"),
    )
    subjects = evaluate.add_subparsers(dest="subject", metavar="SUBJECT", required=True, parser_class=Parser)
    toy = _add_command(
        subjects,
        "toy",
        "measure a model in the toy world on which tiny was trained",
        "evaluate toy --seed 0,1,2",
        "evaluate toy --scales",
    )
    toy_options(toy)
    characters = _add_command(
        subjects,
        "person",
        "measure a model of persons in the world of characters on which tiny_person is trained",
        "evaluate person --model tiny_person.safetensors --seed 0,1,2",
        "evaluate person --model tiny_person.safetensors --items 16 --cfg 2",
    )
    characters_options(characters)
    folder = _add_command(
        subjects,
        "folder",
        "measure what a model generates from images and prompts",
        "evaluate folder pictures --model 512 --seed 0,1 --csv rows.csv",
        "evaluate folder pictures --loop --model 512_interp --keep clips",
    )
    folder_options(folder)
    videos = _add_command(
        subjects,
        "videos",
        "measure existing clips from any source",
        "evaluate videos clips",
        "evaluate videos clips --prompts pictures --csv rows.csv",
    )
    videos_options(videos)
    profiles = "keep the addresses and keys of language models"
    language_model = commands.add_parser(
        "language-model",
        help=profiles,
        advice="use 'language-model add', 'list', 'remove' or 'agree'",
        **_texts(
            profiles,
            "language-model add ollama --url http://localhost:11434/v1 --name qwen3-vl:8b --no-key",
            "language-model list",
        ),
    )
    actions = _language_model_actions(language_model)
    _add_command(
        commands,
        "config",
        "show your defaults for the options of animate, interpolate and loop",
        "config",
        "config --json",
    )
    completion = _add_command(
        commands,
        "completion",
        "print a script that completes words in your shell",
        "completion bash > ~/.local/share/bash-completion/completions/dynamicrafter",
        "completion fish > ~/.config/fish/completions/dynamicrafter.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    doctor = _add_command(
        commands,
        "doctor",
        "report what is installed, and prove that it computes what it should",
        "doctor --quick",
        "doctor --model 512 --device cuda --dtype bf16 --json",
    )
    run_by_options(model_options(doctor, "every downloaded one"), TORCH, TORCH)
    extent = doctor.add_argument_group("what is checked")
    extent.add_argument(
        "--quick", action="store_true", help="run no model except to load tiny, and compute no hash of a file"
    )
    extent.add_argument(
        "--comfyui",
        type=to_path,
        metavar="FOLDER",
        help="ComfyUI's models folder, to check its files as well",
    )
    for added in (*commands.choices.values(), *subjects.choices.values(), *actions.choices.values()):
        # Last, below the options that differ.
        if added not in (evaluate, language_model):
            general_options(added)
    return parser


def _sides(parser: argparse.ArgumentParser, command: str, example: str) -> None:
    """The two ways that are compared, whose options are those of ``command``."""
    way = f"a model, options of {command} or both, such as {example}; without a model, that of --model"
    parser.add_argument("a", type=to_name, metavar="A", help=f"the reference: {way}")
    parser.add_argument("b", type=to_name, metavar="B", help="what is compared with it, likewise")


def _texts(purpose: str, *examples: str) -> dict[str, Any]:
    """The description of a command and its examples, which are printed without ``dynamicrafter``."""
    return {
        "description": f"{purpose[0].upper()}{purpose[1:]}.",
        "epilog": "examples:\n" + "".join(f"  dynamicrafter {example}\n" for example in examples),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_command(commands: Any, name: str, purpose: str, *examples: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    return commands.add_parser(name, help=purpose, **_texts(purpose, *examples))


def _language_model_actions(parser: argparse.ArgumentParser) -> Any:
    """The commands of ``language-model``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    add = _add_command(
        actions,
        "add",
        "add or replace a profile; the key is asked for, or read from standard input",
        "language-model add ollama --url http://localhost:11434/v1 --name qwen3-vl:8b --no-key",
        "language-model add gemini --url https://generativelanguage.googleapis.com/v1beta/openai "
        "--name gemini-flash-latest --key-variable GEMINI_API_KEY",
    )
    add.add_argument("name", type=to_name, metavar="PROFILE", help="name of the profile")
    add.add_argument("--url", required=True, help="address that /chat/completions is appended to")
    add.add_argument(
        "--name", dest="named", required=True, metavar="MODEL", help="the model's name at the server"
    )
    keys = add.add_mutually_exclusive_group()
    keys.add_argument("--key-variable", metavar="NAME", help="take the key from this environment variable")
    keys.add_argument("--no-key", action="store_true", help="the server needs no key")
    add.add_argument("--proxy", metavar="URL", help="HTTP proxy (default: none)")
    add.add_argument("--pictures", action="store_true", help="agree that pictures are sent to this host")
    _add_command(
        actions,
        "list",
        "list the profiles, without keys",
        "language-model list",
        "language-model list --json",
    )
    for name, purpose in (
        ("remove", "remove a profile and its key"),
        ("agree", "agree that pictures are sent to a profile's host"),
    ):
        action = _add_command(
            actions, name, purpose, f"language-model {name} gemini", f"language-model {name} gemini --json"
        )
        action.add_argument("name", type=to_name, metavar="PROFILE", help="name of the profile")
    return actions
