"""``again`` gives the same clip once more, or says what is missing for it."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import QUICK, Run, paint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dynamicrafter.api import find_model
from dynamicrafter.cli import again
from dynamicrafter.cli.again import times_usual
from dynamicrafter.hashing import file_sha256
from dynamicrafter.media.video import read_frames, read_metadata, write_clip
from dynamicrafter.model.variants import V512, VARIANTS
from dynamicrafter.records import KnownFile
from dynamicrafter.settings import make_settings
from dynamicrafter.weights.formats.files import tensors_sha256

QUICKEST = (*QUICK, "--frames", "2")
"""Options of clips that matter by their record alone."""

TINY_OF_0_1_0 = "f084685614e795a076472c03f5596dc7b29b629c652c9173e6d1898af1296ba2"
"""SHA-256 of the file, whose metadata had no preview colours."""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image in the folder the command runs in."""
    (tmp_path / "here").mkdir(exist_ok=True)
    return paint(tmp_path / "here" / "boat.png", 100, 80)


@pytest.fixture(scope="module")
def kept_clip() -> list[bytes]:
    """The clip of most tests, once one of them has made it."""
    return []


@pytest.fixture
def clip(run: Run, picture: Path, kept_clip: list[bytes]) -> Path:
    """A clip in the folder the command runs in."""
    if not kept_clip:
        ran = run("animate", picture, *QUICKEST, "--prompt", "a boat", "--seed", "9", "--output", "clip.mp4")
        assert ran.code == 0, ran.err
        kept_clip.append(Path("clip.mp4").read_bytes())
    Path("clip.mp4").write_bytes(kept_clip[0])
    return Path("clip.mp4").resolve()


def with_record(clip: Path, target: Path, change: Callable[[Any], object]) -> Path:
    """A copy of a clip with another record."""
    record = read_metadata(clip)
    change(record)
    return write_clip(read_frames(clip), target, 8, record)


def as_in_0_1_0(clip: Path, target: Path, picture: Path, weights: Path | None = None) -> Path:
    """A copy of a clip that names paths."""

    def change(record: Any) -> None:
        record["pictures"][0]["file"] = str(picture)
        if weights is not None:
            record["model"]["weights"]["file"] = record["model"]["asked"] = str(weights)

    return with_record(clip, target, change)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip", "clip.v2/"])
def test_the_clip_is_the_same(run: Run, picture: Path, name: str) -> None:
    options = *QUICK, "--frames", "2", "--seed", "9", "--eta", "0.5", "--dtype", "bf16", "--fps", "7.5"
    run("animate", picture, *options, "--output", name)
    ran = run("again", name, "--quiet")
    assert ran.code == 0, ran.err
    (new,) = [path for path in Path.cwd().iterdir() if "-again" in path.name]
    assert torch.equal(read_frames(new), read_frames(Path(name)))
    assert read_metadata(new) == read_metadata(Path(name))


def test_every_kind_of_clip_can_be_repeated(run: Run, picture: Path) -> None:
    other = paint(picture.with_name("other.png"), 80, 100)
    for command, pictures in (("loop", [picture]), ("interpolate", [picture, other])):
        run(command, *pictures, *QUICK, "--output", f"{command}.webp")
        ran = run("again", f"{command}.webp", "--json")
        assert torch.equal(read_frames(ran.json["clips"][0]["output"]), read_frames(Path(f"{command}.webp")))


def test_the_command_says_what_it_will_do(run: Run, clip: Path, picture: Path) -> None:
    ran = run("again", clip, "--quiet")
    again = clip.with_name("clip-again.mp4")
    assert ran.err == (
        f"{again}: 64x64, 2 frame(s) at 8 fps, 1 steps, seed 9, from {picture}\n"
        f"model: small, from {find_model('random').weights}\n"
    )
    assert run("again", clip, "--json").err == ""


def test_the_output_may_be_of_another_kind(run: Run, clip: Path) -> None:
    ran = run("again", clip, "--quiet", "--output", "more.gif")
    assert ran.code == 0, ran.err
    assert read_frames("more.gif").shape == read_frames(clip).shape


# What a clip says


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip"])
def test_a_clip_tells_nothing_about_the_disk(
    run: Run, picture: Path, tmp_path: Path, wide_weights: Path, name: str
) -> None:
    weights = Path(shutil.copy2(wide_weights, tmp_path / "weights.safetensors"))
    ran = run("animate", picture, *QUICKEST, "--model", weights, "--output", name)
    assert ran.code == 0, ran.err
    record = read_metadata(Path(name))
    assert [known["file"] for known in record["pictures"]] == ["boat.png"]
    assert (record["model"]["weights"]["file"], record["model"]["asked"]) == ("weights.safetensors",) * 2
    written = [path for path in (Path(name), *Path(name).rglob("*")) if path.is_file()]
    for folder in (tmp_path, weights.parent, Path.home(), Path.cwd()):
        told = [path for path in written if str(folder).encode() in path.read_bytes()]
        assert told == [], folder


# Pictures


def test_a_changed_picture_is_refused(run: Run, clip: Path, picture: Path) -> None:
    paint(picture, 100, 80, hue=1)
    ran = run("again", clip)
    assert ran.code == 1
    assert ran.err == (
        f"dynamicrafter: {picture} is not the clip's image (its contents differ); pass --picture FILE for every "
        f"image\n"
    )


def test_a_picture_that_is_gone_is_asked_for(run: Run, clip: Path, picture: Path, tmp_path: Path) -> None:
    moved = picture.rename(tmp_path / "moved.png")
    ran = run("again", clip)
    assert (ran.code, ran.err) == (
        1,
        f"dynamicrafter: the clip's image boat.png was not found in {clip.parent}; pass --picture FILE for every "
        f"image\n",
    )
    ran = run("again", clip, "--picture", "gone.png")
    assert ran.err == "dynamicrafter: there is no image gone.png; pass --picture FILE for every image\n"
    assert run("again", clip, "--quiet", "--picture", moved).code == 0


def test_a_picture_is_found_beside_the_clip_and_in_the_current_folder(
    run: Run, clip: Path, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = clip.rename(tmp_path / "elsewhere" / clip.name)
    assert run("again", moved, "--quiet").code == 0
    picture.rename(moved.with_name(picture.name))
    assert run("again", moved, "--quiet").code == 0


def test_among_pictures_of_one_name_the_hash_decides(
    run: Run, clip: Path, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = clip.rename(tmp_path / "elsewhere" / clip.name)
    paint(moved.with_name(picture.name), 100, 80, hue=1)
    ran = run("again", moved, "--quiet")
    assert ran.code == 0, ran.err
    assert f"from {picture}\n" in ran.err


def test_two_pictures_of_one_name_are_told_apart(run: Run, tmp_path: Path) -> None:
    pictures: list[Path] = []
    for hue, folder in enumerate(("here", "elsewhere")):
        (tmp_path / folder).mkdir(exist_ok=True)
        pictures.append(paint(tmp_path / folder / "boat.png", 100, 80, hue=hue))
    made = tmp_path / "elsewhere" / "clip"
    assert run("interpolate", *pictures, *QUICKEST, "--output", made).code == 0
    ran = run("again", made, "--output", "again", "--quiet")
    assert f"from {pictures[0]} and {pictures[1]}\n" in ran.err
    assert torch.equal(read_frames("again"), read_frames(made))


def test_a_picture_at_the_path_that_an_old_clip_names_is_found(
    run: Run, clip: Path, picture: Path, tmp_path: Path
) -> None:
    moved = picture.rename(tmp_path / "moved.png")
    old = as_in_0_1_0(clip, Path("old.mp4"), moved)
    assert run("again", old, "--quiet", "--output", "new.mp4").code == 0
    assert read_metadata(Path("new.mp4"))["pictures"][0]["file"] == "moved.png"
    paint(moved, 100, 80, hue=1)
    assert f"{moved} is not the clip's image (its contents differ)" in run("again", old).err


@pytest.mark.parametrize(
    ("file", "absolute"),
    [
        ("boat.png", False),
        ("../boat.png", False),
        ("pictures/boat.png", False),
        ("C:\\pictures\\boat.png", False),
        ("//server/share/boat.png", False),
        ("\\\\server\\share\\boat.png", False),
        ("/pictures/boat.png", True),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="other paths are absolute there")
def test_where_a_recorded_file_is_looked_for(tmp_path: Path, file: str, absolute: bool) -> None:
    places = KnownFile(file, "").places([tmp_path])
    assert places[-1] == (Path(file) if absolute else tmp_path / "boat.png")
    assert all(place.parent == tmp_path for place in places[: len(places) - absolute])


@pytest.mark.parametrize("file", ["", ".", "..", "/", "a/..", "\\"])
def test_a_folder_is_no_recorded_file(tmp_path: Path, file: str) -> None:
    assert all(
        place.name not in ("", "..") for place in KnownFile(file, "").places([tmp_path]) if file != "/"
    )


def test_the_number_of_pictures_is_that_of_the_clip(run: Run, clip: Path, picture: Path) -> None:
    ran = run("again", clip, "--picture", picture, "--picture", picture)
    assert ran.code == 2
    assert ran.err == (
        "dynamicrafter: the clip was made from 1 image(s), but 2 were given; pass --picture FILE for every image\n"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", ["boat.png", "weights.safetensors", "clip.mp4", "clip.json"])
def test_a_pipe_is_never_opened(
    run: Run, picture: Path, tmp_path: Path, wide_weights: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    weights = Path(shutil.copy2(wide_weights, tmp_path / "here" / "weights.safetensors"))
    made = "clip" if name == "clip.json" else "clip.mp4"
    assert run("animate", picture, *QUICKEST, "--model", weights, "--output", made).code == 0
    place = Path(made, name) if name == "clip.json" else Path(name)
    place.unlink()
    os.mkfifo(place)
    opened = os.open

    def never(path: Any, *more: Any, **choices: Any) -> int:
        assert os.path.basename(str(path)) != name
        return opened(path, *more, **choices)

    monkeypatch.setattr(os, "open", never)
    with ending_after(seconds=60):
        ran = run("again", made)
    assert ran.code == 1
    assert "is not a regular file; " in ran.err or name == "clip.json"
    assert "contains no settings; " in ran.err or name != "clip.json"
    with ending_after(seconds=60):
        assert "is not a regular file; " in run("again", made, "--picture", place).err or name != "boat.png"


@contextmanager
def ending_after(seconds: int) -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# Weights


def test_weights_that_are_gone_are_asked_for(
    run: Run, clip: Path, picture: Path, home: Path, random_weights: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copy2(random_weights, "weights.safetensors"))
    run("animate", picture, *QUICKEST, "--model", weights, "--output", "clip.mp4")
    moved = weights.rename(tmp_path / "moved.safetensors")
    ran = run("again", "clip.mp4")
    assert (ran.code, ran.err) == (
        1,
        f"dynamicrafter: the clip's weights file weights.safetensors was not found in {clip.parent}, {home}; specify "
        f"it with --model NAME or FILE\n",
    )
    assert run("again", "clip.mp4", "--quiet", "--model", moved).code == 0


def test_changed_weights_are_refused(
    run: Run, picture: Path, random_weights: Path, wide_weights: Path
) -> None:
    weights = Path(shutil.copy2(random_weights, "weights.safetensors")).resolve()
    run("animate", picture, *QUICKEST, "--model", weights, "--output", "clip.mp4")
    told = f"dynamicrafter: {weights} is not the clip's weights file ({{}}); specify it with --model NAME or FILE\n"
    shutil.copy2(wide_weights, weights)
    ran = run("again", "clip.mp4")
    assert (ran.code, ran.err) == (1, told.format("its contents differ"))
    weights.write_text("no weights")
    ran = run("again", "clip.mp4")
    assert (ran.code, ran.err) == (1, told.format("it cannot be read as weights"))


@pytest.mark.parametrize("place", ["beside the clip", "current folder", "weights folder", "old path"])
def test_weights_are_found_by_their_name(
    run: Run,
    picture: Path,
    tmp_path: Path,
    wide_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    home, beside = tmp_path / "home", tmp_path / "beside"
    for folder in (home, beside):
        folder.mkdir()
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(home))
    weights = Path(shutil.copy2(wide_weights, tmp_path / "weights.safetensors"))
    made = beside / "clip.mp4"
    assert run("animate", picture, *QUICKEST, "--model", weights, "--output", made).code == 0
    if place == "old path":
        made = as_in_0_1_0(made, beside / "old.mp4", picture, weights)
    else:
        folders = {"beside the clip": beside, "current folder": Path.cwd(), "weights folder": home}
        weights = weights.rename(folders[place] / weights.name)
    ran = run("again", made, "--quiet")
    assert ran.code == 0, ran.err
    assert f"from {weights}\n" in ran.err


def test_a_model_that_is_not_downloaded_is_named(run: Run, clip: Path) -> None:
    def change(record: Any) -> None:
        record["model"]["asked"] = "512"
        record["model"]["weights"]["file"] = "gone.safetensors"

    ran = run("again", with_record(clip, Path("other.mp4"), change))
    assert ran.code == 1
    assert ran.err == (
        "dynamicrafter: the files of 512 are not downloaded; download them with 'dynamicrafter download 512'\n"
    )


def test_only_names_lead_to_a_model(run: Run, clip: Path, tmp_path: Path, wide_weights: Path) -> None:
    """Whatever a clip says was typed, no path in it is followed."""
    weights = shutil.copy2(wide_weights, tmp_path / "weights.safetensors")

    def change(record: Any) -> None:
        record["model"]["asked"] = str(weights)
        record["model"]["weights"].update(file="gone.safetensors", sha256=tensors_sha256(weights))

    assert (
        "weights file gone.safetensors was not found"
        in run("again", with_record(clip, Path("other.mp4"), change)).err
    )


def with_metadata(source: Path, target: Path) -> Path:
    """A copy of a weights file with one more line of metadata."""
    with safe_open(source, "pt") as file:
        save_file(load_file(source), target, {**file.metadata(), "more": "text"})
    assert target.stat().st_size != source.stat().st_size
    return target


def known_by_bytes(clip: Path, weights: Path, sha256: str) -> Path:
    """The clip as 0.1.0 wrote it, which knew weights by the hash of the file."""
    record = read_metadata(clip)
    record["model"]["weights"] = {"file": str(weights), "sha256": sha256}
    return write_clip(read_frames(clip), clip.with_name(f"old-{clip.name}"), 8, record)


def test_other_metadata_does_not_make_other_weights(run: Run, picture: Path, random_weights: Path) -> None:
    weights = Path(shutil.copy2(random_weights, "weights.safetensors"))
    run("animate", picture, *QUICK, "--model", weights, "--output", "clip.mp4")
    with_metadata(random_weights, weights)
    assert run("again", "clip.mp4", "--quiet").code == 0
    assert torch.equal(read_frames("clip-again.mp4"), read_frames("clip.mp4"))


def test_weights_known_by_their_bytes_are_compared_by_them(
    run: Run, picture: Path, tmp_path: Path, wide_weights: Path
) -> None:
    weights = Path(shutil.copy2(wide_weights, tmp_path / "weights.safetensors"))
    run("animate", picture, *QUICK, "--model", weights, "--output", "clip.mp4")
    clip = known_by_bytes(Path("clip.mp4"), weights, file_sha256(weights))
    assert run("again", clip, "--quiet").code == 0
    with_metadata(wide_weights, weights)
    assert "is not the clip's weights file (its contents differ)" in run("again", clip).err


def test_old_clips_of_the_built_in_model_survive_a_change_of_its_metadata(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = find_model("tiny").weights
    assert file_sha256(tiny) != TINY_OF_0_1_0
    run("animate", picture, *QUICK, "--model", "tiny", "--output", "clip.mp4")
    clip = known_by_bytes(Path("clip.mp4"), tmp_path / "gone.safetensors", TINY_OF_0_1_0)
    monkeypatch.setattr("dynamicrafter.api._TINY_WEIGHTS", with_metadata(tiny, tmp_path / "tiny.safetensors"))
    ran = run("again", clip, "--quiet", "--output", "again.mp4")
    assert ran.code == 0, ran.err
    assert torch.equal(read_frames("again.mp4"), read_frames("clip.mp4"))


def test_a_named_model_is_found_in_another_weights_folder(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine, or after the folder was moved."""
    record = read_metadata(clip)
    record["model"]["weights"]["file"] = "C:\\weights\\random.safetensors"
    record["pictures"][0]["file"] = "C:\\pictures\\boat.png"
    frames = read_frames(clip)
    moved = write_clip(frames, tmp_path / "moved.mp4", 8, record)
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path / "another home"))
    ran = run("again", moved, "--output", "clip", "--quiet")
    assert ran.code == 0, ran.err
    run("again", clip, "--output", "original", "--quiet")
    assert torch.equal(read_frames("clip"), read_frames("original"))


def test_details_of_a_model_need_the_model(run: Run, clip: Path) -> None:
    ran = run("again", clip, "--variant", "512_v1")
    assert ran.code == 2
    assert ran.err == (
        "dynamicrafter: --variant, --text-encoder, --image-encoder and --lora require --model; "
        "specify it as well\n"
    )


# Far more than usual


def costly(clip: Path, **settings: Any) -> Path:
    changes = {"width": 128, "height": 128, "frames": 20, **settings}
    return with_record(clip, Path("costly.mp4"), lambda record: record["settings"].update(changes))


def test_far_more_than_usual_needs_a_yes(run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("again", costly(clip))
    assert ran.code == 2
    plan, _, told = ran.err.splitlines()
    assert "128x128, 20 frame(s) at 8 fps, 1 steps" in plan
    assert told == (
        f"dynamicrafter: {clip.with_name('costly.mp4')} takes 5 times the work of a clip with the model's default "
        f"settings; pass --yes to generate it all the same"
    )
    assert run("again", "costly.mp4", "--json").json["kind"] == "usage"
    # What is made then takes less here.
    monkeypatch.setattr(again, "_USUAL", 0.001)
    assert run("again", clip).code == 2
    assert run("again", clip, "--yes", "--quiet").code == 0
    assert torch.equal(read_frames("clip-again.mp4"), read_frames(clip))


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 130), ("\n", 130), ("", 130)])
def test_somebody_at_a_terminal_is_asked(
    run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    answers = io.StringIO(answer)
    monkeypatch.setattr(answers, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", answers)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(again, "_USUAL", 0.001)
    ran = run("again", clip, "--quiet")
    assert ran.code == code, ran.err
    assert "times the work of a clip with the model's default settings. Generate it? [y/N] " in ran.err
    assert Path("clip-again.mp4").exists() == (code == 0)
    assert ("cancelled; nothing was written" in ran.err) == (code != 0)


def test_what_is_usual_depends_on_the_model() -> None:
    preset = V512.preset
    usual = make_settings(V512, "animate")
    assert times_usual(usual, V512) == 1
    assert times_usual(replace(usual, frames=4 * preset.frames, steps=1), V512) == 4
    assert times_usual(replace(usual, frames=2 * preset.frames, steps=3 * preset.steps), V512) == 6
    assert times_usual(replace(usual, frames=64, length_method="windows", overlap=15), V512) == 49
    assert times_usual(replace(usual, stg_scale=1.0), V512) == 1.5
    sizes = [known.preset for known in VARIANTS.values()]
    largest = max(one.width * one.height * one.frames for one in sizes)
    largest /= preset.width * preset.height * preset.frames
    boundless = replace(V512, preset=replace(preset, width=4096, height=4096, frames=1024, steps=1000))
    assert times_usual(usual, boundless) == pytest.approx(1 / largest)
    assert times_usual(make_settings(boundless, "animate"), boundless) > 10_000


# Other files


def test_a_file_that_is_no_clip_is_refused(run: Run, picture: Path) -> None:
    for name, message in (("gone.mp4", "there is no clip "), (picture, f"{picture} is not a clip; ")):
        ran = run("again", name)
        assert ran.code == 1
        assert ran.err.startswith(f"dynamicrafter: {message}")


DAMAGED = "; it is damaged, write it again"
UNTOLD = "{} has no record of how it was made; choose a clip that the dynamicrafter command has written"
AN_OBJECT = "an object"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": "another"}, UNTOLD),
        ({"program": None}, UNTOLD),
        ({"model": None}, UNTOLD),
        ({"pictures": None}, f"the record in {{}} must contain pictures{DAMAGED}"),
        (
            {"pictures": ["boat.png"]},
            f"pictures in the record in {{}} must be a list, each {AN_OBJECT}, not ['boat.png']{DAMAGED}",
        ),
        (
            {"pictures": []},
            f"pictures in the record in {{}} must be a list of 1 to animate, not of 0{DAMAGED}",
        ),
        (
            {"pictures": [{"file": "boat.png", "sha256": ""}] * 2},
            f"pictures in the record in {{}} must be a list of 1 to animate, not of 2{DAMAGED}",
        ),
        ({"model": "random"}, f"model in the record in {{}} must be {AN_OBJECT}, not 'random'{DAMAGED}"),
    ],
)
def test_a_clip_with_another_record_is_refused(
    run: Run, clip: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    record = {key: value for key, value in {**read_metadata(clip), **changes}.items() if value is not None}
    changed = write_clip(read_frames(clip), tmp_path / "changed.webp", 8, record)
    ran = run("again", changed)
    assert (ran.code, ran.err) == (1, f"dynamicrafter: {message.format(changed)}\n")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "mood",
            "calm",
            r"settings\.mood, which this version \(.*\) does not know; it was written by version 0\.9\.0, use",
        ),
        (
            "steps",
            "many",
            r"settings\.steps in the record in .* must be an integer, not 'many'; it is damaged",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    run: Run, clip: Path, tmp_path: Path, name: str, value: str, message: str
) -> None:
    record = read_metadata(clip)
    record["version"] = "0.9.0"
    record["settings"][name] = value
    changed = write_clip(read_frames(clip), tmp_path / "changed.webp", 8, record)
    ran = run("again", changed)
    assert ran.code == 1
    assert re.search(message, ran.err)


def test_an_interpolation_of_one_picture_is_refused(run: Run, clip: Path) -> None:
    changed = with_record(
        clip, Path("changed.webp"), lambda record: record["settings"].update(mode="interpolate")
    )
    assert (
        f"pictures in the record in {changed.name} must be a list of 2 to interpolate, not of 1{DAMAGED}"
        in run("again", changed.name).err
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"settings": {"steps": 0}},
            r"the record in .*changed cannot be used: steps must be 1 to 1000, but 0 was given",
        ),
        ({"settings": {"cfg": 1e308}}, r"cannot be used: cfg must be "),
        ({"settings": {"sampler": "\x1b[2J"}}, r"cannot be used: sampler must be "),
        ({"model": {"dtype": "float99"}}, r"dtype must be auto, .*, not 'float99'"),
        ({"model": {"variant": "none"}}, r"variant"),
        (
            {"pictures": {"file": "n" * 5000}},
            r"the clip's image n{200}\.\.\. was not found in ",
        ),
        ({"pictures": {"file": "/" * 5000 + "boat.pn"}}, r"the clip's image /{200}\.\.\. was not found in "),
        ({"pictures": {"file": "a\0b"}}, r"the clip's image a\\x00b was not found in "),
        ({"pictures": {"file": "\x1b[2J\n"}}, r"the clip's image \\x1b\[2J\\n was not found in "),
        ({"pictures": {"file": "\ud800"}}, r"the clip's image \\ud800 was not found in "),
        ({"pictures": {"file": ".."}}, r"the clip's image \.\. was not found in any folder; "),
        ({"pictures": {"sha256": "0" * 64}}, r"boat\.png is not the clip's image \(its contents differ\)"),
    ],
)
def test_values_that_cannot_be_used_are_refused_in_a_sentence(
    run: Run, clip: Path, change: dict[str, Any], message: str
) -> None:
    def changed(record: Any) -> None:
        for part, values in change.items():
            (record[part][0] if part == "pictures" else record[part]).update(values)

    ran = run("again", with_record(clip, Path("changed"), changed))
    assert ran.code in (1, 2)
    assert ran.err.startswith("dynamicrafter: ") and ran.err.count("\n") == 1 and "\x1b" not in ran.err
    assert re.search(message, ran.err), ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_in_a_circle_are_told(run: Run, clip: Path) -> None:
    Path("loop.mp4").symlink_to("loop.mp4")
    ran = run("again", "loop.mp4")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert re.search(r"loop\.mp4 cannot be read \(.*\); |there is no clip .*loop\.mp4; ", ran.err)
    ran = run("again", clip, "--output", "loop.mp4")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert re.search(r"loop\.mp4 (cannot be|could not be) written: .*; try another folder or format", ran.err)
    assert run("animate", "loop.mp4").err.startswith("dynamicrafter: there is no image loop.mp4; ")
    ran = run("again", clip, "--picture", "loop.mp4")
    assert ran.err == "dynamicrafter: there is no image loop.mp4; pass --picture FILE for every image\n"
