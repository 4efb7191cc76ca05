"""Stores an autoencoder's preview colours in a checkpoint's metadata, which does not change the hash of its tensors."""

from __future__ import annotations

import json

from ..bounded_json import parse_json
from ..errors import CheckpointError
from ..forms import Form, to_json
from ..model.preview import PreviewColours
from .detect import WRITER_KEY
from .formats.entries import WeightsFile

PREVIEW_KEY = "dynamicrafter.preview"
"""Metadata key: :class:`~dynamicrafter.model.preview.PreviewColours` as JSON."""


def preview_metadata(colours: PreviewColours | None) -> dict[str, str]:
    """Metadata from which :func:`preview_of` reads the colours back; empty for None."""
    return {} if colours is None else {PREVIEW_KEY: json.dumps(to_json(colours), separators=(",", ":"))}


def preview_of(file: WeightsFile) -> PreviewColours | None:
    """The colours stored in a checkpoint, or None if it has none; raises CheckpointError for invalid metadata."""
    if PREVIEW_KEY not in file.metadata:
        return None
    try:
        values = parse_json(file.metadata[PREVIEW_KEY])
    except ValueError as error:
        raise CheckpointError(
            f"{file.path} has invalid preview colours ({error}); convert it again"
        ) from error
    writer = file.metadata.get(WRITER_KEY, "unknown")
    return Form(f"the preview colours of {file.path}", CheckpointError, writer).read(PreviewColours, values)
