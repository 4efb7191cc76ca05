"""Long clips and loops by windows: the whole network sees 16 frames at a time, and its outputs are blended.

Each window's frames take the image tokens of their place in the window, as the network was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..diffusion.windows import Blend, Window, cyclic_windows, plain_windows
from ..model.protocols import Context, Network, NetworkWrapper
from ..parameters import TRAINED_FRAMES
from ..settings import PromptPart, Settings, overlap_of, prompt_parts, sampled_frames

_STRIDE = 4
"""Frames that are shuffled together, as in FreeNoise (arXiv 2310.15169)."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def needs_windows(settings: Settings) -> bool:
    """Whether a clip is longer than a window, or goes round."""
    return settings.length_method == "windows" and (
        settings.mode == "loop" or settings.frames > TRAINED_FRAMES
    )


def windows_of(settings: Settings, timestep: int) -> list[Window]:
    """The windows of one step.

    Those of a loop begin elsewhere in each step, so that no frame is always at an edge.
    """
    frames, overlap = sampled_frames(settings), overlap_of(settings)
    if settings.mode != "loop":
        return plain_windows(frames, TRAINED_FRAMES, overlap)
    # Multiples of the golden ratio are spread evenly, whichever timesteps are visited.
    return cyclic_windows(frames, TRAINED_FRAMES, overlap, int(frames * (timestep * _GOLDEN % 1)))


def over_windows(settings: Settings) -> NetworkWrapper:
    """Evaluate a network window by window.

    The text tokens of a clip with several prompts are those of all of them, ``[b, p * n, c]``. Those of a window are
    their mean, weighted by the window's share of each.
    """
    parts = prompt_parts(settings)

    def wrap(network: Network) -> Network:
        def evaluate(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
            blend = Blend(x[:, : x.shape[1] // 2].float())
            for window in windows_of(settings, int(timesteps[0])):
                text = _mixed(context.text, shares(parts, window))
                seen = x[:, :, list(window.frames)]
                part = Context(text, context.image, window.frames)
                blend.add(window, network(seen, timesteps, part, fs))
            return blend.mean().to(x.dtype)

        return evaluate

    return wrap


def shares(parts: Sequence[PromptPart], window: Window) -> list[float]:
    """The share of a window's frames that belongs to each prompt."""
    starts = [part.start for part in parts]
    ends = [*starts[1:], math.inf]
    return [
        sum(start <= frame < end for frame in window.frames) / len(window.frames)
        for start, end in zip(starts, ends, strict=True)
    ]


def _mixed(text: Tensor, weights: Sequence[float]) -> Tensor:
    if len(weights) == 1:
        return text
    each = rearrange(text, "b (p n) c -> b p n c", p=len(weights))
    return (each * torch.tensor(weights, device=text.device, dtype=text.dtype)[:, None, None]).sum(1)


def reschedule(noise: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Noise ``[b, c, t, h, w]`` as FreeNoise arranges it (arXiv 2310.15169): all stems from the first 16 frames.

    Four frames each repeat those 16 places before in another order, so that neighbouring windows get the same noise and
    show the same. Orders come from ``generators``, one for each clip.
    """
    made = noise.clone()
    for clip, generator in zip(made, generators, strict=True):
        for start in range(TRAINED_FRAMES, clip.shape[1], _STRIDE):
            order = torch.randperm(_STRIDE, generator=generator, device=generator.device).to(clip.device)
            count = min(_STRIDE, clip.shape[1] - start)
            clip[:, start : start + count] = clip[:, start - TRAINED_FRAMES + order[:count]]
    return made
