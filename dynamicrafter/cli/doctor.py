"""The command that reports what is installed and whether it works: doctor."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from ..errors import DynamiCrafterError
from ..weights.download import status_rows, weights_folder
from . import program_version


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    verdict: Literal["ok", "warning", "failed"]
    """After a warning, the commands still work; a failure is something that they need."""
    details: Mapping[str, object]
    """Names and JSON values, in the order in which they are printed."""
    problem: str | None = None
    """One sentence with the problem and what to do; None if the verdict is ok."""


PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "open-clip-torch": "open_clip",
    "kornia": "kornia",
    "av": "av",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "einops": "einops",
    "pillow": "PIL",
    "huggingface_hub": "huggingface_hub",
    "filelock": "filelock",
    "tqdm": "tqdm",
}
"""The package's dependencies: names of the distributions and of their modules."""

SAFE_TORCH = (2, 10)
"""The first PyTorch without a known vulnerability in ``weights_only`` (CVE-2025-32434, CVE-2026-24747)."""


def run(given: Namespace) -> dict[str, Any]:
    """Run all checks and return what ``--json`` prints; it has an ``error`` if one of them failed."""
    checks: list[dict[str, Any]] = []
    for name, check in CHECKS.items():
        try:
            # Warnings that libraries raise on import are not part of the report.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                finding = check()
        # Any exception is the result of the check.
        except Exception as problem:
            if given.debug:
                traceback.print_exc()
            finding = Finding("failed", {}, _sentence(problem))
        if not given.json:
            _print(name, finding)
        checks.append({"name": name, **asdict(finding)})
    failed = [check["name"] for check in checks if check["verdict"] == "failed"]
    if failed:
        return {"checks": checks, "error": f"failed: {', '.join(failed)}", "kind": "failure"}
    return {"checks": checks}


def _system() -> Finding:
    """The versions of everything below the packages."""
    return Finding(
        "ok",
        {
            "dynamicrafter": program_version(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    )


def _packages() -> Finding:
    """The version of each package, which is also imported: incompatible builds fail only then."""
    found: dict[str, object] = {}
    broken: list[str] = []
    for distribution, module in PACKAGES.items():
        try:
            found[distribution] = str(import_module(module).__version__)
        # A library with missing symbols or shared libraries can raise any exception.
        except Exception as problem:
            found[distribution] = None
            broken.append(f"{distribution} ({_sentence(problem)})")
    if broken:
        return Finding("failed", found, f"cannot be imported: {'; '.join(broken)}; reinstall them")
    torch = cast(str, found["torch"])
    if tuple(int(part) for part in re.findall(r"\d+", torch)[:2]) < SAFE_TORCH:
        return Finding(
            "warning",
            found,
            f"PyTorch {torch} has known vulnerabilities that allow a training state to execute code; "
            f"update it to {'.'.join(map(str, SAFE_TORCH))} or later, or resume only your own runs",
        )
    return Finding("ok", found)


def _devices() -> Finding:
    """The available devices, and their memory in units of 1e9 bytes."""
    import torch

    found: dict[str, object] = {
        "cpu": {"threads": torch.get_num_threads(), "memory_gb": _gigabytes(_main_memory())},
    }
    broken: list[str] = []
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index}"
        try:
            # Reading a value back fails if this build of PyTorch has no code for the GPU.
            torch.zeros(1, device=name).item()
            properties = cast(Any, torch.cuda).get_device_properties(index)
            with torch.cuda.device(index):
                bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            found[name] = {
                "name": properties.name,
                "memory_gb": _gigabytes(properties.total_memory),
                "bf16": bf16,
            }
        except Exception as problem:
            found[name] = None
            broken.append(f"{name} ({_sentence(problem)})")
    if torch.backends.mps.is_available():
        found["mps"] = {"memory": "shared with the CPU"}
    if broken:
        return Finding(
            "failed",
            found,
            f"cannot be used: {'; '.join(broken)}; update the driver or install a build of PyTorch that supports it",
        )
    return Finding("ok", found)


def _weights() -> Finding:
    """The weights folder, its free space, and the models of the catalogue that it contains."""
    folder = weights_folder()
    here = [release for release, path in status_rows() if path is not None]
    names = [release.name for release in here]
    existing = next((place for place in (folder, *folder.parents) if place.exists()), Path(folder.anchor))
    details = {
        "folder": str(folder),
        "free_gb": _gigabytes(shutil.disk_usage(existing).free),
        "models": names,
    }
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(
            "warning",
            details,
            f"the weights folder {folder} is not writable; set DYNAMICRAFTER_HOME to another one",
        )
    for release in here:
        missing = [name for name in release.requires if name not in names]
        if missing:
            return Finding(
                "warning",
                details,
                f"{release.name} needs {', '.join(missing)}, not downloaded yet; run "
                f"'dynamicrafter download {release.name}'",
            )
    return Finding("ok", details)


def _tiny() -> Finding:
    """Whether the built-in model loads, on the device that the other commands would use."""
    from ..api import load
    from ..model.variants import TINY

    model = load(TINY.name)
    return Finding("ok", {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")})


CHECKS: Mapping[str, Callable[[], Finding]] = {
    "system": _system,
    "packages": _packages,
    "devices": _devices,
    "weights": _weights,
    "tiny": _tiny,
}
"""All checks in order; an exception is reported as a failure of the check."""


def _print(name: str, finding: Finding) -> None:
    print(f"{name}: {finding.verdict}")
    for detail, value in finding.details.items():
        print(f"  {detail:16} {_shown(value)}")
    if finding.problem is not None:
        print(f"  {finding.problem}", flush=True)


def _shown(value: object) -> str:
    """A detail on one line."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {_shown(part)}" for name, part in cast("Mapping[str, object]", value).items()
        )
    if isinstance(value, list):
        return ", ".join(str(part) for part in cast("list[object]", value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not usable" if value is None else str(value)


def _sentence(problem: Exception) -> str:
    """The first line of an error, with its type unless its message is meant for users."""
    text = str(problem).strip().partition("\n")[0]
    return text if isinstance(problem, DynamiCrafterError) else f"{type(problem).__name__}: {text}"


def _gigabytes(size: int) -> float:
    return round(size / 1e9, 1)


def _main_memory() -> int:
    """The machine's memory in bytes."""
    if sys.platform != "win32":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import ctypes

    # MEMORYSTATUSEX: 64 bytes, its own length in the first four, all memory in the second eight.
    status = (ctypes.c_ulonglong * 8)(64)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status[1]
