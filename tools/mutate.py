"""Change the code a little in many places, one at a time, and see whether the tests notice.

Usage: ``nice python -m tools.mutate RESULTS.json [--checkout DIR] [--mutants 250] [--seed 0] [--jobs 1]``. It needs
``fork``, so it does not run on Windows.

First every file of tests is run once to see which lines each test runs; tests that are marked slow, take more than
ten seconds or need ComfyUI are left out. That is kept in ``RESULTS.coverage.json``. Then each mutant is tried on the
tests that run its lines, in a process forked from this one, which has imported the libraries but nothing of the
checkout. No file is edited: the changed module takes the place of the one on disk when it is imported. A mutant is
killed when a test fails or does not end in time. RESULTS.json is written after each, and a run that was stopped goes
on from there; when the checkout has changed, all begins anew.

A mutant that survives is either a gap in the tests or a change that makes no difference; only reading can tell.
``--against OTHER.json`` names the mutants that only one of two results has killed, by another checkout, say.
``--unchanged`` tries the tests of each mutant without it: each must survive, or its tests fail by themselves.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from .covering import Coverage, Tracer, file_of
from .mutants import Mutant, choose, mutants_of, mutated

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("dynamicrafter", "nodes")
NOT_RUN = ("tests/comfyui",)
"""Tests of these folders need a real ComfyUI."""
LONGEST = 10.0
"""Seconds; a test that takes longer is left out."""
LIMIT = 30.0
"""Seconds that all tests of one mutant may take together; those that have least to do with it are left out."""
PATIENCE = 5.0
"""Tests of a mutant that take this many times longer than without it will not end."""
MEMORY = 16 * 2**30
"""Bytes of address space for one process, most of which the libraries reserve and never use."""
LIBRARIES = (
    "accelerate av einops filelock huggingface_hub hypothesis kornia numpy open_clip peft PIL.Image "
    "safetensors.torch torch torch.utils.flop_counter tqdm"
).split()
"""What tests import and is not the checkout's; those that are not installed are passed over."""
OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "--no-header", "--tb=short"),
    # Plugins that were imported with the libraries.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
FAILED = 70
"""Exit status of a process in which these tools, not the tests, went wrong."""
KILLED = ("killed", "did not end", "crashed")


class FirstFailure:
    """A pytest plugin that remembers what failed first."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test."""
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported."""
        if report.failed and not self.name:
            self.name = report.nodeid


class Changed(MetaPathFinder, SourceFileLoader):
    """Imports one module from a tree in place of its file, under whatever name."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.path, self._tree = str(path), tree

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec with another loader; None for any other module."""
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin != self.path:
            return None
        spec.loader, self.name = self, fullname
        return spec

    def get_code(self, fullname: str) -> CodeType:
        """The code of the tree."""
        return compile(self._tree, self.path, "exec", dont_inherit=True)


@dataclass(frozen=True)
class Task:
    """Work for a process of its own."""

    name: str
    work: Callable[[Path], Any]
    """Gets an empty folder and returns plain values."""
    seconds: float
    """Processor time after which it is stopped."""


@dataclass(frozen=True)
class Done:
    """How a task ended."""

    name: str
    result: Any
    """What the work returned; None where it was stopped or crashed."""
    output: str
    in_time: bool
    ended_by_others: bool
    """Whether something outside of it made it end; then it says nothing."""
    seconds: float


def run(tasks: Sequence[Task], checkout: Path, jobs: int) -> Iterator[Done]:
    """Run tasks in forked processes, ``jobs`` at once, each in the checkout and with nothing of it imported."""
    waiting = list(reversed(tasks))
    running: dict[int, tuple[Task, Path, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.pop()
                    own = Path(tempfile.mkdtemp(dir=folder))
                    running[_forked(task, own, checkout)] = (task, own, time.monotonic())
                time.sleep(0.02)
                for number, (task, own, start) in list(running.items()):
                    seconds = time.monotonic() - start
                    # A process that waits takes no processor time, so there is a limit for the clock on the wall too.
                    patient = seconds < 10 * task.seconds
                    if patient and os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                        continue
                    status = _end(number)
                    del running[number]
                    written = own / "result.json"
                    result = json.loads(written.read_text(encoding="utf-8")) if written.exists() else None
                    fatal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
                    in_time = patient and fatal != signal.SIGXCPU
                    by_others = patient and fatal in (signal.SIGTERM, signal.SIGKILL)
                    output = (own / "log").read_text(encoding="utf-8", errors="replace")
                    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == FAILED:
                        raise RuntimeError(f"{task.name} could not be tried: {output}")
                    shutil.rmtree(own, ignore_errors=True)
                    yield Done(task.name, result, output, in_time, by_others, seconds)
        finally:
            for number in running:
                _end(number)


def _end(number: int) -> int:
    """End a process with all that it has started and left; returns its status."""
    os.killpg(number, signal.SIGKILL)
    return os.waitpid(number, 0)[1]


def _forked(task: Task, folder: Path, checkout: Path) -> int:
    """The number of a new process that does a task and leaves ``result.json`` in its folder."""
    if number := os.fork():
        with suppress(PermissionError, ProcessLookupError):
            os.setpgid(number, number)
        return number
    status = 0
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        limit = int(task.seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _enter(checkout, folder)
        (folder / "result.part").write_text(json.dumps(task.work(folder)), encoding="utf-8")
        (folder / "result.part").rename(folder / "result.json")
    except Exception:
        traceback.print_exc()
        status = FAILED
    finally:
        # Not by way of what the parent wants to do at its end.
        os._exit(status)


def _enter(checkout: Path, folder: Path) -> None:
    """Make this process, and those it starts, work on a checkout, whichever one these tools are of."""
    os.chdir(checkout)
    os.environ["PYTHONPATH"] = str(checkout)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    # Compiled once for all processes, and nothing of it is left in the checkout.
    sys.pycache_prefix = str(folder.parent / "bytecode")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    sys.path[:] = [str(checkout), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tools"]:
        del sys.modules[name]
    assert "dynamicrafter" not in sys.modules


def traced(checkout: Path, modules: Sequence[str], file: str, folder: Path) -> dict[str, Any]:
    """What :class:`Tracer` reports about a file of tests."""
    # Twice, since watching takes time too.
    tracer = Tracer({str(checkout / module): module for module in modules}, 2 * LONGEST)
    pytest.main([*OPTIONS, "--basetemp", str(folder / "tmp"), file], plugins=[tracer])
    return tracer.report()


def tried(checkout: Path, mutant: Mutant | None, tests: Sequence[str], folder: Path) -> dict[str, str | None]:
    """What fails first of the tests under a mutant; None if nothing does."""
    if mutant is not None:
        path = checkout / mutant.module
        sys.meta_path.insert(0, Changed(path, mutated(path.read_text(encoding="utf-8"), mutant.number)))
    # Where the mutant makes other cases of a test, the ids of some are gone, and the whole files are run.
    for what in (tests, dict.fromkeys(map(file_of, tests))):
        first = FirstFailure()
        code = pytest.main([*OPTIONS, "-x", "--basetemp", str(folder / "tmp"), *what], plugins=[first])
        if code == pytest.ExitCode.OK:
            return {"failed": None}
        if code not in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            break
    return {"failed": first.name or pytest.ExitCode(code).name}


def digest_of(checkout: Path) -> str:
    """What tells one state of the code and its tests from another."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in (*SHIPPED, "tests") for path in (checkout / folder).rglob("*.py")):
        digest.update(path.relative_to(checkout).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Kept:
    """Values by name in a JSON file that is written after each, and begun anew for anything else than ``about``."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path, self._about = path, dict(about)
        self.values: dict[str, Any] = {}
        if path.exists():
            written = json.loads(path.read_text(encoding="utf-8"))
            if written["about"] == self._about:
                self.values = written["values"]

    def add(self, name: str, value: Any) -> None:
        """Keep one more value."""
        self.values[name] = value
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"about": self._about, "values": self.values}, indent=1), encoding="utf-8")
        part.replace(self._path)


def covered(checkout: Path, modules: Sequence[str], kept: Kept, jobs: int) -> Coverage:
    """Which tests run which lines: what was kept, and the other files of tests run for it."""
    files = [
        path.relative_to(checkout).as_posix() for path in sorted((checkout / "tests").rglob("test_*.py"))
    ]
    tasks = [
        Task(file, partial(traced, checkout, modules, file), 3600)
        for file in files
        if not file.startswith(NOT_RUN) and file not in kept.values
    ]
    for done in run(tasks, checkout, jobs):
        if done.result is None:
            raise RuntimeError(f"{done.name} must run to its end before mutants can: {done.output}")
        kept.add(done.name, done.result)
        tests, others = done.result["tests"], done.result["not_passed"]
        print(f"{done.name}: {len(tests)} tests, {done.seconds:.0f} s", *others, sep="\n  not passed: ")
    return Coverage(checkout, modules, kept.values, LONGEST)


def try_all(
    checkout: Path, mutants: Sequence[Mutant], coverage: Coverage, kept: Kept, unchanged: bool, jobs: int
) -> None:
    """Try all mutants that were not tried yet."""
    tasks: list[Task] = []
    found: dict[str, dict[str, Any]] = {}
    for mutant in mutants:
        name = f"{mutant.module}:{mutant.line} {mutant.key}"
        if name in kept.values:
            continue
        tests = coverage.best_tests_of(mutant, LIMIT)
        left_out = len(coverage.tests_of(mutant)) - len(tests)
        found[name] = {**asdict(mutant), "tests": len(tests), "left_out": left_out}
        if not tests:
            kept.add(name, {**found[name], "outcome": "no test runs it", "by": None, "seconds": 0})
            continue
        seconds = 60 + PATIENCE * sum(coverage.seconds[test] for test in tests)
        work = partial(tried, checkout, None if unchanged else mutant, tests)
        tasks.append(Task(name, work, seconds))
    for number, done in enumerate(run(tasks, checkout, jobs), 1):
        if done.ended_by_others:
            print(
                f"{number}/{len(tasks)} {done.name}: was ended by others, so it is tried again in the next run"
            )
            continue
        if not done.in_time:
            outcome = "did not end"
        elif done.result is None:
            outcome = "crashed"
        else:
            outcome = "killed" if done.result["failed"] else "survived"
        failed = done.result and done.result["failed"]
        more = {"outcome": outcome, "by": failed, "seconds": round(done.seconds, 1)}
        kept.add(done.name, {**found[done.name], **more})
        print(f"{number}/{len(tasks)} {done.name}: {outcome}, {done.seconds:.0f} s", flush=True)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Mutants and killed ones of each module, and all together."""
    all_of, killed = Counter[str](), Counter[str]()
    for result in results:
        for name in (result["module"], "all"):
            all_of[name] += 1
            killed[name] += result["outcome"] in KILLED
    rows = [
        f"{name:<48}{all_of[name]:>8}{killed[name]:>8}"
        for name in sorted(all_of, key=lambda name: name == "all")
    ]
    return "\n".join([f"{'module':<48}{'mutants':>8}{'killed':>8}", *rows])


def said(result: Mapping[str, Any]) -> str:
    """A mutant and what became of it, on one line."""
    change = f"{result['before']}  ->  {result['after']}"
    where = f"{result['module']}:{result['line']} {result['scope']}"
    return f"{where} ({result['operator']}, {result['outcome']}): {' '.join(change.split())}"


def differences(results: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What became otherwise of mutants that two results share, and how many those are."""
    known = {other["key"]: other for other in others}
    shared = [(result, known[result["key"]]) for result in results if result["key"] in known]
    yield f"{len(shared)} mutants are in both"
    for result, other in shared:
        if (result["outcome"] in KILLED) != (other["outcome"] in KILLED):
            yield f"{said(result)}; in the other: {other['outcome']}"


def main(arguments: list[str] | None = None) -> None:
    """Try mutants of a checkout, then print the table and the survivors."""
    parser = argparse.ArgumentParser(prog="tools.mutate", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="DIR")
    parser.add_argument("--mutants", type=int, default=250, metavar="N", help="how many, more or less")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--against", type=Path, metavar="OTHER.json", help="results to compare with")
    parser.add_argument("--unchanged", action="store_true", help="run the tests without the mutants")
    chosen = parser.parse_args(arguments)
    checkout: Path = chosen.checkout.resolve()
    # Tensors this small gain nothing from threads, and a process with threads cannot be forked.
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)

    # Stopped in any way, it ends the processes that it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    about = {"code": digest_of(checkout)}
    paths = [path for folder in SHIPPED for path in sorted((checkout / folder).rglob("*.py"))]
    modules = [path.relative_to(checkout).as_posix() for path in paths if path.name != "__main__.py"]
    coverage_file = chosen.results.with_suffix(".coverage.json")
    coverage = covered(checkout, modules, Kept(coverage_file, about), chosen.jobs)
    unseen = [module for module in modules if module.startswith("nodes/") and not coverage.runs(module)]
    if unseen:
        print("left out, as no test without ComfyUI runs any line of them:", *unseen, sep="\n  ")
    sources = {module: (checkout / module).read_text(encoding="utf-8") for module in modules}
    mutants = choose(
        [
            mutant
            for module, source in sources.items()
            if module not in unseen
            for mutant in mutants_of(module, source, chosen.seed)
        ],
        chosen.mutants,
    )
    kept = Kept(chosen.results, {**about, "seed": chosen.seed, "unchanged": chosen.unchanged})
    try_all(checkout, mutants, coverage, kept, chosen.unchanged, chosen.jobs)

    results = list(kept.values.values())
    print(table(results))
    print("survivors:", *(said(result) for result in results if result["outcome"] not in KILLED), sep="\n  ")
    if chosen.against is not None:
        others = json.loads(chosen.against.read_text(encoding="utf-8"))["values"]
        print(*differences(results, list(others.values())), sep="\n  ")


if __name__ == "__main__":
    main()
