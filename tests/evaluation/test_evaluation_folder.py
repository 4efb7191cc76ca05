"""Folders and lists of pictures and prompts, and which ready clip belongs to which picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dynamicrafter.errors import UsageError
from dynamicrafter.evaluation.folder import Item, find_clips, match_clips, read_items


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_pictures_with_text_files(tmp_path: Path) -> None:
    touch(tmp_path, "boat.PNG", "cat.jpg", "notes.md", "sea.webp")
    (tmp_path / "boat.txt").write_text("\ufeffa boat\n  rocks \n", encoding="utf-8")
    (tmp_path / "cat.txt").write_text("", encoding="utf-8")
    assert read_items(tmp_path) == [
        Item("boat", tmp_path / "boat.PNG", "a boat rocks", text=tmp_path / "boat.txt"),
        Item("cat", tmp_path / "cat.jpg", text=tmp_path / "cat.txt"),
        Item("sea", tmp_path / "sea.webp"),
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("named", [False, True])
def test_a_list_in_the_folder_or_by_its_name(tmp_path: Path, suffix: str, named: bool) -> None:
    touch(tmp_path, "a.png", "b.png", "in/c.png", "real/a.mp4", "not_listed.png")
    rows = [
        {"picture": "a.png", "prompt": "left, then right", "end": "b.png", "clip": "real/a.mp4"},
        {"picture": "A.png" if (tmp_path / "A.png").exists() else "a.png", "prompt": "up", "end": ""},
        {"picture": "in/c.png", "prompt": ""},
    ]
    listing = tmp_path / (f"mine.{suffix}" if named else f"prompts.{suffix}")
    if suffix == "jsonl":
        listing.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        lines = ['a.png,"left, then right",b.png,real/a.mp4', "a.png,up,,", "in/c.png,,,"]
        listing.write_text("\n".join(["picture,prompt,end,clip", *lines]), encoding="utf-8-sig")
    first, second, third = read_items(listing if named else tmp_path)
    assert first == Item(
        "a", tmp_path / "a.png", "left, then right", tmp_path / "b.png", tmp_path / "real/a.mp4"
    )
    assert (second.name, second.prompt, second.end) == ("a_2", "up", None)
    assert third == Item("c", tmp_path / "in" / "c.png")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "prompts.csv",
            "path,caption\na.png,x\n",
            "needs the columns picture and prompt .*; it has path, cap",
        ),
        ("prompts.csv", "picture,prompt\n", "has no rows"),
        ("prompts.csv", "picture,prompt\n,x\n", "row 1 of .* names no image"),
        (
            "prompts.csv",
            "picture,prompt\na.png,x\nb.png,y\n",
            "row 2 of .* names an image that does not exist",
        ),
        (
            "prompts.csv",
            "picture,prompt,end\na.png,x,b.png\n",
            "row 1 of .* names an end image that does not exist",
        ),
        (
            "prompts.csv",
            "picture,prompt,clip\na.png,x,a.png\n",
            "row 1 of .* names a clip that does not exist",
        ),
        ("prompts.csv", f"picture,prompt\n{'waves ' * 90},a.png\n", "names an image that does not exist"),
        ("prompts.csv", "picture,prompt\na.png,a boat, waves\n", "line 2 of .* more cells .* double quotes"),
        (
            "prompts.csv",
            "picture,prompt\na.png,\xff\n".encode("latin-1"),
            "is not a csv or jsonl file in UTF-8",
        ),
        ("prompts.jsonl", '{"picture": "a.png"', "line 1 of .* is not JSON"),
        ("prompts.jsonl", '["a.png", "x"]', "must be an object with picture and prompt"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        read_items(tmp_path)


def test_folders_with_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder or list .*gone"):
        read_items(tmp_path / "gone")
    with pytest.raises(UsageError, match="contains no images and no prompts.csv or prompts.jsonl"):
        read_items(tmp_path)
    with pytest.raises(UsageError, match="there is no folder or clip .*gone"):
        find_clips(tmp_path / "gone")
    with pytest.raises(UsageError, match="contains no clip; clips are .mp4"):
        find_clips(tmp_path)
    touch(tmp_path, "boat.png")
    with pytest.raises(UsageError, match="boat.png is an image; choose the folder that contains it"):
        read_items(tmp_path / "boat.png")
    (tmp_path / "boat.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="boat.txt is not a UTF-8 text file"):
        read_items(tmp_path)


def test_clips_are_files_and_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.GIF", "notes.txt", "frames/frame_0001.png", "empty/notes.txt")
    assert [clip.name for clip in find_clips(tmp_path)] == ["a.GIF", "b.mp4", "frames"]
    assert find_clips(tmp_path / "b.mp4") == [tmp_path / "b.mp4"]
    assert find_clips(tmp_path / "frames") == [tmp_path / "frames"]


def test_what_macos_keeps_beside_files_is_neither_picture_nor_clip(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "._a.png", "a.mp4", "._a.mp4")
    assert [item.name for item in read_items(tmp_path)] == ["a"]
    assert [clip.name for clip in find_clips(tmp_path)] == ["a.mp4"]


def test_clips_find_their_pictures_by_name(tmp_path: Path) -> None:
    items = [Item(name, tmp_path / f"{name}.png") for name in ("cat", "cat-black", "dog")]
    names = ["cat.mp4", "Cat-2.mp4", "cat-black-animate.webm", "catalogue.mp4", "bird.gif"]
    pairs, notes = match_clips(items, [tmp_path / name for name in names])
    assert [(item.name, clip.name) for item, clip in pairs] == [
        ("cat", "cat.mp4"),
        ("cat", "Cat-2.mp4"),
        ("cat-black", "cat-black-animate.webm"),
    ]
    assert notes == [
        "catalogue.mp4 is skipped: no image has a matching name",
        "bird.gif is skipped: no image has a matching name",
        "dog has no clip",
    ]
    with pytest.raises(UsageError, match="no clip is named after an image"):
        match_clips(items, [tmp_path / "bird.gif"])


def test_rows_of_one_picture_that_have_no_clip_are_told_apart(tmp_path: Path) -> None:
    items = [Item(name, tmp_path / "circle.png") for name in ("circle", "circle_2", "circle_3")]
    _, notes = match_clips(items, [tmp_path / "circle.mp4"])
    assert notes == ["circle_2 has no clip", "circle_3 has no clip"]


def test_a_text_file_is_found_in_capitals_too(tmp_path: Path) -> None:
    touch(tmp_path, "boat.PNG", "cat.png")
    (tmp_path / "boat.TXT").write_text("a boat rocks", encoding="utf-8")
    (tmp_path / "cat.txt").write_text("a cat walks", encoding="utf-8")
    assert [item.prompt for item in read_items(tmp_path)] == ["a boat rocks", "a cat walks"]


def test_a_picture_may_be_an_animation(tmp_path: Path) -> None:
    """.webp is both: what the folder is given for decides."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.webp")
    assert [item.name for item in read_items(tmp_path)] == ["a"]
    assert [clip.name for clip in find_clips(tmp_path)] == ["a.webp"]
