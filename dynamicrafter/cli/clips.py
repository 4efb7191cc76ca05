"""The commands that generate clips: animate, interpolate and loop."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ..api import Lora, ModelFiles, find_model, pick_device, variant_of
from ..media.pictures import read_picture
from ..model.variants import TINY, Mode, Variant
from ..parameters import PARAMETERS
from ..settings import Settings, make_settings, settings_to_json
from ..shots import Made, Means, Shot, clip_targets, make
from .progress import Bars
from .words import tiny_knows


def run(command: str, given: Namespace, written: list[str]) -> object:
    """Run one of the commands and return what ``--json`` prints."""
    mode = cast(Mode, command)
    # Everything that can be checked is checked before the weights are loaded.
    files = model_files(given)
    pick_device(given.device)
    variant = variant_of(files)
    means = Means(given.device, given.dtype, given.batch)
    groups: list[tuple[Path, ...]] = (
        [(given.first, given.last)] if mode == "interpolate" else [(path,) for path in given.pictures]
    )
    # Image by image, seed by seed.
    names = [given.output or f"{group[0].stem}-{command}.mp4" for group in groups for _ in given.seed]
    targets = iter(clip_targets(names, [picture for group in groups for picture in group]))
    shots: list[Shot] = []
    for group in groups:
        size, *_ = [read_picture(file).size for file in group]
        settings = clip_settings(given, variant, mode, size)
        for seed in given.seed:
            target = next(targets)
            shots.append(Shot(replace(settings, seed=seed), group, Path(target).name, target))
    return make_and_print(shots, files, means, given, written)


def make_and_print(
    shots: Sequence[Shot], files: ModelFiles, means: Means, given: Namespace, written: list[str]
) -> dict[str, Any]:
    """Generate clips, report them and return what ``--json`` prints; finished clips are appended to ``written``."""
    notes: list[str] = []
    results: list[dict[str, Any]] = []

    def note(text: str) -> None:
        notes.append(text)
        if not given.json:
            # In one write: an interrupt may come between a line and its newline.
            print(f"note: {text}\n", end="", file=sys.stderr)

    if files.asked == TINY.name:
        note(tiny_knows(shots[0].settings.mode))
    with Bars(files.asked, hidden=given.quiet or given.json) as bars:
        for made in make(shots, files, means, bars.clip, note):
            results.append(_result(made))
            written.append(results[-1]["output"])
            if not given.json:
                bars.close()
                print(_line(results[-1]), flush=True)
    return {"clips": results, "notes": notes}


def _result(made: Made) -> dict[str, Any]:
    frames, height, width = made.clip.frames.shape[:3]
    return {
        "output": str(Path(made.shot.target)),
        "frames": frames,
        "width": width,
        "height": height,
        "fps": made.shot.settings.fps,
        "seconds": made.seconds,
        "settings": settings_to_json(made.shot.settings),
    }


def _line(result: dict[str, Any]) -> str:
    size = f"{result['width']}x{result['height']}, {result['frames']} frame(s) at {result['fps']:g} fps"
    return f"{result['output']}: {size}, seed {result['settings']['seed']}, {result['seconds']:.1f} s"


def model_files(given: Namespace) -> ModelFiles:
    """The model named by the arguments, or the built-in one; raises UsageError if it is unknown or not downloaded."""
    files = find_model(
        TINY.name if given.model is None else given.model,
        variant=given.variant,
        text_encoder=given.text_encoder,
        image_encoder=given.image_encoder,
    )
    return replace(files, loras=tuple(Lora(path, strength) for path, strength in given.lora or ()))


def clip_settings(given: Namespace, variant: Variant, mode: Mode, picture_size: tuple[int, int]) -> Settings:
    """The settings specified by the arguments; raises UsageError for a value out of range."""
    names = PARAMETERS.keys() - {"width", "height", "seed"}
    return make_settings(
        variant,
        mode,
        picture_size=picture_size,
        size=given.size,
        seed=given.seed[0],
        **{name: getattr(given, name) for name in names},
    )
