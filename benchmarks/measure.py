"""Code shared by the benchmarks: networks with random weights, FLOP counting, peak memory, the table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeVar

import torch
from torch import Tensor, nn

from dynamicrafter.process_memory import peak_resident

GIB = 2**30
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Network = TypeVar("Network", bound=nn.Module)


def wait_for(device: torch.device) -> None:
    """Wait until all work queued on ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_random_weights(build: Callable[[], Network], dtype: torch.dtype, device: torch.device) -> Network:
    """The network with weights that keep activations near 1; at no time is there a second copy of it.

    Norm weights are 1 and biases 0; all other weights are normal with variance 1 / fan-in, so that half precision
    neither overflows nor produces subnormal numbers, both of which would change the time.
    """
    with torch.device("meta"):
        network = build()
    network = network.to(dtype).to_empty(device=device).requires_grad_(False).train(False)
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            fan_in = parameter[0].numel()
            parameter.normal_(0, fan_in**-0.5)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return network


def counted_flops(build: Callable[[Callable[..., Tensor]], Callable[[], object]]) -> int:
    """Floating-point operations of one call, a multiply-add counted as two.

    ``build`` receives an attention function made of explicit matrix products and returns the work, which runs on the
    meta device: nothing is computed, and the counter need not know fused kernels. The counter is imported here because
    the import takes memory, which would show in a process's peak.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        work = build(explicit_attention)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
    return counter.get_total_flops()


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention as two matrix products; ``[b, n, heads * d]`` in and out."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def start_counting_memory(device: torch.device) -> None:
    """Reset the device's recorded peak if possible; the peak of a process cannot be reset."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: tensors on a GPU, otherwise the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()


def default_device() -> str:
    """The GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine(device: torch.device) -> str:
    """Description of the processor that is measured."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """Name of the CPU, as far as the system reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> str:
    """Versions of everything that can change the results."""
    parts = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if torch.version.cuda is not None and torch.cuda.is_available():
        parts.append(f"CUDA {torch.version.cuda}")
        parts.append(f"cuDNN {torch.backends.cudnn.version()}")
    parts.append(f"open_clip {version('open-clip-torch')}")
    parts.append(platform.platform(terse=True))
    return ", ".join(parts)


@dataclass
class Table:
    """Rows of text under a header, as Markdown."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        if len(cells) != len(self.header):
            raise ValueError(f"a row needs {len(self.header)} cells, not {len(cells)}")
        self.rows.append(cells)

    def markdown(self) -> str:
        lines: list[Sequence[str]] = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
