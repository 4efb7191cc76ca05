"""evaluate from the shell's point of view: a folder of pictures, ready clips, and the toy world with several seeds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from dynamicrafter.api import find_model, load
from dynamicrafter.cli import main
from dynamicrafter.errors import Cancelled
from dynamicrafter.media.video import write_clip
from dynamicrafter.model.variants import VARIANTS
from dynamicrafter.toy.hops import measure_hops
from dynamicrafter.weights.catalogue import find

Call = Callable[..., tuple[int, str, str]]
QUICK = ("--steps", "1", "--frames", "3", "--cfg", "1", "--device", "cpu", "--plain")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def called(*words: object) -> tuple[int, str, str]:
        code = main(["evaluate", *(str(word) for word in words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return called


@pytest.fixture
def folder(tmp_path: Path, soft_frames: Tensor) -> Path:
    """Two pictures, one of them with an end, and a list of them."""
    place = tmp_path / "pictures"
    place.mkdir()
    for name, index in (("boat", 0), ("cat", 5), ("cat_end", 11)):
        Image.fromarray(soft_frames[index].numpy()).save(place / f"{name}.png")
    lines = ["picture,prompt,end", "boat.png,waves,", "cat.png,a cat walks,cat_end.png"]
    (place / "prompts.csv").write_text("\n".join(lines), encoding="utf-8")
    return place


@pytest.fixture
def clips(tmp_path: Path, soft_frames: Tensor) -> Path:
    """A moving clip of the boat, a frozen one, and a broken one."""
    place = tmp_path / "clips"
    place.mkdir()
    write_clip(soft_frames, place / "boat-moving", 8, {"settings": {"prompt": "from the file", "seed": 7}})
    write_clip(soft_frames[:1].repeat(12, 1, 1, 1), place / "boat-still", 8, {})
    (place / "cat.mp4").write_bytes(b"broken")
    return place


def test_prompts_that_are_cut_are_told(call: Call, folder: Path, small_weights: Path) -> None:
    (folder / "prompts.csv").write_text(
        f"picture,prompt\nboat.png,waves\ncat.png,{'a cat walks ' * 30}", "utf-8"
    )
    words = ("folder", folder, "--model", small_weights, *QUICK, "--plain", "--negative", "blur " * 80)
    notes = [
        "the negative prompt has 80 tokens and is truncated to the first 75",
        "cat: the prompt has 90 tokens and is truncated to the first 75",
    ]
    code, out, _ = call(*words, "--json")
    assert (code, json.loads(out)["notes"]) == (0, notes)
    code, out, _ = call(*words)
    assert out.splitlines()[-2:] == notes


def test_pictures_are_animated_and_measured(call: Call, folder: Path, small_weights: Path) -> None:
    words = ("folder", folder, "--model", small_weights, *QUICK, "--seed", "1,2", "--batch", "2", "--json")
    code, out, err = call(*words, "--csv", "rows.csv", "--keep", "kept")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["model"] == str(small_weights)
    assert [(clip["clip"], clip["seed"], clip["prompt"]) for clip in told["clips"]] == [
        ("boat", 1, "waves"),
        ("boat", 2, "waves"),
        ("cat", 1, "a cat walks"),
        ("cat", 2, "a cat walks"),
    ]
    assert told["figures"]["first frame to the picture, dB"]["clips"] == 4
    assert told["figures"]["last frame to the end picture, dB"]["clips"] == 2
    assert told["not_measured"] == told["notes"] == []
    assert [Path(path).name for path in told["kept"]] == [
        "boat-seed1.mp4",
        "boat-seed2.mp4",
        "cat-seed1.mp4",
        "cat-seed2.mp4",
    ]
    with Path(told["csv"]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["clip"], row["seed"]) for row in rows] == [
        ("boat", "1"),
        ("boat", "2"),
        ("cat", "1"),
        ("cat", "2"),
    ]
    assert rows[0]["last frame to the end picture, dB"] == ""
    for row, clip in zip(rows, told["clips"], strict=True):
        name = "flow, pixels per frame"
        assert float(row[name]) == clip["figures"][name]
    # What was kept is measured again without the model, and found by its name.
    code, out, _ = call("videos", "kept", "--prompts", folder, "--plain", "--json")
    again = json.loads(out)
    assert (code, again["model"], again["notes"]) == (0, None, [])
    assert [(clip["clip"], clip["seed"]) for clip in again["clips"]] == [
        ("boat-seed1", 1),
        ("boat-seed2", 2),
        ("cat-seed1", 1),
        ("cat-seed2", 2),
    ]


def test_loops_are_measured(call: Call, folder: Path, small_weights: Path) -> None:
    code, out, _ = call("folder", folder, "--model", small_weights, *QUICK, "--loop", "--json")
    told = json.loads(out)
    assert code == 0
    assert "last frame to the end picture, dB" not in told["figures"]
    assert told["figures"]["last to first over the median step, ratio"]["clips"] == 2


def test_ready_clips_are_told_apart(call: Call, folder: Path, clips: Path) -> None:
    code, out, err = call("videos", clips, "--prompts", folder, "--plain", "--quiet", "--csv", "rows.csv")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["metric", "mean", "std", "clips"]
    assert any(line.startswith("flow, pixels per frame") and line.endswith(" 2") for line in lines)
    assert "cat.mp4 is skipped" in lines[-1] and len([line for line in lines if "is skipped" in line]) == 1
    with Path("rows.csv").open(encoding="utf-8", newline="") as file:
        moving, still = csv.DictReader(file)
    assert (moving["clip"], moving["seed"], moving["prompt"]) == ("boat-moving", "7", "waves")
    assert float(moving["first frame to the picture, dB"]) > 100
    assert float(moving["flow, pixels per frame"]) == pytest.approx(2, abs=0.4)
    assert float(still["flow, pixels per frame"]) == 0
    assert still["difference explained by motion, share"] == ""


def test_clips_alone_need_neither_pictures_nor_a_model(call: Call, clips: Path) -> None:
    code, out, _ = call("videos", clips / "boat-moving", "--plain", "--json")
    told = json.loads(out)
    assert code == 0
    (clip,) = told["clips"]
    assert (clip["clip"], clip["prompt"], clip["seed"]) == ("boat-moving", "from the file", 7)
    assert "first frame to the picture, dB" not in clip["figures"]
    assert clip["figures"]["flow, pixels per frame"] > 1


def test_without_weights_each_learned_measure_has_its_line(
    call: Call, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lpips", "torchmetrics", "dreamsim"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    code, out, _ = call("videos", clips / "boat-still", "--real", clips / "boat-moving", "--quiet")
    assert code == 0
    lines = [line for line in out.splitlines() if ": not measured, needs " in line]
    assert [line.partition(":")[0] for line in lines] == ["LPIPS", "CLIP score", "PIC", "FVD and KVD"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("folder", "gone"), "there is no folder or list gone"),
        (("videos", "gone"), "there is no folder or clip gone"),
        (("videos", "clips", "--prompts", "gone"), "there is no folder or list gone"),
        (
            ("toy", "--real", "gone"),
            "unrecognized arguments: --real gone; see 'dynamicrafter evaluate toy --help'",
        ),
        (("toy", "--dtype", "fp16"), "unrecognized arguments: --dtype fp16"),
        (
            ("folder", "pictures", "--scales"),
            "unrecognized arguments: --scales; see 'dynamicrafter evaluate f",
        ),
        (
            ("videos", "clips", "--steps", "3"),
            "unrecognized arguments: --steps 3; see 'dynamicrafter evaluat",
        ),
        (("videos", "clips", "--keep", "kept"), "unrecognized arguments: --keep kept"),
        (
            ("toy", "--scales", "--cfg", "0"),
            "--scales sets the guidance scales itself, but --cfg 0 was given",
        ),
        (("toy", "--scales", "--hops"), "not allowed with argument --scales"),
        (("folder", "pictures", "--csv", "no/rows.csv"), "cannot be a csv file"),
        (("folder", "pictures", "--batch", "0"), "batch must be at least 1"),
        (("folder", "pictures", "--steps", "0"), "steps must be 1 to 1000"),
        (("folder", "pictures", "--plain", "--size", "65x64"), "width must be a multiple of 64"),
        (
            ("folder", "pictures", "--plain", "--real", "clips"),
            "--real is for learned metrics, but --plain skips them",
        ),
        (
            ("videos", "clips", "--plain", "--fetch"),
            "--fetch is for learned metrics, but --plain skips them",
        ),
        (
            ("folder", "pictures", "--csv", "pictures/prompts.csv"),
            "is the list of images and prompts; choose another name",
        ),
        (
            ("folder", "pictures/prompts.csv", "--csv", "pictures/prompts.csv"),
            "is the list of images and prompts",
        ),
        (
            ("videos", "clips", "--prompts", "pictures", "--csv", "pictures/prompts.csv"),
            "is the list of images and prompts",
        ),
        (("folder", "pictures", "--keep", "kept", "--steps", "0"), "steps must be 1 to 1000"),
        (("folder", "pictures", "--i3d", "no.pt"), "there is no file no.pt"),
    ],
)
def test_wrong_usage_is_told_before_the_long_work(
    call: Call, folder: Path, clips: Path, words: tuple[str, ...], message: str
) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not Path("kept").exists()
    assert (folder / "prompts.csv").read_text(encoding="utf-8").startswith("picture,prompt,end")


@pytest.mark.parametrize(
    "words", [(), ("--hops",), ("pictures",), ("--clips", "clips"), ("pictures", "--clips", "clips")]
)
def test_a_missing_or_unknown_subject_is_told_with_those_there_are(
    call: Call, folder: Path, clips: Path, words: tuple[str, ...]
) -> None:
    """As in the command of version 0.1, which had no subcommands."""
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.endswith(
        "; use 'evaluate toy', 'evaluate person', 'evaluate folder FOLDER' or 'evaluate videos PATH'\n"
    )


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that begins is a failure."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it has begun")

    for name in ("load_learned", "load_with", "read_frames", "write_rows", "write_clip"):
        monkeypatch.setattr(f"dynamicrafter.cli.measuring.{name}", never)


@pytest.mark.parametrize(
    ("words", "replaced"),
    [
        (("folder", "listed", "--csv"), "listed/boat.png"),
        (("folder", "listed", "--csv"), "listed/cat_end.png"),
        (("folder", "listed", "--csv"), "real/boat-seed1.mp4"),
        (("folder", "beside", "--csv"), "beside/boat.txt"),
        (("videos", "clips", "--csv"), "clips/boat-seed1.mp4"),
        (("videos", "clips", "--csv"), "clips/frames/frame_0001.png"),
        (("folder", "beside", "--real", "real", "--csv"), "real/boat-seed1.mp4"),
        (("folder", "beside", "--csv"), "link.csv"),
        (("folder", "listed", "--seed", "0,1", "--keep", "real"), "real/boat-seed1.mp4"),
        (("folder", "beside", "--seed", "0,1", "--real", "real", "--keep", "real"), "real/boat-seed1.mp4"),
        (("folder", "listed", "--seed", "0,1", "--keep", "links"), "links/boat-seed1.mp4"),
    ],
)
def test_inputs_are_not_replaced(
    call: Call, folder: Path, tmp_path: Path, begins: None, words: tuple[str, ...], replaced: str
) -> None:
    for name in ("beside", "clips/frames", "real", "links"):
        (tmp_path / name).mkdir(parents=True)
    folder.rename(tmp_path / "listed")
    for name in ("clips/frames/frame_0001.png", "beside/boat.png"):
        (tmp_path / name).write_bytes((tmp_path / "listed" / "boat.png").read_bytes())
    (tmp_path / "beside" / "boat.txt").write_text("waves", encoding="utf-8")
    for name in ("clips", "real"):
        (tmp_path / name / "boat-seed1.mp4").write_bytes(b"dear to me")
    (tmp_path / "listed" / "prompts.csv").write_text(
        "picture,prompt,end,clip\nboat.png,waves,cat_end.png,../real/boat-seed1.mp4", encoding="utf-8"
    )
    for link, file in (("link.csv", "beside/boat.png"), ("links/boat-seed1.mp4", "real/boat-seed1.mp4")):
        try:
            (tmp_path / link).symlink_to(tmp_path / file)
        except OSError:
            if link == replaced:
                pytest.skip("this system makes no links")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = call(*words, *([replaced] if words[-1] == "--csv" else []))
    assert (code, out) == (2, "")
    option = "--csv" if "--csv" in words else "--keep"
    assert f"{Path(replaced)} is one of the input files" in err and f"with {option}\n" in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_table_is_a_csv_file(call: Call, folder: Path, begins: None) -> None:
    code, _, err = call("folder", folder, "--csv", "rows.txt")
    assert code == 2
    assert "the table is a CSV file, but --csv is rows.txt; use a name that ends in .csv" in err
    assert not Path("rows.txt").exists()


def test_every_kept_clip_has_its_place_before_the_long_work(call: Call, folder: Path, begins: None) -> None:
    (folder.parent / "kept" / "cat-seed2.mp4").mkdir(parents=True)
    code, _, err = call("folder", folder, "--keep", "kept", "--seed", "0,2")
    assert code == 1
    assert "cat-seed2.mp4 is a folder, not a file" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("folder", "pictures", "--seed", f"0,{2**63}"),
            f"seed must be 0 to 2^63 - 1, but {2**63} was given",
        ),
        (
            ("toy", "--seed", f"0,{2**46}"),
            f"seed must be 0 to 2^46 - 1 in the toy world, but {2**46} was given",
        ),
        (("toy", "--hops", "--seed", "9" * 20), "seed must be 0 to 2^46 - 1 in the toy world, but 999"),
        (
            ("folder", "pictures", "--seed", "1,1", "--keep", "kept"),
            "seed 1 is specified more than once; specify each seed once",
        ),
        (("toy", "--seed", "3,0,3"), "seed 3 is specified more than once"),
    ],
)
def test_seeds_that_cannot_be_used_are_refused(
    call: Call,
    folder: Path,
    begins: None,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("dynamicrafter.cli.evaluation.load", None)
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1
    assert not Path("kept").exists()


def test_the_largest_seed_of_the_toy_world_can_be_drawn_from(small_weights: Path) -> None:
    model = load(find_model(str(small_weights)), device="cpu", dtype="float32")
    figures = measure_hops(model, items=4, seed=2**46 - 1, steps=1, cfg=1, report=lambda *_: None)
    assert figures


@pytest.mark.parametrize(
    ("row", "words", "wanted"),
    [
        ("boat.png,waves,", (), [("animate", "512")]),
        ("boat.png,waves,", ("--loop",), [("loop", "512_interp")]),
        ("boat.png,waves,cat.png", (), [("interpolate", "512_interp")]),
        (
            "boat.png,a,\nboat.png,b,\ncat.png,c,boat.png",
            (),
            [("animate", "512"), ("interpolate", "512_interp")],
        ),
    ],
)
def test_the_built_in_model_is_told_to_be_none_for_real_pictures(
    call: Call,
    folder: Path,
    small_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: str,
    words: tuple[str, ...],
    wanted: list[tuple[str, str]],
) -> None:
    small = find_model(str(small_weights))
    monkeypatch.setattr(
        "dynamicrafter.cli.clips.find_model", lambda model, **_: replace(small, asked=str(model))
    )
    (folder / "prompts.csv").write_text(f"picture,prompt,end\n{row}", encoding="utf-8")
    notes = [
        f"the built-in tiny model knows coloured shapes only; to {mode} real images, download a released model with "
        f"'dynamicrafter download {name}' and pass --model {name}"
        for mode, name in wanted
    ]
    for mode, name in wanted:
        assert mode in VARIANTS[str(find(name).variant)].modes
    code, out, _ = call("folder", folder, *QUICK, *words, "--json")
    assert (code, json.loads(out)["notes"]) == (0, notes)
    code, out, _ = call("folder", folder, *QUICK, *words)
    assert out.splitlines()[-len(notes) :] == notes
    assert json.loads(call("folder", folder, *QUICK, *words, "--model", "x", "--json")[1])["notes"] == []


def test_pictures_without_a_prompt_are_counted(call: Call, folder: Path, small_weights: Path) -> None:
    (folder / "prompts.csv").unlink()
    (folder / "boat.TXT").write_text("waves", encoding="utf-8")
    code, out, _ = call("folder", folder, "--model", small_weights, *QUICK, "--json")
    told = json.loads(out)
    assert [clip["prompt"] for clip in told["clips"]] == ["waves", "", ""]
    assert told["notes"] == ["2 of 3 image(s) have no prompt; their clips are generated with an empty one"]


@pytest.mark.parametrize(
    "words", [("videos", "clips", "--prompts", "pictures"), ("folder", "pictures", "--keep", "kept")]
)
def test_a_broken_picture_is_told_before_the_long_work(
    call: Call, folder: Path, clips: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it has begun")

    for name in ("load_learned", "load_with", "read_frames"):
        monkeypatch.setattr(f"dynamicrafter.cli.measuring.{name}", never)
    (folder / "cat_end.png").write_bytes(b"broken")
    code, out, err = call(*words)
    assert (code, out) == (1, "")
    assert "cat_end.png is not an image" in err
    assert not Path("kept").exists()


def test_clips_that_cannot_be_kept_are_told_before_the_long_work(call: Call, folder: Path) -> None:
    (folder.parent / "kept" / "cat-seed0.mp4").mkdir(parents=True)
    code, _, err = call("folder", folder, "--keep", "kept")
    assert code == 1
    assert "cat-seed0.mp4 is a folder, not a file" in err
    code, _, err = call("folder", folder, "--keep", folder / "boat.png")
    assert code == 1
    assert "boat.png cannot be created" in err


def test_no_clip_that_can_be_read_is_an_error(call: Call, clips: Path) -> None:
    code, _, err = call("videos", clips / "cat.mp4", "--plain")
    assert code == 1
    assert "none of the 1 clip(s) can be measured" in err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled])
def test_a_cancelled_run_leaves_the_kept_clips_and_no_table(
    call: Call,
    folder: Path,
    small_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[BaseException],
) -> None:
    from dynamicrafter import shots

    genuine = shots.stream_each
    made: list[Any] = []

    def render(*given: Any, **more: Any) -> Any:
        if made:
            raise stop
        made.append(genuine(*given, **more))
        return made[0]

    monkeypatch.setattr(shots, "stream_each", render)
    words = (
        "folder",
        folder,
        "--model",
        small_weights,
        *QUICK,
        "--csv",
        "rows.csv",
        "--keep",
        "kept",
        "--quiet",
    )
    code, out, err = call(*words)
    assert (code, out) == (130, "")
    assert "only the 1 finished clip(s) were written" in err
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["boat-seed0.mp4"]
    assert not (tmp_path / "rows.csv").exists()


def test_a_csv_that_cannot_be_written_leaves_the_one_before(
    call: Call, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("before", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    code, out, err = call("videos", clips / "boat-still", "--plain", "--quiet", "--csv", "rows.csv")
    assert code == 1
    assert out.startswith("metric ") and "flow, pixels per frame" in out
    assert "rows.csv could not be written (No space left on device)" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "rows.csv"]
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8") == "before"


def test_several_seeds_of_the_toy_world_give_medians(
    call: Call, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(_: object, *, seed: int, report: Callable[[str, float], None], **__: object) -> Any:
        figures = {"one, dB": float(seed**2), "two, share": 0.5}
        for name, value in figures.items():
            report(name, value)
        return figures

    monkeypatch.setattr("dynamicrafter.cli.evaluation.measure_behaviour", measured)
    words = ("toy", "--model", small_weights, "--device", "cpu", "--items", "4")
    code, out, _ = call(*words, "--seed", "0,5,2", "--json")
    told = json.loads(out)
    assert (code, told["seeds"], told["items"]) == (0, [0, 5, 2], 4)
    assert told["figures"] == {"one, dB": 4.0, "two, share": 0.5}
    assert [row["one, dB"] for row in told["single"]] == [0.0, 25.0, 4.0]
    code, out, _ = call(*words, "--seed", "0,5,2", "--quiet")
    assert [line.split()[-1] for line in out.splitlines()] == ["4.000", "0.500"]
    code, out, _ = call(*words, "--seed", "3", "--quiet")
    assert [line.split()[-1] for line in out.splitlines()] == ["9.000", "0.500"]
