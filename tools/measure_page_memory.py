"""Measure whether the memory of the page stays level over many jobs.

Usage, in the top folder, in an environment with the test extra: ``python -m tools.measure_page_memory [--jobs 200]
[--every 10]``.

Starts ``dynamicrafter serve`` with the built-in models and has jobs generated through its HTTP API, one after the
other: clips of one and two images, loops, films and clips of persons. Each is of a new visitor, and of images that were
not uploaded before. A row of the Markdown table is what the server and its worker occupy of main memory when a job has
ended, and what is kept in files. The last line is the growth in the second half of the jobs, when all is there that is
kept of the latest visitors alone: the slope of a line that is fitted to the rows.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

import psutil
from gradio_client import Client, handle_file
from PIL import Image

from dynamicrafter.page.door import COOKIE
from dynamicrafter.page.examples import PageExamples, draw_examples

KINDS = (
    "animate",
    "animate",
    "loop",
    "interpolate",
    "story",
    "animate",
    "person",
    "animate",
    "loop",
    "animate",
)
SIZES: dict[str, int] = {"steps": 2, "frames": 4}
JOB_SECONDS = 300
"""After so long, a job counts as lost."""


@dataclass(frozen=True)
class Row:
    """What there is after so many jobs."""

    jobs: int
    seconds: float
    server: float
    """Resident megabytes of the process that serves the page."""
    worker: float
    """Those of its worker."""
    files: int
    kept: float
    """Megabytes of the results."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The page, with results in ``folder``: its address and process."""
    words = ("serve", "--port", "0", "--results", str(folder), "--max-daily", "1000000")
    process = subprocess.Popen(
        [sys.executable, "-m", "dynamicrafter", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[4].rstrip("/"), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def rows(
    url: str, process: psutil.Process, results: Path, jobs: int, every: int, folder: Path
) -> Iterator[Row]:
    """A row after each ``every`` of ``jobs``; images to upload are drawn into ``folder``. Raises RuntimeError if a job
    is not finished."""
    examples = draw_examples(folder / "examples")
    began = time.monotonic()
    for number in range(jobs):
        cookie = {"Cookie": f"{COOKIE}={secrets.token_hex(16)}"}
        with closing(Client(url, headers=cookie, verbose=False, analytics_enabled=False)) as client:
            _finish(client, *_job(number, examples, folder))
        if (number + 1) % every:
            continue
        files = [path for path in results.rglob("*") if path.is_file()]
        children = process.children(recursive=True)
        worker = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
        yield Row(
            number + 1,
            time.monotonic() - began,
            process.memory_info().rss / 1e6,
            worker.memory_info().rss / 1e6,
            len(files),
            sum(path.stat().st_size for path in files) / 1e6,
        )


def _job(number: int, examples: PageExamples, folder: Path) -> tuple[str, dict[str, Any]]:
    """The name of the API that queues a job, and what it is called with."""
    kind = KINDS[number % len(KINDS)]
    if kind == "person":
        return "/person", {"image": _changed(examples.character, number, folder), "seed": number, **SIZES}
    example = examples.clips[number % len(examples.clips)]
    first, last = (_changed(path, number, folder) for path in (example.first, example.last))
    if kind == "story":
        text = f"{example.prompt}\n\n{example.prompt}"
        return "/story", {"images": [first], "text": text, "seed": number, "steps": SIZES["steps"]}
    given = {"image": first, "mode": kind, "prompt": example.prompt, "seed": number, "sound": "sea", **SIZES}
    return "/submit", {**given, "last": last} if kind == "interpolate" else given


def _changed(picture: Path, number: int, folder: Path) -> Any:
    """An image that differs from all others in a pixel, for the client to upload."""
    target = folder / f"{picture.stem}_{number}.png"
    with Image.open(picture) as image:
        image.putpixel((0, 0), (number % 256, number // 256, 0))
        image.save(target)
    return handle_file(target)


def _finish(client: Client, name: str, given: dict[str, Any]) -> None:
    state = client.predict(**given, api_name=name)
    deadline = time.monotonic() + JOB_SECONDS
    while state["state"] in ("waiting", "working") and time.monotonic() < deadline:
        time.sleep(0.2)
        state = client.predict(state["job"], api_name="/state")
    if state["state"] != "done":
        why = state["error"] or f"it is not finished after {JOB_SECONDS} s"
        raise RuntimeError(f"a job of {name} is {state['state']}: {why}")


def main() -> None:
    """Print the rows as they are measured, and what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    given = parser.parse_args()
    found: list[Row] = []
    print("| jobs | seconds | server, MB | worker, MB | files | MB of files |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, serving(Path(name, "results")) as (url, process):
        for row in rows(url, process, Path(name, "results"), given.jobs, given.every, Path(name)):
            found.append(row)
            cells = (
                f"{row.seconds:.0f}",
                f"{row.server:.1f}",
                f"{row.worker:.1f}",
                row.files,
                f"{row.kept:.1f}",
            )
            print(f"| {row.jobs}", *cells, sep=" | ", end=" |\n", flush=True)
    late = [row for row in found if row.jobs >= given.jobs / 2]
    if len(late) > 1:
        counts = [row.jobs for row in late]
        server, worker = (
            linear_regression(counts, [getattr(row, name) for row in late]).slope
            for name in ("server", "worker")
        )
        print(
            f"From job {counts[0]} to {counts[-1]}: server {server:+.3f} MB a job, worker {worker:+.3f} MB a job"
        )


if __name__ == "__main__":
    main()
