"""Frozen blocks that are on the device only for their own passes: gradients, bytes and copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import context, normal, tiny_unet
from torch import Tensor, nn

from dynamicrafter.model.configs import Quantised
from dynamicrafter.model.placement import BlockSwap, weights_on_device
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.training.finetune import blocks_of, recompute_activations, swapped_blocks
from dynamicrafter.training.lora import Adapters, add_adapters, is_temporal, quantise_frozen

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, META = torch.device("cpu"), torch.device("meta")


def trained(base: Quantised | None = None, adapters: bool = True) -> VideoUNet:
    """A network with adapters that change something, or with trained temporal layers."""
    unet = tiny_unet()
    if adapters:
        pytest.importorskip("peft", reason="adapters are made by peft")
        torch.manual_seed(0)
        add_adapters(unet, Adapters(2))
    for name, parameter in unet.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
        elif not adapters:
            parameter.requires_grad_(is_temporal(name))
    if base is not None:
        quantise_frozen(unet, base)
    recompute_activations(unet)
    return unet


def evaluated(unet: VideoUNet, device: torch.device = CPU) -> Tensor:
    tokens = context(1, 3)
    moved = Context(tokens.text.to(device), tokens.image.to(device))
    x = normal(1, 8, 3, 8, 8).to(device)
    return unet(x, torch.tensor([500]).to(device), moved, torch.tensor([10]).to(device))


def gradients(unet: VideoUNet) -> dict[str, Tensor]:
    unet.zero_grad()
    evaluated(unet).square().mean().backward()
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("base", "adapters"), [(None, True), ("int8", True), (None, False)])
def test_gradients_are_those_without_swapping(base: Quantised | None, adapters: bool) -> None:
    plain, swapped = trained(base, adapters), trained(base, adapters)
    BlockSwap(swapped, swapped_blocks(swapped, 5), CPU)
    wanted = gradients(plain)
    assert wanted and all(grad.any() for grad in wanted.values())
    assert equal(gradients(swapped), wanted)
    # A forward pass alone, as for validation, changes the order in which the blocks come.
    with torch.inference_mode():
        assert torch.equal(evaluated(swapped), evaluated(plain))
    for _ in range(2):
        assert equal(gradients(swapped), wanted)


@pytest.mark.parametrize("base", [None, "int8"])
def test_blocks_are_on_the_device_for_their_own_passes(
    base: Quantised | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no autocast for the meta device.
    monkeypatch.setattr("dynamicrafter.model.quantised._dtype_for", lambda x: x.dtype)
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from live_bytes import LiveBytes

    class OnMeta(LiveBytes):
        """Counts what a device holds for which the meta device stands."""

        def _note(self, tensor: object, counted: bool) -> None:
            if isinstance(tensor, Tensor) and tensor.device == META:
                super()._note(tensor, counted)

    peaks: dict[int, int] = {}
    held: dict[int, int] = {}
    for count in (0, 9):
        unet = trained(base)
        blocks = swapped_blocks(unet, count)
        held[count] = weights_on_device(unet, blocks, frozen=True)
        with OnMeta() as device:
            BlockSwap(unet, blocks, META)
            assert device.peak == held[count], count
            evaluated(unet, META).square().mean().backward()
        peaks[count] = device.peak
        there = [
            block
            for block in blocks
            if any(p.device == META and not p.requires_grad for p in block.parameters())
        ]
        assert len(there) <= 1 or count == 0, "only the block that came last"
        assert {p.device for p in unet.parameters() if p.requires_grad} == {META}
    assert held[9] < 0.8 * held[0]
    # Activations and gradients are the same, so that as much is saved at the peak.
    assert peaks[0] - peaks[9] == pytest.approx(held[0] - held[9], rel=0.1)


def test_each_block_is_copied_twice_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamicrafter.model import placement

    copied: list[nn.Module] = []
    fill = placement._Copies.fill

    def noted(self: Any, slot: Any, layer: Any) -> None:
        copied.append(layer.module)
        fill(self, slot, layer)

    monkeypatch.setattr(placement._Copies, "fill", noted)
    unet = trained(adapters=False)
    blocks = swapped_blocks(unet, 6)
    BlockSwap(unet, blocks, CPU)
    for _ in range(3):
        copied.clear()
        gradients(unet)
    # Two of them are still in their places where a pass begins: the last two of the pass before.
    assert copied == [*blocks[2:], *reversed(blocks[:-2])]


def test_the_largest_blocks_are_swapped_and_stay_in_order() -> None:
    unet = tiny_unet()
    blocks, chosen = blocks_of(unet), swapped_blocks(unet, 4)

    def size(block: nn.Module) -> int:
        return sum(p.nbytes for p in block.parameters())

    assert [block for block in blocks if block in chosen] == chosen
    assert min(map(size, chosen)) >= max(size(block) for block in blocks if block not in chosen)
    assert swapped_blocks(unet, 1000) == blocks
