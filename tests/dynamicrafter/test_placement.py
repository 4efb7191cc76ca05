"""Networks on a device only while they work, whole or layer by layer, on a device that is pretended."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import paint
from networks import context, filled, normal, tiny_unet
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dynamicrafter.api import load, render
from dynamicrafter.errors import UsageError
from dynamicrafter.model.configs import Residence
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.placement import Placement, streamed_layers, weights_on_device
from dynamicrafter.model.quantised import quantised
from dynamicrafter.model.variants import SMALL, V512, V1024
from dynamicrafter.pipeline import TorchModel
from dynamicrafter.settings import make_settings
from dynamicrafter.weights import footprint as footprints
from dynamicrafter.weights.footprint import ClipSize, footprint, free_bytes, pick_residence
from dynamicrafter.weights.random_model import write_random_checkpoint

sys.path.append(str(Path(__file__).resolve().parents[1] / "comfyui"))
from pretended_device import CUDA, PretendedCuda, PretendedTensor

pytestmark = pytest.mark.usefixtures("one_thread")

SMALLEST = 256
"""Bytes from which layers of small networks are streamed."""
PARTS = ("text", "vision", "vae", "resampler", "unet")


class CountedCuda(PretendedCuda):
    """A pretended device that counts the bytes on it, now and at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, PretendedTensor):
                storage = tensor.held.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@pytest.fixture
def cuda() -> Iterator[CountedCuda]:
    with CountedCuda() as device:
        yield device


def places(network: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in network.state_dict().values()}


def network() -> nn.Module:
    return filled(tiny_unet())


def given(device: torch.device | str) -> tuple[Any, ...]:
    tokens = context(1, 3)
    x = normal(1, 8, 3, 8, 8).to(device)
    moved = type(tokens)(tokens.text.to(device), tokens.image.to(device))
    return x, torch.tensor([500]).to(device), moved, torch.tensor([10]).to(device)


class Seen:
    """Which parts of a model are on the device, whenever one of its layers runs."""

    def __init__(self, model: TorchModel) -> None:
        self.together: set[tuple[str, ...]] = set()
        # The smallest weight of each that is not streamed.
        self.shown: dict[str, tuple[nn.Module, str]] = {}
        for part in PARTS:
            self.shown[part] = smallest_weight(getattr(model, part))
            for layer in getattr(model, part).modules():
                if not list(layer.children()):
                    layer.register_forward_hook(self.look)

    def look(self, *_: object) -> None:
        here = [part for part, (owner, name) in self.shown.items() if getattr(owner, name).device == CUDA]
        self.together.add(tuple(here))


def smallest_weight(network: nn.Module) -> tuple[nn.Module, str]:
    passing = {id(tensor) for layer in streamed_layers(network) for tensor in layer.parameters()}
    sizes = {
        (owner, name): tensor.numel()
        for owner in network.modules()
        for name, tensor in owner.named_parameters(recurse=False)
        if id(tensor) not in passing
    }
    return min(sizes, key=lambda each: sizes[each])


@pytest.fixture(scope="module")
def clip(weights_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any, Tensor]:
    """A model file, a picture, settings and the frames that a device makes of them that has all networks."""
    (weights,) = weights_home.glob("random-*.safetensors")
    picture = paint(tmp_path_factory.mktemp("clip") / "it.png", 64, 64)
    with CountedCuda(), torch.inference_mode():
        whole = load(weights, device="cuda", dtype="float32", memory="high")
        settings = make_settings(whole.variant, "animate", frames=2, steps=1)
        return weights, picture, settings, render(whole, settings, [picture], None, [1])[0].frames


@pytest.mark.parametrize("residence", ["low", "min"])
def test_clips_are_the_same_to_the_bit(
    clip: tuple[Path, Path, Any, Tensor], residence: Residence, cuda: CountedCuda
) -> None:
    weights, picture, settings, wanted = clip
    placed = load(weights, device="cuda", dtype="float32", memory=residence)
    assert cuda.now == 0
    seen = Seen(placed)
    (made,) = render(placed, settings, [picture], None, [1])
    assert torch.equal(made.frames, wanted)
    assert seen.together == {(part,) for part in PARTS}, "one at a time, each at its time"
    assert cuda.now == 0, "nothing stays"
    assert all(places(getattr(placed, part)) == {"cpu"} for part in PARTS)


def test_memory_grows_with_neither_steps_nor_jobs(
    clip: tuple[Path, Path, Any, Tensor], cuda: CountedCuda
) -> None:
    weights, picture, settings, _ = clip
    peaks: list[int] = []
    with torch.inference_mode():
        model = load(weights, device="cuda", dtype="float32", memory="high")
        held = cuda.now
        for steps in (2, 6, 2):
            cuda.peak = cuda.now
            render(model, replace(settings, steps=steps), [picture], None, [1])
            assert cuda.now == held, "nothing stays"
            peaks.append(cuda.peak)
    assert len(set(peaks)) == 1 and peaks[0] > held


def test_a_long_clip_needs_no_more_than_16_frames(tmp_path: Path) -> None:
    """But for its latents with windows, and for the frame that a clip goes on from; all frames at once need more."""
    # Sizes with which the denoising network needs the most, not the words of the text encoder.
    light = replace(
        SMALL,
        name="light",
        unet=replace(SMALL.unet, context_dim=16),
        vae=replace(SMALL.vae, channels=8, channel_mult=(1, 1, 1, 1)),
        resampler=replace(SMALL.resampler, output_dim=16),
        text=replace(SMALL.text, width=16),
    )
    write_random_checkpoint(tmp_path / "light.safetensors", light)
    picture = paint(tmp_path / "it.png", 64, 64)
    peaks: list[int] = []
    with CountedCuda() as cuda, torch.inference_mode():
        model = load(tmp_path / "light.safetensors", device="cuda", dtype="float32", memory="low")
        for method, frames in (("native", 16), ("windows", 28), ("continue", 17), ("native", 28)):
            cuda.peak = cuda.now
            settings = make_settings(SMALL, "animate", frames=frames, steps=1, cfg=1.0, length_method=method)
            (made,) = render(model, settings, [picture], None, [1])
            assert len(made.frames) == frames and cuda.now == 0
            peaks.append(cuda.peak)
    whole, *parts, native = peaks
    assert all(whole <= peak < 1.02 * whole for peak in parts) and native > 1.2 * whole


@pytest.mark.parametrize("kind", [None, "int8"])
def test_the_counted_bytes_are_those_of_a_run(kind: Any, cuda: CountedCuda) -> None:
    operations = Operations() if kind is None else quantised(Operations(), kind)
    unets = {streamed: tiny_unet(operations=operations) for streamed in (False, True)}
    activations: dict[bool, int] = {}
    counted = {
        streamed: weights_on_device(unet, streamed_layers(unet, SMALLEST) if streamed else ())
        for streamed, unet in unets.items()
    }
    for streamed, unet in unets.items():
        placement = Placement([unet], CUDA, streamed=streamed, smallest=SMALLEST)
        with torch.inference_mode():
            arguments = given(CUDA)
            cuda.peak = before = cuda.now
            unet(*arguments)
        activations[streamed] = cuda.peak - before - counted[streamed]
        assert streamed or cuda.now - before == counted[False]
        placement.leave()
    assert activations[True] == activations[False] > 0
    assert counted[True] < 0.5 * counted[False]


def test_the_next_layer_is_there_before_it_is_called(
    cuda: CountedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamicrafter.model import placement

    filled_while: list[str] = []
    running: list[nn.Module] = []
    fill = placement._Copies.fill

    def noted(self: Any, slot: Any, layer: Any) -> None:
        # Called from the layer before it, for which it is prepared, or from itself, as it was not expected.
        filled_while.append("next" if running and running[-1] is not layer.module else "now")
        fill(self, slot, layer)

    monkeypatch.setattr(placement._Copies, "fill", noted)
    unet = network()
    layers = list(streamed_layers(unet, SMALLEST))
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, _: running.append(module))
    Placement([unet], CUDA, streamed=True, smallest=SMALLEST)
    with torch.inference_mode():
        unet(*given(CUDA))
        first = list(filled_while)
        filled_while.clear()
        unet(*given(CUDA))
        second = list(filled_while)
        filled_while.clear()
        unet(*given(CUDA))
    assert set(first) == {"now"}, "the order is not known yet"
    assert second.count("now") == 1 and filled_while.count("now") == 0
    assert len(filled_while) == len(layers), "each layer is copied once"


def test_a_network_that_fails_leaves_nothing_behind(cuda: CountedCuda) -> None:
    unet = network()
    placement = Placement([unet], CUDA, streamed=True, smallest=SMALLEST)
    wanted = network()(*given("cpu"))
    with pytest.raises(RuntimeError), torch.inference_mode():
        unet(given("cpu")[0], *given(CUDA)[1:])
    placement.leave()
    assert places(unet) == {"cpu"}
    with torch.inference_mode():
        made = unet(*given(CUDA))
    assert torch.equal(made.cpu(), wanted)
    del made
    placement.leave()
    assert cuda.now == 0


def test_attention_of_the_towers_is_streamed_whole() -> None:
    attention = nn.MultiheadAttention(32, 4)
    assert list(streamed_layers(nn.Sequential(attention, nn.Linear(32, 32)), 1))[0] is attention


# What fits


def test_the_rows_of_memory_are_met() -> None:
    rows = {V1024: (4.5e9, 1.8e9), V512: (3.5e9, 0.8e9)}
    for variant, (low, streamed) in rows.items():
        preset = variant.preset
        work = ClipSize(1, preset.frames, preset.width, preset.height)
        made = [footprint(variant, work, torch.bfloat16, None, way).total for way in ("low", "min")]  # pyright: ignore[reportArgumentType]
        assert made[0] <= low and made[1] <= streamed, made


def test_less_is_on_the_device_from_way_to_way() -> None:
    work = ClipSize(1, 16, 512, 320)
    ways: tuple[Residence, ...] = ("high", "low", "min")
    plain = [footprint(V512, work, torch.float16, None, way).total for way in ways]
    stored = [footprint(V512, work, torch.float16, "int8", way).total for way in ways]
    assert plain == sorted(plain, reverse=True) and stored == sorted(stored, reverse=True)
    assert all(less <= more for less, more in zip(stored, plain, strict=True))


@pytest.mark.parametrize(("free", "way"), [(8e9, "high"), (4.2e9, "low"), (2e9, "min"), (0, "min")])
def test_auto_takes_the_first_way_that_fits(free: float, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprints, "free_bytes", lambda _: free)
    work = ClipSize(1, 16, 512, 320)
    assert pick_residence("auto", V512, [work], CUDA, torch.float16, None) == way
    assert pick_residence("high", V512, [work], CUDA, torch.float16, None) == "high"


def test_the_memory_of_the_cpu_is_the_systems() -> None:
    assert free_bytes(torch.device("cpu")) == math.inf
    assert pick_residence("auto", SMALL, [], torch.device("cpu"), torch.float32, None) == "high"


def test_there_is_no_other_way() -> None:
    with pytest.raises(UsageError, match="memory must be auto, high, low, min, not 'lots'"):
        pick_residence("lots", SMALL, [], CUDA, torch.float32, None)  # pyright: ignore[reportArgumentType]
