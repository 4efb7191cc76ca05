"""The commands about weights: models, download, inspect, convert, merge."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..animate_anyone.weights import convert_person, holds_person
from ..api import BUILT_IN, RANDOM, find_model, provide
from ..errors import UsageError
from ..model.configs import QUANTISED
from ..model.variants import TINY, VARIANTS
from ..weights.catalogue import Release, find, with_requirements
from ..weights.convert import convert
from ..weights.download import download, status_rows, weights_folder
from ..weights.inspect import Inspection, inspect
from ..weights.merge import merge
from ..weights.mixture import Mixture
from .progress import Bars


def run(command: str, given: Namespace) -> object:
    """Run one of the commands and return what ``--json`` prints."""
    commands = {
        "models": _models,
        "download": _download,
        "inspect": _inspect,
        "convert": _convert,
        "merge": _merge,
    }
    return commands[command](given)


def _models(given: Namespace) -> dict[str, Any]:
    rows = [_row(release, path) for release, path in status_rows()]
    if not given.json:
        _print_models(rows)
    return {"models": rows, "folder": str(weights_folder())}


def _row(release: Release, path: Path | None) -> dict[str, Any]:
    return {
        "name": release.name,
        "resolution": release.resolution,
        "purpose": release.purpose,
        "size_gb": release.size_gb,
        "precision": release.precision,
        "licence": release.licence,
        "source": release.source,
        "requires": list(release.requires),
        "path": str(path) if path is not None else None,
        "defaults": None if release.variant is None else asdict(VARIANTS[release.variant].preset),
    }


_DEFAULTS = (
    "--size {width}x{height} --frames {frames} --fs {fs} ({fs_still} still, {fs_lively} lively) --fps {fps} "
    "--steps {steps} --cfg {cfg:g} --guidance-rescale {guidance_rescale:g} --eta {eta:g} --spacing {spacing}"
)


def _print_models(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        state = "downloaded" if row["path"] else "not downloaded"
        needs = f"; needs {', '.join(row['requires'])}" if row["requires"] else ""
        print(
            f"{row['name']:20} {row['resolution']:>9}  {row['size_gb']:5.2f} GB {row['precision']}  {state}"
        )
        print(f"{'':20} {row['purpose']}{needs}")
        print(f"{'':20} {row['licence']}, {row['source']}")
        if row["defaults"] is not None:
            print(f"{'':20} {_DEFAULTS.format(**row['defaults'])}")
    print(f"\n{TINY.name!r} is built in and the default; it knows coloured shapes only.")
    print(f"{RANDOM!r} needs no files and generates noise, for testing.")
    print(
        f"'dynamicrafter download NAME' downloads to {weights_folder()} (set DYNAMICRAFTER_HOME to change it)."
    )


def _download(given: Namespace) -> dict[str, Any]:
    wanted: dict[str, Release] = {}
    done: list[dict[str, str]] = []
    for name in given.names:
        if name in BUILT_IN:
            done.append({"name": name, "path": str(find_model(name).weights)})
            if not given.json:
                print(f"{name} is built in and needs no download", flush=True)
            continue
        for release in with_requirements(find(name)):
            wanted.setdefault(release.name, release)
    for release in wanted.values():
        with Bars(release.name, hidden=given.quiet or given.json) as bars:
            path = download(release, given.folder, bars.transfer)
        done.append({"name": release.name, "path": str(path)})
        if not given.json:
            print(f"{release.name}: {path}", flush=True)
    return {"downloads": done}


def _inspect(given: Namespace) -> dict[str, Any]:
    report = inspect(given.file)
    if not given.json:
        _print_report(report)
    return asdict(report)


def _print_report(report: Inspection) -> None:
    print(f"{report.path}: {report.architecture}")
    if report.variants:
        more = "" if len(report.variants) == 1 else " (the weights are ambiguous; specify --variant)"
        print(f"  variant     {' or '.join(report.variants)}{more}")
    files = f" in {report.files} files" if report.files > 1 else ""
    print(f"  file        {report.format}, {report.size_bytes / 1e9:.3f} GB{files}")
    stored = ", ".join(f"{dtype} {count:,}" for dtype, count in report.dtypes.items())
    print(f"  parameters  {report.parameters:,} ({stored})")
    if report.quantised:
        print(f"  layers      {report.quantised} with a scale for each output channel")
    for part in report.components:
        state = "missing" if not part.tensors else f"{part.parameters:,} parameters"
        if part.tensors and part.missing:
            state += f", {part.missing} tensors missing"
        print(f"  {part.title:24} {state}")
    if report.unused:
        print(f"  {report.unused} tensors are known but not used")
    for title, names in (("unexpected", report.unexpected), ("wrong shape", report.misfits)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            print(f"  {title}: {', '.join(names[:5])}{more}")


def _convert(given: Namespace) -> dict[str, Any]:
    dtype: Any = None if given.dtype == "keep" else given.dtype
    if dtype not in (None, *QUANTISED):
        dtype = getattr(torch, dtype)
    with Bars(given.target.name, hidden=given.quiet or given.json) as bars:

        def progress(done: int, total: int) -> None:
            bars.transfer("converting", done, total)

        if holds_person(given.source):
            for option, chosen in (("--prune", given.prune), ("--variant", given.variant)):
                if chosen:
                    raise UsageError(
                        f"{option} is for DynamiCrafter, but {given.source} is AnimateAnyone; leave it out"
                    )
            convert_person(given.source, given.target, dtype=dtype, progress=progress)
            name = "AnimateAnyone"
        else:
            name = convert(
                given.source,
                given.target,
                dtype=dtype,
                prune=given.prune,
                variant=given.variant,
                progress=progress,
            ).name
    size = given.target.stat().st_size
    if not given.json:
        print(f"{given.target}: {name}, {size / 1e9:.2f} GB")
    return {"path": str(given.target), "variant": name, "bytes": size}


def _merge(given: Namespace) -> dict[str, Any]:
    mixture = Mixture(given.dynamic_weight, given.consistent_weight, given.keep, given.seed)
    base = provide(find_model(given.base, variant=given.variant))
    dtype = None if given.dtype == "keep" else getattr(torch, given.dtype)
    with Bars(given.dynamic.name, hidden=given.quiet or given.json) as bars:
        variant = merge(
            base.weights,
            provide(find_model(given.tuned)).weights,
            given.dynamic,
            given.consistent,
            mixture=mixture,
            dtype=dtype,
            variant=base.variant,
            progress=lambda done, total: bars.transfer("merging", done, total),
        )
    files = {"dynamic": given.dynamic, "consistent": given.consistent}
    if not given.json:
        for path in files.values():
            print(f"{path}: {variant.name}, {path.stat().st_size / 1e9:.2f} GB")
    return {"variant": variant.name, **{name: str(path) for name, path in files.items()}}
