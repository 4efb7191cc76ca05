"""The command that measures what a model generates: evaluate."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from ..animate_anyone.api import person_settings
from ..animate_anyone.weights import check_person, load_person
from ..api import load, pick_device, variant_of
from ..cartoon.behaviour import measure_person
from ..cartoon.characters import HEIGHT, WIDTH
from ..errors import UsageError
from ..pipeline import Model
from ..settings import check_seed
from ..shots import threads_that_pay
from ..toy.behaviour import measure_behaviour
from ..toy.hops import measure_hops
from ..toy.lengths import measure_lengths
from ..toy.scales import measure_scales
from .clips import model_files
from .progress import Bars

_TOY_SIZE = (64, 64)
_FEWEST = 4
"""One clip for each of the four directions."""
_ITEMS, _SCALES_ITEMS = 64, 16
"""Default number of clips per metric."""

_MOST_SEED, _MOST_TOY_SEED = 63, 46
"""Seeds must be below these powers of 2; the toy world seeds each clip with the seed times 100003 and its number."""

Note = Callable[[str, float], None]


def run(given: Namespace, written: list[str]) -> dict[str, Any]:
    """Run ``evaluate`` and return what ``--json`` prints; kept clips are appended to ``written``."""
    if given.subject == "toy":
        _check_seeds(given.seed, _MOST_TOY_SEED, " in the toy world")
        return _toy_world(given)
    if given.subject == "person":
        _check_seeds(given.seed, _MOST_TOY_SEED, " in the world of characters")
        return _characters(given)
    from . import measuring

    if given.subject == "videos":
        return measuring.measure_videos(given)
    _check_seeds(given.seed, _MOST_SEED, "")
    return measuring.measure_folder(given, written)


def _check_seeds(seeds: Sequence[int], power: int, where: str) -> None:
    """Raise UsageError for a seed out of range, and for one that is repeated."""
    for number, seed in enumerate(seeds):
        check_seed(seed, power, where)
        if seed in seeds[:number]:
            raise UsageError(f"seed {seed} is specified more than once; specify each seed once")


def _toy_world(given: Namespace) -> dict[str, Any]:
    items = given.items
    if items is None:
        items = _SCALES_ITEMS if given.scales or given.lengths else _ITEMS
    if items < _FEWEST:
        raise UsageError(f"items must be at least {_FEWEST}, but {items} was given; {_ITEMS} are typical")
    if given.scales and given.cfg is not None:
        raise UsageError(
            f"--scales sets the guidance scales itself, but --cfg {given.cfg:g} was given; omit --cfg"
        )
    files = model_files(given)
    variant = variant_of(files)
    if (variant.preset.width, variant.preset.height) != _TOY_SIZE:
        raise UsageError(
            f"the images of the toy world are 64x64, but {variant.name} generates "
            f"{variant.preset.width}x{variant.preset.height}; use 'evaluate folder FOLDER' instead"
        )
    with Bars(files.asked, given.quiet or given.json) as bars:
        model = load(
            files,
            device=given.device,
            dtype="float32",
            weights=given.weights,
            memory=given.memory,
            progress=bars.loading,
        )

    def measure(seed: int, note: Note) -> dict[str, float]:
        with threads_that_pay(model):
            return _figures(given, model, items, seed, note)

    loras = [{"file": str(lora.path), "strength": lora.strength} for lora in files.loras]
    return {"model": files.asked, "loras": loras, "items": items, **_over_seeds(given, measure)}


def _characters(given: Namespace) -> dict[str, Any]:
    items = _ITEMS if given.items is None else given.items
    if items < 2:
        # Controls take their conditions from another item.
        raise UsageError(f"items must be at least 2, but {items} was given; {_ITEMS} are typical")
    chosen = {name: getattr(given, name) for name in ("steps", "cfg", "window", "overlap")}
    settings = person_settings(check_person(given.model).preset, width=WIDTH, height=HEIGHT, **chosen)
    device = pick_device(given.device, given.backend)
    with Bars(str(given.model), given.quiet or given.json) as bars:
        model = load_person(given.model, device=device, backend=given.backend, progress=bars.loading)

    def measure(seed: int, note: Note) -> dict[str, float]:
        return measure_person(model, items=items, seed=seed, settings=settings, report=note)

    return {"model": str(given.model), "items": items, **_over_seeds(given, measure)}


def _over_seeds(given: Namespace, measure: Callable[[int, Note], dict[str, float]]) -> dict[str, Any]:
    """The metrics of each seed, and their medians, which are printed."""
    hidden = given.quiet or given.json
    single: list[dict[str, float]] = []
    for seed in given.seed:
        with Bars(f"seed {seed}", hidden or len(given.seed) == 1) as bars:
            single.append(measure(seed, _noting(given, bars, single)))
    figures = {name: statistics.median(row[name] for row in single) for name in single[0]}
    if len(single) > 1 and not given.json:
        for name, value in figures.items():
            _print(name, value)
    return {"seeds": given.seed, "figures": figures, "single": single}


def _figures(given: Namespace, model: Model, items: int, seed: int, note: Note) -> dict[str, float]:
    if given.scales:
        return measure_scales(model, items=items, seed=seed, steps=given.steps, report=note)
    measure = measure_hops if given.hops else measure_lengths if given.lengths else measure_behaviour
    return measure(model, items=items, seed=seed, steps=given.steps, cfg=given.cfg, report=note)


def _noting(given: Namespace, bars: Bars, before: list[dict[str, float]]) -> Note:
    """With one seed, metrics are printed as they are computed; with several, they are counted for the progress bar."""
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
