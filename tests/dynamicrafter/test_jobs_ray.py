"""Jobs on a Ray cluster of one machine."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from dynamicrafter.errors import UsageError
from dynamicrafter.jobs.ledger import clip_folder
from dynamicrafter.jobs.lines import Job, ModelChoice, read_jobs
from dynamicrafter.jobs.ray_cluster import LOCAL, leave_ray, ray_workers
from dynamicrafter.jobs.run import run_jobs
from dynamicrafter.jobs.workers import local_workers
from dynamicrafter.media.video import read_frames
from dynamicrafter.shots import Means

HAS_RAY = importlib.util.find_spec("ray") is not None
# Read when Ray is imported; ray_workers sets it for a local cluster.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
needs_ray = pytest.mark.skipif(
    not HAS_RAY, reason="needs ray; pip install 'dynamicrafter-studio[ray]' brings it"
)


@pytest.fixture
def left() -> Iterator[None]:
    """Ends the cluster."""
    yield
    leave_ray()


@pytest.fixture
def read(home: Path, tmp_path: Path, pictures: dict[str, Path]) -> Callable[..., list[Job]]:
    def jobs(*lines: dict[str, object]) -> list[Job]:
        listing = tmp_path / "jobs.jsonl"
        usual = {"pictures": [str(pictures["wide"])], "frames": 2, "model": "random"}
        listing.write_text("\n".join(json.dumps({**usual, **line}) for line in lines), encoding="utf-8")
        return read_jobs(listing, clip_folder(tmp_path / "out"), ModelChoice())

    return jobs


def test_without_ray_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = r"a Ray cluster needs the ray package; install it with pip install 'dynamicrafter-studio\[ray\]'"
    with pytest.raises(UsageError, match=told):
        ray_workers(LOCAL, Means())


class PretendedRay:
    """A cluster of machines with these resources, and one that has left."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self._machines = machines
        self.util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")

    def init(self, *_: Any, **__: Any) -> None:
        pass

    def nodes(self) -> list[dict[str, Any]]:
        there = [{"Alive": True, "Resources": resources} for resources in self._machines]
        return [*there, {"Alive": False, "Resources": {}}]


@pytest.mark.parametrize(
    ("machines", "count", "workers", "needs"),
    [
        ([{"CPU": 8.0}, {"CPU": 8.0}], None, 2, {"num_gpus": 0, "num_cpus": 8}),
        ([{"CPU": 8.0}, {"memory": 1.0}], None, 1, {"num_gpus": 0, "num_cpus": 8}),
        # Three of 5 processors each would not fit.
        ([{"CPU": 8.0}, {"CPU": 8.0}], 3, 3, {"num_gpus": 0, "num_cpus": 4}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], None, 2, {"num_gpus": 1, "num_cpus": 1}),
    ],
)
def test_all_workers_have_a_place(
    monkeypatch: pytest.MonkeyPatch,
    machines: list[dict[str, float]],
    count: int | None,
    workers: int,
    needs: dict[str, int],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", PretendedRay(*machines))
    made = ray_workers("10.0.0.1:6379", Means("cpu", weights="int8"), count)
    assert [vars(worker)["_needs"] for worker in made] == [needs] * workers
    assert all(vars(worker)["_means"] == Means("auto", weights="int8") for worker in made)


@pytest.mark.parametrize(
    ("machines", "count", "places"),
    [
        ([{"CPU": 2.0}, {"CPU": 1.0}], 4, 3),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], 2, 1),
        ([{"CPU": 1.0, "GPU": 2.0}], None, 1),
        ([{}], None, 0),
    ],
)
def test_workers_without_a_place_are_refused(
    monkeypatch: pytest.MonkeyPatch, machines: list[dict[str, float]], count: int | None, places: int
) -> None:
    monkeypatch.setitem(sys.modules, "ray", PretendedRay(*machines))
    told = rf"places for at most {places} worker\(s\), .* are wanted; use fewer workers or add machines"
    with pytest.raises(UsageError, match=told):
        ray_workers("10.0.0.1:6379", Means(), count)


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_not_there(left: None) -> None:
    with pytest.raises(
        UsageError, match=r"there is no Ray cluster at nonsense:x \(.*\); check the address, or use"
    ):
        ray_workers("nonsense:x", Means())


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_jobs_survive_the_loss_of_workers_and_nothing_listens_outside(
    read: Callable[..., list[Job]], tmp_path: Path, left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise workers have the lowest priority, and starve on a busy machine.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    jobs = read(*({"seed": seed, "steps": 20, "output": f"{seed}"} for seed in range(3)))
    workers = ray_workers(LOCAL, Means(), 2)
    assert [worker.name for worker in workers] == ["ray, worker 1", "ray, worker 2"]
    listening: set[str] = set()
    killed: list[int] = []

    def kill(share: float, doing: str) -> None:
        for child in psutil.Process().children(recursive=True):
            if child.pid in before or killed:
                continue
            try:
                found = child.net_connections("inet")
                name = " ".join(child.cmdline())
            except psutil.Error:
                continue
            listening.update(
                one.laddr.ip.removeprefix("::ffff:") for one in found if one.status == psutil.CONN_LISTEN
            )
            if name.startswith("ray::RemoteStudio.make"):
                killed.append(child.pid)
                child.kill()

    outcome = run_jobs(jobs, tmp_path / "out", workers, progress=kill)
    assert len(killed) == 1
    assert [(record.state, record.error) for record in outcome.records] == [("done", "")] * 3
    assert sorted(record.attempts for record in outcome.records) == [1, 1, 2]
    assert listening == {"127.0.0.1"}
    here = read({"seed": 1, "steps": 20, "output": "here"})
    assert run_jobs(here, tmp_path / "out", local_workers(["cpu"], Means())).failed == 0
    assert read_frames(tmp_path / "out" / "1").equal(read_frames(tmp_path / "out" / "here"))
