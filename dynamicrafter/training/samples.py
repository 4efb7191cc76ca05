"""Sample clips generated during training, always from the same images with the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DynamiCrafterError, UsageError
from ..media.pictures import fit_picture, read_picture
from ..media.video import write_clip
from ..model.conditioning import Perceived, condition, perceive
from ..pipeline import (
    KeyPictures,
    TorchModel,
    decode,
    draw_posterior,
    make_generators,
    request_of,
    sample,
    to_frames,
)
from ..settings import Settings, clip_metadata, make_settings
from .config import FinetuneConfig
from .data import Row, read_piece
from .movies import UnusableClip
from .processes import process_index
from .state import make_folder

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class _Shot:
    """Outputs of the frozen networks for one sample's images and prompt, on the CPU."""

    settings: Settings
    pictures: KeyPictures
    perceived: Perceived
    posterior: Tensor
    """The first noise of the seed."""
    noise: Tensor
    """State of the generator after the first noise."""


class SampleWriter:
    """Generates the samples of a step and writes them as ``step_000500_1.mp4`` and so on.

    Everything that needs the encoders is computed once at the start, so that they can be moved off the device. A sample
    is the clip that the pipeline generates with the same settings and seed.
    """

    def __init__(
        self,
        model: TorchModel,
        rows: Sequence[Row],
        config: FinetuneConfig,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        """``tell`` is called with a message if sampling fails. Raises UsageError or PictureError for bad input."""
        self._model = model
        self._folder = folder
        self._tell = tell
        self._precision = _AUTOCAST.get(config.trainer.precision)
        self._shots = [_shot(model, *given) for given in _wanted(model, rows, config)]
        if process_index() == 0:
            make_folder(folder)

    def __call__(self, step: int) -> None:
        """Generate and write all samples with the current weights; failures are reported and training continues."""
        try:
            for number, shot in enumerate(self._shots, 1):
                self._make(shot, self._folder / f"step_{step:06}_{number}.mp4", step)
        except DynamiCrafterError as problem:
            self._tell(f"there is no sample of step {step}: {problem}")

    @torch.inference_mode()
    def _make(self, shot: _Shot, path: Path, step: int) -> None:
        model, settings = self._model, shot.settings
        device = model.device
        generators = make_generators(model, [settings])
        generators[0].set_state(shot.noise)
        with self._autocast():
            conditioning = condition(
                shot.perceived.to(device), model.resampler, model.variant.resampler, shot.posterior.to(device)
            )
            latents = sample(model, conditioning, settings, generators)
        if process_index() != 0:
            return
        model.vae.to(device)
        try:
            frames = to_frames(decode(model, latents, shot.pictures))[0]
        finally:
            model.vae.to("cpu")
        write_clip(frames, path, settings.fps, {**clip_metadata(settings), "step": step})

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision is None:
            return nullcontext()
        return torch.autocast(self._model.device.type, self._precision)


def _wanted(
    model: TorchModel, rows: Sequence[Row], config: FinetuneConfig
) -> list[tuple[Settings, KeyPictures]]:
    """Settings and images of every sample."""
    wish = config.samples
    each = 2 if config.mode == "interpolate" else 1
    preset = model.variant.preset

    def settings(prompt: str, size: tuple[int, int], fs: int | None) -> Settings:
        return make_settings(
            model.variant,
            config.mode,
            size=size,
            prompt=prompt,
            frames=config.frames,
            steps=wish.steps,
            cfg=wish.cfg,
            fs=wish.fs if wish.fs is not None else fs,
            seed=wish.seed,
        )

    if not wish.pictures:
        return [
            (settings(prompt, (preset.width, preset.height), fs), pictures)
            for prompt, fs, pictures in _of_the_list(model, rows, config)
        ]
    if len(wish.pictures) % each:
        raise UsageError(
            f"samples of an interpolation need a first and a last image each, but {len(wish.pictures)} were given"
        )
    shots = len(wish.pictures) // each
    prompts = wish.prompts or ("",) * shots
    if len(prompts) != shots:
        raise UsageError(f"samples need one prompt for each clip, but {len(prompts)} were given for {shots}")
    made: list[tuple[Settings, KeyPictures]] = []
    for number, prompt in enumerate(prompts):
        found = [read_picture(Path(name)) for name in wish.pictures[number * each : (number + 1) * each]]
        chosen = make_settings(model.variant, config.mode, picture_size=found[0].size, prompt=prompt)
        chosen = settings(prompt, (chosen.width, chosen.height), None)
        fitted = [fit_picture(picture, chosen.width, chosen.height, chosen.fit)[None] for picture in found]
        made.append((chosen, KeyPictures(fitted[0], fitted[1] if each == 2 else None)))
    return made


def _of_the_list(
    model: TorchModel, rows: Sequence[Row], config: FinetuneConfig
) -> list[tuple[str, int, KeyPictures]]:
    """Caption, fs and first (and last) image of the first usable clips of the list."""
    preset = model.variant.preset
    found: list[tuple[str, int, KeyPictures]] = []
    for row in rows:
        if len(found) == config.samples.count:
            break
        try:
            size = (preset.width, preset.height)
            generator = torch.Generator().manual_seed(0)
            piece = read_piece(row, config.frames, size, config.strides, generator, config.shortest)
        except UnusableClip:
            continue
        if row.is_image and config.mode == "interpolate":
            continue
        prompt = (*config.samples.prompts, *[row.caption] * config.samples.count)[len(found)]
        last = piece.frames[-1:] if config.mode == "interpolate" else None
        found.append((prompt, piece.fs(preset), KeyPictures(piece.frames[:1], last)))
    return found


@torch.inference_mode()
def _shot(model: TorchModel, settings: Settings, pictures: KeyPictures) -> _Shot:
    generators = make_generators(model, [settings])
    posterior = draw_posterior(model, settings, generators)
    perceived = perceive(model, request_of(model, pictures, [settings]))
    return _Shot(settings, pictures, perceived.to("cpu"), posterior.cpu(), generators[0].get_state())
