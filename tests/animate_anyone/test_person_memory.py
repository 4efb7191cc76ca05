"""Memory of a person's clip: flat over its length, networks on the device only while they work, weights in 8 bits."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dynamicrafter.animate_anyone.api import PersonSettings, person
from dynamicrafter.animate_anyone.config import RELEASED_SIZES
from dynamicrafter.animate_anyone.layout import PARTS
from dynamicrafter.animate_anyone.memory import USUAL_WINDOW, WindowSize, person_footprint
from dynamicrafter.animate_anyone.weights import check_person, convert_person, load_person, person_stored
from dynamicrafter.errors import DynamiCrafterError, UsageError
from dynamicrafter.model.configs import Residence
from tests.animate_anyone.small_person import small_person, write_person

sys.path += [str(Path(__file__).parents[1] / name) for name in ("comfyui", "dynamicrafter")]
from pretended_device import CUDA
from test_placement import CountedCuda, places

SETTINGS = PersonSettings(width=64, height=64, steps=1, window=3, overlap=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_person(tmp_path_factory.mktemp("person") / "person.safetensors", small_person())


@pytest.fixture
def cuda() -> Iterator[CountedCuda]:
    with CountedCuda() as device:
        yield device


def clip(model: Any, poses: int, settings: PersonSettings = SETTINGS) -> Tensor:
    drawn = [Image.new("RGB", (64, 64), (0, 25 * (i % 10), 0)) for i in range(poses)]
    return person(model, Image.new("RGB", (64, 64), (200, 30, 60)), drawn, settings)


def test_the_device_has_as_much_of_a_long_clip_as_of_a_short_one(whole: Path, cuda: CountedCuda) -> None:
    model = load_person(whole, device=CUDA, memory="low")
    peaks: list[int] = []
    for poses in (3, 5, 15):
        cuda.peak = cuda.now
        clip(model, poses)
        peaks.append(cuda.peak)
        assert cuda.now == 0, "nothing stays"
    assert peaks[0] == peaks[1] == peaks[2] > 0


@pytest.mark.parametrize("residence", ["low", "min"])
def test_clips_of_a_person_do_not_depend_on_memory(
    whole: Path, residence: Residence, cuda: CountedCuda
) -> None:
    with torch.inference_mode():
        wanted = clip(load_person(whole, device=CUDA, memory="high"), 2)
    model = load_person(whole, device=CUDA, memory=residence)
    here: set[tuple[str, ...]] = set()

    def look(*_: object) -> None:
        here.add(
            tuple(
                part
                for part in PARTS
                if any(tensor.device == CUDA for tensor in getattr(model, part).parameters())
            )
        )

    for part in PARTS:
        for layer in getattr(model, part).modules():
            if not list(layer.children()):
                layer.register_forward_hook(look)
    assert torch.equal(clip(model, 2), wanted)
    assert here == {("embedder",), ("vae",), ("reference",), ("denoising", "pose_guider")}
    assert all(places(getattr(model, part)) == {"cpu"} for part in PARTS)


def test_a_clip_that_fails_leaves_nothing_on_the_device(whole: Path, cuda: CountedCuda) -> None:
    model = load_person(whole, device=CUDA, memory="low")

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "sample" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        person(model, Image.new("RGB", (9, 9)), [Image.new("RGB", (9, 9))], SETTINGS, progress=stop)
    assert cuda.now == 0


@pytest.mark.parametrize("kind", ["int8", "fp8_scaled"])
def test_weights_in_8_bits_are_the_same_from_either_file(whole: Path, tmp_path: Path, kind: Any) -> None:
    made = tmp_path / "made.safetensors"
    convert_person(whole, made, dtype=kind)
    assert (person_stored(whole, "auto"), person_stored(made, "auto")) == (None, kind)
    assert check_person(made) == check_person(whole)
    first, second = load_person(made), load_person(whole, weights=kind)
    assert first.quantised == second.quantised == kind
    stored = {tensor.dtype for tensor in first.denoising.parameters()}
    assert stored == {torch.float32, torch.int8 if kind == "int8" else torch.float8_e4m3fn}
    assert {tensor.dtype for tensor in first.reference.parameters()} == {torch.float32}
    for name, values in first.denoising.state_dict().items():
        assert torch.equal(values, second.denoising.state_dict()[name]), name
    back = load_person(made, weights="full").denoising.state_dict()
    for name, values in small_person().denoising.state_dict().items():
        assert torch.allclose(back[name], values, atol=0.05 * values.abs().max()), name
    assert (clip(first, 2).float() - clip(small_person(), 2).float()).abs().mean() < 8


def test_a_model_is_kept_as_asked(whole: Path) -> None:
    with pytest.raises(UsageError, match="weights must be auto, full, int8, fp8_scaled, not 'int4'"):
        load_person(whole, weights="int4")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="memory must be auto, high, low, min, not 'lots'"):
        load_person(whole, memory="lots")  # pyright: ignore[reportArgumentType]


def test_the_full_size_is_within_its_bounds() -> None:
    """512x768 and 24 frames in half precision: 5 GB with a network at a time, 2 GB with its layers streamed.

    The estimate of activations has a margin of 25 % and the workspace of convolutions; what is left without both is
    compared with the second bound.
    """
    low, streamed = (
        person_footprint(RELEASED_SIZES, USUAL_WINDOW, torch.float16, None, way) for way in ("low", "min")
    )
    assert low.total < 5e9
    assert streamed.weights + streamed.activations / 1.25 < 2e9
    small = person_footprint(RELEASED_SIZES, USUAL_WINDOW, torch.float16, "int8", "low")
    assert small.weights < 0.55 * low.weights
    half = person_footprint(RELEASED_SIZES, WindowSize(12, 512, 768), torch.float16, None, "low")
    assert half.activations < 0.6 * low.activations


def test_a_clip_that_is_not_finite_is_told() -> None:
    model = small_person()
    for parameter in model.vae.decoder.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(
        DynamiCrafterError, match="the autoencoder's output is not finite in float32; pass a lower"
    ):
        clip(model, 1)


@pytest.mark.parametrize("factor", [2, 3])
def test_frames_between_poses_are_decoded_too(factor: int) -> None:
    model = small_person()
    plain = clip(model, 3)
    settings = PersonSettings(width=64, height=64, steps=1, window=3, overlap=1, interpolate=factor)
    more = clip(model, 3, settings)
    assert len(more) == 2 * factor + 1
    assert torch.equal(more[::factor], plain)
    assert not torch.equal(more[1], more[0])


@pytest.mark.parametrize(("frames", "side"), [(1, 256), (8, 256), (24, 1024)])
def test_the_estimate_covers_what_is_counted(monkeypatch: pytest.MonkeyPatch, frames: int, side: int) -> None:
    """As benchmarks/memory.py does for the released sizes, on networks of a tenth of their width."""
    config = replace(RELEASED_SIZES, pair=replace(RELEASED_SIZES.pair, widths=(32, 64, 128, 128)))
    config = replace(config, pose_guider=replace(config.pose_guider, out_channels=32))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark: Any = importlib.import_module("memory")
    reference, window = benchmark.person_cases(
        config, benchmark.Setup(torch.float16, "fused"), [(frames, side, side)]
    )
    for case in (reference, window):
        assert case.formula is not None
        assert 1.25 <= case.formula / benchmark.count(case.run).peak_with_scratch < 2.5, case.work
