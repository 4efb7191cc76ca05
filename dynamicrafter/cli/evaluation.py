"""The command that measures what a model does: evaluate."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from ..api import load, variant_of
from ..errors import UsageError
from ..pipeline import Model
from ..settings import check_seed
from ..shots import threads_that_pay
from ..toy.behaviour import measure_behaviour
from ..toy.hops import measure_hops
from ..toy.scales import measure_scales
from .clips import model_files
from .progress import Bars

_TOY_SIZE = (64, 64)
_FEWEST = 4
"""Clips for the four directions."""
_ITEMS, _SCALES_ITEMS = 64, 16
"""Clips per figure where nothing is said."""
_MAKING = "keep loop negative motion fs frames size image_cfg eta rescale spacing batch noise_device"
"""Options of the clips that a folder's pictures are made into."""
_MEASURING = "real csv plain towers i3d fetch fit"
"""Options of measuring them, and ready ones."""
_OF_TOYS = "items scales hops"
_LEARNED = "towers i3d fetch real"
"""What a plain table has no use for."""
_USUAL = {"batch": 1, "fit": "crop", "noise_device": "cpu", "dtype": "auto", "seed": [0]}
"""Defaults of options that are not empty without being given."""

_MOST_SEED, _MOST_TOY_SEED = 63, 46
"""Powers of 2 that seeds stay below; the toy world draws each clip from its seed times 100003 and its number."""

Note = Callable[[str, float], None]


def run(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Do what ``evaluate`` asks for and return what ``--json`` prints; ``written`` gets each kept clip."""
    if given.folder is None and given.clips is None:
        _refuse(given, f"{_MAKING} {_MEASURING} dtype", "only goes with FOLDER or --clips; give one of them")
        _check_seeds(given.seed, _MOST_TOY_SEED, " in the toy world")
        return _toy_world(given)
    _refuse(given, _OF_TOYS, "is of the toy world; leave FOLDER and --clips out for it")
    if given.plain:
        _refuse(given, _LEARNED, "is for learned measures, but --plain leaves them out; give one of the two")
    if given.clips is not None:
        _refuse(
            given,
            f"{_MAKING} steps cfg seed lora dtype",
            "is for making clips, but those of --clips are ready; leave it out",
        )
    _check_seeds(given.seed, _MOST_SEED, "")
    from . import measuring

    return measuring.run(given, written)


def _refuse(given: Namespace, names: str, reason: str) -> None:
    for name in names.split():
        value = getattr(given, name)
        # By identity: 0 is a value that was given, although it is equal to False.
        if not (value is None or value is False or value == "" or value == _USUAL.get(name)):
            raise UsageError(f"--{name.replace('_', '-')} {reason}")


def _check_seeds(seeds: Sequence[int], power: int, where: str) -> None:
    """Raise UsageError for a seed that cannot be used, and for one that would be measured twice."""
    for number, seed in enumerate(seeds):
        check_seed(seed, power, where)
        if seed in seeds[:number]:
            raise UsageError(f"seed {seed} is given more than once; give each seed once")


def _toy_world(given: Namespace) -> dict[str, Any]:
    items = given.items
    if items is None:
        items = _SCALES_ITEMS if given.scales else _ITEMS
    if items < _FEWEST:
        raise UsageError(f"items must be at least {_FEWEST}, but {items} was given; {_ITEMS} are usual")
    if given.scales and (given.hops or given.cfg is not None):
        raise UsageError("--scales sets the guidance scales itself and measures nothing else; give it alone")
    files = model_files(given)
    variant = variant_of(files)
    if (variant.preset.width, variant.preset.height) != _TOY_SIZE:
        raise UsageError(
            f"without a folder the figures are those of the toy world, whose pictures are 64x64, but {variant.name} "
            f"makes {variant.preset.width}x{variant.preset.height}; give a folder of pictures and prompts to measure "
            f"it on"
        )
    hidden = given.quiet or given.json
    with Bars(files.asked, hidden) as bars:
        model = load(files, device=given.device, dtype="float32", progress=bars.loading)
    single: list[dict[str, float]] = []
    for seed in given.seed:
        with Bars(f"seed {seed}", hidden or len(given.seed) == 1) as bars, threads_that_pay(model):
            single.append(_figures(given, model, items, seed, _noting(given, bars, single)))
    figures = {name: statistics.median(row[name] for row in single) for name in single[0]}
    if len(single) > 1 and not given.json:
        for name, value in figures.items():
            _print(name, value)
    return {
        "model": files.asked,
        "loras": [{"file": str(lora.path), "strength": lora.strength} for lora in files.loras],
        "items": items,
        "seeds": given.seed,
        "figures": figures,
        "single": single,
    }


def _figures(given: Namespace, model: Model, items: int, seed: int, note: Note) -> dict[str, float]:
    if given.scales:
        return measure_scales(model, items=items, seed=seed, steps=given.steps, report=note)
    measure = measure_hops if given.hops else measure_behaviour
    return measure(model, items=items, seed=seed, steps=given.steps, cfg=given.cfg, report=note)


def _noting(given: Namespace, bars: Bars, before: list[dict[str, float]]) -> Note:
    """With one seed the figures are printed as they come; with several they are counted, and their medians wait."""
    count = 0

    def note(name: str, value: float) -> None:
        nonlocal count
        count += 1
        bars.figures(count, len(before[0]) if before else None)
        if len(given.seed) == 1 and not given.json:
            _print(name, value)

    return note


def _print(name: str, value: float) -> None:
    print(f"{name:58} {value:8.3f}", flush=True)
