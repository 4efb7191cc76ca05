"""The command that exports a model for another backend: export."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..animate_anyone.exporting import export_person_model
from ..animate_anyone.weights import is_person
from ..api import calibration_bytes, export_model, variant_of
from ..backends.openvino.manifest import Calibration, Manifest
from ..errors import UsageError
from .clips import files_of
from .progress import Bars


def run(given: Namespace) -> object:
    """Export a model and return what ``--json`` prints."""
    if is_person(given.model):
        return _person(given)
    files = files_of(given.model, given)
    if given.calibrate is not None and not (given.quiet or given.json):
        needed = calibration_bytes(variant_of(files)) / 1e9
        print(f"calibrating {given.model} takes about {needed:.1f} GB of main memory", file=sys.stderr)
    with Bars(given.model, hidden=given.quiet or given.json) as bars:
        folder, manifest = export_model(
            files,
            given.output,
            stored=given.weights,
            calibrate=given.calibrate,
            loading=bars.loading,
            progress=bars.exporting,
        )
    return _told(folder, manifest, given)


def _person(given: Namespace) -> object:
    """Export a model of AnimateAnyone, for which most options have no meaning."""
    for option in ("calibrate", "lora", "variant", "text_encoder", "image_encoder"):
        if getattr(given, option):
            raise UsageError(
                f"--{option.replace('_', '-')} is for DynamiCrafter, but {given.model} is AnimateAnyone; leave it out"
            )
    with Bars(given.model, hidden=given.quiet or given.json) as bars:
        folder, manifest = export_person_model(
            given.model, given.output, stored=given.weights, loading=bars.loading, progress=bars.exporting
        )
    return _told(folder, manifest, given)


def _told(folder: Path, manifest: Manifest, given: Namespace) -> dict[str, Any]:
    size = sum(file.bytes for file in manifest.files)
    if not given.json:
        print(f"{folder}: weights in {manifest.stored}, {size / 1e9:.2f} GB")
        if manifest.calibration is not None:
            print("\n".join(_lines(manifest.calibration)))
    calibration = None if manifest.calibration is None else asdict(manifest.calibration)
    return {"path": str(folder), "stored": manifest.stored, "bytes": size, "calibration": calibration}


def _lines(made: Calibration) -> Iterator[str]:
    """What a calibration came to, for a person."""
    for what, found in (("all layers in int8", made.before), ("with the layers below in fp32", made.after)):
        yield f"{what}: {found.mean:.1f} dB an evaluation, lowest {found.lowest:.1f} dB"
    yield f"left in fp32, {made.kept_work:.1%} of the work: {', '.join(made.kept) or 'none'}"
