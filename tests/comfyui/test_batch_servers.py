"""Many jobs on two real servers, of which one is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dynamicrafter.jobs.ledger import JobRecord, clip_folder
from dynamicrafter.jobs.lines import Job, ModelChoice, named_variant, read_jobs
from dynamicrafter.jobs.run import run_jobs
from dynamicrafter.jobs.servers import server_workers
from dynamicrafter.jobs.workers import local_workers
from dynamicrafter.media.video import read_frames
from dynamicrafter.shots import Means

if TYPE_CHECKING:
    from comfyui_server import Server

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def other_server(start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A second server with the pack, to be killed."""
    from comfyui_server import copy_pack

    pack = copy_pack(REPOSITORY, tmp_path_factory.mktemp("pack") / "pack")
    home = str(tmp_path_factory.mktemp("weights"))
    return start_server(pack, environment={"DYNAMICRAFTER_HOME": home, "OMP_NUM_THREADS": "1"})


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Job]]:
    """Jobs of the random model with few small frames, written as PNGs."""
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "home"))

    def jobs(*lines: dict[str, Any]) -> list[Job]:
        listing = tmp_path / "jobs.jsonl"
        usual = {"pictures": [str(REPOSITORY / "pictures" / "harbour.png")], "frames": 3, "model": "random"}
        listing.write_text("\n".join(json.dumps({**usual, **line}) for line in lines), encoding="utf-8")
        return read_jobs(listing, clip_folder(tmp_path / "out"), ModelChoice(), named_variant)

    return jobs


def decibels(one: Path, other: Path) -> float:
    """PSNR of two clips."""
    error = (read_frames(one).double() - read_frames(other).double()).square().mean()
    return float(10 * (255**2 / error.clamp(min=1e-9)).log10())


def test_a_killed_server_loses_no_job(
    pack_server: Server, other_server: Server, read: Callable[..., list[Job]], tmp_path: Path
) -> None:
    day, dusk = (str(REPOSITORY / "pictures" / name) for name in ("hill_day.png", "hill_dusk.png"))
    jobs = read(
        *({"seed": seed, "steps": 6, "output": f"{seed}"} for seed in range(6)),
        {"pictures": [day, dusk], "steps": 2, "output": "between", "prompt": "a boat"},
        {"mode": "loop", "steps": 2, "output": "loop", "width": 128, "height": 64},
    )
    killed: list[str] = []

    def kill(record: JobRecord) -> None:
        if record.where == other_server.url and not killed:
            killed.append(record.output)
            os.kill(other_server.pid, signal.SIGKILL)

    workers = server_workers([other_server.url, pack_server.url], 2, jobs)
    outcome = run_jobs(jobs, tmp_path / "out", workers, finished=kill)
    assert len(killed) == 1
    assert [(record.state, record.error) for record in outcome.records] == [("done", "")] * 8
    assert {record.where for record in outcome.records} == {other_server.url, pack_server.url}
    assert outcome.left == 0
    assert 1 <= len(outcome.gone) <= 2
    assert all(reason.startswith(f"{other_server.url} does not answer (") for reason in outcome.gone)
    # The same frames as from this process, up to rounding.
    again = read(
        {"seed": 4, "steps": 6, "output": "4 here"},
        {"pictures": [day, dusk], "steps": 2, "output": "between here", "prompt": "a boat"},
        {"mode": "loop", "steps": 2, "output": "loop here", "width": 128, "height": 64},
    )
    assert run_jobs(again, tmp_path / "out", local_workers(["cpu"], Means())).failed == 0
    for name in ("4", "between", "loop"):
        assert decibels(tmp_path / "out" / name, tmp_path / "out" / f"{name} here") > 45


def test_a_server_without_the_pack_is_told(
    start_server: Callable[..., Server], read: Callable[..., list[Job]]
) -> None:
    from dynamicrafter.errors import UsageError

    bare = start_server(None)
    with pytest.raises(
        UsageError, match="does not have the nodes of this pack; install dynamicrafter-studio"
    ):
        server_workers([bare.url], 1, read({}))
