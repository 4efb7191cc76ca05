"""The command that moves a person by poses."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..animate_anyone.alignment import filled, fit_to, fitted, smoothed
from ..animate_anyone.api import MOST_FRAMES, PersonSettings, person
from ..animate_anyone.drawing import draw
from ..animate_anyone.keypoints import Person
from ..animate_anyone.pose_files import poses_of_json
from ..animate_anyone.weights import check_person, load_person
from ..api import pick_device, pick_dtype
from ..bounded_json import parse_json
from ..errors import PictureError, UsageError
from ..forms import program_version
from ..media.pictures import read_picture
from ..media.video import FASTEST, FrameStream, read_frames, write_clip
from ..settings import PROGRAM
from ..shots import clip_targets
from .plan import size_text
from .progress import Bars
from .streams import STANDARD

if TYPE_CHECKING:
    from PIL.Image import Image

_LARGEST_JSON = 100_000_000
"""Bytes; the 2 million parts that are parsed take 40 MB with all digits, and 85 MB indented."""


@dataclass(frozen=True)
class _Drawings:
    """Drawings that are made each time they are read; those of a long clip take gigabytes."""

    poses: Sequence[Any]
    draw: Callable[[Any], Image]

    def __len__(self) -> int:
        return len(self.poses)

    def __iter__(self) -> Iterator[Image]:
        return map(self.draw, self.poses)


def run(given: Namespace, written: list[str]) -> object:
    """Run the command and return what ``--json`` prints."""
    from PIL import Image

    width, height = given.size
    settings = PersonSettings(
        width=width,
        height=height,
        steps=given.steps,
        cfg=given.cfg,
        eta=given.eta,
        seed=given.seed,
        window=given.window,
        overlap=given.overlap,
        exact=given.exact,
        noise_dtype=given.noise_dtype,
    )
    # Everything that can be checked is checked before the poses are read and the weights are loaded.
    if not 1 <= given.fps <= FASTEST:
        raise UsageError(f"--fps must be 1 to {FASTEST}, but {given.fps:g} was given")
    if (given.frames or 1) > MOST_FRAMES:
        raise UsageError(f"--frames must be 1 to {MOST_FRAMES}, but {given.frames} was given")
    device = pick_device(given.device)
    dtype = pick_dtype(given.dtype, device)
    target = _target(given)
    check_person(given.model)
    shown = read_picture(given.picture)
    poses = _poses(given, width, height)
    name = Path(target).name
    result: dict[str, Any] = {
        "output": target,
        "frames": len(poses),
        "fps": given.fps,
        "settings": asdict(settings),
    }
    size = size_text(width, height, len(poses), given.fps)
    if given.dry_run:
        windows = len(settings.windows(len(poses)))
        if not given.json:
            print(f"{target}: {size}, seed {settings.seed}, {windows} windows a step")
        return result
    with Bars(str(given.model), hidden=given.quiet or given.json) as bars:
        model = load_person(given.model, device=device, dtype=dtype, progress=bars.loading)
        started = time.monotonic()
        frames = person(
            model,
            Image.fromarray(shown.pixels.numpy()),
            poses,
            settings,
            progress=lambda stage, done, total: bars.clip(name, stage, done, total),
        )
    metadata = {"program": PROGRAM, "version": program_version(), "person": asdict(settings)}
    clip = _side_by_side(shown.pixels, poses, frames) if given.side_by_side else frames
    write_clip(clip, target, given.fps, metadata)
    written.append(target)
    result["seconds"] = round(time.monotonic() - started, 3)
    if not given.json:
        print(f"{target}: {size}, seed {settings.seed}, {result['seconds']:.1f} s")
    return result


def _target(given: Namespace) -> str:
    """Absolute path of the clip, which replaces none of the files it is made from."""
    if given.output == STANDARD:
        raise UsageError("person cannot write to standard output; name a file with --output")
    name = given.output or f"{Path(given.picture).stem}-person.mp4"
    (target,) = clip_targets([name], [Path(given.picture)])
    for option, path in (("--poses", given.poses), ("--fit-to", given.fit_to)):
        if path is not None and os.path.realpath(path) == os.path.realpath(target):
            raise UsageError(
                f"--output and {option} are the same, {os.path.realpath(target)}; name another file with --output"
            )
    return target


def _poses(given: Namespace, width: int, height: int) -> _Drawings:
    """Drawn poses: those of a clip or a folder as they are, or keypoints."""
    from PIL.Image import fromarray

    source = Path(given.poses)
    if source.suffix.lower() == ".json":
        people = _chosen(_keypoints(source), given)
        if given.fit_to is not None:
            reference = _keypoints(given.fit_to)[0]
            try:
                people = fitted(people, fit_to(reference, people, width / height))
            except ValueError as problem:
                raise PictureError(str(problem)) from problem
        if given.smooth:
            people = smoothed(filled(people), given.smooth)

        def drawn(one: Person) -> Image:
            return fromarray(draw(one, height, width, hands=given.hands, face=given.face))

        return _Drawings(people, drawn)
    for option, value in (("--fit-to", given.fit_to), ("--smooth", given.smooth)):
        if value:
            raise UsageError(f"{option} needs keypoints, but {source} holds drawings; use a JSON file")
    frames = _chosen(list(read_frames(source)), given)
    return _Drawings(frames, lambda frame: fromarray(frame.numpy()))


def _keypoints(path: Path) -> list[Person]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise PictureError(f"{path} has more than {_LARGEST_JSON // 10**6} MB; split it")
        values = parse_json(path.read_bytes())
    except OSError as problem:
        raise PictureError(
            f"{path} cannot be read ({problem.strerror or problem}); check the path"
        ) from problem
    except ValueError as problem:
        if str(problem).endswith("parts"):
            raise PictureError(f"{path} is too long ({problem}); split it") from problem
        raise PictureError(
            f"{path} is not JSON ({problem}); use keypoints as OpenPose writes them"
        ) from problem
    return poses_of_json(values, str(path))


def _chosen(poses: list[Any], given: Namespace) -> list[Any]:
    """Every n-th pose from a first one on, as many as are asked for."""
    kept = poses[given.first :: given.every][: given.frames]
    if len(kept) > MOST_FRAMES:
        raise UsageError(
            f"{given.poses} gives {len(kept)} poses, but a clip has at most {MOST_FRAMES} frames; choose with "
            "--frames, --first and --every"
        )
    if len(kept) < (given.frames or 1):
        raise UsageError(
            f"{given.poses} gives {len(kept)} poses of the {given.frames or 1} that are asked for; "
            "ask for fewer --frames, or choose with --first and --every"
        )
    return kept


def _side_by_side(picture: torch.Tensor, poses: _Drawings, frames: torch.Tensor) -> FrameStream:
    """Reference, pose and result in one clip."""
    import numpy as np
    from PIL.Image import fromarray

    count, height, width = frames.shape[:3]

    def stretched(shown: Image) -> torch.Tensor:
        return torch.as_tensor(np.array(shown.convert("RGB").resize((width, height))))

    reference = stretched(fromarray(picture.numpy()))
    rows = (
        torch.cat([reference, stretched(pose), frame], dim=1)[None]
        for pose, frame in zip(poses, frames, strict=True)
    )
    return FrameStream(rows, count, 3 * width, height)
