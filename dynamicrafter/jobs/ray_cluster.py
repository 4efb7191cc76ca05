"""Workers on a Ray cluster: images are sent to them, frames come back, clips are written here.

The package must be installed on the machines of the cluster, and models that are not built in must be at the same place
on each, or in its weights folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..errors import Cancelled, UsageError
from ..forms import shortened
from ..shots import Means
from .lines import Job
from .pool import Lost, Take, Tell, Worker, as_error
from .studio import Studio

LOCAL = "local"
"""The address of a cluster that is started on this machine for the run."""
_LOOPBACK = "127.0.0.1"
_GLANCE = 0.2
"""Seconds between two looks at whether a job is finished or cancelled."""


def ray_workers(address: str, means: Means, count: int | None = None) -> list[Worker]:
    """Workers on the cluster at ``address``: one for each GPU, or for each machine if there are none, or ``count``.

    Each picks its device, whatever that of ``means`` is.

    ``local`` starts a cluster on this machine that listens on loopback only. Raises UsageError if Ray is not installed,
    if there is no cluster at the address, and if the workers do not fit on it.
    """
    if count is not None and count < 1:
        raise UsageError(f"there must be at least 1 worker, but {count} were given")
    # Otherwise Ray reports to its makers that it was used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        # Read when Ray is imported. With a cluster of several machines ruled out, it listens on loopback only; as the
        # name says, this is the default on other systems than Linux.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = _ray()
    how: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, **how)
        machines: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # Ray raises all kinds of exceptions for an address at which it does not find what it expects.
    except Exception as problem:
        raise UsageError(
            f"there is no Ray cluster at {shortened(address)} ({shortened(str(problem))}); check the address, or use "
            f"{LOCAL} for one on this machine"
        ) from problem
    own = ray.util.get_node_ip_address()
    if address == LOCAL and own != _LOOPBACK:
        ray.shutdown()
        raise UsageError(
            f"Ray would listen on {own}, because it was imported before; start a program of its own for it"
        )
    count, needs = _shares(machines, count)
    return [
        RayWorker(f"ray, worker {number}", replace(means, device="auto"), needs)
        for number in range(1, count + 1)
    ]


def _shares(machines: Sequence[dict[str, float]], count: int | None) -> tuple[int, dict[str, int]]:
    """The number of workers on machines with these resources, and what of them each needs, so that all have a place.

    Raises UsageError if there are too few; Ray would wait for more machines without end.
    """
    gpus = [int(resources.get("GPU", 0)) for resources in machines]
    processors = [int(resources.get("CPU", 0)) for resources in machines]
    usable = max(1, sum(map(bool, processors)))
    count = count or sum(gpus) or usable
    most = 1 if any(gpus) else max(1, sum(processors) // max(count, usable))
    places = 0
    for each in range(most, 0, -1):
        places = sum(
            min(own // each, cards) if any(gpus) else own // each
            for own, cards in zip(processors, gpus, strict=True)
        )
        if count <= places:
            return count, {"num_gpus": int(any(gpus)), "num_cpus": each}
    raise UsageError(
        f"the Ray cluster has places for at most {places} worker(s), each with a processor and a GPU if there are any, "
        f"but {count} are wanted; use fewer workers or add machines"
    )


def leave_ray() -> None:
    """Leave the cluster, if there is one; a local one ends."""
    _ray().shutdown()


def _ray() -> Any:
    """The ray package; raises UsageError with instructions if it is missing."""
    try:
        return import_module("ray")
    except ImportError as problem:
        raise UsageError(
            "a Ray cluster needs the ray package; install it with pip install 'dynamicrafter-studio[ray]'"
        ) from problem


class RayWorker:
    """A :class:`~dynamicrafter.jobs.studio.Studio` in an actor, which is started for the first job and whenever the
    last one was lost."""

    def __init__(self, name: str, means: Means, needs: dict[str, int]) -> None:
        self.name = name
        self._means = means
        self._needs = needs
        self._actor: Any = None

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job; raises Lost if the actor or its machine ends before they are there."""
        ray, errors = _ray(), import_module("ray.exceptions")
        images = [path.read_bytes() for path in job.pictures]
        if self._actor is None:
            self._actor = (
                ray.remote(RemoteStudio).options(**self._needs).remote(self._means, self.name, self._needs)
            )
        try:
            promise = self._actor.make.remote(job, images)
            while not ray.wait([promise], timeout=_GLANCE)[0]:
                tell("load", 0, 0)
            kind, *news = ray.get(promise)
        except Cancelled:
            self.close()
            raise
        except errors.RayError as problem:
            self.close()
            raise Lost(f"{self.name} was lost ({type(problem).__name__})", gone=False) from problem
        if kind == "failed":
            raise news[0]
        return Take(*news)

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            _ray().kill(self._actor)
        self._actor = None


class RemoteStudio:
    """What runs on a machine of the cluster."""

    def __init__(self, means: Means, name: str, needs: dict[str, int]) -> None:
        if not needs["num_gpus"]:
            torch.set_num_threads(needs["num_cpus"])
        self._studio = Studio(means, name)

    def make(self, job: Job, images: Sequence[bytes]) -> tuple[Any, ...]:
        """``("made", frames, model)`` or ``("failed", error)`` of a job with these image files."""
        try:
            with tempfile.TemporaryDirectory(prefix="dynamicrafter-") as folder:
                paths = [Path(folder, f"{number}{path.suffix}") for number, path in enumerate(job.pictures)]
                for path, image in zip(paths, images, strict=True):
                    path.write_bytes(image)
                take = self._studio.make(replace(job, pictures=tuple(paths)), _unheard)
        except Exception as problem:
            return "failed", as_error(problem)
        return "made", take.frames, take.model


def _unheard(*_: object) -> None:
    """Ignore news of a job's progress."""
