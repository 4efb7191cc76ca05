"""Files and folders that are complete or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicrafter.atomic import check_writable, clear_unfinished, replacing


def make_folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text(name, encoding="utf-8")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_an_older_one_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")
    with replacing(target) as part:
        part.write_text("new", encoding="utf-8")
        assert part.parent.parent == tmp_path
        assert target.read_text(encoding="utf-8") == "old"
    assert target.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_an_older_one_with_all_in_it(tmp_path: Path) -> None:
    target = make_folder(tmp_path / "clip", "old", "older")
    with replacing(target) as part:
        make_folder(part, "new")
    assert names(tmp_path) == ["clip"]
    assert names(target) == ["new"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_what_was_there_stays_when_writing_stops(
    tmp_path: Path, kind: str, stop: type[BaseException]
) -> None:
    target = tmp_path / "a"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(stop), replacing(target) as part:
        if kind == "file":
            part.write_text("half", encoding="utf-8")
        elif kind == "folder":
            make_folder(part, "half")
        raise stop
    assert names(tmp_path) == ["a"]
    assert target.read_text(encoding="utf-8") == "old"


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    target = make_folder(tmp_path / "a.csv", "dear to me")
    with pytest.raises(OSError), replacing(target) as part:
        part.write_text("rows", encoding="utf-8")
    assert names(tmp_path) == ["a.csv"]
    assert names(target) == ["dear to me"]


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    with replacing(target) as part:
        part.touch()
    assert names(tmp_path) == [target.name]


def test_the_place_is_tried_without_touching_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old", encoding="utf-8")
    check_writable(tmp_path / "a")
    assert names(tmp_path) == ["a"]
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "nowhere" / "a")


def test_only_unfinished_files_are_cleared(tmp_path: Path) -> None:
    clear_unfinished(tmp_path / "nowhere")
    make_folder(tmp_path / NAME, "new", "lock")
    make_folder(tmp_path / "folder.part")
    for name in (".0123456789abcde0.part", "state.pt.12.part", "apart", "log.csv"):
        (tmp_path / name).touch()
    with replacing(tmp_path / "state.pt") as part:
        part.touch()
        clear_unfinished(tmp_path)
    assert names(tmp_path) == ["apart", "folder.part", "log.csv", "state.pt"]


# What killed processes leave behind

NAME = ".0123456789abcdef.part"
WRITES = """
import sys
from pathlib import Path
from dynamicrafter.atomic import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def age(folder: Path, days: float) -> None:
    """Make everything hidden in ``folder`` look that old."""
    then = time.time() - days * 86400
    for hidden in folder.glob(".*"):
        for path in (*hidden.rglob("*"), hidden):
            os.utime(path, (then, then))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is writing ``a.txt``."""
    words = [sys.executable, "-c", WRITES, str(tmp_path / "a.txt")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_what_a_killed_process_leaves_is_removed_a_day_later(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    writer.kill()
    writer.wait()
    left = names(tmp_path)
    assert len(left) == 1 and left[0].endswith(".part")
    for days in (0, 0.9):
        age(tmp_path, days)
        check_writable(tmp_path / "b.txt")
        assert names(tmp_path) == left
    age(tmp_path, 1.1)
    check_writable(tmp_path / "b.txt")
    assert names(tmp_path) == []


def test_what_is_in_use_stays_however_old(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    age(tmp_path, 30)
    check_writable(tmp_path / "b.txt")
    clear_unfinished(tmp_path)
    writer.communicate("")
    assert writer.returncode == 0
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "half"


def test_without_locks_the_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError("flock")

    monkeypatch.setattr("filelock.FileLock", unsupported)
    with replacing(tmp_path / "a") as part:
        part.touch()
    make_folder(tmp_path / NAME, "new")
    age(tmp_path, 0.9)
    check_writable(tmp_path / "b")
    assert names(tmp_path) == [NAME, "a"]
    age(tmp_path, 1.1)
    # Written to a moment ago, although the folder itself is old.
    (tmp_path / NAME / "new").touch()
    check_writable(tmp_path / "b")
    assert names(tmp_path) == [NAME, "a"]
    age(tmp_path, 1.1)
    check_writable(tmp_path / "b")
    assert names(tmp_path) == ["a"]


def test_leftovers_of_0_1_0_are_removed_and_similar_names_stay(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    make_folder(tmp_path / ".0123456789abcde0.part", "frame_0001.png")
    others = [".0123456789abcdeg.part", ".0123456789abcdef.part.txt", "0123456789abcdef.part"]
    for name in others:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    age(tmp_path, 2)
    check_writable(tmp_path / "b")
    assert names(tmp_path) == sorted(others)


def test_a_folder_lost_between_the_two_steps_of_its_replacement_comes_back(tmp_path: Path) -> None:
    for number, name in enumerate(("clip", "other")):
        hidden = make_folder(tmp_path / NAME.replace("f", str(number)))
        make_folder(hidden / "replaced")
        make_folder(hidden / "replaced" / name, "old")
    make_folder(tmp_path / "other", "new")
    age(tmp_path, 2)
    check_writable(tmp_path / "b")
    assert names(tmp_path) == ["clip", "other"]
    assert (names(tmp_path / "clip"), names(tmp_path / "other")) == (["old"], ["new"])


# Several processes

REPLACES = """
import sys
from pathlib import Path
from dynamicrafter.atomic import replacing
sys.stdin.readline()
for number in range(40):
    with replacing(Path(sys.argv[1])) as part:
        part.mkdir()
        for name in "abc":
            (part / name).touch()
"""


def test_four_processes_may_replace_one_folder(tmp_path: Path) -> None:
    words = [sys.executable, "-c", REPLACES, str(tmp_path / "clip")]
    processes = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    # All start to write when all have been started.
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert names(tmp_path) == ["clip"]
    assert names(tmp_path / "clip") == ["a", "b", "c"]


def test_a_folder_that_another_process_puts_there_first_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_folder(tmp_path / "clip", "old")
    rename, others = Path.rename, iter(["theirs", "theirs too"])

    def after_another(self: Path, to: Path) -> Path:
        if self.name == "new" and (name := next(others, None)):
            make_folder(target, name)
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", after_another)
    with replacing(target) as part:
        make_folder(part, "ours")
    assert names(tmp_path) == ["clip"]
    assert names(target) == ["ours"]


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "clip").write_text("mine", encoding="utf-8")
    with pytest.raises(OSError), replacing(tmp_path / "clip") as part:
        make_folder(part, "new")
    assert names(tmp_path) == ["clip"]
    assert (tmp_path / "clip").read_text(encoding="utf-8") == "mine"
