"""open_clip's transformer and tokenizer, without the rest of open_clip.

``import open_clip`` also imports torchvision, timm, transformers and PyTorch's compiler, which takes longer than a
small clip. The transformer and the tokenizer need none of these, so their files are loaded on their own, below the name
of this module: an ``import open_clip`` elsewhere still gets the whole package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

_ALONE = f"{__name__}.open_clip"
"""The package that stands for open_clip; its modules are open_clip's files."""


@cache
def open_clip_module(name: Literal["transformer", "tokenizer"]) -> Any:
    """The module of open_clip, or the one of the complete package if that is imported already.

    A version of open_clip whose files cannot be loaded on their own is imported completely. Raises ImportError if
    open_clip is not installed.
    """
    if "open_clip" not in sys.modules:
        try:
            _stand_in()
            return import_module(f"{_ALONE}.{name}")
        # Whatever another version needs, the complete package has.
        except Exception:
            pass
    return import_module(f"open_clip.{name}")


def _stand_in() -> None:
    """A package with open_clip's folder, but without its ``__init__`` and with our ``utils``."""
    spec = find_spec("open_clip")
    if _ALONE in sys.modules or spec is None:
        return
    package = ModuleType(_ALONE)
    package.__path__ = list(spec.submodule_search_locations or ())
    # The module of that name imports torchvision for a single function that is not used here.
    utils = ModuleType(f"{_ALONE}.utils")
    utils.__dict__.update(to_2tuple=_pair, __getattr__=_imported_when_called)
    sys.modules[utils.__name__] = utils
    sys.modules[_ALONE] = package


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    """Height and width from a pair or from a single number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _imported_when_called(name: str) -> Callable[..., Any]:
    """A function of ``open_clip.utils``."""
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module("open_clip.utils"), name)(*arguments, **options)

    return call
