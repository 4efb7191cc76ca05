"""A ControlNet beside the denoising network: which frames it is shown hints for, and what it adds to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..diffusion.schedule import TRAIN_STEPS
from ..errors import UsageError
from ..model.controlnet import SKETCH_CHANNELS, ControlNetwork
from ..model.placement import Placement
from ..model.protocols import Context, Network, NetworkWrapper, Residuals
from ..model.unet import VideoUNet
from ..settings import Settings, key_frames


@dataclass(frozen=True, eq=False)
class Hints:
    """What a ControlNet is shown of a clip."""

    images: Tensor
    """uint8 ``[n, c, H, W]`` with the ControlNet's channels, at the clip's size."""
    frames: tuple[int, ...] | None = None
    """The frame of each; None for one image for all frames, or for one for each."""

    def check(self, length: int) -> None:
        """Raise UsageError unless they are of the frames of a clip for which ``length`` frames are sampled."""
        count = len(self.images)
        if self.frames is None:
            if 1 < count < length:
                raise UsageError(
                    f"hints must be 1 for all frames or one for each of the {length} frames, but {count} were given; "
                    f"use more, fewer frames, or name the frame of each"
                )
            return
        if len(self.frames) != count or len(set(self.frames)) != count:
            raise UsageError(
                f"each hint needs a frame of its own, but {count} hints were given for the frames "
                f"{', '.join(map(str, self.frames))}; pass one for each"
            )
        wrong = [frame for frame in self.frames if not 0 <= frame < length]
        if wrong:
            raise UsageError(
                f"the frames of hints must be from 0 to {length - 1}, but {wrong[0]} was given; use a longer clip, or "
                f"another frame"
            )

    def of(self, frames: Sequence[int], like: Tensor) -> tuple[Tensor, list[bool]]:
        """The hints of ``frames``, ``[t, c, H, W]`` from 0 to 1, and whether each frame has one.

        A frame without one is shown blank, all zeros. Device and dtype are those of ``like``.
        """
        places = self.places(frames)
        here = [place is not None for place in places]
        shown = self.images[[place or 0 for place in places]].to(like) / 255
        shown[~torch.tensor(here)] = 0
        return shown, here

    def places(self, frames: Sequence[int]) -> list[int | None]:
        """The place among the images of the hint of each of ``frames``; None where there is none."""
        if self.frames is None:
            return [0 if len(self.images) == 1 else frame for frame in frames]
        known = {frame: place for place, frame in enumerate(self.frames)}
        return [known.get(frame) for frame in frames]


@dataclass(frozen=True, eq=False)
class ControlNet:
    """A loaded ControlNet, ready to run."""

    network: ControlNetwork
    placement: Placement | None = None
    """What moves the network to its device when it is called; None if it stays there."""

    def leave(self) -> None:
        """Release what the network has on the device, if it is there only while it works."""
        if self.placement is not None:
            self.placement.leave()


@dataclass(frozen=True, eq=False)
class Control:
    """A ControlNet and what it is shown, the same for every clip of a batch."""

    net: ControlNet
    hints: Hints


def check_control(settings: Settings, in_torch: bool) -> None:
    """Raise UsageError unless a clip can follow hints: sampled as a whole, by a network ``in_torch``."""
    _require_torch(in_torch)
    corrected = settings.mode == "interpolate" and (settings.colour_match or settings.lock_frames)
    if corrected or len(key_frames(settings)) > 2 or settings.length_method not in ("native", "windows"):
        raise UsageError(
            "a ControlNet is for clips that are sampled as a whole; omit it, or use length_method native or windows, "
            "and no keyframes, colour_match and lock_frames to interpolate"
        )


def _require_torch(in_torch: bool) -> None:
    if not in_torch:
        raise UsageError(
            "a ControlNet adds to features inside the network, which must be a single one in PyTorch; omit it, or use "
            "one model with the backend torch"
        )


def is_controlled(settings: Settings, timestep: int) -> bool:
    """Whether a ControlNet is used at a timestep: from one fraction of the noise levels to another.

    As in ComfyUI; with evenly spaced timesteps, fractions of the levels are those of the steps.
    """
    top = TRAIN_STEPS - 1
    return (1 - settings.control_end) * top <= timestep <= (1 - settings.control_start) * top


def controlled(control: Control, settings: Settings) -> NetworkWrapper:
    """Add the residuals of a ControlNet to the network's features, frame by frame, in every branch of the guidance.

    It is shown the noisy latents as the network gets them. ToonCrafter's sketch encoder attends to text and image
    tokens, all others to the text tokens. Goes around the network itself, before other wrappers; raises UsageError if
    that is not PyTorch's.
    """

    def wrap(network: Network) -> Network:
        _require_torch(isinstance(network, VideoUNet))
        unet = cast(VideoUNet, network)

        def evaluate(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
            residuals = None
            if settings.control_scale and is_controlled(settings, int(timesteps[0])):
                residuals = _residuals(control, settings, x, timesteps, context)
            return unet(x, timesteps, context, fs, residuals)

        return evaluate

    return wrap


def _residuals(
    control: Control, settings: Settings, x: Tensor, timesteps: Tensor, context: Context
) -> Residuals | None:
    """What is added to the features of the frames in ``x``; None if none of them gets any."""
    network = control.net.network
    hint, here = control.hints.of(context.frames or range(x.shape[2]), x)
    scale = [settings.control_scale * (shown or settings.control_gaps == "blank") for shown in here]
    if not any(scale):
        return None
    tokens = context.text
    if network.hint_channels == SKETCH_CHANNELS:
        tokens = torch.cat([tokens, context.image.flatten(1, 2)], dim=1)
    made = network(x[:, : network.config.out_channels], hint, timesteps, tokens)
    each = torch.tensor(scale * x.shape[0], dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
    return Residuals(
        made.middle * each, [None if residual is None else residual * each for residual in made.skips]
    )
