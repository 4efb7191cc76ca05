"""The arguments of the command line; the help of every option states its unit and its default."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError
from ..model.variants import VARIANTS
from ..parameters import PARAMETERS, Group, Parameter, of_group

EPILOG = """\
examples:
  dynamicrafter animate boat.png --model 512 --prompt "a boat rocks on the waves"
  dynamicrafter interpolate day.png dusk.png --model 512_interp --output dusk.webm
  dynamicrafter loop fire.png --model 512_interp --motion 0.8 --output fire.gif
  dynamicrafter again clip.mp4 --output once_more.mp4

'dynamicrafter COMMAND --help' describes a command; 'dynamicrafter models' lists the weights.
"""

_VARIANT_HELP = f"variant of {{}}, if its weights are ambiguous: {', '.join(VARIANTS)}"
_TINY_HELP = "tiny, the built-in model, which knows coloured shapes only"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of printing its usage and exiting.

    Options cannot be abbreviated: an abbreviation may become ambiguous when options are added. ``advice`` ends the
    message.
    """

    def __init__(self, *arguments: Any, advice: str = "", **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})
        self._advice = advice or f"see '{self.prog} --help'"

    def error(self, message: str) -> NoReturn:
        """Raise the parser's message as one sentence."""
        raise UsageError(f"{message}; {self._advice}")

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """Reject unknown options here: a subcommand would leave them to the main parser, which names its own help."""
        namespace, unknown = super().parse_known_args(*arguments, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown


def make_parser(version: str) -> argparse.ArgumentParser:
    """The parser of the ``dynamicrafter`` command."""
    common = Parser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="print the result or the error as one JSON object"
    )
    common.add_argument("--quiet", action="store_true", help="hide progress bars")
    common.add_argument("--debug", action="store_true", help="on failure, print the traceback")

    parser = Parser(
        prog="dynamicrafter",
        description="Animate still images with DynamiCrafter.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dynamicrafter {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    animate = commands.add_parser("animate", parents=[common], help="animate still images")
    animate.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="one or more image files")
    _clip_options(animate)

    interpolate = commands.add_parser(
        "interpolate", parents=[common], help="generate a clip between two images"
    )
    interpolate.add_argument("first", type=Path, metavar="FIRST", help="image the clip starts with")
    interpolate.add_argument("last", type=Path, metavar="LAST", help="image the clip ends with")
    _clip_options(interpolate)

    loop = commands.add_parser("loop", parents=[common], help="generate seamless loops")
    loop.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="one or more image files")
    _clip_options(loop)

    again = commands.add_parser(
        "again", parents=[common], help="regenerate a clip from the settings stored in its file"
    )
    again.add_argument("clip", type=Path, metavar="CLIP", help="clip written by this program")
    again.add_argument(
        "--picture",
        type=Path,
        action="append",
        metavar="FILE",
        help="new path of the image, if it was moved (twice for an interpolation)",
    )
    _model_options(again, "the one the clip was made with")
    again.add_argument("--output", metavar="PATH", help="file or folder to write (default: CLIP-again)")

    commands.add_parser(
        "models", parents=[common], help="list the known weights and whether they are downloaded"
    )

    download = commands.add_parser("download", parents=[common], help="download the weights of a model")
    download.add_argument("names", nargs="+", metavar="NAME", help="names from 'dynamicrafter models'")
    download.add_argument(
        "--folder",
        type=Path,
        help="folder to download to; pass the paths to --model afterwards (default: the weights folder)",
    )

    inspect = commands.add_parser("inspect", parents=[common], help="describe the contents of a weights file")
    inspect.add_argument("file", type=Path, metavar="FILE")

    convert = commands.add_parser("convert", parents=[common], help="convert a weights file to safetensors")
    convert.add_argument("source", type=Path, metavar="IN")
    convert.add_argument("target", type=Path, metavar="OUT", help="file to write, .safetensors")
    convert.add_argument(
        "--dtype",
        type=_stored,
        default="keep",
        metavar="KIND",
        help="precision to store: fp32, bf16, fp16, fp8_e4m3fn, fp8_e5m2 or keep (default: keep that of IN)",
    )
    convert.add_argument("--prune", action="store_true", help="remove the CLIP encoders")
    convert.add_argument("--variant", metavar="NAME", help=_VARIANT_HELP.format("IN"))

    train = commands.add_parser("train", parents=[common], help="train a model or an adapter (LoRA)")
    train.add_argument(
        "config", metavar="CONFIG", help="a TOML or JSON file, or the name of an included config"
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
        type=Path,
        help="folder for state, log and result, from which an interrupted run resumes (default: CONFIG's name)",
    )
    train.add_argument("--stage", metavar="NAME", help="run one stage of the tiny recipe (default: all)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")

    toys = commands.add_parser(
        "toy-clips",
        parents=[common],
        help="write captioned clips of coloured shapes, to teach the built-in model a new word",
    )
    toys.add_argument("folder", type=Path, metavar="FOLDER", help="folder for the clips and captions.csv")
    toys.add_argument(
        "--pictures", type=int, default=64, help="first images, with two clips each (default: %(default)s)"
    )
    toys.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")

    evaluate = commands.add_parser(
        "evaluate",
        help="measure what a model generates, or existing clips",
        advice="use 'evaluate toy', 'evaluate folder FOLDER' or 'evaluate videos PATH'",
    )
    subjects = evaluate.add_subparsers(dest="subject", metavar="SUBJECT", required=True, parser_class=Parser)
    _toy_options(
        subjects.add_parser(
            "toy", parents=[common], help="measure a model in the toy world on which tiny was trained"
        )
    )
    _folder_options(
        subjects.add_parser(
            "folder", parents=[common], help="measure what a model generates from images and prompts"
        )
    )
    _videos_options(
        subjects.add_parser("videos", parents=[common], help="measure existing clips from any source")
    )
    commands.add_parser("doctor", parents=[common], help="report what is installed and whether it works")

    return parser


def _model_options(parser: argparse.ArgumentParser, default: str, *, dtype: bool = True) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME|FILE",
        help=f"a name from 'dynamicrafter models', a weights file, or 'random' (noise) (default: {default})",
    )
    group.add_argument(
        "--lora",
        action="append",
        type=_lora,
        metavar="FILE[:STRENGTH]",
        help="LoRA to merge into the network, with its strength (default: 1, as trained); may be repeated",
    )
    group.add_argument("--variant", metavar="NAME", help=_VARIANT_HELP.format("FILE"))
    group.add_argument(
        "--text-encoder", type=Path, metavar="FILE", help="CLIP text encoder, if the weights file has none"
    )
    group.add_argument(
        "--image-encoder", type=Path, metavar="FILE", help="CLIP image encoder, if the weights file has none"
    )
    _device_option(group)
    if dtype:
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


def _clip_options(parser: argparse.ArgumentParser) -> None:
    picture = parser.add_argument_group("what should happen")
    _option(picture, PARAMETERS["prompt"])
    _happening_options(picture, [123], "one or more seeds, one clip each (default: 123)")
    _shape_options(parser)
    _sampling_options(parser)

    _model_options(parser, _TINY_HELP)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="PATH",
        help=".mp4, .webm, .gif, .webp, or a folder for PNGs; several clips are numbered "
        "(default: PICTURE-COMMAND.mp4 in the current folder)",
    )
    _options(output, "output")


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


def _sampling_options(parser: argparse.ArgumentParser) -> None:
    quality = parser.add_argument_group("sampling ('dynamicrafter models' lists the models' defaults)")
    _options(quality, "sampling", without=("seed",))
    quality.add_argument(
        "--batch", type=int, default=1, help="clips generated at once (default: %(default)s)"
    )


_FORMER = {"guidance_rescale": ("--rescale",)}
"""Names in earlier versions, which still work."""


def _options(parser: Any, group: Group, without: tuple[str, ...] = ()) -> None:
    for parameter in of_group(group):
        if parameter.name not in without:
            _option(parser, parameter)


def _option(parser: Any, parameter: Parameter) -> None:
    """The option of a parameter; its range is the metavar."""
    name, default = parameter.name, parameter.default
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        *_FORMER.get(name, ()),
        type=parameter.kind,
        choices=tuple(parameter.choices) or None,
        metavar=None if parameter.low is None else f"{parameter.low:g}..{parameter.high:g}",
        default=None if parameter.preset else default,
        help=f"{parameter.description} (default: {parameter.own if default is None else default or 'empty'})",
    )


def _toy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, help="clips per metric (default: 64, with --scales 16)")
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
    _seed_option(parser, [0], "one or more seeds; the median of each metric is reported (default: 0)")
    quality = parser.add_argument_group("sampling")
    _option(quality, PARAMETERS["steps"])
    _option(quality, PARAMETERS["cfg"])
    _model_options(parser, _TINY_HELP, dtype=False)


def _folder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=_PROMPTS_HELP)
    parser.add_argument("--loop", action="store_true", help="generate loops")
    picture = parser.add_argument_group("what should happen")
    _happening_options(picture, [0], "one or more seeds, one clip each (default: 0)")
    _shape_options(parser)
    _sampling_options(parser)
    _model_options(parser, _TINY_HELP)
    _learned_options(parser)
    output = _table_option(parser)
    output.add_argument("--keep", type=Path, metavar="FOLDER", help="folder to keep the clips in, as .mp4")


def _videos_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos",
        type=Path,
        metavar="PATH",
        help="a folder of clips (.mp4, .webm, .gif, .webp, folders of PNGs), or a single clip",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FOLDER", help=f"sources of the clips: {_PROMPTS_HELP}"
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
        "--towers", type=Path, metavar="FILE", help="complete CLIP encoders, for the CLIP score"
    )
    learned.add_argument(
        "--i3d",
        type=Path,
        metavar="FILE",
        help="I3D as TorchScript, for FVD and KVD (default: i3d_torchscript.pt in the weights folder)",
    )
    learned.add_argument(
        "--real",
        type=Path,
        metavar="PATH",
        help="real clips to compare with, for FVD and KVD, in addition to those in the list",
    )
    learned.add_argument("--fetch", action="store_true", help="let LPIPS and DreamSim download their weights")
    return learned


def _table_option(parser: argparse.ArgumentParser) -> Any:
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=Path, metavar="FILE", help="write the metrics of every clip")
    return output


_COMPUTED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_STORED = {**_COMPUTED, "fp8_e4m3fn": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
"""Short names of precisions, and PyTorch's names."""


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
