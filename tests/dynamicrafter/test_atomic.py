"""Files and folders that are complete or not there."""

from __future__ import annotations

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
        assert part.parent == tmp_path
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
    with replacing(tmp_path / "state.pt") as part:
        unfinished = part.name
        part.touch()
    for name in (unfinished, "state.pt.12.part", "apart", "log.csv"):
        (tmp_path / name).touch()
    (tmp_path / "folder.part").mkdir()
    clear_unfinished(tmp_path)
    assert names(tmp_path) == ["apart", "folder.part", "log.csv", "state.pt"]
