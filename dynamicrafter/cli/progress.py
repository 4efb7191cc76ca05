"""Progress bars on the standard error stream, with the time left."""

from __future__ import annotations

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


class Bars:
    """One bar for each stage of the work, removed when the next one starts or an error occurs."""

    def __init__(self, title: str, hidden: bool) -> None:
        self.title = title
        self.hidden = hidden
        self._name = ""
        self._bar: Any = None

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
        self._show(*_STAGES[work], done, total)

    def loading(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes of the weights."""
        self._show(*_STAGES["load"], done, total)

    def figures(self, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` metrics or clips measured."""
        self._show("measuring", "", done, total)

    def transfer(self, what: str, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` bytes of a download, verification or conversion."""
        self._show(what, "B", done, total)

    def _show(self, name: str, unit: str, done: int, total: int | None) -> None:
        name = f"{self.title}: {name}"
        if name != self._name:
            from tqdm import tqdm

            self.close()
            self._name = name
            # None: shown on a terminal only. The bytes that a resumed download already has do not count as speed.
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=name,
                unit=unit,
                unit_scale=unit == "B",
                leave=False,
                disable=True if self.hidden else None,
                dynamic_ncols=True,
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the open bar, so that a line may be printed."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""
