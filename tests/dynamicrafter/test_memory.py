"""The memory estimates against counted peaks of the real sizes, and what keeps the peaks low."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dynamicrafter.model import attention
from dynamicrafter.model.memory import MARGIN, unet_bytes, vae_decode_bytes, vae_encode_bytes
from dynamicrafter.model.operations import PLAIN
from dynamicrafter.model.variants import SMALL, TOON_512, V512, Variant

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LARGEST_WEIGHT = 9 * 2 * 1280 * 1280
"""Values of the largest layer, which the estimate adds to the counted peak."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/memory.py, which counts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("memory")


def overestimate(benchmark: ModuleType, case: object, besides: float = 0.0) -> float:
    """The formula over the counted peak with room for the convolutions."""
    live = benchmark.count(case.run)  # pyright: ignore[reportAttributeAccessIssue]
    return case.formula / (live.peak_with_scratch + besides)  # pyright: ignore[reportAttributeAccessIssue]


class TestEstimates:
    @pytest.mark.parametrize("kind", ["fused", "sliced"])
    def test_one_evaluation(self, benchmark: ModuleType, kind: str) -> None:
        shapes = [(1, 256, 256), (16, 576, 1024)]
        for case in benchmark.unet_cases(V512, benchmark.Setup(torch.float16, kind), shapes):
            ratio = overestimate(benchmark, case, 2.0 * LARGEST_WEIGHT)
            assert 0.999 <= ratio / MARGIN <= 1.12, case

    def test_one_evaluation_of_both_branches_takes_twice_as_much(self) -> None:
        one, two = (unet_bytes(V512.unet, cells, torch.float16) for cells in (147456, 2 * 147456))
        assert two - one == pytest.approx(one, rel=0.06)

    def test_float32_takes_twice_as_much(self) -> None:
        cells = 16 * 40 * 64
        half, full = (unet_bytes(V512.unet, cells, dtype) for dtype in (torch.bfloat16, torch.float32))
        assert full == 2 * half

    @pytest.mark.parametrize("kind", ["fused", "sliced"])
    @pytest.mark.parametrize("variant", [V512, SMALL], ids=lambda variant: variant.name)
    def test_a_picture_in_and_out_of_the_autoencoder(
        self, benchmark: ModuleType, variant: Variant, kind: str
    ) -> None:
        setup = benchmark.Setup(torch.bfloat16, kind)
        for case in benchmark.vae_cases(variant, setup, [(256, 256), (576, 1024)]):
            # The small one narrows less on its way, so that the formula of the real ones is ample for it.
            largest = 1.02 if variant is V512 else 1.45
            assert 0.999 <= overestimate(benchmark, case) / MARGIN <= largest, case

    def test_a_whole_clip_of_tooncrafter(self, benchmark: ModuleType) -> None:
        setup = benchmark.Setup(torch.float16, "fused")
        for case in benchmark.toon_cases(TOON_512, setup, [(16, 320, 512)]):
            assert 0.999 <= overestimate(benchmark, case) / MARGIN <= 1.02, case

    def test_references_are_in_the_estimate_of_a_clip(self) -> None:
        clip, frame = (vae_decode_bytes(TOON_512.vae, n, 320 * 512, torch.float16) for n in (16, 1))
        plain = vae_decode_bytes(V512.vae, 16, 320 * 512, torch.float16)
        assert clip - plain == pytest.approx(frame - plain / 16)
        assert clip > plain

    def test_encoding_grows_with_the_picture(self) -> None:
        assert vae_encode_bytes(V512.vae, 2000, torch.float32) == 2 * vae_encode_bytes(
            V512.vae, 1000, torch.float32
        )


class TestCount:
    def test_freed_tensors_are_not_counted(self, benchmark: ModuleType) -> None:
        def work() -> None:
            for _ in range(5):
                torch.zeros(1000)

        assert benchmark.count(work).peak == 4000

    def test_views_and_what_was_there_before_take_nothing(self, benchmark: ModuleType) -> None:
        before = torch.zeros(1000)
        assert benchmark.count(lambda: before.view(10, 100).transpose(0, 1)[3:]).peak == 0

    def test_tensors_alive_together_add_up(self, benchmark: ModuleType) -> None:
        x = torch.zeros(1000)
        assert benchmark.count(lambda: (x + 1) + (x + 2)).peak == 12000

    def test_work_in_place_takes_nothing(self, benchmark: ModuleType) -> None:
        x = torch.zeros(1000)
        assert benchmark.count(lambda: x.add_(1)).peak == 0

    def test_a_convolution_has_room_for_its_input_and_output(self, benchmark: ModuleType) -> None:
        x, weight = torch.zeros(1, 1, 10, 10), torch.zeros(2, 1, 1, 1)
        live = benchmark.count(lambda: torch.nn.functional.conv2d(x, weight))
        assert (live.peak, live.peak_with_scratch) == (800, 800 + 400 + 800)

    def test_the_lines_of_the_peak_are_found(self, benchmark: ModuleType) -> None:
        layer = attention.FeedForward(8, PLAIN)
        x = torch.zeros(4, 8)
        peak = benchmark.count(lambda: layer(x)).peak
        lines = benchmark.count(lambda: layer(x), peak).where
        assert lines and all(line.startswith("attention.py:") for line in lines)


class TestLowPeaks:
    def test_a_feed_forward_layer_in_pieces_gives_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        layer, x = attention.FeedForward(16, PLAIN), torch.randn(3, 7, 16)
        with torch.no_grad():
            at_once = layer(x)
            monkeypatch.setattr(attention, "_FEED_FORWARD_VALUES", 4 * 12 * 16)
            in_pieces = layer(x)
        torch.testing.assert_close(in_pieces, at_once, rtol=1e-6, atol=1e-6)

    def test_a_feed_forward_layer_in_pieces_needs_less(
        self, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer, x = attention.FeedForward(16, PLAIN), torch.randn(100, 7, 16)
        at_once = benchmark.count(lambda: layer(x)).peak
        monkeypatch.setattr(attention, "_FEED_FORWARD_VALUES", 35 * 12 * 16)
        assert benchmark.count(lambda: layer(x)).peak < at_once / 4

    def test_pieces_are_no_smaller_than_one_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, x = attention.FeedForward(16, PLAIN), torch.randn(1, 3, 16)
        monkeypatch.setattr(attention, "_FEED_FORWARD_VALUES", 1)
        assert layer(x).shape == x.shape
