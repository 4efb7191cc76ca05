"""Where released files are kept, and what is said of those that are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynamicrafter.weights.catalogue import ALL_RELEASES, Release, find
from dynamicrafter.weights.download import local_path, status_rows, weights_folder

UNSIZED = find("512_interp_full")


def put(release: Release, folder: Path) -> Path:
    """A stand-in for the file of a release."""
    path = folder.joinpath(*release.repository.split("/"), release.filename)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def test_status_rows_tell_what_is_there(tmp_path: Path) -> None:
    rows = status_rows(tmp_path)
    assert [release for release, _ in rows] == list(ALL_RELEASES)
    assert {path for _, path in rows} == {None}
    path = put(UNSIZED, tmp_path)
    assert dict(status_rows(tmp_path)) == {release: None for release in ALL_RELEASES} | {UNSIZED: path}


def test_file_of_another_size_is_not_there(tmp_path: Path) -> None:
    put(find("512"), tmp_path)
    assert local_path(find("512"), tmp_path) is None


def test_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    tmp_path.joinpath(*UNSIZED.repository.split("/"), UNSIZED.filename).mkdir(parents=True)
    assert local_path(UNSIZED, tmp_path) is None


def test_weights_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    assert weights_folder() == tmp_path
    assert local_path(UNSIZED) is None
    path = put(UNSIZED, tmp_path)
    assert local_path(UNSIZED) == path


@pytest.mark.parametrize(
    ("platform", "variable", "inside"),
    [("win32", "LOCALAPPDATA", "dynamicrafter"), ("linux", "XDG_CACHE_HOME", "dynamicrafter")],
)
def test_weights_folder_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str, inside: str
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_HOME", "")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert weights_folder() == tmp_path / inside


@pytest.mark.parametrize(
    ("platform", "below"),
    [
        ("win32", ("AppData", "Local")),
        ("darwin", ("Library", "Caches")),
        ("linux", (".cache",)),
    ],
)
def test_weights_folder_without_any_setting_is_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, below: tuple[str, ...]
) -> None:
    for variable in ("DYNAMICRAFTER_HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert weights_folder() == tmp_path.joinpath(*below, "dynamicrafter")
