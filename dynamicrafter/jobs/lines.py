"""Reads a jobs file: on each line a JSON object with the images and settings of one clip.

All lines are checked before the first clip is generated. Paths are relative to the file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path, PurePath
from typing import Any, cast

from ..api import RANDOM, Lora, ModelFiles, find_model, place_keys, variant_of
from ..backends.openvino.manifest import is_export
from ..bounded_json import parse_json
from ..errors import ClipError, DynamiCrafterError, Remedy, UsageError
from ..forms import Form, shortened
from ..hashing import file_sha256
from ..media.pictures import read_picture
from ..media.video import check_clip_path
from ..model.variants import SMALL, TINY, VARIANTS, Mode, Variant
from ..parameters import PARAMETERS
from ..pipeline import NO_SOURCE
from ..settings import Choices, Settings, make_settings
from ..weights.catalogue import find

RECORDS = "records"
"""The folder with the records of the jobs, next to their clips."""
_NAME = re.compile(r"[^\x00-\x1f/\\:]+")
"""What an output may be called: a name that no system takes for a path."""
_NAME_BYTES = 250
"""Maximum length of such a name: file systems allow 255 bytes, and records add an extension."""


@dataclass(frozen=True)
class ModelChoice:
    """A model as a person names it; its files need not be on this machine."""

    asked: str = TINY.name
    """A name or a path, as for :func:`~dynamicrafter.api.find_model`."""
    variant: str | None = None
    text_encoder: Path | None = None
    image_encoder: Path | None = None
    loras: tuple[Lora, ...] = ()

    def files(self) -> ModelFiles:
        """The files on this machine; raises what :func:`~dynamicrafter.api.find_model` raises."""
        found = find_model(
            self.asked,
            variant=self.variant,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
        )
        return replace(found, loras=self.loras)


def local_variant(model: ModelChoice) -> Variant:
    """The variant of a model whose files are on this machine; raises UsageError if PyTorch cannot run them."""
    files = model.files()
    if is_export(files.weights):
        raise UsageError(
            f"the model must be weights for PyTorch, but {files.weights} is an export for OpenVINO; use the weights "
            f"that it was made of"
        )
    return variant_of(files)


def named_variant(model: ModelChoice) -> Variant:
    """The variant of a model whose files are elsewhere; raises UsageError unless it follows from the names."""
    if model.variant is not None:
        if model.variant not in VARIANTS:
            raise UsageError(f"there is no variant {model.variant!r}; the variants are {', '.join(VARIANTS)}")
        return VARIANTS[model.variant]
    if model.asked in (TINY.name, RANDOM):
        return TINY if model.asked == TINY.name else SMALL
    if is_path(model.asked):
        raise UsageError(
            f"the variant of {model.asked}, which is on the server, is not known here",
            Remedy("name_variant", (" or ".join(VARIANTS),)),
        )
    release = find(model.asked)
    if release.variant is None:
        raise UsageError(f"{release.name} contains only the {release.purpose}", Remedy("choose_model"))
    return VARIANTS[release.variant]


def is_path(asked: str) -> bool:
    """Whether :func:`~dynamicrafter.api.find_model` takes ``asked`` for a path, not for a name."""
    return bool(PurePath(asked).suffix) or asked != PurePath(asked).name


@dataclass(frozen=True)
class Job:
    """One clip to generate."""

    line: int
    """Its line in the jobs file, from 1."""
    output: str
    """Name of its clip in the folder for the clips."""
    settings: Settings
    pictures: tuple[Path, ...]
    """One, or those of an interpolation in order."""
    model: ModelChoice
    sha256: str
    """Of all that decides what the clip shows: settings, contents of the images, names of the model's files."""


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a jobs file, for as many machines."""

    number: int = 1
    """From 1."""
    count: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError for a part that does not exist."""
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"a shard is i/N with i from 1 to N, but {self.number}/{self.count} was given; "
                f"the first of four is 1/4"
            )

    def holds(self, line: int) -> bool:
        """Whether a line belongs to this part."""
        return (line - 1) % self.count == self.number - 1


@dataclass(frozen=True)
class _LoraLine:
    """A LoRA of a job."""

    file: str
    strength: float = 1.0


@dataclass(frozen=True)
class _Line:
    """What a line contains besides settings."""

    pictures: tuple[str, ...]
    mode: Mode | None = None
    """By default, several images are interpolated, and one is animated."""
    output: str | None = None
    model: str | None = None
    variant: str | None = None
    text_encoder: str | None = None
    image_encoder: str | None = None
    loras: tuple[_LoraLine, ...] = ()


_OF_MODEL = ("variant", "text_encoder", "image_encoder", "loras")


def read_jobs(
    listing: Path,
    folder: Path,
    default: ModelChoice,
    variant_for: Callable[[ModelChoice], Variant] = local_variant,
    shard: Shard = Shard(),
) -> list[Job]:
    """The jobs of a shard of the file ``listing``, for clips in ``folder``, which exists, in the order of their lines.

    ``default`` is the model of lines that name none, and ``variant_for`` tells the variant of a model. Raises
    UsageError with the number of the line for the first one that is not a valid job or repeats another one; settings
    and images are checked for the lines of the shard only.
    """
    reader = _Reader(listing, folder, default, variant_for)
    jobs: list[Job] = []
    outputs: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for number, values in _objects(listing):
        where = f"line {number} of {listing}"
        try:
            line, choices = _parted(values, where)
            output = _output(line, number)
            first = outputs.setdefault(output.casefold(), number)
            if first != number:
                raise UsageError(f"its output {output} is that of line {first}; give it another one")
            if not shard.holds(number):
                continue
            job = reader.job(number, output, line, choices)
            if line.output is None and hashes.setdefault(job.sha256, number) != number:
                raise UsageError(
                    f"it is the same as line {hashes[job.sha256]}; remove it, or give it another seed or an output"
                )
        except DynamiCrafterError as problem:
            facts = problem.facts if where in problem.facts else f"{where}: {problem.facts}"
            raise UsageError(facts, problem.remedy) from problem
        jobs.append(job)
    if not outputs:
        raise UsageError(f"{listing} has no jobs; write one JSON object a line, with pictures and settings")
    return jobs


def _objects(listing: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file and the numbers of their lines; empty lines are skipped."""
    try:
        with listing.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not text.strip():
                    continue
                try:
                    value = parse_json(text.strip())
                except ValueError as problem:
                    reason = str(problem).replace("line 1 column", "column")
                    raise UsageError(
                        f"line {number} of {listing} is not JSON ({reason}); write one object a line"
                    ) from problem
                if not isinstance(value, dict):
                    raise UsageError(
                        f"line {number} of {listing} must be an object with pictures and settings, "
                        f'such as {{"pictures": ["boat.png"], "seed": 7}}'
                    )
                yield number, cast(dict[str, Any], value)
    except OSError as problem:
        raise UsageError(f"{listing} cannot be read ({problem.strerror or problem})") from problem


def _parted(values: Mapping[str, Any], where: str) -> tuple[_Line, dict[str, Any]]:
    """What a line contains besides settings, and the settings; null is the same as absent."""
    own = [field.name for field in fields(_Line)]
    known = [*own, *PARAMETERS]
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"a job has {', '.join(known)}"
            raise UsageError(f"there is no setting {name!r}; {advice}")
    given = {name: value for name, value in values.items() if value is not None}
    line = Form(where, UsageError).read(_Line, {name: given[name] for name in own if name in given})
    choices = {name: value for name, value in given.items() if name not in own}
    for one, other in (("width", "height"), ("height", "width")):
        if one in choices and other not in choices:
            raise UsageError(f"it has a {one} but no {other}; add it, or remove both")
    if "width" in choices:
        choices["size"] = choices.pop("width"), choices.pop("height")
    return line, choices


def _mode(line: _Line) -> Mode:
    count = len(line.pictures)
    mode: Mode = line.mode or ("interpolate" if count >= 2 else "animate")
    if mode == "views":
        raise UsageError(
            "a list of jobs has no guide clips, but mode views was given; use the command camera"
        )
    if count < 2 if mode == "interpolate" else count != 1:
        wanted = "2 or more" if mode == "interpolate" else "1"
        raise UsageError(f"pictures must be a list of {wanted} to {mode}, not of {count}")
    return mode


def _output(line: _Line, number: int) -> str:
    """The name of a job's clip; the number of the line is part of the default, so that the clips are in order."""
    if line.output is None:
        picture = PurePath(line.pictures[0]).stem if line.pictures else ""
        name = f"{number:04d}-{picture}-{_mode(line)}.mp4"
    else:
        name = _checked_name(line.output)
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError as problem:
        raise UsageError(f"output must be a name that files can have, but {name!r} was given") from problem
    if size > _NAME_BYTES:
        raise UsageError(
            f"output must have at most {_NAME_BYTES} bytes, but {shortened(name)!r} has {size}; give it a shorter one"
        )
    return name


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith(".") or name.casefold() == RECORDS:
        raise UsageError(
            f"output must be the name of a clip in the folder, such as clip.mp4, without a path, not {name!r}"
        )
    return name


class _Reader:
    """Makes jobs of lines; what several lines have in common is read once."""

    def __init__(
        self,
        listing: Path,
        folder: Path,
        default: ModelChoice,
        variant_for: Callable[[ModelChoice], Variant],
    ) -> None:
        self._beside = listing.parent
        self._folder = folder
        self._default = default
        self._variant_for = variant_for
        self._variants: dict[ModelChoice, Variant] = {}
        self._pictures: dict[Path, tuple[tuple[int, int], str]] = {}

    def job(self, number: int, output: str, line: _Line, choices: dict[str, Any]) -> Job:
        """The job of a line; raises DynamiCrafterError for what is wrong with it."""
        mode, model = _mode(line), self._model(line)
        if model not in self._variants:
            self._variants[model] = self._variant_for(model)
        pictures = tuple(self._beside / name for name in line.pictures)
        seen = [self._picture(path) for path in pictures]
        if mode == "interpolate":
            choices = dict(place_keys(cast(Choices, choices), [size for size, _ in seen]))
        settings = make_settings(self._variants[model], mode, picture_size=seen[0][0], **choices)
        if mode == "interpolate" and settings.denoise < 1:
            raise UsageError(f"{NO_SOURCE}; a job has none, so omit denoise")
        target = check_clip_path(self._folder / output)
        if any(target == path.resolve() for path in pictures):
            raise UsageError(f"its output {target} is the image itself; give it another one")
        digest = _digest(settings, [sha256 for _, sha256 in seen], model)
        return Job(number, output, settings, pictures, model, digest)

    def _model(self, line: _Line) -> ModelChoice:
        """The model that a line names, or the default, which goes with nothing else of another model."""
        if line.model is None:
            others = [name for name in _OF_MODEL if getattr(line, name)]
            if others:
                raise UsageError(f"it has {' and '.join(others)} but no model; add the model")
            return self._default
        return ModelChoice(
            self._placed(line.model) if is_path(line.model) else line.model,
            line.variant,
            None if line.text_encoder is None else Path(self._placed(line.text_encoder)),
            None if line.image_encoder is None else Path(self._placed(line.image_encoder)),
            tuple(Lora(Path(self._placed(lora.file)), lora.strength) for lora in line.loras),
        )

    def _placed(self, path: str) -> str:
        """A path of a line as seen from here; a name alone would be taken for that of a model."""
        try:
            return str((self._beside / path).resolve())
        except ValueError as problem:
            raise UsageError(
                f"the path of a model, encoder or LoRA file must be one that files can have, but {path!r} was given"
            ) from problem

    def _picture(self, path: Path) -> tuple[tuple[int, int], str]:
        """(width, height) and SHA-256 of an image file."""
        if path not in self._pictures:
            size = read_picture(path).size
            try:
                self._pictures[path] = size, file_sha256(path)
            except OSError as problem:
                raise ClipError(f"{path} cannot be read ({problem.strerror or problem})") from problem
        return self._pictures[path]


def _digest(settings: Settings, pictures: list[str], model: ModelChoice) -> str:
    """SHA-256 of all that decides what a clip shows, wherever its files are.

    Settings that have their default are left out, so that a version with more settings knows the jobs of this one.
    """
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    decides = {
        "settings": {
            name: value
            for name, value in asdict(settings).items()
            if name not in defaults or value != defaults[name]
        },
        "pictures": pictures,
        "model": {
            "asked": PurePath(model.asked).name,
            "variant": model.variant,
            "encoders": [path and path.name for path in (model.text_encoder, model.image_encoder)],
            "loras": [(lora.path.name, lora.strength) for lora in model.loras],
        },
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
