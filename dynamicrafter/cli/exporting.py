"""The command that exports a model for another backend: export."""

from __future__ import annotations

from argparse import Namespace

from ..api import export_model
from .clips import files_of
from .progress import Bars


def run(given: Namespace) -> object:
    """Export a model and return what ``--json`` prints."""
    files = files_of(given.name, given)
    with Bars(given.name, hidden=given.quiet or given.json) as bars:
        folder, manifest = export_model(
            files,
            given.output,
            stored=given.weights,
            loading=bars.loading,
            progress=bars.exporting,
        )
    size = sum(file.bytes for file in manifest.files)
    if not given.json:
        print(f"{folder}: weights in {manifest.stored}, {size / 1e9:.2f} GB")
    return {"path": str(folder), "stored": manifest.stored, "bytes": size}
