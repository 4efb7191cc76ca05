"""How the nodes say what to do about an error of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..dynamicrafter.errors import DynamiCrafterError, Words

WORDS: Words = {
    "choose_model": "the README lists the models and what each is for",
    "download": "put the file of {} into models/checkpoints",
    "drop_variant": "set the variant input to auto or choose another file",
    "lower_cfg": "set a smaller cfg, or choose a checkpoint that is not damaged",
    "name_encoder": "connect a core loader with the {} encoder",
    "name_variant": "choose it in the variant input",
    "widen_dtype": "set weight_dtype to float32 or bfloat16 in the loader",
}
"""The other remedies are for errors that no graph meets."""


@contextmanager
def in_words_of_the_graph() -> Iterator[None]:
    """Turn an error of the package into a ValueError that speaks of inputs and wires."""
    try:
        yield
    except DynamiCrafterError as problem:
        raise ValueError(problem.said(WORDS)) from problem
