"""Graphs compiled for a device, and the cache that makes the next start quicker."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, DynamiCrafterError, UsageError
from ...forms import shortened
from ...process_memory import limited_memory
from ...weights.download import weights_folder
from .graphs import Signature
from .library import openvino, runtime_version

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def memory_limit(weights_bytes: int) -> int:
    """Bytes that compiling a graph may take.

    A graph of a few kilobytes can ask for constants of any size, which OpenVINO calculates when it compiles. Weights
    are held as they are, in float32 (four times those of 8 bits) and in the order of the kernels (four times again, or
    more if channels are padded); threads and code take the rest.
    """
    return (2 << 30) + (128 << 20) * (os.cpu_count() or 1) + 16 * weights_bytes


def check_device(device: str) -> None:
    """Raise UsageError if OpenVINO has no device of this name, or is not installed."""
    found: list[str] = openvino().Core().available_devices
    if not any(name == device or name.startswith(f"{device}.") for name in found):
        raise UsageError(
            f"OpenVINO finds no device {device} on this machine; use one of "
            f"{', '.join(f'openvino:{name}' for name in found)}"
        )


class CompiledGraph:
    """A graph that runs on one device; tensors in and out are on the CPU."""

    def __init__(
        self, path: Path, found: Signature, device: str, dtype: torch.dtype, cache: Path | None
    ) -> None:
        self._name = f"{shortened(path.stem)} on {device}"
        self._integers = [name in found.integers for name in found.inputs]
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[dtype]}
        if device == "CPU":
            # Bound to cores, its threads would hinder PyTorch's, which compute between the calls.
            config["ENABLE_CPU_PINNING"] = False
        if cache is not None:
            # Without the weights, which are read from the export.
            config |= {"CACHE_DIR": str(cache), "CACHE_MODE": "OPTIMIZE_SIZE"}
        limit = memory_limit(path.with_suffix(".bin").stat().st_size)
        try:
            core = openvino().Core()
            with limited_memory(limit):
                # From the path: the cache does not know a graph that was read before.
                self._compiled = core.compile_model(path, device, config)
        except (RuntimeError, MemoryError) as problem:
            if isinstance(problem, MemoryError) or "bad_alloc" in str(problem):
                raise CheckpointError(
                    f"compiling {shortened(str(path))} takes more than {limit / 1e9:.1f} GB of memory, which the graph "
                    f"of no network of this size needs; export the model again, and use no export whose source you do "
                    f"not trust"
                ) from problem
            raise CheckpointError(
                f"OpenVINO cannot compile {shortened(str(path))} for {device} ({_reason(problem)}); use openvino:CPU"
            ) from problem
        _check_signature(self._compiled, found, path)
        computed = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if computed != _HINTS[dtype]:
            raise UsageError(
                f"OpenVINO's {device} computes in {computed} here, not in {_HINTS[dtype]}; choose another precision"
            )

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Outputs, float32, of the inputs in the order of the signature.

        Raises DynamiCrafterError if the device fails, for example for lack of memory.
        """
        arrays = [
            tensor.detach().to("cpu", torch.int64 if integer else torch.float32).contiguous().numpy()
            for tensor, integer in zip(inputs, self._integers, strict=True)
        ]
        try:
            results = self._compiled(arrays, share_inputs=True)
        except (RuntimeError, MemoryError) as problem:
            raise DynamiCrafterError(
                f"OpenVINO cannot run {self._name} ({_reason(problem)}); generate smaller clips, or use openvino:CPU"
            ) from problem
        return [torch.as_tensor(results[index]) for index in range(len(self._compiled.outputs))]


def _check_signature(model: Any, found: Signature, path: Path) -> None:
    """Raise CheckpointError unless a graph has exactly the inputs and outputs of the network."""
    for ports, wanted in ((model.inputs, found.inputs), (model.outputs, found.outputs)):
        shapes = {
            name: [None if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape()]
            for port in ports
            for name in port.get_names()
        }
        if [next(iter(port.get_names() & wanted.keys()), None) for port in ports] != list(wanted) or any(
            len(shapes[name]) != len(lengths)
            or any(
                None not in (have, length) and have != length
                for have, length in zip(shapes[name], lengths, strict=True)
            )
            for name, lengths in wanted.items()
        ):
            raise CheckpointError(
                f"{shortened(str(path))} is not the graph of this network, whose interface is {', '.join(wanted)}; "
                f"export the model again"
            )


def _reason(problem: Exception) -> str:
    """The last line of OpenVINO's message; those before it are places in its source."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else "no reason given"


# The cache


def compile_cache() -> Path | None:
    """The folder in which this version of OpenVINO caches what it compiles, or None if there cannot be one.

    It is private to the user, because what is in it is executed. Folders of other versions are removed: they would
    never be used again. Raises UsageError if the folder belongs to, or can be changed by, somebody else.
    """
    parent = weights_folder() / "openvino_compiled"
    folder = parent / re.sub(r"[^\w.-]", "_", runtime_version())
    try:
        parent.parent.mkdir(parents=True, exist_ok=True)
        for place in (parent, folder):
            place.mkdir(mode=0o700, exist_ok=True)
            _require_private(place)
        for other in parent.iterdir():
            if other != folder and other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)
    except OSError:
        return None
    return folder


def _require_private(folder: Path) -> None:
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{folder}, where compiled networks are cached, is not a folder; remove it")
    if not hasattr(os, "getuid"):  # Windows: the user's folders are private by inheritance.
        return
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(
            f"{folder}, where compiled networks are cached, is open to other users; remove it, so that a private one "
            f"is made"
        )
