"""The tools that watch over changes: what they count, compare and change."""

from __future__ import annotations

import ast
import datetime
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import host_versions
from tools.compare_checkouts import difference, differences
from tools.count_lines import count, logical_lines, table
from tools.covering import Coverage
from tools.host_versions import Counts, counts_in
from tools.mutants import Mutant, choose, mutants_of, mutated

SOURCE = '''
"""About 1 thing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    LIMIT = 5
LIMIT: Literal[4] = 4


@cache(size=9)
class Box(Base):
    """It holds 2."""

    depth: int = 3

    def put(self, thing: Sized, times: int = 1) -> None:
        """Put it in."""
        if not thing or len(thing) > LIMIT:
            raise ValueError(f"at most {LIMIT + 0}")
        self.things = list(zip(thing, self.names, strict=True))
        self.count(thing)
'''


def what(mutants: list[Mutant]) -> set[tuple[str, str, str, str]]:
    return {(m.scope, m.operator, m.before, m.after) for m in mutants}


def test_what_can_be_changed() -> None:
    raised = "raise ValueError(f'at most {LIMIT + 0}')"
    condition = "not thing or len(thing) > LIMIT"
    put = "list(zip(thing, self.names, strict=True))"
    assert what(mutants_of("box.py", SOURCE, 0)) == {
        ("LIMIT", "default", "4", "5"),
        ("Box", "default", "3", "4"),
        ("Box.put", "default", "1", "0"),
        ("Box.put", "boolean", condition, "not thing and len(thing) > LIMIT"),
        ("Box.put", "condition", condition, f"not ({condition})"),
        ("Box.put", "negation", "not thing", "thing"),
        ("Box.put", "comparison", "len(thing) > LIMIT", "len(thing) >= LIMIT"),
        ("Box.put", "statement", raised, "pass"),
        ("Box.put", "statement", f"self.things = {put}", "pass"),
        ("Box.put", "statement", "self.count(thing)", "pass"),
        ("Box.put", "arguments", put[5:-1], "zip(self.names, thing, strict=True)"),
    }


@pytest.mark.parametrize(
    ("source", "others"),
    [
        ("def f():\n    return a + b", ["a - b"]),
        ("def f():\n    a -= b", ["a += b", "pass"]),
        ("def f():\n    return 'a' + b", []),
        ("def f():\n    return a if b else c", ["not b"]),
        ("def f():\n    return [a for a in b if a]", ["not a"]),
        ("def f():\n    return a < b is c", ["a <= b is c", "a < b is not c"]),
        ("def f():\n    return True, 0, 1, 2, 0.5, 'a'", ["False", "1", "0", "3", "1.0"]),
        ("def f(a='b', *, c=None):\n    pass", ["'bx'"]),
        ("def f():\n    return max(a, b), g(a, a), g(*a, b), g(a, b)", ["g(b, a)"]),
        ("for a in b:\n    break", ["pass"]),
    ],
)
def test_what_stands_in_its_place(source: str, others: list[str]) -> None:
    assert [mutant.after for mutant in mutants_of("a.py", source, 0)] == others


def test_a_mutant_differs_in_one_place_and_keeps_its_lines() -> None:
    for mutant in mutants_of("box.py", SOURCE, 0):
        before, after = ast.parse(SOURCE), mutated(SOURCE, mutant.number)
        changed = set(ast.unparse(after).splitlines()) ^ set(ast.unparse(before).splitlines())
        assert 1 <= len(changed) <= 2, mutant
        assert compile(after, "box.py", "exec")
        assert mutant.lines[0] <= mutant.lines[1] <= SOURCE.count("\n")


def test_a_function_has_the_same_mutants_wherever_it_is() -> None:
    moved = "import os\n\nWIDTH = 7\n" + SOURCE.replace("self.count(thing)", "self.count(thing, 2)")
    mine = {m.key for m in mutants_of("box.py", SOURCE, 0) if "count" not in m.before}
    theirs = {m.key for m in mutants_of("other/shelf.py", moved, 0)}
    assert mine < theirs
    assert not mine & {m.key for m in mutants_of("box.py", SOURCE, 1)}


def test_a_choice_has_some_of_every_module_and_grows() -> None:
    of_one, of_two = mutants_of("one.py", SOURCE * 9, 0), mutants_of("two.py", "a = 1", 0)
    few, many = choose([*of_one, *of_two], 5), choose([*of_one, *of_two], 50)
    assert set(few) < set(many)
    assert {m.module for m in few} == {m.module for m in many} == {"one.py", "two.py"}
    assert len(few) in (5, 6)


def test_a_module_is_imported_with_its_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource", reason="mutants are tried in forked processes")
    from tools.mutate import Changed

    for name in ("one_box", "other_box"):
        (tmp_path / f"{name}.py").write_text("WIDE = 3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        sys, "meta_path", [Changed(tmp_path / "one_box.py", mutated("WIDE = 3", 0)), *sys.meta_path]
    )
    try:
        assert [importlib.import_module(name).WIDE for name in ("one_box", "other_box")] == [4, 3]
    finally:
        sys.modules.pop("one_box", None)
        sys.modules.pop("other_box", None)


SHELF = """
WIDE = 3
DOUBLE = WIDE * 2


def depth():
    return DOUBLE


def height():
    return 5
"""


@pytest.fixture
def coverage(tmp_path: Path) -> Coverage:
    """Of a module whose constants are used by one of its functions."""
    files = {
        "shelf.py": SHELF,
        "test_a.py": "import box",
        "test_b.py": "from shelf import depth",
        "test_c.py": "WIDE",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    reports = {
        "test_a.py": {"tests": {"test_a.py::a": 0.5}, "lines": {"shelf.py": {"7": [0], "11": [0]}}},
        "test_b.py": {
            "tests": {"test_b.py::slow": 11.0, "test_b.py::b": 2.0, "test_b.py::c": 1.0},
            "lines": {"shelf.py": {"7": [0, 1, 2]}},
        },
        "test_c.py": {"tests": {"test_c.py::c": 0.1}, "lines": {}},
    }
    return Coverage(tmp_path, ["shelf.py"], reports, longest=10)


def test_a_mutant_is_tried_on_the_tests_that_run_it(coverage: Coverage) -> None:
    """A constant on those that run what uses it, by way of other constants too, and on those that name it."""
    found = {m.before: coverage.tests_of(m) for m in mutants_of("shelf.py", SHELF, 0)}
    assert found["5"] == {"test_a.py::a"}
    assert found["2"] == {"test_a.py::a", "test_b.py::b", "test_b.py::c"}
    assert found["3"] == {*found["2"], "test_c.py::c"}


def test_tests_that_name_the_mutant_come_first_then_the_quickest(coverage: Coverage) -> None:
    mutants = {m.before: m for m in mutants_of("shelf.py", SHELF, 0)}
    in_order = ["test_c.py::c", "test_b.py::c", "test_b.py::b", "test_a.py::a"]
    assert coverage.best_tests_of(mutants["3"], 9) == in_order
    assert coverage.best_tests_of(mutants["3"], 3) == [*in_order[:2], in_order[3]], "b takes too long"


def test_logical_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""Doc\n\nstring."""\n\n# Comment\nA = [\n    1,\n]\n"""About A."""\nif A: B = "text"\n')
    assert logical_lines(path) == 2


def test_lines_are_counted_by_folder(tmp_path: Path) -> None:
    for name in ("nodes/a.py", "nodes/host/b.py", "tools/c.py", "other/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("A = 1\n")
    rows = table({"here": count(tmp_path), "there": count(tmp_path / "other")}).splitlines()
    assert [row.split() for row in rows[1:]] == [
        ["nodes", "2", "0"],
        ["host", "1", "0"],
        ["tools", "1", "0"],
        ["all", "3", "0"],
    ]


def test_clips_are_compared_to_the_bit() -> None:
    old = np.zeros(4, np.float32)
    assert difference(old, old.copy()) == ""
    assert difference(old, -old) != "", "zeros of other signs are other bits"
    assert difference(old, np.array([0, 0, 0, 0.5], np.float32)) == "1 of 4 values differ, by 0.5 at most"
    assert difference(old, np.zeros(5, np.float32)) == "float32(4,) became float32(5,)"
    assert difference(old, None) == "only OLD has it"
    found = differences({"a/frames": old, "b/frames": old}, {"a/frames": old, "b/frames": old + 1})
    assert found == {"a": "", "b": "frames: 4 of 4 values differ, by 1 at most"}


class TestHostVersions:
    REPORT = (
        '<testsuites><testsuite tests="9" skipped="2" failures="1" errors="1"/>'
        '<testsuite tests="3" skipped="0" failures="0" errors="0"/></testsuites>'
    )

    def checkout(self, folder: Path, version: str) -> str:
        (folder / version).mkdir()
        (folder / version / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
        return str(folder / version)

    def test_outcomes_are_counted(self) -> None:
        assert counts_in(self.REPORT) == Counts(passed=8, skipped=2, failed=2)

    def test_a_row_for_each_checkout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tried: list[tuple[str, list[str]]] = []

        def run_tests(checkout: Path, tests: list[str]) -> Counts:
            tried.append((checkout.name, tests))
            return Counts(5, 1, failed=int(checkout.name == "0.9.1"))

        monkeypatch.setattr(host_versions, "run_tests", run_tests)
        checkouts = [self.checkout(tmp_path, version) for version in ("0.30.0", "0.9.1")]
        assert host_versions.main([*checkouts, "--", "tests/comfyui/test_install.py"]) == 1
        today = datetime.date.today()
        assert capsys.readouterr().out.splitlines()[2:] == [
            f"| 0.30.0 | {today} | 5 | 1 | 0 |",
            f"| 0.9.1 | {today} | 5 | 1 | 1 |",
        ]
        assert tried == [(name, ["tests/comfyui/test_install.py"]) for name in ("0.30.0", "0.9.1")]
        assert host_versions.main(checkouts[:1]) == 0
        assert tried[-1] == ("0.30.0", ["tests/comfyui"])

    def test_the_host_is_the_checkout(self, tmp_path: Path) -> None:
        """A run of pytest as it is, with tests that look at where the host is to be."""
        test = tmp_path / "test_where.py"
        test.write_text(
            "import os\n"
            "def test_where():\n"
            f"    assert os.environ['COMFYUI_PATH'] == {str(tmp_path)!r}\n"
            "    assert os.environ['DYNAMICRAFTER_REQUIRE_HOST'] == '1'\n"
            "def test_that_fails():\n"
            "    assert False\n",
            encoding="utf-8",
        )
        assert host_versions.run_tests(tmp_path, [str(test), "-q"]) == Counts(1, 0, failed=1)
        assert host_versions.run_tests(tmp_path, [str(tmp_path / "nothing")]) == Counts(0, 0, 0)

    def test_a_folder_without_comfyui_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match=r"is not a ComfyUI checkout: it has no comfyui_version\.py"):
            host_versions.main([str(tmp_path)])
