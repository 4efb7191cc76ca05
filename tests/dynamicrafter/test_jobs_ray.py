"""Jobs on a Ray cluster of one machine."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dynamicrafter.errors import UsageError
from dynamicrafter.jobs.ledger import clip_folder
from dynamicrafter.jobs.lines import Job, ModelChoice, read_jobs
from dynamicrafter.jobs.ray_cluster import LOCAL, leave_ray, ray_workers
from dynamicrafter.jobs.run import run_jobs
from dynamicrafter.jobs.workers import local_workers
from dynamicrafter.media.video import read_frames

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
        ray_workers(LOCAL, "auto")


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_not_there(left: None) -> None:
    with pytest.raises(
        UsageError, match=r"there is no Ray cluster at nonsense:x \(.*\); check the address, or use"
    ):
        ray_workers("nonsense:x", "auto")


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
    workers = ray_workers(LOCAL, "auto", 2)
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
    assert run_jobs(here, tmp_path / "out", local_workers(["cpu"], "auto")).failed == 0
    assert read_frames(tmp_path / "out" / "1").equal(read_frames(tmp_path / "out" / "here"))
