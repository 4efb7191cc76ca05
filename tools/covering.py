"""Which tests run which lines of the code that is tested.

Tests that share a module's or the session's fixture all count as running what the fixture ran.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from .mutants import Lines, Mutant, Names, mentions

Place = tuple[str, int]
"""A module's path in the checkout and a line of it."""


class Tracer:
    """A pytest plugin that notes the lines which each test runs, and how long it takes."""

    def __init__(self, files: Mapping[str, str], longest: float) -> None:
        """``files`` are the absolute paths of the modules to watch, with the names they go by.

        A test or its fixtures are stopped after ``longest`` seconds of processor time.
        """
        self._files = files
        self._longest = longest
        self._ran: defaultdict[str, set[Place]] = defaultdict(set)
        """By test, and by fixture that outlives one."""
        self._now: set[Place] = set()
        self._fixtures: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = {}
        self._not_passed: set[str] = set()

    def report(self) -> dict[str, Any]:
        """Plain values: seconds of each test that passed, the others, and the passed ones that run each line."""
        tests = [name for name in self._seconds if name not in self._not_passed]
        lines: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, name in enumerate(tests):
            for module, line in set().union(*(self._ran[part] for part in (name, *self._fixtures[name]))):
                lines[module][line].append(number)
        return {
            "tests": {name: round(self._seconds[name], 2) for name in tests},
            "not_passed": sorted(self._not_passed),
            "lines": lines,
        }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Watch a test from its fixtures' making to their end."""
        self._fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
        start = cpu_seconds()
        with self._watched(item.nodeid):
            result = yield
        self._seconds[item.nodeid] = cpu_seconds() - start
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        """Stop fixtures that take long."""
        with _limited(self._longest):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Stop a test that takes long."""
        with _limited(self._longest):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Watch a fixture by itself where others than the test that comes first have it."""
        if fixturedef.scope == "function":
            return (yield)
        with self._watched(fixturedef.argname):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember tests that fail or are skipped."""
        if not report.passed:
            self._not_passed.add(report.nodeid)

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        before, self._now = self._now, self._ran[name]
        # A test may set a trace function of its own and take it away; the next one is watched again.
        sys.settrace(self._enter)
        threading.settrace(self._enter)
        try:
            yield
        finally:
            self._now = before

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        module = self._files.get(frame.f_code.co_filename)
        if module is None:
            return None
        ran = self._now
        ran.add((module, frame.f_lineno))

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            ran.add((module, frame.f_lineno))
            return line

        return line


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes more processor time than this."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it must not take more than {seconds:g} s to count as a quick test")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def cpu_seconds() -> float:
    """What this process and those that it waited for have taken."""
    return sum(os.times()[:4])


class Coverage:
    """What :class:`Tracer` reported about all files of tests of a checkout."""

    def __init__(
        self, checkout: Path, modules: Iterable[str], reports: Mapping[str, Mapping[str, Any]], longest: float
    ) -> None:
        """``reports`` by the path of the file of tests; tests that take more than ``longest`` seconds do not count."""
        self.seconds: dict[str, float] = {}
        self._tests: defaultdict[Place, set[str]] = defaultdict(set)
        for report in reports.values():
            seconds = {test: taken for test, taken in report["tests"].items() if taken <= longest}
            self.seconds.update(seconds)
            tests = list(report["tests"])
            for module, lines in report["lines"].items():
                for line, numbers in lines.items():
                    self._tests[module, int(line)].update(
                        seconds.keys() & {tests[number] for number in numbers}
                    )
        self._texts = {file: (checkout / file).read_text(encoding="utf-8") for file in reports}
        self._mentions: defaultdict[str, list[tuple[str, Lines, Names]]] = defaultdict(list)
        for module in modules:
            for name, lines, names in mentions(ast.parse((checkout / module).read_text(encoding="utf-8"))):
                self._mentions[name].append((module, lines, names))

    def runs(self, module: str) -> bool:
        """Whether any test runs any line of a module."""
        return any(place[0] == module for place in self._tests)

    def tests_of(self, mutant: Mutant) -> set[str]:
        """The tests that can notice a mutant."""
        if mutant.names is None:
            return self._of_lines(mutant.module, mutant.lines)
        if mutant.names:
            return self._of_names(mutant.names)
        return set().union(*(tests for place, tests in self._tests.items() if place[0] == mutant.module))

    def best_tests_of(self, mutant: Mutant, limit: float) -> list[str]:
        """As many of these tests as can be run in ``limit`` seconds, by file.

        Files that name the mutant's function, class or module come first, then the quickest.
        """
        near = re.compile(rf"\b({'|'.join([*mutant.scope.split('.'), Path(mutant.module).stem])})\b")
        far_files = {file for file, text in self._texts.items() if not near.search(text)}
        files: defaultdict[str, float] = defaultdict(float)
        taken: list[str] = []
        for test in sorted(
            self.tests_of(mutant), key=lambda test: (file_of(test) in far_files, self.seconds[test], test)
        ):
            if sum(files.values()) + self.seconds[test] <= limit:
                files[file_of(test)] += self.seconds[test]
                taken.append(test)
        order = sorted(files, key=lambda file: (file in far_files, files[file], file))
        return sorted(taken, key=lambda test: order.index(file_of(test)))

    def _of_lines(self, module: str, lines: Lines) -> set[str]:
        return set().union(*(self._tests.get((module, line), ()) for line in range(lines[0], lines[1] + 1)))

    def _of_names(self, names: Iterable[str]) -> set[str]:
        """The tests that run a use of one of the names, or of what is made with it on import, or that name it."""
        found: set[str] = set()
        known, new = set(), set(names)
        while new:
            name = new.pop()
            known.add(name)
            named = re.compile(rf"\b{re.escape(name)}\b")
            files = {file for file, text in self._texts.items() if named.search(text)}
            found.update(test for test in self.seconds if file_of(test) in files)
            for module, lines, more in self._mentions[name]:
                found |= self._of_lines(module, lines)
                new |= set(more or ()) - known
        return found


def file_of(test: str) -> str:
    """The file of a test's id."""
    return test.partition("::")[0]
