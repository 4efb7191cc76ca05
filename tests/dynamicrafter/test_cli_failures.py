"""What goes wrong ends in one clear sentence, the right exit code and nothing half-written."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import QUICK, Run, complaint, left, paint

from dynamicrafter.cli import main
from dynamicrafter.model.unet import VideoUNet

ROOT = Path(__file__).resolve().parents[2]


# Usage

USAGE = {
    "no command": ((), "the following arguments are required: COMMAND; see 'dynamicrafter --help'"),
    "unknown command": (("animat", "x.png"), "invalid choice: 'animat'"),
    "unknown option": (
        ("models", "--loud"),
        "unrecognized arguments: --loud; see 'dynamicrafter models --help'",
    ),
    "shortened option": (("models", "--js"), "unrecognized arguments: --js"),
    "no picture": (("animate", *QUICK), "the following arguments are required: PICTURE"),
    "one picture of two": (("interpolate", "PICTURE", *QUICK), "the following arguments are required: NEXT"),
    "unknown model": (
        ("animate", "PICTURE", "--model", "521"),
        "there is no model '521' to download; did you mean '512'?",
    ),
    "unknown built-in": (
        ("animate", "PICTURE", "--model", "randm"),
        "there is no model 'randm'; did you mean 'random'?",
    ),
    "model not here": (
        ("animate", "PICTURE", "--model", "512-interp"),
        "the files of 512_interp are not downloaded; download them with 'dynamicrafter download 512_interp'",
    ),
    "towers alone": (
        ("animate", "PICTURE", "--model", "towers"),
        "image encoders for all models that come without them; 'dynamicrafter models' lists the models and their uses",
    ),
    "no weights file": (
        ("animate", "PICTURE", "--model", "gone.safetensors"),
        "there is no weights file gone.safetensors; check the path, or use a name from 'dynamicrafter models'",
    ),
    "unknown variant": (
        ("animate", "PICTURE", *QUICK, "--variant", "smal"),
        "there is no variant 'smal'; did you mean 'small'?",
    ),
    "unknown device": (
        ("animate", "PICTURE", *QUICK, "--device", "abacus"),
        "the device 'abacus' is not available; use cpu, cuda, cuda:1, mps or auto",
    ),
    "a device without memory": (
        ("animate", "PICTURE", *QUICK, "--device", "meta"),
        "the device 'meta' is not available",
    ),
    "unknown precision": (
        ("animate", "PICTURE", *QUICK, "--dtype", "fp8"),
        "argument --dtype: must be fp32, bf16, fp16 or auto, not 'fp8'; see 'dynamicrafter animate --help'",
    ),
    "width": (
        ("animate", "PICTURE", *QUICK, "--size", "100x64"),
        "width must be a multiple of 64 from 64 to 4096, but 100 was given; the nearest valid value is 128",
    ),
    "height": (
        ("animate", "PICTURE", *QUICK, "--size", "64x0"),
        "height must be a multiple of 64 from 64 to 4096, but 0",
    ),
    "no size": (
        ("animate", "PICTURE", *QUICK, "--size", "large"),
        "argument --size: must be WxH in pixels, such as 512x320, not 'large'",
    ),
    "no steps": (("animate", "PICTURE", *QUICK, "--steps", "0"), "steps must be 1 to 1000, but 0 was given"),
    "too many steps": (
        ("animate", "PICTURE", *QUICK, "--steps", "1001"),
        "steps must be 1 to 1000, but 1001 was given; 25 to 50 are typical",
    ),
    "half a step": (
        ("animate", "PICTURE", *QUICK, "--steps", "2.5"),
        "steps must be an integer from 1 to 1000, but 2.5 was given; 25 to 50 are typical",
    ),
    "no number": (
        ("animate", "PICTURE", *QUICK, "--fps", "fast"),
        "argument --fps: must be 1 to 240, not 'fast'; see 'dynamicrafter animate --help'",
    ),
    "no frames": (
        ("animate", "PICTURE", *QUICK, "--frames", "0"),
        "frames must be 1 to 1024, but 0 was given",
    ),
    "short loop": (("loop", "PICTURE", *QUICK, "--frames", "2"), "frames must be at least 3 to loop, but 2"),
    "motion and fs": (
        ("animate", "PICTURE", *QUICK, "--motion", "0.5", "--fs", "8"),
        "fs and motion set the same value; use only one of them",
    ),
    "motion": (
        ("animate", "PICTURE", *QUICK, "--motion", "2"),
        "motion must be 0 to 1, but 2 was given",
    ),
    "guidance": (
        ("animate", "PICTURE", *QUICK, "--cfg", "nan"),
        "cfg must be 0 to 100, but nan was given; 1 disables guidance",
    ),
    "guidance rescale": (
        ("animate", "PICTURE", *QUICK, "--rescale", "2"),
        "guidance_rescale must be 0 to 1, but 2 was given",
    ),
    "image guidance": (
        ("animate", "PICTURE", *QUICK, "--image-cfg", "inf"),
        "image_cfg must be 0 to 100, but inf was given",
    ),
    "seed": (
        ("animate", "PICTURE", *QUICK, "--seed", "1,-2"),
        "argument --seed: must be a non-negative integer, or several separated by commas, not '1,-2'",
    ),
    "large seed": (("animate", "PICTURE", *QUICK, "--seed", f"1,{2**63}"), "seed must be 0 to 2^63 - 1, but"),
    "batch": (("animate", "PICTURE", *QUICK, "--batch", "0"), "batch must be at least 1, but 0 was given"),
    "numbered root": (
        ("animate", "PICTURE", *QUICK, "--seed", "1,2", "--output", "/"),
        "/ has no file name to which the clips' numbers could be added; add one to it",
    ),
    "the picture itself": (
        ("animate", "PICTURE", *QUICK, "--output", "PICTURE"),
        "picture.webp is the image itself; choose another name for the clip with --output",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_refused_before_the_weights_are_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("dynamicrafter.api.load_components", None)
    picture = str(paint(tmp_path / "picture.webp", 64, 64))
    words, expected = USAGE[case]
    assert expected in complaint(run(*(picture if word == "PICTURE" else word for word in words)), 2)
    assert left() == []


def test_a_model_is_only_asked_for_what_it_was_trained_for(
    run: Run, pictures: dict[str, Path], wide_weights: Path
) -> None:
    ran = run("loop", pictures["wide"], *QUICK, "--model", wide_weights)
    assert (
        "wide was trained to animate, not to loop; 'dynamicrafter models' lists the models and their uses"
        in complaint(ran, 2)
    )


def test_a_folder_does_not_hide_a_model_of_its_name(run: Run, pictures: dict[str, Path]) -> None:
    Path("random").mkdir()
    Path("512").mkdir()
    assert run("animate", pictures["wide"], *QUICK, "--output", "clip.gif").code == 0
    assert "the files of 512 are not downloaded" in complaint(run("animate", "x.png", "--model", "512"), 2)
    ran = run("animate", pictures["wide"], "--model", "./512")
    assert "the folder 512 contains no weights file" in complaint(ran, 1)


# Surprises


def fail_in_network(monkeypatch: pytest.MonkeyPatch, problem: BaseException, after: int = 1) -> list[object]:
    """Let the network raise ``problem`` at its evaluation number ``after``; returns the list of evaluations."""
    calls: list[object] = []
    forward = VideoUNet.forward

    def failing(self: VideoUNet, *values: Any) -> torch.Tensor:
        calls.append(None)
        if len(calls) == after:
            raise problem
        return forward(self, *values)

    monkeypatch.setattr(VideoUNet, "forward", failing)
    return calls


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ],
    ids=["Python", "CUDA", "Linux", "Windows"],
)
def test_too_little_memory_is_said_to_be_that(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    fail_in_network(monkeypatch, problem)
    sentence = complaint(run("animate", pictures["wide"], *QUICK), 1)
    assert sentence.startswith("there is not enough memory; try --memory low or min, --weights int8")


def test_a_surprise_is_one_sentence_without_debug(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_network(monkeypatch, RuntimeError("broken\nin many lines"))
    sentence = complaint(run("animate", pictures["wide"], *QUICK), 1)
    assert sentence == "unexpected error (RuntimeError: broken); use --debug to show the traceback"


def test_debug_shows_the_traceback(run: Run, pictures: dict[str, Path]) -> None:
    for words in (("animate", "gone.png", *QUICK), ("animate", pictures["wide"], *QUICK, "--steps", "0")):
        assert "Traceback" not in run(*words).err
        assert "Traceback (most recent call last)" in run(*words, "--debug").err


def test_output_that_is_not_finite_stops_at_once(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def spoilt(self: VideoUNet, x: torch.Tensor, *_: object) -> torch.Tensor:
        calls.append(None)
        return torch.full_like(x[:, :4], torch.inf)

    monkeypatch.setattr(VideoUNet, "forward", spoilt)
    words = "animate", pictures["wide"], *QUICK, "--steps", "50"
    sentence = complaint(run(*words), 1)
    said = "the denoising network's output is not finite in float32 at step 1 of 50, timestep "
    assert sentence.startswith(said) and "; use a lower --cfg" in sentence
    assert len(calls) == 1  # one step, whose branches are one batch
    assert "load the model with --dtype float32" in complaint(run(*words, "--dtype", "fp16"), 1)


@pytest.mark.parametrize(
    ("words", "kind"),
    [(("animate", "gone.png", *QUICK), "failure"), (("animate",), "usage"), ((), "usage")],
)
def test_programs_get_errors_as_json(run: Run, words: tuple[str, ...], kind: str) -> None:
    plain = run(*words)
    ran = run(*words, "--json")
    assert ran.code == plain.code
    assert ran.err == ""
    message = plain.err.removeprefix("dynamicrafter: ").rstrip("\n")
    assert ran.json == {"error": message, "kind": kind, "written": []}


# Interrupted


def test_ctrl_c_stops_within_a_step_and_leaves_nothing(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fail_in_network(monkeypatch, KeyboardInterrupt(), after=3)
    ran = run("animate", pictures["wide"], *QUICK, "--steps", "1000")
    assert complaint(ran, 130) == "cancelled; nothing was written"
    assert len(calls) == 3
    assert left() == []


def test_ctrl_c_keeps_the_clips_that_were_finished(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "animate", pictures["wide"], *QUICK, "--steps", "1", "--seed", "1,2,3"
    with monkeypatch.context() as patch:
        fail_in_network(patch, KeyboardInterrupt(), after=2)
        ran = run(*words)
    assert ran.code == 130
    assert ran.err == "dynamicrafter: cancelled; only the 1 finished clip(s) were written\n"
    assert left() == ["wide-animate-1.mp4"]
    fail_in_network(monkeypatch, KeyboardInterrupt(), after=3)
    ran = run(*words, "--json")
    assert ran.json["kind"] == "cancelled"
    assert ran.json["written"] == [str(Path(f"wide-animate-{n}.mp4").resolve()) for n in (1, 2)]


def test_ctrl_c_stops_the_hash_of_the_weights(
    run: Run, pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before the first step, so that no clip is lost by it."""
    pieces: list[int] = []

    def interrupted(values: torch.Tensor) -> memoryview:
        pieces.append(values.nbytes)
        raise KeyboardInterrupt

    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))  # Where no hash is remembered.
    monkeypatch.setattr("dynamicrafter.weights.formats.files.raw_bytes", interrupted)
    calls = fail_in_network(monkeypatch, AssertionError())
    ran = run("animate", pictures["wide"], *QUICK[2:], "--model", "tiny", "--json")
    assert ran.json == {"error": "cancelled; nothing was written", "kind": "cancelled", "written": []}
    assert (len(pieces), len(calls)) == (1, 0)


def test_ctrl_c_once_more_while_the_first_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(problem: BaseException, command: str, written: list[str]) -> tuple[int, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("dynamicrafter.cli.verdict", interrupted)
    assert run("animate", "gone.png").code == 130


def test_ctrl_c_after_a_note_has_a_line_of_its_own(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python hears signals after every piece that it has written."""

    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            super().write(text)
            if text.startswith("note:"):
                raise KeyboardInterrupt
            return len(text)

    shown = Interrupted()
    monkeypatch.setattr(sys, "stderr", shown)
    assert main(["animate", str(pictures["wide"]), *QUICK, "--prompt", "long " * 100]) == 130
    note, verdict = shown.getvalue().splitlines()
    assert note.startswith("note: the prompt has")
    assert verdict == "dynamicrafter: cancelled; nothing was written"


def test_a_signal_stops_the_program(
    random_weights: Path, pictures: dict[str, Path], tmp_path: Path, heeds_ctrl_c: None
) -> None:
    if os.name != "posix":
        pytest.skip("needs a Ctrl-C that can be sent to one process, which Windows has not")
    ready = tmp_path / "home" / "tensor_hashes.json"
    command = [sys.executable, "-m", "dynamicrafter", "animate", str(pictures["wide"])]
    options = ["--model", str(random_weights), "--steps", "1000", "--quiet", "-o", str(tmp_path / "clip.mp4")]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env={**os.environ, "DYNAMICRAFTER_HOME": str(ready.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The hash of the weights is there when the clip is in the making.
        end = time.monotonic() + 300
        while not ready.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, "", "dynamicrafter: cancelled; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


# Who reads


def test_a_reader_who_leaves_is_no_failure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as pipe:
        os.close(reader)
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["models"]) == 0
        print("what comes after goes nowhere", file=pipe)


def test_names_that_the_terminal_cannot_show_are_no_failure(
    run: Run, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.BytesIO()
    narrow = io.TextIOWrapper(shown, encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", narrow)
        words = ["animate", str(pictures["wide"]), *QUICK, "--output", "\u6e2f.gif"]
        assert main(words) == 0
    assert b"\\u6e2f.gif: 64x64" in shown.getvalue()
    assert Path("\u6e2f.gif").exists()


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("again", "--help")])
def test_help_is_a_success(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(("usage: dynamicrafter", "dynamicrafter "))


def test_help_does_not_wait_for_pytorch(home: Path) -> None:
    program = (
        "import json, sys; from dynamicrafter.cli import main; code = main(['--help']);"
        "print(json.dumps(['torch' in sys.modules, code]), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert json.loads(ran.stderr) == [False, 0]
