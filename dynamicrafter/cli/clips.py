"""The commands that generate clips: animate, interpolate and loop."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from ..api import (
    Lora,
    ModelFiles,
    check_has_hints,
    check_mask_size,
    check_video_length,
    find_model,
    notes_on,
    place_keys,
    read_hints,
    variant_of,
)
from ..backends.choice import TORCH
from ..control.hints import check_control
from ..errors import Remedy, UsageError
from ..media.pictures import read_picture
from ..media.video import Sound, open_clip, takes_sound
from ..model.variants import TINY, Mode, Variant
from ..parameters import PARAMETERS
from ..pipeline import NO_SOURCE
from ..settings import Choices, Settings, clip_length, make_settings, settings_to_json
from ..shots import (
    Made,
    Means,
    Shot,
    ShotProgress,
    check_means,
    check_settings,
    clip_targets,
    hints_of,
    make,
)
from ..weights.controlnet import check_controlnet
from .plan import plan_of, size_text
from .progress import Bars
from .streams import STANDARD, Streams
from .words import tiny_knows

if TYPE_CHECKING:
    from typing_extensions import Unpack

Maker: TypeAlias = Callable[
    [Sequence[Shot], ModelFiles, Means, ShotProgress, Callable[[str], None]], Iterator[Made]
]
"""A function like :func:`~dynamicrafter.shots.make`."""


def run(command: str, given: Namespace, written: list[str]) -> object:
    """Run one of the commands and return what ``--json`` prints."""
    with Streams() as streams:
        return clips_of(cast(Mode, command), given, written, streams)


def clips_of(
    mode: Mode,
    given: Namespace,
    written: list[str],
    streams: Streams,
    maker: Maker = make,
    sound_of: Callable[[Settings], Sound | None] = lambda _: None,
) -> dict[str, Any]:
    """Generate the clips of ``mode`` that the arguments ask for; as :func:`make_and_print`.

    ``sound_of`` makes the sound of a clip whose file can have one.
    """
    # Everything that can be checked is checked before the weights are loaded.
    files = model_files(given)
    means = means_of(given)
    check_means(means, files)
    variant = variant_of(files)
    sources = streams.pictures([given.first, *given.rest] if mode == "interpolate" else given.pictures)
    # Read as named, because a Path is not the same for the empty name and for a URL.
    sizes = [read_picture(source).size for source in sources]
    paths = tuple(Path(source) for source in sources)
    groups = [paths] if mode == "interpolate" else [(path,) for path in paths]
    keys: Choices = (
        place_keys({"keys": given.keys, "frames": given.frames, "cut_still": given.cut_still}, sizes)
        if mode == "interpolate"
        else {}
    )
    _check_sources(given, mode, sizes)
    control: Path | None = given.control
    hints = cast("tuple[tuple[Path, int | None], ...]", tuple(given.hint or ()))
    check_has_hints(control is not None, bool(hints))
    channels = None if control is None else check_controlnet(control, variant.unet)
    # Image by image, seed by seed.
    names = [given.output or f"{group[0].stem}-{mode}.mp4" for group in groups for _ in given.seed]
    more = [path for path in (given.video, given.mask, control) if path is not None]
    targets = iter(targets_of(given, names, [*paths, *more, *(path for path, _ in hints)], streams))
    length = None if given.video is None else open_clip(given.video).count
    shots: list[Shot] = []
    for group, size in zip(groups, sizes, strict=False):
        settings = clip_settings(given, variant, mode, size, **keys)
        if length is not None:
            check_video_length(length, settings)
        if channels is not None:
            check_control(settings, means.backend == TORCH)
            _check_hints(hints)
            read_hints(hints_of(hints), settings, channels)
        for seed in given.seed:
            target = next(targets)
            title = Path(target).name + (f" ({len(shots) + 1} of {len(names)})" if len(names) > 1 else "")
            chosen = replace(settings, seed=seed)
            sound = sound_of(chosen) if takes_sound(target) else None
            shots.append(
                Shot(
                    chosen,
                    group,
                    title,
                    target,
                    given.video,
                    given.mask,
                    control=control,
                    hints=hints,
                    sound=sound,
                )
            )
    return make_and_print(shots, files, means, given, written, streams, maker)


def _check_sources(given: Namespace, mode: Mode, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise what is wrong with the mask and the clip to start from before the weights are loaded."""
    if given.mask is not None:
        mask = read_picture(given.mask).size
        for size in sizes[:1] if mode == "interpolate" else sizes:
            check_mask_size(mask, size)
    if given.video is not None:
        if given.video.is_dir():
            raise UsageError(f"{given.video} is a folder; pass a clip as one file")
        if given.mask is None and given.denoise == 1:
            raise UsageError(
                "a clip to start from has no effect with denoise 1 and without a mask; use a lower --denoise or --mask"
            )
    elif mode == "interpolate" and (given.mask is not None or given.denoise < 1):
        raise UsageError(NO_SOURCE, Remedy("name_video"))


def _check_hints(hints: Sequence[tuple[Path, int | None]]) -> None:
    """Raise UsageError for a hint that has no hash by which it could be found again."""
    for path, _ in hints:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; pass a clip as one file")


def targets_of(
    given: Namespace, names: Sequence[str], sources: Sequence[Path], streams: Streams
) -> list[str]:
    """Absolute paths of clips, of which one may be for standard output; raises as :func:`clip_targets` does."""
    if given.output == STANDARD:
        streams.check(len(names), given.json)
        names = [streams.target]
    return clip_targets(names, sources)


def make_and_print(
    shots: Sequence[Shot],
    files: ModelFiles,
    means: Means,
    given: Namespace,
    written: list[str],
    streams: Streams,
    maker: Maker = make,
    told: Sequence[str] = (),
) -> dict[str, Any]:
    """Generate clips, report them and return what ``--json`` prints; finished clips are appended to ``written``.

    ``told`` are the notes that the caller has.
    """
    piped = given.output == STANDARD
    notes: list[str] = []
    results: list[dict[str, Any]] = []

    def note(text: str) -> None:
        notes.append(text)
        if not given.json:
            # In one write: an interrupt may come between a line and its newline.
            print(f"note: {text}\n", end="", file=sys.stderr)

    check_settings((shot.settings for shot in shots), means)
    for text in told:
        note(text)
    if files.asked == TINY.name:
        note(tiny_knows(shots[0].settings.mode))
    if given.dry_run or given.verbose:
        plan = plan_of(shots, files, means, streams)
        if not given.json:
            for line in plan.lines():
                print(line, file=sys.stdout if given.dry_run else sys.stderr)
        if given.dry_run:
            for text in notes_on(variant_of(files), shots[0].settings):
                note(text)
            return {**asdict(plan), "notes": notes}
    with Bars(files.asked, hidden=given.quiet or given.json, clips=len(shots)) as bars:
        for made in maker(shots, files, means, bars.clip, note):
            results.append(_result(made, streams.name(Path(made.shot.target))))
            written.append(results[-1]["output"])
            bars.finished(len(results))
            if not given.json:
                bars.close()
                print(_line(results[-1]), file=sys.stderr if piped else sys.stdout, flush=True)
    if piped:
        streams.send()
    return {"clips": results, "notes": notes}


def _result(made: Made, output: str) -> dict[str, Any]:
    chosen = made.shot.settings
    return {
        "output": output,
        "frames": clip_length(chosen),
        "width": chosen.width,
        "height": chosen.height,
        "fps": chosen.fps,
        "seconds": made.seconds,
        "drift": {"largest": round(made.drift.largest, 2), "last": round(made.drift.last, 2)},
        "settings": settings_to_json(chosen),
    }


def _line(result: dict[str, Any]) -> str:
    size = size_text(result["width"], result["height"], result["frames"], result["fps"])
    return f"{result['output']}: {size}, seed {result['settings']['seed']}, {result['seconds']:.1f} s"


def model_files(given: Namespace) -> ModelFiles:
    """The model of ``--model`` and the options about it; as :func:`files_of`."""
    return files_of(given.model, given)


def files_of(model: str | None, given: Namespace) -> ModelFiles:
    """The model of a name, None for the built-in one, with the encoders and adapters of the arguments.

    Raises UsageError if it is unknown or not downloaded.
    """
    files = find_model(
        TINY.name if model is None else model,
        variant=given.variant,
        text_encoder=given.text_encoder,
        image_encoder=given.image_encoder,
    )
    loras = getattr(given, "lora", None) or ()
    return replace(files, loras=tuple(Lora(path, strength) for path, strength in loras))


def means_of(given: Namespace) -> Means:
    """How the clips are computed according to the arguments."""
    return Means(
        given.device, given.dtype, given.batch, given.weights, given.memory, given.backend, given.compile
    )


def clip_settings(
    given: Namespace, variant: Variant, mode: Mode, picture_size: tuple[int, int], **instead: Unpack[Choices]
) -> Settings:
    """The settings specified by the arguments, but for ``instead``; raises UsageError for a value out of range."""
    names = PARAMETERS.keys() - {"width", "height", "seed"}
    chosen: Any = {name: getattr(given, name) for name in names} | dict(instead)
    return make_settings(
        variant, mode, picture_size=picture_size, size=given.size, seed=given.seed[0], **chosen
    )
