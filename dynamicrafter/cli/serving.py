"""The command that serves the page: serve."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import torch

from ..api import Lora
from ..errors import DynamiCrafterError, UsageError
from ..jobs.lines import Job, ModelChoice, named_variant
from ..jobs.pool import Show, Worker
from ..jobs.servers import server_workers
from ..jobs.workers import ProcessWorker, devices_for
from ..model.variants import TINY
from ..page.desk import Desk, OfferedModel, offered_models, offered_persons
from ..page.door import Access, read_logins
from ..page.limits import Limits
from ..page.serving import Listening, serve_page
from ..page.shelf import Shelf
from ..settings import make_settings
from ..shots import Means
from ..weights.download import weights_folder
from .batch import check_places
from .words import WORDS

_SERVER_PLACES = 2
"""Clips in the queue of each server, so that it does not wait for the next one."""


def run(given: Namespace) -> dict[str, Any]:
    """Run ``serve`` until it is stopped and return what ``--json`` prints."""
    limits = Limits(**{name: getattr(given, name) for name in Limits.__dataclass_fields__})
    access = Access(
        given.host,
        tuple(given.name),
        given.root_path.rstrip("/"),
        tuple(site.rstrip("/") for site in given.embed),
        {} if given.logins is None else read_logins(given.logins),
    )
    if not 0 <= given.port <= 65_535:
        raise UsageError(f"the port must be 0 to 65535, but {given.port} was given")
    refused: dict[str, DynamiCrafterError] = {}
    models = _models(given, refused)
    persons = {} if given.server else offered_persons(given.backend, refused)
    crew = _crew(given, models)
    notes = [f"{name} is not offered, because {problem.said(WORDS)}" for name, problem in refused.items()]
    if not given.json:
        for text in notes:
            print(f"note: {text}\n", end="", file=sys.stderr)
    shelf = Shelf(weights_folder() / "page" if given.results is None else given.results, limits.hours)
    addresses: list[str] = []

    def ready(address: str) -> None:
        addresses.append(address)
        if not given.quiet:
            out = sys.stderr if given.json else sys.stdout
            print(f"The page is at {address} (Ctrl-C ends it)", file=out, flush=True)

    def leave(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # As for Ctrl-C: what was started ends with the page.
    signal.signal(signal.SIGTERM, leave)
    try:
        with shelf.alone():
            serve_page(
                Desk(models, crew, shelf, limits, persons, given.backend),
                access,
                Listening(given.host, given.port, given.proxy),
                ready,
            )
    except KeyboardInterrupt:
        if not addresses:
            raise
    return {"address": addresses[0] if addresses else "", "notes": notes}


def _models(given: Namespace, refused: dict[str, DynamiCrafterError]) -> dict[str, OfferedModel]:
    loras = tuple(Lora(path, strength) for path, strength in given.lora or ())
    asked = TINY.name if given.model is None else given.model
    first = ModelChoice(asked, given.variant, given.text_encoder, given.image_encoder, loras)
    if given.server:
        # What else the servers have is not known here.
        return {asked: OfferedModel(asked, first, named_variant(first))}
    return offered_models(first, given.backend, refused)


def _crew(given: Namespace, models: dict[str, OfferedModel]) -> Sequence[Callable[[Show], Worker]]:
    """What makes each worker; one in a process of its own cannot take the page with it."""
    check_places(given)
    jobs = [
        Job(0, name, make_settings(one.variant, one.variant.modes[0]), (), one.choice, "")
        for name, one in models.items()
    ]
    if given.server:
        return [partial(_known, worker) for worker in server_workers(given.server, _SERVER_PLACES, jobs)]
    means = Means(
        dtype=given.dtype,
        weights=given.weights,
        memory=given.memory,
        backend=given.backend,
        compile=given.compile,
    )
    # That the others can be run this way was found out when they were offered.
    devices = devices_for(jobs[:1], given.devices, means)
    threads = max(1, torch.get_num_threads() // len(devices))
    return [partial(_process, means, device, threads) for device in devices]


def _known(worker: Worker, show: Show) -> Worker:
    """A worker that has no previews."""
    return worker


def _process(means: Means, device: str, threads: int, show: Show) -> Worker:
    return ProcessWorker(replace(means, device=device), device, threads, show)
