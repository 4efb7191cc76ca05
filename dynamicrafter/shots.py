"""Clips to be generated: which are generated together, and what is written with each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .api import (
    Clip,
    ClipLike,
    HintsLike,
    ModelFiles,
    find_place,
    load,
    load_control,
    notes_on,
    pick_device,
    pick_dtype,
    read_hints,
    stored_as,
    stream_each,
    variant_of,
)
from .backends.choice import TORCH
from .camera.choices import GuideCamera, is_moves
from .camera.depth import read_depth
from .camera.guide import render_guide
from .control.hints import Control, ControlNet
from .diffusion.samplers import Callback, Step
from .errors import PictureError, Remedy, UsageError
from .forecast import Stopwatch, work_of
from .forms import to_json
from .media.pictures import Picture, fit_picture, place_of_fitted, read_picture
from .media.video import FrameStream, Sound, check_clip_path, write_clip
from .model.configs import Compile, Memory, Residence, Weights
from .motion.colour import Clipping, Drift
from .pipeline import Model, Stage, may_share_a_batch
from .records import (
    KnownCamera,
    KnownFile,
    KnownModel,
    Record,
    know_control,
    know_model,
    know_pictures,
)
from .sampling import check_layers
from .settings import Settings, clip_length
from .weights.fill import single_thread
from .weights.footprint import pick_residence

Work = Stage | Literal["load", "hash"]
ShotProgress = Callable[[str, Work, int, int], None]
"""Called with the name of a model or clip, the kind of work, the steps or bytes done and their total; any exception it
raises stops the work."""

_SMALL_NETWORK = 50_000_000
"""Number of parameters below which a network's layers are too small to benefit from several threads."""


@dataclass(frozen=True)
class Means:
    """How clips are computed, whatever their settings."""

    device: str = "auto"
    dtype: str = "auto"
    batch: int = 1
    """Maximum number of clips that are generated at once."""
    weights: Weights = "auto"
    """How the weights of the denoising network's layers are kept."""
    memory: Memory = "auto"
    """How the networks use the device's memory; "auto" depends on what is free and on the clips."""
    backend: str = TORCH
    """What computes the networks, :func:`dynamicrafter.backends.choice.parse_backend`."""
    compile: Compile = "off"
    """Whether the denoising network's blocks are compiled."""

    def __post_init__(self) -> None:
        """Raise UsageError for an empty batch."""
        if self.batch < 1:
            raise UsageError(f"batch must be at least 1, but {self.batch} was given")


@dataclass(frozen=True)
class FilmedScene:
    """The depth map of an image, and the camera that goes through it."""

    depth: Path
    camera: GuideCamera


@dataclass(frozen=True)
class Shot:
    """One clip to generate."""

    settings: Settings
    pictures: tuple[Path, ...]
    """One, or those of an interpolation in order."""
    title: str
    """Name in progress reports."""
    target: str = ""
    """Absolute path to write to; a trailing slash makes it a folder, whatever its name."""
    video: Path | None = None
    """The clip to start from."""
    mask: Path | None = None
    """What may move."""
    scene: FilmedScene | None = None
    """Makes the guide clip of views; an interpolation ends with its last frame, instead of with an image."""
    control: Path | None = None
    """A ControlNet."""
    hints: tuple[tuple[Path, int | None], ...] = ()
    """What it is shown: a clip or an image for all frames, with None, or images with their frames."""
    sound: Sound | None = None
    """Of the clip, if its file can have sound; no part of its record."""


@dataclass(frozen=True)
class Made:
    """A clip that was generated and written."""

    shot: Shot
    seconds: float
    """Time from reading the images of its batch until the clip was written."""
    drift: Drift = field(default_factory=Drift, compare=False)
    """Of its colours."""


def check_means(means: Means, files: ModelFiles) -> Path | None:
    """The export that a model would be run from, if any; raises what :func:`load_with` would, for wrong ``means``."""
    device, folder = find_place(
        files, means.device, means.backend, means.weights, means.memory, means.compile
    )
    pick_dtype(means.dtype, device)
    return folder


def check_settings(settings: Iterable[Settings], means: Means) -> None:
    """Raise UsageError for settings that a model which is run by ``means`` cannot follow."""
    for each in settings:
        check_layers(each, means.backend == TORCH)


def know_sources(shot: Shot) -> tuple[tuple[KnownFile, ...], KnownFile | None, KnownFile | None]:
    """The files of a clip's images, of the clip to start from and of the mask, with hashes of their bytes."""
    video, mask = (None if path is None else know_pictures([path])[0] for path in (shot.video, shot.mask))
    return know_pictures(shot.pictures), video, mask


def record_of(shot: Shot, known: KnownModel) -> dict[str, Any]:
    """What is written with a clip of how it was made."""
    pictures, video, mask = know_sources(shot)
    control, hints = (None, ()) if shot.control is None else know_control(shot.control, shot.hints)
    scene = know_scene(shot.scene)
    return to_json(
        Record(
            shot.settings,
            pictures,
            known,
            video=video,
            mask=mask,
            camera=scene,
            control=control,
            hints=hints,
        )
    )


def know_scene(scene: FilmedScene | None) -> KnownCamera | None:
    """A scene as recorded in a clip, with hashes of its files."""
    if scene is None:
        return None
    camera = scene.camera
    (depth,) = know_pictures([scene.depth])
    if is_moves(camera.path):
        return KnownCamera(camera, depth)
    path = Path(camera.path)
    (poses,) = know_pictures([path / "images.txt" if path.is_dir() else path])
    return KnownCamera(replace(camera, path=poses.file), depth, poses)


def load_with(means: Means, files: ModelFiles, progress: Callable[[int, int], None] | None = None) -> Model:
    """Load a model to be run by ``means``; ``progress`` and errors as in :func:`~dynamicrafter.api.load`."""
    return load(
        files,
        device=means.device,
        dtype=means.dtype,
        weights=means.weights,
        memory=means.memory,
        compile=means.compile,
        backend=means.backend,
        progress=progress,
    )


def means_for(shots: Sequence[Shot], files: ModelFiles, means: Means) -> Means:
    """``means`` with memory "auto" decided for these clips; without this, loading decides for one of the usual size."""
    return means if means.backend != TORCH else replace(means, memory=residence_for(shots, files, means))


def make(
    shots: Sequence[Shot],
    files: ModelFiles,
    means: Means,
    progress: ShotProgress | None = None,
    note: Callable[[str], None] | None = None,
    callback: Callable[[Model, Step], None] | None = None,
) -> Iterator[Made]:
    """Generate all clips and write each to its target, with a record of how it was made, while its frames are decoded.

    ``note`` is called with warnings, before the weights are loaded and about a clip that is too saturated; ``callback``
    after each step. Raises what loading, rendering and writing raise.
    """
    tell = note or _silent
    for text in notes_on(variant_of(files), shots[0].settings):
        tell(text)
    watch = Stopwatch()

    def shown(title: str, work: Work, done: int, total: int) -> None:
        watch.report(work)
        if progress is not None:
            progress(title, work, done, total)

    means = means_for(shots, files, means)
    model = load_with(
        means,
        files,
        lambda done, total: shown(files.asked, "load", done, total),
    )
    # Before the first clip, so that interrupting a long hash does not lose one.
    known = know_model(
        model, files, lambda done, total: shown(files.asked, "hash", done, total), means.backend
    )
    nets: dict[Path | None, ControlNet | None] = {None: None}
    stepped = None if callback is None else partial(callback, model)
    for batch in batches(shots, means.batch):
        records = [record_of(shot, known) for shot in batch]
        path = batch[0].control
        if path is not None and path not in nets:
            nets[path] = load_control(path, model)
        started = time.monotonic()
        with closing(stream_batch(model, batch, shown, nets[path], stepped)) as clips:
            for shot, record in zip(batch, records, strict=True):
                drift, clipping = Drift(), Clipping()
                with threads_that_pay(model):
                    frames = _measured(next(clips), drift, clipping)
                    write_clip(frames, shot.target, shot.settings.fps, record, sound=shot.sound)
                seconds = round(time.monotonic() - started, 3)
                for text in _notes_on_saturation(shot, clipping):
                    tell(text)
                if shot is batch[-1]:
                    watch.remember(
                        [each.settings for each in batch],
                        model.variant,
                        model.device,
                        model.dtype,
                        means.backend,
                        known.exported or known.stored,
                        "high" if means.memory == "auto" else means.memory,
                        means.compile,
                    )
                yield Made(shot, seconds, drift)


_MOST_CLIPPED = 0.1
"""Share of clipped values beyond the image's from which a clip is noted as too saturated."""


def _notes_on_saturation(shot: Shot, clipping: Clipping) -> list[str]:
    """A note if less guidance would give a finished clip weaker colours."""
    if shot.settings.cfg <= 1 or clipping.share <= _MOST_CLIPPED:
        return []
    # The clip is there, whatever has become of its image since.
    with suppress(PictureError):
        beyond = clipping.beyond(read_picture(shot.pictures[0]).pixels)
        if beyond > _MOST_CLIPPED:
            return [
                f"{shot.title}: {beyond:.0%} more of its values than of the image's are black or full; a lower cfg or "
                f"a higher guidance_rescale gives weaker colours"
            ]
    return []


def _measured(frames: FrameStream, *measures: Drift | Clipping) -> FrameStream:
    """``frames``, which are measured as they pass."""

    def parts() -> Iterator[torch.Tensor]:
        for part in frames.parts:
            for measure in measures:
                measure.add(part)
            yield part

    return replace(frames, parts=parts())


def residence_for(shots: Sequence[Shot], files: ModelFiles, means: Means) -> Residence:
    """How the networks use the device's memory for these clips; other backends than PyTorch use it their own way."""
    if means.backend != TORCH:
        return "high"
    device = pick_device(means.device)
    return pick_residence(
        means.memory,
        variant_of(files),
        [work_of([shot.settings for shot in batch]) for batch in batches(shots, means.batch)],
        device,
        pick_dtype(means.dtype, device),
        stored_as(files, means.weights),
    )


def batches(shots: Sequence[Shot], size: int) -> Iterator[list[Shot]]:
    """Shots in order, at most ``size`` at once, grouped so that one evaluation can generate each group."""
    batch: list[Shot] = []
    for shot in shots:
        if batch and (len(batch) == size or not _alike(batch[0], shot)):
            yield batch
            batch = []
        batch.append(shot)
    yield batch


def _alike(one: Shot, other: Shot) -> bool:
    """Whether two clips can be generated in one batch."""

    def kinds(shot: Shot) -> tuple[object, ...]:
        return shot.video is None, shot.mask is None, shot.scene is None, shot.control, shot.hints

    return may_share_a_batch(one.settings, other.settings) and kinds(one) == kinds(other)


def render_batch(
    model: Model,
    batch: Sequence[Shot],
    progress: ShotProgress | None = None,
    callback: Callback | None = None,
) -> list[Clip]:
    """The clips of one of the :func:`batches`; ``callback`` is called after each step."""
    with threads_that_pay(model), closing(stream_batch(model, batch, progress, callback=callback)) as clips:
        return [Clip(torch.cat(list(c.parts)), shot.settings) for c, shot in zip(clips, batch, strict=True)]


def stream_batch(
    model: Model,
    batch: Sequence[Shot],
    progress: ShotProgress | None = None,
    net: ControlNet | None = None,
    callback: Callback | None = None,
) -> Generator[FrameStream]:
    """The frames of one of the :func:`batches`, clip by clip as :func:`~dynamicrafter.api.stream_each`.

    Images are read only now, as hundreds would not fit into memory. ``net`` is the batch's ControlNet.
    """
    pictures = [[read_picture(file) for file in shot.pictures] for shot in batch]
    videos: list[ClipLike] = [shot.video for shot in batch if shot.video is not None]
    for shot, shown in zip(batch, pictures, strict=True):
        guide = None if shot.scene is None else guide_of(shot.scene, shown[0], shot.settings)
        if guide is not None and shot.settings.mode == "views":
            videos.append(guide)
        elif guide is not None:
            shown.append(Picture(guide[-1]))
    interpolates = batch[0].settings.mode == "interpolate"
    title = batch[0].title + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
    shown = progress or _silent
    clips = stream_each(
        model,
        [shot.settings for shot in batch],
        [shown[0] for shown in pictures],
        [shown[-1] for shown in pictures] if interpolates else None,
        betweens=[shown[1:-1] for shown in pictures],
        # One of the batches has all of a kind or none.
        videos=videos or None,
        masks=[shot.mask for shot in batch if shot.mask is not None] or None,
        control=None if net is None else _control(net, batch[0]),
        progress=lambda stage, done, total: shown(title, stage, done, total),
        callback=callback,
    )
    with closing(clips):
        for parts, shot in zip(clips, batch, strict=True):
            chosen = shot.settings
            yield FrameStream(parts, clip_length(chosen), chosen.width, chosen.height)


def guide_of(scene: FilmedScene, picture: Picture, settings: Settings) -> torch.Tensor:
    """The guide clip of a scene at the size and length of ``settings``, uint8 ``[t, h, w, 3]``.

    On the CPU, so that it is the same on every machine, and in one thread, as its steps are too short for more. Raises
    PictureError and UsageError as :func:`~dynamicrafter.camera.depth.read_depth` and
    :func:`~dynamicrafter.camera.guide.render_guide` do.
    """
    depth = read_depth(scene.depth, picture.size)
    width, height, fit = settings.width, settings.height, settings.fit
    image = ((fit_picture(picture, width, height, fit).movedim(0, -1) + 1) * 127.5).round().to(torch.uint8)
    place = place_of_fitted(picture.size, width, height, fit)
    with single_thread():
        return render_guide(image, depth, scene.camera, settings.frames, fitted=place)


def _control(net: ControlNet, shot: Shot) -> Control:
    return Control(net, read_hints(hints_of(shot.hints), shot.settings, net.network.hint_channels))


def hints_of(hints: Sequence[tuple[Path, int | None]]) -> HintsLike:
    """Hints with their frames as :func:`~dynamicrafter.api.read_hints` takes them; None is the frame of one alone.

    Raises UsageError for some with a frame beside others without, and for two of one frame.
    """
    frames = [frame for _, frame in hints]
    if frames == [None]:
        return hints[0][0]
    found = {frame: path for path, frame in hints if frame is not None}
    if len(found) < len(hints):
        raise UsageError(
            f"several hints need a frame of their own each, but {len(hints)} were given for "
            f"{len(found)} frames; name the frame of each"
        )
    return found


def threads_that_pay(model: Model) -> AbstractContextManager[None]:
    """One thread for a small network on the CPU: the synchronisation of its thousands of short layers costs more than
    several threads gain, especially on a busy machine."""
    network = model.unet
    count = (
        sum(parameter.numel() for parameter in network.parameters()) if isinstance(network, nn.Module) else 0
    )
    small = model.device.type == "cpu" and 0 < count < _SMALL_NETWORK
    return single_thread() if small else nullcontext()


# Where clips go


def clip_targets(names: Sequence[str], pictures: Sequence[Path]) -> list[str]:
    """Absolute paths of clips; clips with the same name are numbered.

    A trailing slash is kept: it makes a folder of a name that looks like a file's. Raises UsageError or ClipError if a
    clip cannot be written or would overwrite one of the ``pictures``.
    """
    # Some systems treat names that differ only in case as the same.
    if len({name.casefold() for name in names}) < len(names):
        names = [_numbered(name, number) for number, name in enumerate(names, start=1)]
    targets: list[str] = []
    for name in names:
        target = check_clip_path(name)
        if any(target == Path(os.path.realpath(picture)) for picture in pictures):
            raise UsageError(f"{target} is the image itself", Remedy("name_output"))
        targets.append(str(target) + (os.sep if _is_folder(name) else ""))
    return targets


def _numbered(name: str, number: int) -> str:
    path = Path(name)
    if not path.name:
        raise UsageError(f"{name} has no file name to which the clips' numbers could be added; add one to it")
    if _is_folder(name):
        return str(path.with_name(f"{path.name}-{number}")) + os.sep
    return str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep))


def _silent(*_: object) -> None:
    """Ignore the arguments."""
