"""How much memory to request from the host, and what to do if it is not enough.

The estimates are from dynamicrafter.model.memory; the kind of attention is the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management
import torch

from ...dynamicrafter.animate_anyone.config import PairConfig
from ...dynamicrafter.model.configs import UNetConfig
from ...dynamicrafter.model.memory import MARGIN, SLICE, unet_bytes, vae_decode_bytes, vae_encode_bytes
from .run import free_gigabytes, is_out_of_memory, release

__all__ = [
    "make_room",
    "out_of_memory",
    "pair_activation_bytes",
    "unet_activation_bytes",
    "vae_decode_bytes",
    "vae_encode_bytes",
    "with_room",
]

Result = TypeVar("Result")


def unet_activation_bytes(config: UNetConfig, cells: int, dtype: torch.dtype) -> float:
    """Peak bytes of one evaluation on ``cells`` = clips x frames x height x width of latents."""
    return unet_bytes(config, cells, dtype, attention_is_fused())


def pair_activation_bytes(
    config: PairConfig, cells: int, dtype: torch.dtype, reference: bool = False
) -> float:
    """Peak bytes of one evaluation of AnimateAnyone's networks on ``cells`` = frames x height x width of latents.

    The factors were counted on the meta device as those of :func:`unet_activation_bytes`, at three sizes. The network
    that sees the ``reference`` keeps its features.
    """
    first, widest, size = config.widths[0], max(config.widths), dtype.itemsize
    needed = (30 if reference else 20) * first * cells * size
    if not attention_is_fused():
        # Scores in float32, over the tokens of a frame and of the reference.
        needed = max(needed, (16 * first * size + 16 * config.heads * SLICE) * cells)
    return MARGIN * (needed + 9 * 2 * widest * widest * size)


def attention_is_fused() -> bool:
    """Whether the host's attention never holds all scores of a query; split and sub-quadratic attention do."""
    management = comfy.model_management
    names = (
        "xformers_enabled",
        "pytorch_attention_flash_attention",
        "sage_attention_enabled",
        "flash_attention_enabled",
    )
    return any(getattr(management, name)() for name in names if hasattr(management, name))


def make_room(needed: float, patcher: Any) -> None:
    """Unload other models until ``needed`` bytes are free on the device of ``patcher``, which stays loaded."""
    management = comfy.model_management
    own = [loaded for loaded in management.current_loaded_models if patcher.is_clone(loaded.model)]
    management.free_memory(needed, patcher.load_device, keep_loaded=own)
    release()


def out_of_memory(what: str, needed: float, device: Any, advice: str) -> RuntimeError:
    """The error to show: what was needed, what is free, and what to change."""
    return RuntimeError(
        f"out of memory: {what} needs about {needed / 1e9:.1f} GB in addition to the weights, but only "
        f"{free_gigabytes(device):.1f} GB are free; {advice}"
    )


def with_room(
    work: Callable[[], Result],
    needed: float,
    patcher: Any,
    what: str,
    advice: str,
    in_parts: tuple[float, Callable[[], Result]] | None = None,
) -> Result:
    """The result of ``work``; if it runs out of memory, other models are unloaded and it is retried once.

    If that is not enough either, the result is that of ``in_parts``, which follows the bytes that it needs. Raises the
    error of :func:`out_of_memory` for the last of them if all fail.
    """
    least, last = in_parts or (needed, work)
    for _ in range(1 if in_parts is None else 2):
        try:
            return work()
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
        # Out of the handler, so that the traceback's frames do not hold the memory any more.
        make_room(needed, patcher)
    try:
        return last()
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        raise out_of_memory(what, least, patcher.load_device, advice) from problem
