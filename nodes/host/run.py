"""Progress, previews, cancelling, running out of memory and passing results on, as the host does them."""

from __future__ import annotations

import threading
import time
from contextvars import copy_context
from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor

_FASTEST = 25.0
"""Most frames per second of a preview, each of which is a message to the browser."""
_SHARE = 0.1
"""Most of the time of sampling that goes into decoding previews."""


class Progress:
    """The host's progress bar; every update also lets the host cancel."""

    def __init__(self, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total)
        self.total = total
        self.done = 0.0

    def update(self, done: float) -> None:
        """Show ``done`` steps."""
        check_cancelled()
        self.done = done
        self.bar.update_absolute(done, self.total)

    def preview(self, image: Any) -> None:
        """Show an image of the host's previewer."""
        self.bar.update_absolute(self.done, self.total, image)


class PartOfProgress(Progress):
    """The progress of a part of the work, on the bar of the whole."""

    def __init__(self, whole: Progress, start: float, length: float) -> None:
        """The part begins at ``start`` and takes ``length`` of the steps of the whole."""
        self.bar = whole.bar
        self.total = whole.total
        self.done = start
        self._start = start
        self._length = length
        self._steps = 1

    def of(self, steps: int) -> PartOfProgress:
        """The same, divided into ``steps``."""
        self._steps = steps
        return self

    def update(self, done: float) -> None:
        """Show ``done`` of the steps of this part."""
        super().update(round(self._start + self._length * done / self._steps))


def check_cancelled() -> None:
    """Raise the host's exception if the person has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class PlayedPreview:
    """Plays the current estimate of a clip as the preview of the running node, from the first one until :meth:`stop`.

    The host's previews are single images, so a thread sends the frames one after the other. Long steps thus show a
    moving clip, and short ones do not send more than the browser can show.

    All frames are decoded where the clip is sampled, because that has the device. With the host's factors, this takes
    2 ms for 16 frames of 1024x576 (one core of a CPU). Its small decoder (TAESD), which takes much longer, is kept to a
    tenth of the time by leaving out steps.
    """

    def __init__(self, progress: Progress, previewer: Any, fps: float) -> None:
        self._progress = progress
        self._previewer = previewer
        self._fps = min(fps, _FASTEST)
        self._frames: list[Any] = []
        self._next = 0.0
        self._stopped = threading.Event()
        # The host takes the running node from the context.
        self._thread = threading.Thread(target=copy_context().run, args=(self._play,), daemon=True)

    def show(self, x0: Tensor) -> None:
        """Go on with another estimate, clean latents ``[t, 4, h, w]``."""
        if self._previewer is None or time.monotonic() < self._next:
            return
        # Wait for what the device has to do before, which is not the previewer's time.
        x0.flatten()[0].item()
        began = time.monotonic()
        single = self._previewer.decode_latent_to_preview_image
        self._frames = [single("JPEG", frame) for frame in x0.split(1)]
        ended = time.monotonic()
        self._next = ended + (ended - began) / _SHARE
        if not self._thread.ident:
            self._thread.start()

    def stop(self) -> None:
        """Send nothing any more."""
        self._stopped.set()
        if self._thread.ident:
            self._thread.join()

    def _play(self) -> None:
        started = time.monotonic()
        while not self._stopped.is_set():
            frames = self._frames
            shown = int((time.monotonic() - started) * self._fps)
            try:
                self._progress.preview(frames[shown % len(frames)])
            except comfy.model_management.InterruptProcessingException:
                # Noticed here, but only the thread that samples can act on it.
                comfy.model_management.interrupt_current_processing()
                return
            self._stopped.wait(started + (shown + 1) / self._fps - time.monotonic())


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
