"""The command batch: what a jobs file may contain, what is generated and what is told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from cli_runs import Run, complaint

import dynamicrafter
from dynamicrafter.atomic import replacing
from dynamicrafter.backends.openvino.manifest import MANIFEST
from dynamicrafter.jobs import studio
from dynamicrafter.jobs.ledger import only_run
from dynamicrafter.jobs.lines import Shard
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.variants import SMALL
from dynamicrafter.weights import footprint
from dynamicrafter.weights.footprint import ClipSize

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"model": "random", "steps": 2, "frames": 2}


@pytest.fixture
def jobs(tmp_path: Path, pictures: dict[str, Path]) -> Callable[..., Path]:
    """Writes a jobs file; a job without pictures gets one, a text is a line as it is."""
    folder = tmp_path / "listed"
    folder.mkdir()
    for path in pictures.values():
        (folder / path.name).write_bytes(path.read_bytes())

    def write(*lines: dict[str, Any] | str) -> Path:
        texts = [
            line if isinstance(line, str) else json.dumps({"pictures": ["wide.png"], **QUICK, **line})
            for line in lines
        ]
        (folder / "jobs.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
        return folder / "jobs.jsonl"

    return write


def record(name: str, out: str = "out") -> dict[str, Any]:
    return json.loads(Path(out, "records", f"{name}.json").read_text(encoding="utf-8"))


# What a jobs file may contain

BAD = {
    "not JSON": (
        '{"pictures": ["wide.png"]',
        r"is not JSON \(Expecting ',' delimiter: column 26 .*\); write one object a line",
    ),
    "not an object": ("[1]", 'must be an object with pictures and settings, such as {"pictures"'),
    "not a number": ('{"pictures": ["wide.png"], "cfg": NaN}', "NaN in it is not valid JSON"),
    "no pictures": ('{"seed": 1}', "must contain pictures"),
    "a picture alone": ({"pictures": "wide.png"}, "pictures in line 2 of .* must be a list, each a string"),
    "too many pictures": (
        {"pictures": ["wide.png"] * 3, "mode": "animate"},
        "a list of 1 to animate, not of 3",
    ),
    "one picture of two": ({"mode": "interpolate"}, "a list of 2 or more to interpolate, not of 1"),
    "unknown mode": ({"mode": "jump"}, "mode in line 2 of .* must be one of animate, interpolate, loop"),
    "unknown setting": ({"stepz": 4}, "there is no setting 'stepz'; did you mean 'steps'?"),
    "wrong type": ({"steps": "4"}, "steps must be an integer from 1 to 1000, but '4' was given"),
    "out of range": ({"frames": 0}, "frames must be 1 to 1024, but 0 was given"),
    "half a size": ({"width": 64}, "it has a width but no height; add it, or remove both"),
    "two motions": ({"motion": 0.5, "fs": 3}, "fs and motion set the same value; use only one of them"),
    "no picture there": ({"pictures": ["gone.png"]}, "there is no image .*gone.png"),
    "no picture at all": ({"pictures": ["jobs.jsonl"]}, "jobs.jsonl"),
    "unknown model": ({"model": "521"}, "there is no model '521' to download; did you mean '512'?"),
    "model not here": ({"model": "512"}, "download them with 'dynamicrafter download 512'"),
    "adapter of no model": (
        {"model": None, "loras": [{"file": "a"}]},
        "it has loras but no model; add the model",
    ),
    "output elsewhere": ({"output": "../clip.mp4"}, "output must be the name of a clip in the folder"),
    "output on a drive": ({"output": "c:clip.mp4"}, "output must be the name of a clip in the folder"),
    "output of records": ({"output": "Records"}, "output must be the name of a clip in the folder"),
    "output too long": (
        {"output": "ü" * 124 + ".mp4"},
        r"output must have at most 250 bytes, but .* has 252; give it a shorter one",
    ),
    "output of no text": (
        {"output": "\ud800.mp4"},
        "output must be a name that files can have, but .* was given",
    ),
    "model of no name": (
        {"model": "a\0b.ckpt"},
        r"the path of a model, encoder or LoRA file must be one that files can have, but 'a\\x00b.ckpt'",
    ),
    "output of no kind": ({"output": "clip.avi"}, "clip.avi has the extension .avi, but a clip can be"),
    "output of another": ({"output": "A.mp4"}, "its output A.mp4 is that of line 1; give it another one"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_line_is_rejected_with_its_number_before_the_first_clip(
    run: Run, jobs: Callable[..., Path], case: str
) -> None:
    line, told = BAD[case]
    ran = run("batch", jobs({"output": "a.mp4"}, line), "--out", "out")
    sentence = complaint(ran, 2)
    assert re.search(told, sentence), sentence
    assert sentence.count("line 2 of ") == 1
    assert [path.name for path in Path("out").iterdir()] == ["records"]


def test_an_export_is_rejected_with_its_line(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs({}, {"model": "./exported"})
    folder = listing.parent / "exported"
    folder.mkdir()
    (folder / MANIFEST).write_text("{}", encoding="utf-8")
    told = complaint(run("batch", listing, "--out", "out"), 2)
    assert re.match("line 2 of .*: the model must be weights for PyTorch, but .*exported is an export", told)


def test_the_same_job_twice_is_rejected(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs({"seed": 1}, {"seed": 2}, {"seed": 1})
    told = "line 3 of .*: it is the same as line 1; remove it, or give it another seed or an output"
    assert re.match(told, complaint(run("batch", listing, "--out", "out"), 2))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "cannot be read (No such file or directory)"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
        (lambda path: path.write_text("\n\n"), "has no jobs; write one JSON object a line"),
    ],
)
def test_a_file_without_jobs(run: Run, tmp_path: Path, make: Callable[[Path], Any], told: str) -> None:
    listing = tmp_path / "none.jsonl"
    make(listing)
    assert told in complaint(run("batch", listing, "--out", "out"), 2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shard", "1"), "must be i/N, such as 1/4 for the first of four, not '1'"),
        (("--shard", "0/2"), "a shard is i/N with i from 1 to N, but 0/2 was given"),
        (("--shard", "3/2"), "a shard is i/N with i from 1 to N, but 3/2 was given"),
        (("--workers", "0"), "there must be at least 1 worker, but 0 were given"),
        (("--devices", "cpu,"), "the name is empty"),
        (("--devices", "gpu"), "the device 'gpu' is not available"),
        (("--compile", "reduce-overhead"), "records CUDA graphs, which cpu does not have"),
        (
            ("--compile", "default", "--memory", "min"),
            "layers that are streamed (memory min) cannot be compiled",
        ),
        (
            ("--ray", "local", "--backend", "openvino", "--weights", "int8"),
            "openvino keeps weights and memory its",
        ),
    ],
)
def test_wrong_options(run: Run, jobs: Callable[..., Path], options: tuple[str, ...], told: str) -> None:
    assert told in complaint(run("batch", jobs({}), "--out", "out", *options), 2)


# What is generated


def test_every_job_becomes_a_clip_with_its_record(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs(
        {"prompt": "a boat"},
        {"pictures": ["tall.png", "wide.png"], "output": "between.gif", "width": 64, "height": 128},
        "",
        {"mode": "loop", "frames": 3, "output": "round"},
    )
    ran = run("batch", listing, "--out", "deep/out", "--json", "--model", "tiny")
    assert ran.code == 0, ran.out
    assert (ran.json["done"], ran.json["skipped"], ran.json["failed"], ran.json["left"]) == (3, 0, 0, 0)
    names = ["0001-wide-animate.mp4", "between.gif", "round"]
    assert [Path(one["output"]).name for one in ran.json["jobs"]] == names
    assert [one["line"] for one in ran.json["jobs"]] == [1, 2, 4]
    out = Path("deep/out")
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "records"])
    assert [tuple(read_frames(out / name).shape) for name in names] == [
        (2, 64, 64, 3),
        (2, 128, 64, 3),
        (2, 64, 64, 3),
    ]
    stored = read_metadata(out / names[0])
    assert stored["settings"]["prompt"] == "a boat"
    assert stored["model"]["asked"] == "random"
    assert (stored["pictures"][0]["file"], record(names[1], "deep/out")["state"]) == ("wide.png", "done")


def test_a_clip_of_a_batch_is_that_of_animate(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs({"seed": 5, "prompt": "a boat", "output": "one.mp4"})
    assert run("batch", listing, "--out", "out").code == 0
    words = [
        "--model",
        "random",
        "--steps",
        2,
        "--frames",
        2,
        "--seed",
        5,
        "--prompt",
        "a boat",
        "-o",
        "two.mp4",
    ]
    assert run("animate", listing.parent / "wide.png", *words).code == 0
    assert read_frames("out/one.mp4").equal(read_frames("two.mp4"))
    assert read_metadata("out/one.mp4") == read_metadata("two.mp4")


def test_stored_settings_of_a_clip_are_a_job(run: Run, jobs: Callable[..., Path]) -> None:
    assert run("batch", jobs({"output": "one.mp4", "motion": 0.5}), "--out", "out").code == 0
    stored = read_metadata("out/one.mp4")["settings"]
    listing = jobs({**stored, "output": "two.mp4"})
    assert run("batch", listing, "--out", "out").code == 0
    assert record("one.mp4")["sha256"] == record("two.mp4")["sha256"]


def test_a_repeated_command_generates_only_what_is_missing(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs(*({"seed": seed, "output": f"{seed}.mp4"} for seed in range(4)))
    assert run("batch", listing, "--out", "out").code == 0
    before = {seed: record(f"{seed}.mp4") for seed in range(4)}
    Path("out/1.mp4").unlink()
    Path("out/records/2.mp4.json").write_text("{", encoding="utf-8")
    jobs(*({"seed": seed, "output": f"{seed}.mp4", "prompt": "x" * (seed == 3)} for seed in range(4)))
    planned = run("batch", listing, "--out", "out", "--dry-run")
    assert [line.rpartition(": ")[2] for line in planned.out.splitlines()] == [
        "done", "to do", "to do", "to do", "1 done, 3 to do",
    ]  # fmt: skip
    ran = run("batch", listing, "--out", "out", "--json")
    assert (ran.json["done"], ran.json["skipped"]) == (4, 1)
    after = {seed: record(f"{seed}.mp4") for seed in range(4)}
    assert after[0] == before[0]
    assert after[1]["sha256"] == before[1]["sha256"] == after[1]["sha256"]
    assert after[3]["sha256"] != before[3]["sha256"]
    assert read_metadata("out/3.mp4")["settings"]["prompt"] == "x"
    assert run("batch", listing, "--out", "out", "--json").json["skipped"] == 4


def test_another_picture_of_the_same_name_is_another_job(
    run: Run, jobs: Callable[..., Path], pictures: dict[str, Path]
) -> None:
    listing = jobs({"output": "one.mp4"})
    assert run("batch", listing, "--out", "out").code == 0
    (listing.parent / "wide.png").write_bytes(pictures["other"].read_bytes())
    assert run("batch", listing, "--out", "out", "--json").json["skipped"] == 0


def test_a_failing_job_is_recorded_and_the_others_go_on(
    run: Run, jobs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    render = studio.render_batch

    def failing(model: Any, batch: Any, progress: Any, callback: Any) -> Any:
        if batch[0].settings.seed == 1:
            raise ValueError("no luck")
        return render(model, batch, progress, callback)

    monkeypatch.setattr(studio, "render_batch", failing)
    listing = jobs(*({"seed": seed, "output": f"{seed}.mp4"} for seed in range(3)))
    ran = run("batch", listing, "--out", "out")
    assert ran.code == 1
    assert "line 2: unexpected error (ValueError: no luck)\n" in ran.err
    assert ran.err.endswith("dynamicrafter: 1 of 3 jobs failed\n")
    assert [line.split()[1:3] for line in ran.out.splitlines()[:3]] == [
        ["0.mp4", "done"], ["1.mp4", "failed"], ["2.mp4", "done"],
    ]  # fmt: skip
    assert ran.out.splitlines()[3].startswith("2 done, 1 failed in ")
    assert record("1.mp4")["error"] == "unexpected error (ValueError: no luck)"
    again = run("batch", listing, "--out", "out", "--json")
    assert (again.code, again.json["error"], again.json["kind"]) == (1, "1 of 3 jobs failed", "failure")
    assert (again.json["skipped"], again.json["failed"]) == (2, 1)


def test_a_model_is_loaded_once_for_all_its_jobs(
    run: Run, jobs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    kept: list[str] = []
    load = studio.load_with

    def counted(means: Any, files: Any, *rest: Any) -> Any:
        loaded.append(files.asked)
        model = load(means, files, *rest)
        kept.append(f"{model.quantised}, {'low' if model.placement else 'high'}")
        return model

    monkeypatch.setattr(studio, "load_with", counted)
    models = ["random", "tiny", "random", "tiny"]
    listing = jobs(*({"seed": seed, "model": model} for seed, model in enumerate(models)))
    ran = run("batch", listing, "--out", "out", "--weights", "int8", "--memory", "low", "--json")
    assert ran.code == 0
    assert loaded == ["random", "tiny"]
    assert kept == ["int8, low"] * 2
    assert [one["line"] for one in ran.json["jobs"]] == [1, 2, 3, 4]


def test_a_model_is_loaded_again_for_a_clip_that_needs_more_memory(
    run: Run, jobs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose memory is bounded."""
    residences: list[str] = []
    load, room = studio.load_with, footprint._ROOM

    def noted(means: Any, files: Any, *rest: Any) -> Any:
        residences.append(means.memory)
        return load(means, files, *rest)

    sizes = [ClipSize(1, frames, 64, 64) for frames in (2, 16)]
    small, large = (footprint.footprint(SMALL, size, torch.float32, None, "high").total for size in sizes)
    monkeypatch.setattr(studio, "load_with", noted)
    for module in (studio, footprint):
        monkeypatch.setattr(module, "free_bytes", lambda _: room + (small + large) / 2)
    listing = jobs(*({"frames": frames, "output": f"{n}.mp4"} for n, frames in enumerate((2, 1, 16, 2))))
    assert run("batch", listing, "--out", "out").code == 0
    assert residences == ["high", "low"]


def test_shards_are_every_nth_line_and_share_a_folder(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs(*({"seed": seed} for seed in range(5)))
    for number, lines in ((1, [1, 3, 5]), (2, [2, 4])):
        ran = run("batch", listing, "--out", "out", "--shard", f"{number}/2", "--json")
        assert [one["line"] for one in ran.json["jobs"]] == lines
    assert run("batch", listing, "--out", "out", "--json").json["skipped"] == 5


@pytest.mark.parametrize(
    ("other", "own", "free"),
    [
        (Shard(), "1/1", False),
        (Shard(1, 2), "1/2", False),
        (Shard(1, 2), "2/2", True),
        (Shard(1, 2), "1/1", False),
        (Shard(), "2/2", False),
    ],
)
def test_two_runs_do_not_generate_the_same_jobs(
    run: Run, jobs: Callable[..., Path], other: Shard, own: str, free: bool
) -> None:
    listing = jobs({}, {"seed": 2})
    Path("out/records").mkdir(parents=True)
    with only_run(Path("out"), other):
        ran = run("batch", listing, "--out", "out", "--shard", own, "--dry-run")
    if free:
        assert ran.code == 0
    else:
        told = "another run is generating clips in .*out; wait for its end, or choose another folder"
        assert re.fullmatch(told, complaint(ran, 2))
    assert run("batch", listing, "--out", "out", "--dry-run").code == 0


def test_a_folder_that_cannot_be_one(run: Run, jobs: Callable[..., Path]) -> None:
    Path("out").write_text("", encoding="utf-8")
    told = complaint(run("batch", jobs({}), "--out", "out"), 2)
    assert re.match(r"the folder out cannot be created \(.*\); choose another one", told)


def test_python_does_the_same(run: Run, jobs: Callable[..., Path]) -> None:
    listing = jobs({"seed": 1, "model": None}, {"seed": 2, "model": None})
    shares: list[float] = []
    outcome = dynamicrafter.batch(
        listing, "out", model="random", shard=(2, 2), progress=lambda share, doing: shares.append(share)
    )
    assert [(record.line, record.state) for record in outcome.records] == [(2, "done")]
    assert shares == sorted(shares)
    ran = run("batch", listing, "--out", "out", "--model", "random", "--json")
    assert (ran.json["done"], ran.json["skipped"]) == (2, 1)


def test_notes_name_the_line(run: Run, jobs: Callable[..., Path]) -> None:
    ran = run("batch", jobs({}, {"prompt": "a boat " * 60}), "--out", "out", "--dry-run")
    assert ran.err == "note: line 2: the prompt has 120 tokens and is truncated to the first 75\n"


def test_a_record_that_cannot_be_written_ends_the_run(
    run: Run, jobs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(target: Path) -> Any:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        return replacing(target)

    monkeypatch.setattr("dynamicrafter.jobs.ledger.replacing", full)
    told = complaint(run("batch", jobs({"output": "a.mp4"}), "--out", "out"), 1)
    assert "a.mp4.json cannot be written (No space left on device); free some space" in told


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_within_a_step_and_the_next_run_resumes(
    run: Run, jobs: Callable[..., Path], heeds_ctrl_c: None, workers: int
) -> None:
    """Pressed on a terminal, which sends it to every process of the command."""
    listing = jobs({"output": "short.mp4"}, {"output": "long.mp4", "steps": 1000, "frames": 16})
    command = [sys.executable, "-m", "dynamicrafter", "batch", str(listing), "--out", "out"]
    command += ["--workers", str(workers), "--quiet"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not Path("out/records/short.mp4.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        pressed = time.monotonic()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= (workers if workers > 1 else 0)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert (process.returncode, out) == (130, "")
    assert err == "dynamicrafter: cancelled; repeat the command to generate the clips that are missing\n"
    assert time.monotonic() - pressed < 60
    assert sorted(path.name for path in Path("out").iterdir()) == ["records", "short.mp4"]
    assert run("batch", listing, "--out", "out", "--dry-run").out.endswith("2 jobs: 1 done, 1 to do\n")
