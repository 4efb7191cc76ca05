"""How the nodes phrase the remedies of the package's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..dynamicrafter.errors import DynamiCrafterError, Words

WORDS: Words = {
    "choose_model": "the README lists the models and their uses",
    "download": "put the file of {} into models/checkpoints",
    "drop_variant": "set the variant input to auto or select another file",
    "export": "export it with 'dynamicrafter export', or select the entry without OpenVINO",
    "lower_cfg": "set a lower cfg, or select a checkpoint that is not damaged",
    "measure_latents": "measure them with 'dynamicrafter statistics'",
    "name_between": "select a model that does in between_checkpoint",
    "name_encoder": "connect a core loader with the {} encoder",
    "name_video": "connect it to source",
    "name_variant": "select it in the variant input",
    "widen_dtype": "set weight_dtype to float32 or bfloat16 in the loader",
}
"""The other remedies belong to errors that cannot occur in a graph."""


@contextmanager
def in_words_of_the_graph() -> Iterator[None]:
    """Convert an error of the package into a ValueError that refers to inputs and connections."""
    try:
        yield
    except DynamiCrafterError as problem:
        raise ValueError(problem.said(WORDS)) from problem
