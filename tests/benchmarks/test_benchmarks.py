"""The benchmarks run, say what they measured, and count what they claim to count."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dynamicrafter.model.operations import fused_attention
from dynamicrafter.model.variants import V512

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


def test_the_network_is_timed_at_the_size_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("unet").main(
        ["--variant", "small", "--size", "64x128", "--frames", "2", "--batch", "3", "--runs", "2"]
    )
    header, row = rows(capsys.readouterr().out)
    assert header[:3] == ["variant", "input", "dtype"]
    assert row[:3] == ["small", "3x8x2x16x8", "float32"]
    assert float(row[3]) <= float(row[4])


def test_the_network_can_be_sized_in_latent_cells(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("unet").main(
        [
            "--variant",
            "small",
            "--latent",
            "16x8",
            "--frames",
            "1",
            "--runs",
            "1",
            "--dtype",
            "bf16",
            "--threads",
            "1",
        ]
    )
    assert rows(capsys.readouterr().out)[1][:3] == ["small", "1x8x1x8x16", "bfloat16"]


@pytest.mark.parametrize("size", ["64", "64x", "ax64"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark("unet").main(["--size", size])
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


def test_only_counted_runs_are_timed() -> None:
    measure = benchmark("measure")
    calls: list[int] = []
    timing = measure.timed(lambda: calls.append(1), torch.device("cpu"), runs=3, warmup=2)
    assert len(calls) == 5
    assert len(timing.seconds) == 3
    assert timing.least == min(timing.seconds)
    assert timing.median == sorted(timing.seconds)[1]


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


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GPU benchmark with one variant of each kind."""
    gpu = benchmark("gpu")
    names = ["256_v1", "512_v1", "tooncrafter_512"]
    monkeypatch.setattr(gpu, "VARIANTS", {name: gpu.VARIANTS[name] for name in names})
    return names


QUICK = ["--device", "cpu", "--quick", "--dtypes", "float32", "--frames", "2", "--runs", "1"]


def test_the_gpu_benchmark_measures_networks_autoencoders_and_clips(
    few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = itertools.count()
    clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: float(next(readings)))
    monkeypatch.setattr(benchmark("gpu"), "time", clock)
    benchmark("gpu").main([*QUICK, "--output", str(tmp_path / "results")])
    (written,) = (tmp_path / "results").iterdir()
    assert written.name.endswith("-quick.md")
    text = written.read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert f"torch {torch.__version__}" in text
    found = rows(text)
    assert [row[0] for row in found if row[1].startswith("1x8x2x8x8")] == [
        "256_v1",
        "512_v1, tooncrafter_512",
    ]
    assert [row[0] for row in found if row[1] == "decode 2 frames"] == ["256_v1, 512_v1", "tooncrafter_512"]
    clips = {row[0]: row for row in found if row[1] in ("animate", "interpolate")}
    assert list(clips) == few
    for row in clips.values():
        assert row[2:5] == ["64x64", "2", "float32"]
        # By a clock that a second passes on whenever it is read: the total ends one reading after the last frame.
        assert float(row[8]) == sum(map(float, row[5:8])) + 1


def test_clips_that_would_not_end_in_time_are_left_out_and_named(few: list[str], tmp_path: Path) -> None:
    benchmark("gpu").main([*QUICK, "--minutes", "0", "--output", str(tmp_path)])
    (written,) = tmp_path.iterdir()
    skipped = [row[0] for row in rows(written.read_text(encoding="utf-8")) if "skipped (time limit)" in row]
    assert skipped == few


def test_a_network_too_large_for_the_memory_becomes_a_row(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> tuple[str, ...]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(benchmark("gpu"), "measure_unet", full)
    benchmark("gpu").main([*QUICK, "--minutes", "0", "--output", str(tmp_path)])
    (written,) = tmp_path.iterdir()
    assert sum("out of memory" in row for row in rows(written.read_text(encoding="utf-8"))) == 2


@pytest.mark.slow
def test_a_training_step_is_counted_as_it_is_executed() -> None:
    pytest.importorskip("peft", reason="adapters are made by peft")
    steps = benchmark("training_step")
    plain, whole = steps.Case("lora", "bf16", "bf16"), steps.Case("lora", "no", "float32")
    counted = steps.count(steps.SMALL, plain)
    assert counted.total == pytest.approx(steps.count(steps.SMALL, plain, fake=False).total, rel=0.005)
    assert counted.weights < 0.6 * steps.count(steps.SMALL, whole).weights
