"""Progress bars on the standard error stream, with the time left."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ..pipeline import Stage

_STAGES: dict[Stage, tuple[str, str]] = {
    "encode": ("reading", "step"),
    "sample": ("drawing", "step"),
    "decode": ("developing", "frame"),
}
"""What a stage is called, and what it counts."""


class Bars:
    """One bar for each stage of the work, removed when the next one starts or something goes wrong."""

    def __init__(self, title: str, hidden: bool) -> None:
        self.title = title
        self.hidden = hidden
        self._name = ""
        self._bar: Any = None

    def __enter__(self) -> Bars:
        """Use as a context, so that a bar never stays open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the open bar."""
        self._close()

    def stage(self, stage: Stage, done: int, total: int) -> None:
        """Show ``done`` of ``total`` steps of a stage of making a clip."""
        name, unit = _STAGES[stage]
        self._show(name, done, total, unit)

    def loading(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes of the weights."""
        self._show("loading", done, total, "B")

    def figures(self, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` figures, or clips, that are measured."""
        self._show("measuring", done, total, "")

    def transfer(self, what: str, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` bytes of a download or a check."""
        self._show(what, done, total, "B")

    def _show(self, name: str, done: int, total: int | None, unit: str) -> None:
        if name != self._name:
            from tqdm import tqdm

            self._close()
            self._name = name
            # None: shown where there is a terminal. What a resumed download has already is no speed of its own.
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=f"{self.title}: {name}",
                unit=unit,
                unit_scale=unit == "B",
                leave=False,
                disable=True if self.hidden else None,
                dynamic_ncols=True,
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""
