"""Figures that are written, as JSON and Markdown, as soon as they are there, and of which none can stop the rest.

A plan is a list of named figures. They run in a process of their own, which is started again after the figure that
ended it: by a crash, by an error that leaves a GPU unusable, or by taking too long.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from measure import Table, machine, versions

Row = dict[str, Any]

STARTING = 60.0
"""Seconds that a process may take to begin its first figure, or to begin the next one."""


@dataclass(frozen=True)
class Figure:
    """Something to measure: its name, the heading of its table and the work, which returns rows."""

    name: str
    heading: str
    work: Callable[[], Sequence[Row]]
    limit: float = math.inf
    """Seconds after which it is given up."""


class Results:
    """What has been measured so far, in ``FOLDER/NAME.json`` and ``.md``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.json, self.markdown = folder / f"{name}.json", folder / f"{name}.md"
        self.about: Row = {}
        self.figures: list[Row] = []

    def start(self, device: torch.device, note: str) -> None:
        """Begin a new file."""
        self.json.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.now(timezone.utc)
        self.about = {
            "machine": machine(device),
            "versions": versions(),
            "date": f"{now:%Y-%m-%d}",
            "note": note,
        }
        self.write()

    def read(self) -> None:
        stored = json.loads(self.json.read_text(encoding="utf-8"))
        self.about, self.figures = stored["about"], stored["figures"]

    def put(self, name: str, heading: str, **found: Any) -> None:
        """Add a figure, or replace what is known of it."""
        self.figures = [one for one in self.figures if one["name"] != name]
        self.figures.append({"name": name, "heading": heading, **found})
        self.write()

    def names(self) -> set[str]:
        return {one["name"] for one in self.figures}

    def write(self) -> None:
        for path, text in (
            (self.json, json.dumps({"about": self.about, "figures": self.figures}, indent=1)),
            (self.markdown, self.as_markdown()),
        ):
            part = path.with_name(f"{path.name}.part")
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(path)

    def as_markdown(self) -> str:
        """One table for each heading; a figure without rows says why."""
        about = self.about
        parts = [f"# {about['machine']}", "", f"{about['versions']}; {about['date']}. {about['note']}"]
        for heading in dict.fromkeys(one["heading"] for one in self.figures):
            group = [one for one in self.figures if one["heading"] == heading]
            rows: list[Row] = []
            for one in group:
                if one["state"] == "done":
                    rows += one["rows"]
                else:
                    rows.append({"what": one["name"], "note": one["state"]})
            columns = list(dict.fromkeys(key for row in rows for key in row))
            table = Table(tuple(columns))
            for row in rows:
                table.add(*(shown(row.get(column, "")) for column in columns))
            parts += ["", f"## {heading}", "", table.markdown()]
        return "\n".join(parts)


def shown(value: object) -> str:
    """A cell: floats with three digits."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")


def measure_all(results: Results, figures: Sequence[Figure], deadline: float) -> int:
    """Measure what is not in ``results`` yet; returns 3 if this process can measure nothing more, else 0.

    ``deadline`` is in seconds of ``time.time``.
    """
    for figure in figures:
        if figure.name in results.names():
            continue
        if time.time() > deadline:
            results.put(figure.name, figure.heading, state="skipped (time limit)")
            continue
        results.put(figure.name, figure.heading, state="started")
        start = time.perf_counter()
        try:
            rows = [dict(row) for row in figure.work()]
        # Whatever goes wrong is part of the result.
        except Exception as problem:
            sentence = next(iter(str(problem).splitlines()), "")
            results.put(figure.name, figure.heading, state=f"{type(problem).__name__}: {sentence}")
            if not usable():
                return 3
        else:
            took = time.perf_counter() - start
            results.put(figure.name, figure.heading, state="done", rows=rows, seconds=round(took, 2))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0


def usable() -> bool:
    """Whether the GPU still computes; after some errors nothing works in the process any more."""
    if not torch.cuda.is_available():
        return True
    with contextlib.suppress(Exception):
        torch.cuda.synchronize()
        return torch.ones(1, device="cuda").item() == 1
    return False


def supervise(command: Sequence[str], results: Results, figures: Sequence[Figure], deadline: float) -> None:
    """Run ``command`` again and again until ``results`` has every figure, or until ``deadline`` of ``time.time``.

    A figure that ends the process, or takes longer than its limit, is noted and left out of the next run.
    """
    limits = {figure.name: figure.limit for figure in figures}
    for _ in figures:
        child = subprocess.Popen(command)
        last, since = "", time.monotonic()
        ended = ""
        while child.poll() is None:
            time.sleep(0.2)
            running = started(results)
            if running != last:
                last, since = running, time.monotonic()
            limit = limits.get(running, STARTING)
            if time.monotonic() - since > limit:
                ended = f"no result after {limit:.0f} s"
            elif time.time() > deadline:
                ended = "stopped (time limit)"
            if ended:
                child.kill()
                child.wait()
        results.read()
        for one in results.figures:
            if one["state"] == "started":
                note = ended or f"the process ended with {child.returncode}"
                results.put(one["name"], one["heading"], state=note)
        if limits.keys() <= results.names():
            return
        if time.time() > deadline:
            measure_all(results, figures, deadline)  # Which only says that they are left out.
            return
        if not last and child.returncode:
            print(
                f"the measuring process ended with {child.returncode} before its first figure",
                file=sys.stderr,
            )
            return


def started(results: Results) -> str:
    """Name of the figure that is being measured, empty between two of them."""
    results.read()
    return next((one["name"] for one in results.figures if one["state"] == "started"), "")
