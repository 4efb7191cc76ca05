"""The command that moves a camera through the scene of an image: camera."""

from __future__ import annotations

import shutil
import sys
import tempfile
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..api import variant_of
from ..atomic import replacing
from ..camera.choices import GuideCamera
from ..camera.estimation import estimate_depth
from ..errors import UsageError
from ..media.pictures import Picture, read_picture
from ..media.video import write_clip
from ..model.variants import VIEWS_PROMPT, Mode
from ..settings import Settings
from ..shots import FilmedScene, Shot, check_means, clip_targets, guide_of
from .clips import clip_settings, make_and_print, means_of, model_files, targets_of
from .plan import size_text
from .streams import STANDARD, Streams

_INTERPOLATES = (
    "{} was not trained to follow guide clips: it interpolates from the first frame of the guide to the last, whose "
    "black parts stay black"
)


def run(given: Namespace, written: list[str]) -> object:
    """Render the guide clip, generate the clip, and return what ``--json`` prints.

    With a model that was not trained with guide clips, but to interpolate, the clip is an interpolation between the
    first and the last frame of the guide.
    """
    with Streams() as streams, tempfile.TemporaryDirectory(prefix="dynamicrafter-") as folder:
        return _run(given, written, streams, Path(folder))


def _run(given: Namespace, written: list[str], streams: Streams, folder: Path) -> dict[str, Any]:
    """As :func:`run`; an estimated depth map is in ``folder`` until it is known where the output is written."""
    model: str | None = given.depth_model
    if model is not None and given.output == STANDARD:
        raise UsageError(
            "--depth-model writes a depth map next to the output, but this is standard output; name a file with "
            "--output"
        )
    files = model_files(given)
    means = means_of(given)
    check_means(means, files)
    variant = variant_of(files)
    guided = "views" in variant.modes or "interpolate" not in variant.modes
    mode: Mode = "views" if guided else "interpolate"
    if given.prompt is None:
        given.prompt = VIEWS_PROMPT if guided else ""
    (source,) = streams.pictures([given.picture])
    picture = read_picture(source)
    settings = clip_settings(given, variant, mode, picture.size)
    camera = camera_of(given)
    depth: Path = given.depth if model is None else _estimated(picture, model, camera, folder)
    scene = FilmedScene(depth, camera)
    # Always, so that what is wrong with depth or path is said before the weights are loaded.
    guide = guide_of(scene, picture, settings)
    path = Path(source)
    if given.guide_only:
        if given.dry_run:
            raise UsageError(
                "--dry-run tells what would be generated, but --guide-only generates nothing; omit one"
            )
        (target,) = targets_of(given, [given.output or f"{path.stem}-guide.mp4"], [path], streams)
        told: dict[str, Any] = {}
        if model is not None:
            scene = _keep_depth(scene, target, given, told)
        told["guide"] = _write_guide(guide, target, settings, given, streams)
        if given.output == STANDARD:
            streams.send()
        return told
    names = [given.output or f"{path.stem}-camera.mp4" for _ in given.seed]
    targets = targets_of(given, names, [path], streams)
    told = {}
    if given.guide is not None:
        (target,) = clip_targets([given.guide], [path])
        if target in targets:
            raise UsageError(f"--guide and --output are the same, {target}; name another file with --guide")
        if not given.dry_run:
            told["guide"] = _write_guide(guide, target, settings, given, streams)
            written.append(target)
    if model is not None and not given.dry_run:
        scene = _keep_depth(scene, targets[0], given, told)
        written.append(told["depth"])
    notes = [] if guided else [_INTERPOLATES.format(variant.name)]
    shots = [
        Shot(replace(settings, seed=seed), (path,), Path(target).name, target, scene=scene)
        for seed, target in zip(given.seed, targets, strict=True)
    ]
    return {**make_and_print(shots, files, means, given, written, streams, told=notes), **told}


def _estimated(picture: Picture, model: str, camera: GuideCamera, folder: Path) -> Path:
    """An NPY file in ``folder`` with the depth map of an image; raises as :func:`estimate_depth` does."""
    path = folder / "depth.npy"
    np.save(path, estimate_depth(picture.pixels, model, camera.depth_kind).numpy())
    return path


def _keep_depth(scene: FilmedScene, target: str, given: Namespace, told: dict[str, Any]) -> FilmedScene:
    """``scene`` with a copy of its estimated depth map that is named after ``target``, and reported."""
    kept = Path(target).with_name(f"{Path(target).stem}-depth.npy")
    with replacing(kept) as part:
        shutil.copyfile(scene.depth, part)
    told["depth"] = str(kept)
    if not given.json:
        print(f"{kept}: depth map of {given.depth_model}")
    return replace(scene, depth=kept)


def camera_of(given: Namespace) -> GuideCamera:
    """The camera that the arguments describe; raises UsageError for a value out of range."""
    return GuideCamera(**{each.name: getattr(given, each.name) for each in fields(GuideCamera)})


def _write_guide(
    guide: Tensor, target: str, settings: Settings, given: Namespace, streams: Streams
) -> dict[str, Any]:
    """Write and report a guide clip; returns what ``--json`` prints of it."""
    write_clip(guide, target, settings.fps, {}, source="algorithmicMedia")
    seen = [float((frame != 0).any(-1).float().mean()) for frame in guide]
    name = streams.name(Path(target))
    least = min(range(len(seen)), key=seen.__getitem__)
    if not given.json:
        shown = size_text(settings.width, settings.height, settings.frames, settings.fps)
        piped = given.output == STANDARD
        print(
            f"{name}: {shown}, guide, {seen[least]:.0%} of frame {least + 1} is not black",
            file=sys.stderr if piped else sys.stdout,
        )
    return {"output": name, "frames": settings.frames, "seen": [round(share, 4) for share in seen]}
