"""Optimizers by name: AdamW and Muon, all others of PyTorch, and those of other packages that are installed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import UsageError
from .muon import Muon

_OWN: dict[str, type[Optimizer]] = {"adamw": torch.optim.AdamW, "muon": Muon}
_PACKAGES = {"bitsandbytes": "bitsandbytes.optim", "prodigyopt": "prodigyopt"}
"""The module of each package that has optimizers."""
_NEED_MORE = ("LBFGS", "SparseAdam")
"""Optimizers of PyTorch that need more than gradients, or other ones."""
_SET_ELSEWHERE = {"lr": "learning_rate", "betas": "betas", "weight_decay": "weight_decay"}
"""Arguments that have a setting of their own."""


def optimizer_class(name: str) -> type[Optimizer]:
    """The optimizer called ``name``, as in ``adamw``, ``Adafactor`` or ``bitsandbytes.AdamW8bit``.

    Raises UsageError for an unknown one, and if its package is not installed.
    """
    if name in _OWN:
        return _OWN[name]
    package, dot, last = name.rpartition(".")
    found = None
    if not dot or package in _PACKAGES:
        try:
            found = getattr(import_module(_PACKAGES.get(package, "torch.optim")), last, None)
        except ImportError as problem:
            raise UsageError(
                f"the optimizer {name} needs the {package} package; install it with pip install {package}, or use adamw"
            ) from problem
    if (
        not (inspect.isclass(found) and issubclass(found, Optimizer))
        or found is Optimizer
        or last in _NEED_MORE
    ):
        raise UsageError(
            f"there is no optimizer {name!r} to train with; use adamw, muon, a class of torch.optim such as Adafactor, "
            f"or one of {' or '.join(_PACKAGES)}, such as bitsandbytes.AdamW8bit"
        )
    return found


def make_optimizer(
    name: str, weights: Sequence[nn.Parameter], common: Mapping[str, Any], more: Mapping[str, Any]
) -> Optimizer:
    """The optimizer called ``name`` for ``weights``.

    ``common`` are the arguments that most optimizers have, of which those are passed that this one has; ``more`` are
    further ones. Raises UsageError for an argument that it does not have, or a value that it rejects.
    """
    twice = [key for key in more if key in _SET_ELSEWHERE]
    if twice:
        raise UsageError(
            f"method_arguments contains {twice[0]}, which the setting {_SET_ELSEWHERE[twice[0]]} is for; use that one"
        )
    made = cast(Any, optimizer_class(name))
    known = inspect.signature(made).parameters
    try:
        return made(list(weights), **{key: value for key, value in common.items() if key in known}, **more)
    except (TypeError, ValueError) as problem:
        raise UsageError(
            f"the optimizer {name} rejects its arguments ({problem}); correct method_arguments"
        ) from problem
