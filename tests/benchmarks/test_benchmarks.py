"""The benchmarks run, say what they measured, and count what they claim to count."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamicrafter.model.compilation import compile_blocks
from dynamicrafter.model.operations import fused_attention
from dynamicrafter.model.variants import SMALL, V512
from dynamicrafter.pipeline import KeyPictures, Model, generate
from dynamicrafter.settings import make_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(name)


def rows(text: str) -> list[list[str]]:
    """Cells of the tables, headers included and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def speed(folder: Path, *options: str) -> dict[str, Any]:
    """The figures of the benchmark by what they measure."""
    benchmark("speed").main([*SMALL_RUN, *options, "--output", str(folder)])
    stored = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    return {figure["heading"]: figure for figure in stored["figures"]}


SMALL_RUN = ["--variant", "small", "--latent", "16x8", "--frames", "2", "--runs", "2", "--threads", "1"]


def test_the_ways_of_running_the_network_are_compared_with_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = speed(tmp_path, "--what", "unet", "--batch", "3", "--ways", "baseline", "float32", "bf16")
    baseline, plain, half = found["unet"]["rows"]
    assert [row["way"] for row in (baseline, plain, half)] == ["baseline", "float32", "bf16"]
    assert baseline["variant"] == "small"
    assert baseline["input"] == "3x8x2x8x16"
    assert baseline["ratio"] == 1
    assert baseline["largest error"] == 0
    # Equal weights: rounding alone is different.
    assert plain["largest error"] < 1e-5 < half["largest error"] < 0.1
    for row in (baseline, plain, half):
        assert 0 < row["s min"] <= row["s median"]
        assert row["ratio"] == pytest.approx(row["s min"] / baseline["s min"])
        assert row["TFLOP/s"] == pytest.approx(row["TFLOP"] / row["s min"])
        assert row["of matrix product"] > 0
    assert rows(capsys.readouterr().out)[0][:3] == ["variant", "input", "way"]


def test_the_autoencoder_has_no_other_way_than_a_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = benchmark("figures")
    monkeypatch.setattr(figures, "compared", lambda about, ways, *_: [{"way": way.name} for way in ways])
    ways = [figures.WAYS[name] for name in ("float32", "compiled", "openvino", "bf16")]
    rows = figures.vae_rows(SMALL, (64, 64), 1, ways, torch.device("cpu"), 1)
    assert [row["way"] for row in rows] == ["float32", "bf16"] * 2


@pytest.mark.slow
def test_other_ways_compute_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    figures = benchmark("figures")
    modes: list[str] = []

    def traced(network: torch.nn.Module, mode: Any) -> None:
        modes.append(mode)
        compile_blocks(network, mode, backend="eager")

    monkeypatch.setattr(figures, "compile_blocks", traced)
    found = speed(tmp_path, "--what", "unet", "--runs", "1", "--ways", "float32", "compiled", "openvino")
    plain, *others = found["unet"]["rows"]
    assert [row["way"] for row in others] == ["compiled", "openvino"]
    assert "default" in modes
    # Exports have weights in half precision.
    assert others[0]["largest error"] < 1e-6 < others[1]["largest error"] < 1e-2
    assert all(row["first s"] > 0 for row in (plain, *others))


def test_openvino_is_measured_on_the_cpu_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark("speed").main(["--ways", "openvino", "--device", "cuda"])
    assert "OpenVINO is measured on the CPU, not on cuda; use --device cpu" in capsys.readouterr().err


def test_loading_is_measured_in_processes_of_its_own(tmp_path: Path) -> None:
    found = speed(tmp_path, "--what", "load", "--ways", "float32", "--runs", "1")
    assert found["load"]["state"] == "done"
    (row,) = found["load"]["rows"]
    assert (row["variant"], row["dtype"]) == ("small", "float32")
    assert 0 < row["s min"] <= row["s median"]
    assert 0 < row["model GB"] < row["peak GB"]


def test_the_baseline_has_the_former_layers() -> None:
    figures = benchmark("figures")
    assert type(figures.BASELINE.conv_over_time(4)) is torch.nn.Conv3d
    assert figures.BASELINE.layers.Conv2d is torch.nn.Conv2d
    assert type(figures.WAYS["float32"].operations.conv_over_time(4)) is not torch.nn.Conv3d


def test_every_part_is_measured(tmp_path: Path) -> None:
    whats = ("ceilings", "branches", "vae", "encoders", "clip", "growth")
    found = speed(tmp_path, "--what", *whats, "--ways", "float32", "--runs", "1")
    assert {what: figure["state"] for what, figure in found.items()} == dict.fromkeys(whats, "done")
    assert [row["what"] for row in found["vae"]["rows"]] == ["encode an image", "decode 2 frames"]
    assert [row["what"] for row in found["encoders"]["rows"]] == ["text", "image", "resampler"]
    grown = found["growth"]["rows"]
    assert [row["to"] for row in grown] == [2, 4, 8, 2, 4, 8, 1, 2, 4]
    for clip in found["clip"]["rows"]:
        stages = clip["encode s"] + clip["sample s"] + clip["decode s"]
        assert stages == pytest.approx(clip["total s"], rel=0.05)
    assert (tmp_path / "speed.svg").read_text(encoding="utf-8").count("<circle") == len(grown)


def test_the_goldens_run_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one that is only pretended, which rejects operators on tensors of two devices."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "comfyui"))
    with benchmark("pretended_device").PretendedCuda():
        (row,) = benchmark("figures").golden_rows(torch.device("cuda"), 1)
    assert row["within tolerance"] == "yes"


def test_calls_take_turns() -> None:
    figures = benchmark("figures")
    calls: list[str] = []
    works = [lambda: calls.append("a"), lambda: calls.append("b")]
    seconds = figures.alternating(works, torch.device("cpu"), 2)
    assert calls == list("ababab")
    assert [len(each) for each in seconds] == [2, 2]


@pytest.mark.parametrize("size", ["64", "64x", "ax64"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark("speed").main(["--size", size])
    assert f"'{size}' is not WIDTHxHEIGHT, such as 512x320" in capsys.readouterr().err


def test_operations_are_counted_as_two_for_a_multiply_add() -> None:
    measure = benchmark("measure")

    def build(attention: object) -> object:
        layer, x = torch.nn.Linear(5, 7), torch.empty(3, 5)
        return lambda: layer(x)

    assert measure.counted_flops(build) == 2 * 3 * 5 * 7


def test_attention_is_counted() -> None:
    measure = benchmark("measure")

    def build(attention: object) -> object:
        q, k = torch.empty(2, 3, 8), torch.empty(2, 5, 8)
        return lambda: attention(q, k, k, 4)  # pyright: ignore[reportCallIssue]

    assert measure.counted_flops(build) == 2 * 2 * (3 * 5 * 8) * 2


def test_attention_for_counting_is_attention() -> None:
    measure = benchmark("measure")
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(measure.explicit_attention(q, k, v, 4), fused_attention(q, k, v, 4))


def test_the_full_network_at_the_default_size_takes_1_2_tflop() -> None:
    unet = benchmark("unet")
    assert unet.flops(V512, (1, 16, 16, 16)) == pytest.approx(1.2e12, rel=0.01)


def test_random_weights_keep_activations_near_one() -> None:
    measure = benchmark("measure")
    layer = measure.with_random_weights(
        lambda: torch.nn.Sequential(torch.nn.LayerNorm(64), torch.nn.Linear(64, 64)),
        torch.float32,
        torch.device("cpu"),
    )
    assert torch.equal(layer[0].weight, torch.ones(64))
    assert not layer[1].bias.any()
    assert 0.7 < layer(torch.randn(100, 64)).std() < 1.3


def test_a_table_refuses_a_row_of_another_length() -> None:
    table = benchmark("measure").Table(("a", "b"))
    table.add("1", "2")
    assert table.markdown() == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    with pytest.raises(ValueError, match="a row needs 2 cells, not 1"):
        table.add("1")


def test_without_a_gpu_only_a_quick_run_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark("gpu").main(["--device", "cpu"])
    assert "on a CPU only --quick ends within minutes" in capsys.readouterr().err


QUICK = [
    "--device",
    "cpu",
    "--quick",
    "--no-compile",
    "--patience",
    "60",
    "--variants",
    "256_v1",
    "--frames",
    "2",
    "--runs",
    "1",
]


def gpu(folder: Path, *options: str) -> dict[str, Any]:
    """The figures of the GPU benchmark by name, measured in its own process."""
    benchmark("gpu").main([*QUICK, *options, "--output", str(folder)])
    (stored,) = folder.glob("*-quick.json")
    (text,) = folder.glob("*-quick.md")
    assert f"torch {torch.__version__}" in text.read_text(encoding="utf-8")
    return {figure["name"]: figure for figure in json.loads(stored.read_text(encoding="utf-8"))["figures"]}


@pytest.mark.slow
def test_a_figure_that_fails_or_ends_the_process_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMICRAFTER_BENCH_FAILURE", "encoders=exit")
    found = gpu(tmp_path)
    assert next(iter(found)) == "goldens"
    assert {row["within tolerance"] for row in found["goldens"]["rows"]} == {"yes"}
    assert found["encoders"]["state"] == "the process ended with 9"
    others = {name: figure["state"] for name, figure in found.items() if name != "encoders"}
    assert set(others.values()) == {"done"}
    assert {
        "ceilings",
        "unet 256_v1",
        "autoencoder 256_v1",
        "clip 256_v1 bfloat16",
        "growth",
    } <= others.keys()


class Plan:
    """Figures whose work is given."""

    def __init__(self, folder: Path) -> None:
        self.module = benchmark("results")
        self.results = self.module.Results(folder, "made")
        self.results.start(torch.device("cpu"), "")

    def measure(self, works: dict[str, Callable[[], object]], late: bool = False) -> dict[str, str]:
        figures = [self.module.Figure(name, "Made", work) for name, work in works.items()]
        left = -1.0 if late else 60.0
        assert self.module.measure_all(self.results, figures, time.time() + left) == 0
        stored = json.loads(self.results.json.read_text(encoding="utf-8"))
        return {figure["name"]: figure["state"] for figure in stored["figures"]}


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (RuntimeError("no kernel\nfor this"), "RuntimeError: no kernel"),
        (AssertionError(), "AssertionError: "),
    ],
)
def test_an_error_is_the_row_of_its_figure(tmp_path: Path, problem: Exception, state: str) -> None:
    def fail() -> object:
        raise problem

    plan = Plan(tmp_path)
    assert plan.measure({"first": fail, "second": lambda: [{"s": 1.0}]}) == {"first": state, "second": "done"}
    assert rows(plan.results.as_markdown()) == [
        ["what", "note", "s"],
        ["first", state.strip(), ""],
        ["", "", "1"],
    ]


def test_a_figure_is_written_before_the_next_one_begins(tmp_path: Path) -> None:
    plan = Plan(tmp_path)

    def look() -> list[dict[str, str]]:
        return [{"seen": plan.results.json.read_text(encoding="utf-8")}]

    plan.measure({"first": lambda: [{"s": 12345}], "second": look})
    assert "12345" in plan.results.figures[-1]["rows"][0]["seen"]


def test_what_would_begin_after_the_deadline_is_left_out_by_name(tmp_path: Path) -> None:
    states = Plan(tmp_path).measure({"clip": lambda: [{"s": 1.0}]}, late=True)
    assert states == {"clip": "skipped (time limit)"}


@pytest.mark.parametrize(
    ("body", "state"),
    [("os._exit(9)", "the process ended with 9"), ("time.sleep(60)", "no result after 1 s")],
)
def test_a_process_that_dies_or_hangs_is_started_again(tmp_path: Path, body: str, state: str) -> None:
    module = benchmark("results")
    results = module.Results(tmp_path, "made")
    results.start(torch.device("cpu"), "")
    # Without PyTorch, so that a process starts at once.
    script = f"""
import json, os, sys, time
path = {str(results.json)!r}
stored = json.load(open(path))
names = [one["name"] for one in stored["figures"]]
for name in ("bad", "good"):
    if name in names:
        continue
    stored["figures"].append(dict(name=name, heading="Made", state="started"))
    json.dump(stored, open(path + ".new", "w"))
    os.replace(path + ".new", path)
    if name == "bad":
        {body}
    stored["figures"][-1] = dict(name=name, heading="Made", state="done", rows=[])
    json.dump(stored, open(path + ".new", "w"))
    os.replace(path + ".new", path)
"""
    figures = [module.Figure(name, "Made", list, limit=1.0) for name in ("bad", "good")]
    module.supervise([sys.executable, "-c", script], results, figures, time.time() + 60)
    assert {one["name"]: one["state"] for one in results.figures} == {"bad": state, "good": "done"}


def test_what_is_at_work_when_the_time_is_over_is_stopped_and_the_rest_left_out(tmp_path: Path) -> None:
    module = benchmark("results")
    results = module.Results(tmp_path, "made")
    results.start(torch.device("cpu"), "")
    results.put("first", "Made", state="started")
    figures = [module.Figure(name, "Made", list, limit=60.0) for name in ("first", "second")]
    module.supervise([sys.executable, "-c", "import time; time.sleep(60)"], results, figures, time.time() + 1)
    states = {one["name"]: one["state"] for one in results.figures}
    assert states == {"first": "stopped (time limit)", "second": "skipped (time limit)"}


def test_all_figures_of_a_gpu_end_within_8_minutes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = benchmark("gpu")
    assert module.main(["--device", "meta", "--dry-run", "--output", str(tmp_path)]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    *figures, total = [(float(seconds), name) for seconds, _, name in lines]
    assert sum(seconds for seconds, _ in figures) == pytest.approx(total[0], abs=len(figures) / 2)
    assert total[0] <= 60 * module.MINUTES < 8 * 60
    names = [name for _, name in figures]
    assert {"unet 256_v1", "compiled 256_v1", "clip 256_v1 bfloat16", "compiled clip 256_v1 bfloat16"} <= set(
        names
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_training_step_is_counted_as_it_is_executed() -> None:
    pytest.importorskip("peft", reason="adapters are made by peft")
    steps = benchmark("training_step")
    plain, whole = steps.Case("lora", "bf16", "bf16"), steps.Case("lora", "no", "float32")
    counted = steps.count(steps.SMALL, plain)
    assert counted.total == pytest.approx(steps.count(steps.SMALL, plain, fake=False).total, rel=0.005)
    assert counted.weights < 0.6 * steps.count(steps.SMALL, whole).weights


def test_a_repeated_frame_a_jump_and_a_drift_of_a_story_are_seen() -> None:
    measure = benchmark("film_joints")
    frames = torch.full((12, 64, 64, 3), 100, dtype=torch.uint8)
    frames[..., 0] += torch.arange(12, dtype=torch.uint8)[:, None, None]
    frames[:, 28:36, 28:36, 0] = 220
    assert measure.joints_of(frames, [4, 8]) == {"smallest": 1, "largest": 1}
    still = measure.drift_of(torch.cat([frames[:4], frames[:4]]), [0, 4])
    assert still == {"circle": 0, "background": 0, "corners": 0, "hue": 0}
    drift = measure.drift_of(frames, [0, 4, 8])
    assert drift["circle"] == drift["hue"] == 0
    assert drift["background"] == pytest.approx(drift["corners"], abs=0.01)
    assert 1 < drift["corners"] < 10
    turned = frames.clone()
    turned[8:, 28:36, 28:36, 1] += 30
    # From red to orange: little CMS says 18 degrees.
    assert measure.drift_of(turned, [0, 4, 8])["hue"] == pytest.approx(18, abs=1)
    # Hues on both sides of 180 degrees are close.
    assert measure.angle_between(math.radians(179), math.radians(-179)) == pytest.approx(2)
    frames[4:] = frames[3:-1].clone()
    frames[8:] += 9
    found = measure.joints_of(frames, [4, 8])
    assert found["smallest"] == 0
    assert found["largest"] > 5


def test_a_cache_of_features_reuses_what_it_says(small_model: Model) -> None:
    caches = benchmark("feature_cache")
    chosen = make_settings(SMALL, "animate", steps=4, eta=0.0, size=(64, 64), frames=2, cfg=1.0)
    picture = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)

    def latents_of(cache: Any) -> Tensor:
        seen: list[Tensor] = []
        with caches.reusing(small_model.unet, cache):
            generate(small_model, KeyPictures(picture), [chosen], callback=lambda step: seen.append(step.x))
        assert cache.evaluations == 4 and cache.seconds > 0
        return seen[-1]

    plain, deep, first = caches.Cache(), caches.Cache(every=3), caches.Cache(change=1e9)
    never = caches.Cache(change=1e-9)
    exact = latents_of(plain)
    assert torch.equal(latents_of(never), exact)
    assert not torch.equal(latents_of(deep), exact) and not torch.equal(latents_of(first), exact)
    assert [cache.whole for cache in (plain, never, deep, first)] == [4, 4, 2, 1]
