"""Progress on the standard error stream, with the time left: bars on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from ..shots import Work

_STAGES: dict[Work, tuple[str, str]] = {
    "load": ("loading", "B"),
    "hash": ("hashing", "B"),
    "encode": ("encoding", "step"),
    "sample": ("sampling", "step"),
    "decode": ("decoding", "frame"),
}
"""The name of each stage and its unit."""

_EVERY = 30.0
"""Seconds between two lines in a log."""


class Bars:
    """Progress of one stage of the work after another.

    On a terminal each stage is a bar, removed when the next one starts or an error occurs. Elsewhere, such as in the
    log of a server, work that takes longer is told in a line every 30 seconds.
    """

    def __init__(self, title: str, hidden: bool, clips: int = 1) -> None:
        self.title = title
        self.hidden = hidden
        self._clips = clips
        """The number of clips to generate; the time left for all of them is told if there are several."""
        self._name = ""
        self._beside = ""
        """What is told beside the progress instead of the time left for all clips."""
        self._bar: Any = None
        self._told = time.monotonic()
        """When the last line was printed."""
        self._began, self._first = 0.0, 0
        """When the stage began, and what was done by then."""
        self._generating: float | None = None
        """When the first clip was begun."""
        self._ends: float | None = None
        """When all clips will be finished, if the others take as long as those that are."""

    def __enter__(self) -> Bars:
        """Use as a context manager, so that a bar never stays open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the open bar."""
        self.close()

    def clip(self, title: str, work: Work, done: int, total: int) -> None:
        """Show ``done`` of ``total`` steps or bytes of the work on ``title``, a model or a clip."""
        self.title = title
        if work == "encode" and self._generating is None:
            self._generating = time.monotonic()
        self._show(*_STAGES[work], done, total)

    def finished(self, clips: int) -> None:
        """Estimate the time left for all clips from the number of those finished."""
        if self._generating is not None:
            each = (time.monotonic() - self._generating) / clips
            self._ends = self._generating + each * self._clips

    def jobs(self, share: float, beside: str) -> None:
        """Show the share of the work on all jobs that is done, 0 to 1, and ``beside`` it what else is to be said."""
        self._beside = beside
        self._show("generating", "%", int(100 * share), 100)

    def loading(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes of the weights."""
        self._show(*_STAGES["load"], done, total)

    def exporting(self, what: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` networks or layers of an export."""
        self._show(what, "", done, total)

    def figures(self, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` metrics or clips measured."""
        self._show("measuring", "", done, total)

    def transfer(self, what: str, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` bytes of a download, verification or conversion."""
        self._show(what, "B", done, total)

    def _show(self, name: str, unit: str, done: int, total: int | None) -> None:
        if self.hidden:
            return
        name = f"{self.title}: {name}"
        begins = name != self._name
        if begins:
            self.close()
            self._name, self._began, self._first = name, time.monotonic(), done
        if sys.stderr.isatty():
            self._draw(begins, unit, done, total)
        else:
            self._tell(unit, done, total)

    def _draw(self, begins: bool, unit: str, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if begins:
            # The bytes that a resumed download already has do not count as speed.
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=self._name,
                unit=unit,
                unit_scale=unit == "B",
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.total = total
        self._bar.set_postfix_str(self._beside or self._left_for_all(), refresh=False)
        self._bar.update(done - self._bar.n)

    def _tell(self, unit: str, done: int, total: int | None) -> None:
        from tqdm import tqdm

        now = time.monotonic()
        if now - self._told < _EVERY:
            return
        self._told = now
        size = tqdm.format_sizeof if unit == "B" else str
        many = unit if unit in ("", "B", "%") else f" {unit}s"
        parts = [f"{size(done)}{'' if total is None else f'/{size(total)}'}{many}"]
        if total is not None and done > self._first:
            left = (now - self._began) * (total - done) / (done - self._first)
            parts.append(f"{tqdm.format_interval(left)} left")
        parts.append(self._beside or self._left_for_all())
        # In one write: an interrupt may come between a line and its newline.
        print(f"{self._name} {', '.join(filter(None, parts))}\n", end="", file=sys.stderr, flush=True)

    def _left_for_all(self) -> str:
        """The time left for all clips; empty if there is only one, and before the first one is finished."""
        from tqdm import tqdm

        if self._clips == 1 or self._ends is None:
            return ""
        left = tqdm.format_interval(max(0.0, self._ends - time.monotonic()))
        return f"{left} left for all {self._clips} clips"

    def close(self) -> None:
        """Remove the open bar, so that a line may be printed."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""
