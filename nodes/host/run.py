"""Progress, previews, cancelling, running out of memory and passing results on, as the host does them."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor


class Progress:
    """The host's progress bar; every update also lets the host cancel."""

    def __init__(self, total: int, previewer: Any = None) -> None:
        self.bar = comfy.utils.ProgressBar(total)
        self.total = total
        self.previewer = previewer

    def update(self, done: int, x0: Tensor | None = None) -> None:
        """Show ``done`` steps and one frame of the clean latents ``[t, 4, h, w]``, which advances with the steps."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if self.previewer is not None and x0 is not None:
            frame = (done - 1) % x0.shape[0]
            preview = self.previewer.decode_latent_to_preview_image("JPEG", x0[frame : frame + 1])
        self.bar.update_absolute(done, self.total, preview)


def get_previewer(device: Any, latent_format: Any) -> Any:
    """The host's previewer for a kind of latents, or None if previews are disabled."""
    # A top-level module of the host, which is not part of its public interface.
    import latent_preview

    return latent_preview.get_previewer(device, latent_format)


def check_latent(latent: Tensor) -> None:
    """Raise ValueError unless ``latent`` is a batch of frames, ``[t, 4, h, w]``."""
    if latent.ndim != 4 or latent.shape[1] != 4:
        raise ValueError(
            f"the latent has the shape {' x '.join(map(str, latent.shape))}, but must have frames x 4 x height x "
            f"width; it comes from another kind of model"
        )


def intermediate(result: Tensor) -> Tensor:
    """``result`` on the device and in the dtype that the host's start flags choose for what nodes pass on.

    The CPU and float32, unless the host was started with flags such as --gpu-only or --fp16-intermediates.
    """
    management = comfy.model_management
    # Older hosts have no choice of the dtype.
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else result.dtype
    return result.to(management.intermediate_device(), dtype)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether the device ran out of memory."""
    management = comfy.model_management
    if hasattr(management, "is_oom"):
        return bool(management.is_oom(problem))
    kind = management.OOM_EXCEPTION
    return kind is not Exception and isinstance(problem, kind)


def release() -> None:
    """Give cached memory back to the device."""
    comfy.model_management.soft_empty_cache()


def free_gigabytes(device: Any) -> float:
    """Memory free on a device, in units of 1e9 bytes."""
    return comfy.model_management.get_free_memory(device) / 1e9
