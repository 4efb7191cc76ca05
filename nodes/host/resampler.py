"""The resampler under the host's model management, accessible from the MODEL it belongs to."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

from ...dynamicrafter.model.operations import Operations
from ...dynamicrafter.model.resampler import Resampler
from ...dynamicrafter.model.variants import Variant
from .model import HostAttention, load_weights, make_patcher

_ATTACHMENT = "dynamicrafter_resampler"


def attach_resampler(
    model: Any,
    variant: Variant,
    weights: dict[str, Tensor],
    dtype: torch.dtype,
    disable_dynamic: bool = False,
) -> None:
    """Attach the resampler of its checkpoint to a MODEL, as a separate model, so that it is loaded without the UNet."""
    management = comfy.model_management
    device, offload = management.get_torch_device(), management.unet_offload_device()
    compute = management.unet_manual_cast(dtype, device) or dtype
    operations = Operations(comfy.ops.manual_cast, HostAttention(), dtype, offload)
    module = Resampler(variant.resampler, operations)
    patcher = make_patcher(module, device, offload, disable_dynamic)
    load_weights(module, weights, patcher, dtype)
    patcher.set_model_compute_dtype(compute) if hasattr(patcher, "set_model_compute_dtype") else None
    model.set_attachments(_ATTACHMENT, (patcher, compute))


def resample(model: Any, tokens: Tensor) -> Tensor:
    """CLIP tokens ``[b, n, d]`` to context tokens ``[b, q, c]`` with the resampler of a MODEL; float32 on the CPU."""
    patcher, dtype = model.get_attachment(_ATTACHMENT)
    comfy.model_management.load_models_gpu([patcher])
    made = patcher.model(tokens.to(patcher.load_device, dtype))
    return made.to(comfy.model_management.intermediate_device()).float()
