"""The host's ControlNets beside the network: what they may be, and which hint each frame is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.patcher_extension
import torch
from einops import rearrange
from torch import Tensor

from ...dynamicrafter.control.hints import Hints
from ...dynamicrafter.model.configs import UNetConfig
from ...dynamicrafter.model.controlnet import SKETCH_CHANNELS
from ...dynamicrafter.model.protocols import Residuals
from ..words import in_words_of_the_graph

_KEY = "dynamicrafter_hints"
"""Of our wrapper in the host's list."""
_FRAMES, _GAPS = "dynamicrafter_hint_frames", "dynamicrafter_control_gaps"
"""Of the extra arguments of a ControlNet, which the host's copies keep: :func:`with_hint_frames`."""
_WANTED = (
    "use a ControlNet for Stable Diffusion 2.1 or ToonCrafter's sketch encoder, or remove the Apply ControlNet "
    "node"
)
_GREY = (0.299, 0.587, 0.114)
"""Weights of RGB in the hint of a sketch, as the command's."""


def with_hint_frames(net: Any, frames: tuple[int, ...], gaps: str) -> Any:
    """A copy of the host's ControlNet ``net`` whose hints are those of ``frames``, one for each.

    ``gaps`` is what happens to the others, as the parameter ``control_gaps``. Only our networks heed it. Raises
    ValueError for a ControlNet of another family, whose network may fail on arguments that it does not know.
    """
    if not _is_stable_diffusion(getattr(net, "control_model", None)):
        raise ValueError(f"this model does not support {type(net).__name__}; {_WANTED}")
    net = net.copy()
    net.set_extra_arg(_FRAMES, frames)
    net.set_extra_arg(_GAPS, gaps)
    return net


def check_controls(control: Any, config: UNetConfig, length: int) -> None:
    """Raise ValueError for a ControlNet, or another one before it, that does not fit a network of these sizes.

    Also for hints of chosen frames that are not one for each, or not of the ``length`` frames that are sampled. Called
    before the first step: the host would fail in the middle of it, at some matrix product.
    """
    for net in _chain(control):
        model: Any = getattr(net, "control_model", None)
        # One kind of the host's takes its weights from the denoising network, which is another one here.
        copied = isinstance(net, comfy.controlnet.ControlLora)
        if copied or not _is_stable_diffusion(model):
            raise ValueError(f"this model does not support {type(net).__name__}; {_WANTED}")
        width = next(
            layer.in_features for name, layer in model.named_modules() if name.endswith("attn2.to_k")
        )
        if width != config.context_dim:
            raise ValueError(
                f"this ControlNet is of another family: its tokens have {width} values, but this model's have "
                f"{config.context_dim}; {_WANTED}"
            )
        found = (model.model_channels, *model.channel_mult)
        wanted = (config.model_channels, *config.channel_mult)
        if found != wanted:
            raise ValueError(
                f"this ControlNet is for a network of widths {_widths(found)}, but this model's are "
                f"{_widths(wanted)}; {_WANTED}"
            )
        if _FRAMES in net.extra_args:
            with in_words_of_the_graph():
                _hints_of(net).check(length)


def _is_stable_diffusion(model: Any) -> bool:
    return isinstance(model, comfy.cldm.cldm.ControlNet)


def residuals_of(control: Any, entries: int, dtype: torch.dtype) -> Residuals | None:
    """The outputs of the host's ControlNets for a network with ``entries`` skip connections.

    Raises ValueError for those that are added elsewhere, as a T2I-Adapter's are, or are of another number.
    """
    if control is None:
        return None
    if any(each is not None for each in control.get("input", ())):
        raise ValueError(f"this model does not support T2I-Adapters; {_WANTED}")
    skips = control.get("output", ())
    if skips and len(skips) != entries:
        raise ValueError(
            f"this model has {entries} skip connections, but the ControlNet has outputs for {len(skips)}; {_WANTED}"
        )
    middle = next((each for each in control.get("middle", ()) if each is not None), None)
    return Residuals(
        0.0 if middle is None else middle.to(dtype),
        [None if each is None else each.to(dtype) for each in skips] or [None] * entries,
    )


def show_each_frame_its_hint(patcher: Any) -> None:
    """Have the ControlNets of the clips that are sampled with ``patcher`` wrapped in :class:`FrameControls`."""
    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    patcher.add_wrapper_with_key(kind, _KEY, _with_frame_controls)


def _with_frame_controls(
    executor: Callable[..., Any], model: Any, conds: list[Any], *more: Any, **named: Any
) -> Any:
    # One for each chain: the host evaluates branches together only if their ControlNet is the same object.
    wrapped: dict[int, FrameControls] = {}

    def of(entry: dict[str, Any]) -> dict[str, Any]:
        control = entry.get("control")
        if control is None or isinstance(control, FrameControls):
            return entry
        return {**entry, "control": wrapped.setdefault(id(control), FrameControls(control))}

    conds = [branch and [of(entry) for entry in branch] for branch in conds]
    return executor(model, conds, *more, **named)


class FrameControls:
    """A ControlNet of the host, and those before it, each of which is shown the hints of the frames it works on.

    The host itself gives every context window the first hints, and a long clip's second branch the wrong ones. The
    sketch encoder gets inverted lines and the tokens of text and image, as it was trained.
    """

    def __init__(self, last: Any) -> None:
        self._nets = list(_chain(last))

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: Any
    ) -> dict[str, list[Any]] | None:
        """The sum of the outputs of all, in the host's form; None if there are none at this noise level."""
        window = (transformer_options or {}).get("context_window")
        if window is not None and getattr(window, "causal_anchor_index", -1) not in (-1, None):
            raise ValueError(
                "a ControlNet has no hint for the frame that Context Windows puts before each window; set "
                "causal_window_fix to false"
            )
        frames = x_noisy.shape[0] // batched_number
        shown = list(range(frames)) if window is None else list(window.index_list)
        total: dict[str, list[Any]] | None = None
        for net in self._nets:
            hints, before = net.cond_hint_original, net.previous_controlnet
            sketch = net.control_model.input_hint_block[0].in_channels == SKETCH_CHANNELS
            places = _hints_of(net).places(shown)
            touched = [place is not None or net.extra_args[_GAPS] == "blank" for place in places]
            if not any(touched):
                continue
            try:
                # The host repeats a single hint once it has the clip's size.
                own = (
                    hints[:1]
                    if set(places) == {0}
                    else hints[[(place or 0) % len(hints) for place in places]]
                )
                own = _lines(own) if sketch else own
                if None in places:
                    own[torch.tensor([place is None for place in places])] = 0
                # What is kept of the last evaluation is of its frames.
                net.cond_hint_original, net.cond_hint = own, None
                net.previous_controlnet = None
                seen = _with_image_tokens(cond, frames) if sketch else cond
                made = net.get_control(x_noisy, t, seen, batched_number, transformer_options)
            finally:
                net.cond_hint_original, net.previous_controlnet = hints, before
            total = _sum(total, made if all(touched) else _only(made, touched * batched_number))
        return total

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nets[-1], name)


def _chain(last: Any) -> Iterator[Any]:
    """A ControlNet and those before it, the first one first."""
    if last is not None:
        yield from _chain(last.previous_controlnet)
        yield last


def _hints_of(net: Any) -> Hints:
    """The hints of one ControlNet of the host, RGB ``[n, 3, H, W]`` from 0 to 1, and their frames, if chosen."""
    return Hints(net.cond_hint_original, net.extra_args.get(_FRAMES))


def _lines(hints: Tensor) -> Tensor:
    """Drawings, RGB ``[n, 3, H, W]`` from 0 to 1, as lines of 1 on 0, ``[n, 1, H, W]``."""
    if hints.shape[1] == SKETCH_CHANNELS:
        return 1 - hints
    weights = torch.tensor(_GREY, dtype=hints.dtype, device=hints.device)
    return 1 - torch.einsum("c,nchw->nhw", weights, hints)[:, None]


def _with_image_tokens(cond: dict[str, Any], frames: int) -> dict[str, Any]:
    """Conditions whose text, repeated for each frame, is followed by the image tokens of all frames of its clip."""
    tokens = rearrange(cond["image_tokens"], "b f n c -> b (f n) c").repeat_interleave(frames, 0)
    text = cond["c_crossattn"]
    return {**cond, "c_crossattn": torch.cat([text, tokens.to(text)], dim=1)}


def _only(made: dict[str, list[Any]] | None, touched: list[bool]) -> dict[str, list[Any]] | None:
    """Outputs ``[n, c, h, w]`` in the host's form, for those of the n frames that are ``touched``; 0 for the others."""

    def kept(each: Any) -> Any:
        return None if each is None else each * torch.tensor(touched, device=each.device).view(-1, 1, 1, 1)

    return made and {name: list(map(kept, outputs)) for name, outputs in made.items()}


def _sum(one: dict[str, list[Any]] | None, other: dict[str, list[Any]] | None) -> dict[str, list[Any]] | None:
    if one is None or other is None:
        return other if one is None else one

    def added(first: Any, second: Any) -> Any:
        return second if first is None else first if second is None else first + second

    return {name: list(map(added, one[name], other[name])) for name in one}


def _widths(sizes: tuple[int, ...]) -> str:
    base, *factors = sizes
    return ", ".join(str(base * factor) for factor in factors)
