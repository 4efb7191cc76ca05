"""Evaluations of the denoising network along clips, on which its quantisation is calibrated and its error measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor

from ...model.layers import sinusoidal_embedding
from ...model.protocols import Context, Network
from ...model.variants import Variant
from ...pipeline import KeyPictures, TorchModel, encode, make_generators, sample
from ...settings import Settings, make_settings

_STEPS = 8
"""Steps of each clip, spread over all timesteps; each is an evaluation for each branch of the guidance."""
_MOST_CALLS = 32
"""Evaluations to calibrate on; the time that quantisation takes grows with them."""
_MEASURED_CLIPS = 2
_OTHER_NOISE = 1000
"""Added to the seeds of the clips on which the error is measured, so that they are not those of the calibration."""


@dataclass(frozen=True)
class Shown:
    """What a clip is generated from: its images, a batch of one at the size of the clip, and its prompt."""

    pictures: KeyPictures
    prompt: str


@dataclass(frozen=True, eq=False)
class Call:
    """One evaluation of the network in float32: the inputs of its graph, in order, and its output."""

    inputs: tuple[np.ndarray[Any, Any], ...]
    output: np.ndarray[Any, Any]


def calibration_settings(variant: Variant, prompt: str = "", seed: int = 0) -> Settings:
    """The defaults of a variant, with few steps."""
    return make_settings(variant, variant.modes[0], prompt=prompt, seed=seed, steps=_STEPS)


def record_calls(
    model: TorchModel, shown: Sequence[Shown], progress: Callable[[int, int], None]
) -> tuple[list[Call], list[Call]]:
    """Evaluations to calibrate on, from a clip for each of ``shown``, and others to measure the error on.

    The others are from the first images and prompts again, but with other noise. ``progress`` is called with the clips
    finished and their total.
    """
    seeds = [*range(len(shown)), *range(_OTHER_NOISE, _OTHER_NOISE + min(len(shown), _MEASURED_CLIPS))]
    clips: list[list[Call]] = []
    for done, seed in enumerate(seeds):
        progress(done, len(seeds))
        clips.append(_along(model, shown[seed % _OTHER_NOISE], seed))
    calls = [call for clip in clips[: len(shown)] for call in clip]
    # By chance, because every n-th could always be the same timestep or branch.
    random.Random(0).shuffle(calls)
    return calls[:_MOST_CALLS], [call for clip in clips[len(shown) :] for call in clip]


def _along(model: TorchModel, shown: Shown, seed: int) -> list[Call]:
    """All evaluations of the sampling of one clip."""
    calls: list[Call] = []

    def recorded(network: Network) -> Network:
        def evaluate(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
            output = network(x, timesteps, context, fs)
            context = context.grouped(x.shape[2])
            time, rate = (
                sinusoidal_embedding(values, model.variant.unet.model_channels) for values in (timesteps, fs)
            )
            inputs = (x, time, context.text, context.image, rate)
            # Copied, because the sampler may go on in the same memory.
            calls.append(Call(tuple(map(_copied, inputs)), _copied(output)))
            return output

        return evaluate

    settings = calibration_settings(model.variant, shown.prompt, seed)
    generators = make_generators(model, [settings])
    conditioning = encode(model, shown.pictures, [settings], generators)
    sample(model, conditioning, settings, generators, network_wrappers=[recorded])
    return calls


def _copied(values: Tensor) -> np.ndarray[Any, Any]:
    return cast(Any, values.numpy()).copy()
