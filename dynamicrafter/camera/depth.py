"""Depth maps: reading them, and distances from the values of each kind."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PictureError, UsageError
from .choices import FAR, KINDS, NEAR, DepthKind

_GREY = ("L", "I", "I;16", "I;16B", "RGB", "RGBA")
"""Pillow's names of images that can be depth maps; those with three channels if these are equal."""


def read_depth(path: Path, size: tuple[int, int]) -> Tensor:
    """The values of a depth map of ``size`` (width, height) pixels, ``[h, w]``: float32, or int64 if the file has whole
    numbers.

    Files are PNG, grey with 16 bits or less, EXR with one channel or equal ones, and NPY. Raises PictureError for
    others, and UsageError for another size.
    """
    readers = {".png": _from_png, ".exr": _from_exr, ".npy": _from_npy}
    extension = path.suffix.lower()
    if extension not in readers:
        raise PictureError(
            f"a depth map must be a .png, .exr or .npy file, but {path} was given; convert it, if possible with 16 bits"
        )
    try:
        values = readers[extension](path, size)
    except (PictureError, UsageError):
        raise
    # Decoders raise every kind of exception for damaged files.
    except Exception as problem:
        raise PictureError(f"the depth map {path} cannot be read ({problem}); write it again") from problem
    kept = np.float32 if np.issubdtype(values.dtype, np.floating) else np.int64
    return torch.as_tensor(values.astype(kept))


def distances_of(values: Tensor, kind: DepthKind, near: float | None, far: float | None) -> Tensor:
    """Distances along the camera's axis, float32 of the shape of ``values``; ``kind`` says what these mean.

    Relative kinds lie between ``near`` and ``far``, by default 1 and 10. Metric distances are limited
    to ``near`` and ``far`` if these are given, so that a sky can be brought closer. Raises UsageError for values that
    are not finite or all the same, for distances that are not above 0, and for limits that are not.
    """
    if kind not in KINDS:
        raise UsageError(f"depth_kind must be one of {', '.join(KINDS)}, not {kind!r}")
    first, last = near if near is not None else NEAR, far if far is not None else FAR
    low = near if near is not None else 0.0
    high = far if far is not None else float("inf")
    if kind == "metric" and not 0 <= low < high or kind != "metric" and not 0 < first < last < float("inf"):
        raise UsageError(f"near must be above 0 and below far, but {first:g} and {last:g} were given")
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise UsageError(
            f"the depth map must have a finite value for every pixel, but {bad} of {values.numel()} are NaN or "
            f"infinite; fill them, for a sky with a large distance"
        )
    least, most = float(values.min()), float(values.max())
    if least == most:
        raise UsageError(
            f"the depth map must have different values, but all are {least:g}; check how it was written"
        )
    if kind == "metric":
        metres = values / 1000 if not values.is_floating_point() else values
        if least <= 0:
            raise UsageError(
                f"distances must be above 0, but the depth map has {least:g}; fill such pixels, or choose another "
                f"depth_kind"
            )
        return metres.float().clamp(low, high)
    share = (values.float() - least) / (most - least)
    if kind == "depth":
        return first + share * (last - first)
    return 1 / (1 / last + share * (1 / first - 1 / last))


def check_depth_size(depth: tuple[int, int], image: tuple[int, int]) -> None:
    """Raise UsageError unless both sizes, (width, height) in pixels, are the same."""
    if depth != image:
        raise UsageError(
            f"the depth map has {depth[0]}x{depth[1]} pixels, but the image has {image[0]}x{image[1]}; use a depth map "
            f"of the image's size"
        )


def _from_png(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    from PIL import Image

    opener: Any = Image.open
    with path.open("rb") as file:
        image: Any = opener(file, formats=["PNG"])
        check_depth_size(image.size, size)
        if image.mode not in _GREY:
            raise PictureError(f"a depth map must be grey, but {path} is {image.mode}; write it with 16 bits")
        values: NDArray[Any] = np.asarray(image)
    return _equal_channels(values, path) if values.ndim == 3 else values


def _from_exr(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    import av

    opener: Any = av.open
    # From memory and as this format alone: FFmpeg would open whatever a name or a file refers to.
    with opener(io.BytesIO(path.read_bytes()), format="exr_pipe") as container:
        stream: Any = container.streams.video[0]
        if stream.width:  # Else the header is damaged, which decoding reports.
            check_depth_size((stream.width, stream.height), size)
        values: NDArray[Any] = next(container.decode(stream)).to_ndarray()
    return _equal_channels(values, path) if values.ndim == 3 else values


def _from_npy(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise PictureError(
            f"a depth map in a .npy file must be numbers [height, width], but {path} has {values.dtype} of shape "
            f"{values.shape}; save it as float32"
        )
    check_depth_size((values.shape[1], values.shape[0]), size)
    return values


def _equal_channels(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """The first of three equal channels ``[h, w, c]``; a fourth is transparency."""
    channels = values[..., :3]
    if not np.array_equal(
        channels, np.repeat(channels[..., :1], channels.shape[2], axis=2), equal_nan=values.dtype.kind == "f"
    ):
        raise PictureError(f"a depth map must be grey, but {path} has colours; write it without a colour map")
    return channels[..., 0]
