"""Two ways of generating a clip side by side: what each takes, how much the clips differ, and what goes wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import Run, complaint, left

from dynamicrafter.api import find_model
from dynamicrafter.errors import Cancelled, UsageError
from dynamicrafter.evaluation.comparison import ClipWay, Cost, Outcome, compare, disk_bytes, likeness
from dynamicrafter.evaluation.side_by_side import side_by_side
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.variants import SMALL
from dynamicrafter.settings import make_settings
from dynamicrafter.shots import Means

PICTURE = Path(__file__).parents[2] / "pictures" / "red_circle.png"
QUICK = ("--steps", "2", "--frames", "4", "--device", "cpu")
NO_COST = Cost(1, 1, 1, 1, 1, 1, 1, 1, None, "cpu", "float32")


def outcome(latents: torch.Tensor, frames: torch.Tensor) -> Outcome:
    return Outcome(NO_COST, latents, frames)


def way(**changes: Any) -> ClipWay:
    settings = replace(make_settings(SMALL, "animate", steps=1, frames=2), **changes)
    return ClipWay("a way", find_model("random"), settings, (PICTURE,), Means("cpu"))


# Real runs


def test_both_sides_are_measured_and_one_video_is_written(run: Run) -> None:
    words = ("--prompt", "a red circle moves right", "-o", "both.webm", "--json")
    ran = run("compare", "tiny", "tiny:dtype=bf16,steps=3", PICTURE, *QUICK, *words)
    assert ran.code == 0, ran.err
    assert ran.err == ""
    told = ran.json
    a, b = told["a"], told["b"]
    assert (a["name"], b["name"]) == ("tiny", "tiny:dtype=bf16,steps=3")
    assert (a["dtype"], b["dtype"]) == ("float32", "bfloat16")
    assert (a["settings"]["steps"], b["settings"]["steps"]) == (2, 3)
    assert a["settings"]["prompt"] == b["settings"]["prompt"] == "a red circle moves right"
    for side in (a, b):
        stages = [side[name] for name in ("load", "encode", "sample", "decode")]
        assert min(stages) > 0 and sum(stages) == pytest.approx(side["seconds"])
        assert 0 < side["step"] < side["sample"]
        assert side["disk"] == find_model("tiny").weights.stat().st_size
        # A Python with PyTorch takes hundreds of megabytes; the model adds more than its weights.
        assert 50_000_000 < side["memory_before"] < side["memory"] - side["disk"] / 2
        assert side["device_memory"] is None
    alike = told["likeness"]
    assert 10 < alike["latents_psnr"] < 100 and 10 < alike["frames_psnr"] < 100
    assert 0.2 < alike["latents_ssim"] < 1 and 0.2 < alike["frames_ssim"] < 1
    assert told["output"] == str(Path("both.webm").resolve())
    assert read_frames("both.webm").shape == (4, 24 + 256, 3 * 256, 3)
    compared = read_metadata("both.webm")["compared"]
    assert [side["settings"] for side in compared] == [a["settings"], b["settings"]]
    assert re.match("the built-in tiny model knows coloured shapes only", told["notes"][0])


def test_a_way_is_equal_to_itself_and_the_table_says_so(run: Run) -> None:
    ran = run("compare", "random", ":seed=7", PICTURE, *QUICK, "--model", "random", "--seed", "7", "--quiet")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[:2] == ["A: random", "B: :seed=7"]
    assert lines[2].split() == ["A", "B", "B/A"]
    labels = [line[:28].strip() for line in lines[3:-1]]
    assert labels[:6] == ["load, s", "encode, s", "sample, s", "decode, s", "in all, s", "one step, s"]
    assert labels[6:] == [
        "on disk, MB",
        "peak memory, MB",
        "of that before loading, MB",
        "",
        "latents, B to A",
        "frames, B to A",
    ]
    assert lines[-3].split()[-2:] == lines[-2].split()[-2:] == ["126.02", "1.0000"]
    place = Path("red_circle-compare.mp4").resolve()
    assert lines[-1] == f"{place}: A, B and their difference, amplified 64 times"


@pytest.mark.parametrize("side", ["A", "B"])
def test_the_other_sides_figures_are_not_lost(run: Run, tmp_path: Path, side: str) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a LoRA")
    ways = ["random", "random"]
    ways["AB".index(side)] += f":lora={bad}"
    ran = run("compare", *ways, PICTURE, *QUICK, "--quiet", "--json")
    assert ran.code == 1
    told = ran.json
    failed, other = (told[key] for key in (("a", "b") if side == "A" else ("b", "a")))
    assert other["seconds"] > 0
    assert str(bad) in failed["error"] and "seconds" not in failed
    assert told["error"] == f"{side} failed: {failed['error']}"
    assert (told["kind"], told["likeness"], told["output"]) == ("failure", None, None)
    assert left() == []


def test_a_failure_is_one_sentence_after_the_table(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a LoRA")
    ran = run("compare", "random", f"random:lora={bad}", PICTURE, *QUICK, "--quiet")
    assert ran.code == 1
    assert re.fullmatch(rf"dynamicrafter: B failed: [^\n]*{re.escape(str(bad))}[^\n]*\n", ran.err)
    assert re.search(r"^load, s +\d+\.\d{3} +-$", ran.out, re.MULTILINE)


def test_progress_names_the_way_and_may_stop_it(home: Path) -> None:
    told: list[tuple[str, str]] = []

    def stop(title: str, work: str, done: int, total: int) -> None:
        told.append((title, work))
        if work == "sample":
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        compare(way(), way(), progress=stop)
    assert list(dict.fromkeys(told)) == [("a way", "load"), ("a way", "encode"), ("a way", "sample")]


# What is asked for


def test_a_side_takes_the_options_of_animate(run: Run) -> None:
    side = "tiny:sampler=ddim,prompt=one, two,fs=9,image-cfg=2,rescale=0.5,dtype=bf16"
    ran = run("compare", "tiny:size=128x64", side, PICTURE, *QUICK, "--size", "128x64", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    a, b = (ran.json[key] for key in "ab")
    settings = b["clips"][0]["settings"]
    assert (settings["prompt"], settings["fs"], settings["image_cfg"]) == ("one, two", 9, 2)
    assert (settings["guidance_rescale"], settings["width"]) == (0.5, 128)
    assert (a["dtype"], b["dtype"]) == ("float32", "bfloat16")
    assert left() == []


def test_a_dry_run_says_what_each_side_is_to_generate(run: Run) -> None:
    ran = run("compare", "tiny", "random", PICTURE, *QUICK, "--dry-run")
    assert ran.code == 0, ran.err
    place = Path("red_circle-compare.mp4").resolve()
    lines = ran.out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["A: tiny", "B: random"]
    assert lines[1].startswith(f"  {place}: 64x64, 4 frame(s) at 8 fps, 2 steps, seed 123")
    assert left() == []


def test_a_loop_and_an_interpolation(run: Run, pictures: dict[str, Path]) -> None:
    ways = ("random", "random:steps=3")
    between = run("compare", *ways, pictures["wide"], pictures["other"], *QUICK, "--dry-run", "--json").json
    loop = run("compare", *ways, pictures["wide"], "--loop", *QUICK, "--dry-run", "--json").json
    assert between["a"]["clips"][0]["settings"]["mode"] == "interpolate"
    assert loop["b"]["clips"][0]["settings"]["mode"] == "loop"


def test_motion_of_a_side_replaces_fs_of_both(run: Run) -> None:
    ran = run("compare", "tiny", "tiny:motion=1", PICTURE, "--fs", "9", "--dry-run", "--json")
    a, b = (ran.json[key]["clips"][0]["settings"]["fs"] for key in "ab")
    assert a == 9 != b


def test_other_noise_is_noted(run: Run) -> None:
    ran = run("compare", "random", "random:seed=7", PICTURE, *QUICK, "--dry-run")
    assert (
        ran.err == "note: A and B start from different noise, so their clips differ for that reason alone\n"
    )


WRONG = {
    "an unknown option": ("tiny:stepz=4", "B has the unknown option 'stepz'; did you mean 'steps'?"),
    "an option of both": (
        "tiny:output=a.mp4",
        "B has the unknown option 'output'; the options are alg_end, ",
    ),
    "a value out of range": ("tiny:steps=0", "B: steps must be 1 to 1000, but 0 was given; "),
    "a value of another kind": (
        "tiny:size=big",
        "size in B must be WxH in pixels, such as 512x320, not 'big'",
    ),
    "an unknown choice": ("tiny:fit=bend", "fit in B must be one of crop, pad, stretch, not 'bend'"),
    "an unknown model": ("tinny", "B, tinny: there is no model 'tinny'; did you mean 'tiny'?"),
    "a missing file": (
        "./none.safetensors:steps=4",
        "B, ./none.safetensors:steps=4: there is no weights file ",
    ),
    "another length": (
        "tiny:frames=8",
        "A and B must generate clips of one mode, size and length, but A is to animate 64x64 with 4 frames and B to "
        "animate 64x64 with 8 frames; pass the same values for both",
    ),
    "two seeds": ("tiny:seed=1,2", "B has 2 seeds, but one clip is compared; pass one seed"),
    "a backend without an export, whatever both sides say of PyTorch": (
        "tiny:backend=openvino",
        "B, tiny:backend=openvino: tiny has not been exported for OpenVINO; export it with ",
    ),
    "no such device": ("tiny:device=moon", "B, tiny:device=moon: the device 'moon' is not available; "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_at_once(run: Run, case: str) -> None:
    side, message = WRONG[case]
    said = complaint(run("compare", "tiny", side, PICTURE, "--frames", "4", "--dry-run"), 2)
    assert said.startswith(message)


def test_a_loop_has_one_image(run: Run) -> None:
    said = complaint(run("compare", "tiny", "tiny", PICTURE, PICTURE, "--loop"), 2)
    assert said == f"a loop has one image, but {PICTURE} was given as well; omit it or --loop"


def test_a_pattern_must_stand_for_one_image(run: Run) -> None:
    said = complaint(run("compare", "tiny", "tiny", PICTURE.parent / "red*.png"), 2)
    assert re.fullmatch(r"the pattern stands for \d images, but one clip is compared; name its image", said)


def test_clips_of_other_lengths_cannot_be_compared(home: Path) -> None:
    with pytest.raises(
        UsageError, match="A is to animate 64x64 with 2 frames and B to animate 64x64 with 3 frames"
    ):
        compare(way(), way(frames=3))


# Figures


def test_likeness_is_that_of_known_differences() -> None:
    latents = torch.linspace(-3, 5, 4 * 2 * 64).reshape(4, 2, 8, 8)
    frames = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    alike = likeness(outcome(latents, frames), outcome(latents + 0.8, frames + 51))
    # A tenth of the reference's range, and a fifth of that of pixels.
    assert alike.latents_psnr == pytest.approx(20, abs=1e-4)
    assert alike.frames_psnr == pytest.approx(13.979, abs=1e-3)
    # Two flat images have the luminance term alone.
    assert alike.frames_ssim == pytest.approx(0.01**2 / (0.2**2 + 0.01**2), rel=1e-3)
    assert alike.latents_ssim < 1
    same = likeness(outcome(latents, frames), outcome(latents, frames))
    assert (same.latents_ssim, same.frames_ssim) == (pytest.approx(1), pytest.approx(1))
    assert min(same.latents_psnr, same.frames_psnr) > 120
    flat = outcome(torch.zeros_like(latents), frames)
    assert likeness(flat, flat) == likeness(outcome(latents, frames), outcome(latents, frames))


def test_files_that_hold_several_parts_count_once(tmp_path: Path, random_weights: Path) -> None:
    folder = tmp_path / "exported"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "one.bin").write_bytes(b"1" * 1000)
    (folder / "two.xml").write_bytes(b"1" * 24)
    files = find_model(str(random_weights))
    size = random_weights.stat().st_size
    both = replace(way(), files=replace(files, text_encoder=random_weights, image_encoder=random_weights))
    assert disk_bytes(both.paths()) == size
    assert disk_bytes(replace(way(), files=replace(files, text_encoder=folder)).paths()) == size + 1024


@pytest.mark.parametrize(("most", "factor"), [(0, 64), (1, 64), (4, 32), (100, 2), (200, 1)])
def test_the_difference_is_amplified_without_clipping(most: int, factor: int) -> None:
    a = torch.full((2, 64, 128, 3), 20, dtype=torch.uint8)
    b = a.clone()
    b[1, 10, 20] += most
    frames, times = side_by_side(a, b, ("one", "a name that is far too long for the width of its panel"))
    assert times == factor
    # Twice as large, with a label above.
    assert frames.shape == (2, 24 + 128, 3 * 256, 3)
    assert torch.equal(frames[:, 24::2, :256:2], a) and torch.equal(frames[:, 24::2, 256:512:2], b)
    assert int(frames[1, 24:, 512:].max()) == min(255, most * factor)
    assert [int(frames[0, :24, left : left + 256].max()) > 200 for left in (0, 256, 512)] == [True] * 3


def test_what_is_printed_as_json_can_be_read(run: Run) -> None:
    ran = run("compare", "tiny", "tiny:steps=0", PICTURE, "--json")
    assert json.loads(ran.out)["kind"] == "usage"
