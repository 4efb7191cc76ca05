"""The command that reports what is installed and whether it works: doctor."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import time
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ..errors import DynamiCrafterError, UsageError
from ..hashing import remembered_sha256
from ..model.variants import TINY
from ..process_memory import main_memory
from ..weights.catalogue import ALL_RELEASES, RELEASES, Release
from ..weights.download import is_incomplete, status_rows, weights_folder
from . import program_version
from .progress import Bars
from .words import WORDS

if TYPE_CHECKING:
    import torch

    from ..pipeline import Model
    from ..shots import Means
    from .trial import Trial


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
    "pyloudnorm": "pyloudnorm",
    "scipy": "scipy",
}
"""The package's dependencies: names of the distributions and of their modules."""

OPTIONAL = (
    "accelerate",
    "dreamsim",
    "lpips",
    "nncf",
    "openvino",
    "peft",
    "ray",
    "transformers",
    "triton",
    "xformers",
)
"""Distributions that only some commands use, whose versions are reported if they are installed."""

_USABLE = 0.75
"""Share of the main memory that a float32 run may take; the system ends a program that takes too much."""

SAFE_TORCH = (2, 10)
"""The first PyTorch without a known vulnerability in ``weights_only`` (CVE-2025-32434, CVE-2026-24747)."""


def run(given: Namespace) -> dict[str, Any]:
    """Run all checks and return what ``--json`` prints; it has an ``error`` if one of them failed.

    The report names no folders, because it is meant for issues.
    """
    checks: list[dict[str, Any]] = []
    for name, check in (*CHECKS.items(), *_model_checks(given)):
        try:
            # Warnings that libraries raise on import are not part of the report.
            with warnings.catch_warnings(), Bars(name, hidden=given.quiet or given.json) as bars:
                warnings.simplefilter("ignore")
                finding = check(given, bars)
        # Any exception is the result of the check.
        except Exception as problem:
            if given.debug:
                traceback.print_exc()
            finding = Finding("failed", {}, _sentence(problem))
        if finding.problem is not None:
            finding = replace(finding, problem=without_folders(finding.problem))
        if not given.json:
            _print(name, finding)
        checks.append({"name": name, **asdict(finding)})
    failed = [check["name"] for check in checks if check["verdict"] == "failed"]
    if failed:
        return {"checks": checks, "error": f"failed: {', '.join(failed)}", "kind": "failure"}
    return {"checks": checks}


def without_folders(text: str) -> str:
    """``text`` with only the last part of every absolute path."""
    for folder in (weights_folder().resolve(), weights_folder(), Path.cwd(), Path.home()):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder) + os.sep, "").replace(str(folder), folder.name)
    return re.sub(r"""(?<![\w./\\])(?:[A-Za-z]:)?(?:[\\/][^\s\\/'":;,()]+)*[\\/](?=[^\s\\/])""", "", text)


def _system(given: Namespace, bars: Bars) -> Finding:
    """The versions of everything below the packages."""
    return Finding(
        "ok",
        {
            "dynamicrafter": program_version(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
    )


def _packages(given: Namespace, bars: Bars) -> Finding:
    """The version of each package, which is also imported: incompatible builds fail only then."""
    found: dict[str, object] = {}
    broken: list[str] = []
    for distribution, module in PACKAGES.items():
        try:
            # A module names its build, as in 2.11.0+cu128; some have no version of their own.
            found[distribution] = str(
                getattr(import_module(module), "__version__", None) or version(distribution)
            )
        # A library with missing symbols or shared libraries can raise any exception.
        except Exception as problem:
            found[distribution] = None
            broken.append(f"{distribution} ({_sentence(problem)})")
    found["optional"] = {name: version(name) for name in OPTIONAL if _is_installed(name)}
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


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _devices(given: Namespace, bars: Bars) -> Finding:
    """The available devices with their memory in units of 1e9 bytes, and what they can compute."""
    import torch

    found: dict[str, object] = {"build": _build()}
    broken: list[str] = []
    places = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        places.append("mps")
    for name in places:
        try:
            # Reading a value back fails if this build of PyTorch has no code for the GPU.
            torch.zeros(1, device=name).item()
            found[name] = {**_described(name), **_computes(name)}
        except Exception as problem:
            found[name] = None
            broken.append(f"{name} ({_sentence(problem)})")
    if broken:
        return Finding(
            "failed",
            found,
            f"cannot be used: {'; '.join(broken)}; update the driver or install a build of PyTorch that supports it",
        )
    return Finding("ok", found)


def _build() -> str:
    """What this build of PyTorch computes with, apart from the CPU."""
    import torch

    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}, cuDNN {cast(Any, torch.backends.cudnn).version()}"
    return "MPS" if torch.backends.mps.is_built() else "CPU only"


def _described(name: str) -> dict[str, object]:
    """Name and memory of a device."""
    import torch

    if name == "cpu":
        memory = _gigabytes(main_memory())
        return {"threads": torch.get_num_threads(), "memory_gb": memory, "name": platform.machine()}
    if name == "mps":
        # The most that Metal advises to use of the memory, which is shared with the CPU.
        limit = getattr(torch.mps, "recommended_max_memory", lambda: None)()
        return {"name": "Apple MPS", "memory_gb": None if limit is None else _gigabytes(limit)}
    index = torch.device(name).index
    properties = cast(Any, torch.cuda).get_device_properties(index)
    with torch.cuda.device(index):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "name": properties.name,
        "memory_gb": _gigabytes(properties.total_memory),
        "free_gb": _gigabytes(torch.cuda.mem_get_info(index)[0]),
        # ROCm reports its GPUs as CUDA devices, with AMD's name of the architecture.
        "architecture": getattr(properties, "gcnArchName", None)
        or f"sm_{properties.major}{properties.minor}",
        "native_bf16": native,
    }


_LONG_ENOUGH = 0.5
"""Seconds after which a product is not repeated: processors without float16 take long for it."""


def _computes(name: str) -> dict[str, object]:
    """The speed of matrix products in each precision in GFLOP/s, and whether fp8 weights can be stored.

    A precision that is slower than float32 is emulated.
    """
    import torch

    side = 512 if name == "cpu" else 2048
    rates: dict[str, object] = {}
    for kind in ("float32", "bfloat16", "float16"):
        try:
            factor = torch.ones(side, side, device=name, dtype=getattr(torch, kind)) / side
            best, end = math.inf, time.perf_counter() + _LONG_ENOUGH
            for _ in range(3):
                began = time.perf_counter()
                # Reading a value back waits for the device.
                (factor @ factor)[0, 0].item()
                best = min(best, time.perf_counter() - began)
                if time.perf_counter() > end:
                    break
            rates[kind] = round(2 * side**3 / best / 1e9)
        except RuntimeError:
            rates[kind] = None
    try:
        torch.ones(8, device=name).to(torch.float8_e4m3fn).to(torch.float32).sum().item()
        stores = True
    except (RuntimeError, TypeError):
        stores = False
    return {"gflops": rates, "fp8_weights": stores}


def _weights(given: Namespace, bars: Bars) -> Finding:
    """The free space of the weights folder, and the models of the catalogue that it contains."""
    folder = weights_folder()
    here = [release for release, path in status_rows() if path is not None]
    names = [release.name for release in here]
    existing = next((place for place in (folder, *folder.parents) if place.exists()), Path(folder.anchor))
    details = {
        "folder": "DYNAMICRAFTER_HOME" if os.environ.get("DYNAMICRAFTER_HOME") else "the default",
        "free_gb": _gigabytes(shutil.disk_usage(existing).free),
        "models": names,
    }
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(
            "warning",
            details,
            f"the weights folder {folder} is not writable; set DYNAMICRAFTER_HOME to another one",
        )
    cut = [release.name for release in ALL_RELEASES if is_incomplete(release)]
    if cut:
        return Finding(
            "failed",
            details,
            f"{', '.join(cut)} is incomplete: the file does not have the size of the released one; delete it and run "
            f"'dynamicrafter download {' '.join(cut)}'",
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


def _tiny(given: Namespace, bars: Bars) -> Finding:
    """The built-in model against recorded values on the CPU, and as it is to be run."""
    from ..api import find_model, load
    from ..evaluation.figures import psnr
    from ..shots import check_means, load_with
    from .trial import GOLDEN_STEPS, MOST_ERROR, golden_error, least_psnr, run_trial

    files, means = find_model(TINY.name), _means(given)
    folder = check_means(means, files)
    if given.quick:
        return Finding("ok", _place(load_with(means, files), means))
    exact = run_trial(load(TINY.name, device="cpu", dtype="float32"), GOLDEN_STEPS)
    error = golden_error(exact)
    details: dict[str, object] = {"cpu_float32_error": float(f"{error:.2g}")}
    if not error <= MOST_ERROR:
        return Finding(
            "failed",
            details,
            f"the latents of tiny on the CPU in float32 differ from the recorded ones by {error:.2g} of their largest "
            f"magnitude, more than {MOST_ERROR:g}; reinstall PyTorch, and report it if that does not help",
        )
    model = load_with(means, files)
    if _is_reference(model.device, model.dtype, means):
        return Finding("ok", {**details, **_place(model, means), **_cost(exact)})
    trial = run_trial(model, GOLDEN_STEPS)
    similarity = psnr(exact.frames, trial.frames).item()
    details.update(_place(model, means), psnr=round(similarity, 1), **_cost(trial))
    return _judged(details, similarity, least_psnr(model, folder))


def _model_checks(given: Namespace) -> list[tuple[str, Check]]:
    """A check of each downloaded file, of ComfyUI's folder, and of each complete model, or only of the one named."""
    checks: list[tuple[str, Check]] = []
    here = {release.name: (release, path) for release, path in status_rows() if path is not None}
    for name, (release, path) in here.items():
        if release.kind == "poses":
            continue  # Whoever runs one checks it.
        checks.append((f"file {name}", partial(_file, release, path)))
    if given.comfyui is not None:
        checks.append(("comfyui", partial(_comfyui, given.comfyui)))
    if given.quick:
        return checks
    if given.model is not None:
        return [*checks, (f"model {Path(given.model).name}", partial(_model, None))]
    for name, (release, _) in here.items():
        if release.variant is not None and all(needed in here for needed in release.requires):
            checks.append((f"model {name}", partial(_model, name)))
    return checks


def _file(release: Release, path: Path, given: Namespace, bars: Bars) -> Finding:
    """Whether a file of the catalogue is complete and what was released."""
    from ..weights.formats.files import open_weights

    opened = open_weights(path)
    details: dict[str, object] = {
        "file": path.name,
        "gb": round(path.stat().st_size / 1e9, 2),
        "format": opened.kind,
    }
    if given.quick or release.sha256 is None:
        details["hash"] = "not computed" if given.quick else "not in the catalogue"
        return Finding("ok", details)
    # Hashing ten gigabytes takes a minute; the result is remembered for an unchanged file.
    bars.transfer("hashing", 0, None)
    if remembered_sha256(path, weights_folder() / "hashes.json") != release.sha256:
        return Finding(
            "failed",
            {**details, "hash": "another one"},
            f"{path.name} is damaged or is not the released file; delete it and run "
            f"'dynamicrafter download {release.name}'",
        )
    return Finding("ok", {**details, "hash": "that of the catalogue"})


def _model(name: str | None, given: Namespace, bars: Bars) -> Finding:
    """One step of a model of the catalogue, or else of the one in the arguments.

    It is run by PyTorch on the CPU in float32, and as it is to be run.
    """
    import torch

    from ..api import find_model, load, pick_device, pick_dtype, variant_of
    from ..evaluation.figures import psnr
    from ..forecast import memory_of
    from ..shots import check_means, load_with
    from .clips import model_files
    from .trial import least_psnr, run_trial, trial_settings

    files, means = model_files(given) if name is None else find_model(name), _means(given)
    variant = variant_of(files)
    folder = check_means(means, files)
    device = pick_device(given.device, given.backend)
    dtype = pick_dtype(given.dtype, device)
    exact = None
    details: dict[str, object] = {"variant": variant.name}
    if not _is_reference(device, dtype, means):
        needed = memory_of(variant, [trial_settings(variant, 1)], torch.float32)
        if needed.weights + needed.activations > _USABLE * main_memory():
            details["psnr"] = "not measured: the CPU has too little memory for float32"
        else:
            exact = run_trial(load(files, device="cpu", dtype="float32", progress=bars.loading), 1)
            details["cpu_float32_seconds"] = round(exact.seconds, 1)
    model = load_with(means, files, bars.loading)
    trial = run_trial(model, 1)
    details.update(_place(model, means), **_cost(trial))
    if exact is None:
        return Finding("ok", details)
    similarity = psnr(exact.frames, trial.frames).item()
    details["psnr"] = round(similarity, 1)
    return _judged(details, similarity, least_psnr(model, folder))


def _comfyui(folder: Path, given: Namespace, bars: Bars) -> Finding:
    """The DynamiCrafter checkpoints and CLIP encoders in ComfyUI's folder of models."""
    from ..weights.detect import detect
    from ..weights.formats.files import open_weights

    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; pass ComfyUI's models folder to --comfyui")
    known = {release.saved_as: release for release in RELEASES}
    found: dict[str, object] = {}
    broken: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".safetensors", ".ckpt") or not path.is_file():
            continue
        release = known.get(path.name)
        try:
            variants = [variant.name for variant in detect(open_weights(path))]
        # A folder of models has files of every kind; only those with our names must be readable.
        except Exception as problem:
            if release is not None:
                found[path.name] = None
                broken.append(f"{path.name} ({_sentence(problem)})")
            continue
        if release is not None and release.size_bytes not in (None, path.stat().st_size):
            found[path.name] = None
            broken.append(f"{path.name} (its size is not that of the released file)")
        elif variants or release is not None:
            found[path.name] = " or ".join(variants) or "CLIP encoders"
    if broken:
        return Finding("failed", found, f"cannot be used: {'; '.join(broken)}; download them again")
    return Finding("ok", found or {"models": []})


def _means(given: Namespace) -> Means:
    """How the trial of a model is run."""
    from ..shots import Means

    return Means(
        given.device,
        given.dtype,
        weights=given.weights,
        memory=given.memory,
        backend=given.backend,
        compile=given.compile,
    )


def _is_reference(device: torch.device, dtype: torch.dtype, means: Means) -> bool:
    """Whether a model runs by PyTorch on the CPU in float32, with which the others are compared."""
    import torch

    return (device.type, dtype) == ("cpu", torch.float32) and not _unusual(means)


def _unusual(means: Means) -> dict[str, object]:
    """The options besides device and precision that were given."""
    usual = {"backend": "torch", "weights": "auto", "memory": "auto", "compile": "off"}
    return {name: getattr(means, name) for name, value in usual.items() if getattr(means, name) != value}


def _place(model: Model, means: Means) -> dict[str, object]:
    place = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    return {**place, **_unusual(means)}


def _cost(trial: Trial) -> dict[str, object]:
    peak = None if trial.peak_bytes is None else round(trial.peak_bytes / 1e9, 2)
    return {"seconds": round(trial.seconds, 2), "peak_memory_gb": "unknown" if peak is None else peak}


def _judged(details: Mapping[str, object], similarity: float, least: float) -> Finding:
    if similarity >= least:
        return Finding("ok", details)
    return Finding(
        "failed",
        details,
        f"the frames have a PSNR of {similarity:.1f} dB against the CPU in float32, less than {least:g}; try --dtype "
        f"float32, update the driver or PyTorch, and report it if that does not help",
    )


Check = Callable[[Namespace, Bars], Finding]

CHECKS: Mapping[str, Check] = {
    "system": _system,
    "packages": _packages,
    "devices": _devices,
    "weights": _weights,
    "tiny": _tiny,
}
"""The checks of every machine, in order; an exception is reported as a failure of the check."""


def _print(name: str, finding: Finding) -> None:
    print(f"{name}: {finding.verdict}")
    for detail, value in finding.details.items():
        print(f"  {detail:16} {_shown(value)}")
    if finding.problem is not None:
        print(f"  {finding.problem}", flush=True)


def _shown(value: object) -> str:
    """A detail on one line."""
    if isinstance(value, Mapping) and value:
        return ", ".join(
            f"{name} {_shown(part)}" for name, part in cast("Mapping[str, object]", value).items()
        )
    if isinstance(value, (list, Mapping)):
        return ", ".join(str(part) for part in cast("list[object]", value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not usable" if value is None else str(value)


def _sentence(problem: Exception) -> str:
    """The first line of an error, with its type unless its message is meant for users."""
    if isinstance(problem, DynamiCrafterError):
        return problem.said(WORDS)
    return f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}"


def _gigabytes(size: int) -> float:
    return round(size / 1e9, 1)
