"""Two models in turn are each what it would be alone, in its own steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamicrafter.api import animate, load, switch
from dynamicrafter.errors import UsageError
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.switching import NetworkPair, ResamplerPair
from dynamicrafter.model.variants import TINY
from dynamicrafter.pipeline import TorchModel

PICTURE = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def early(small_weights: Path) -> TorchModel:
    return load(small_weights, device="cpu")


@pytest.fixture(scope="module")
def late(small_weights: Path) -> TorchModel:
    """The same with another network and another resampler, as if trained on."""
    model = load(small_weights, device="cpu")
    for part in (model.unet, model.resampler):
        for parameter in part.parameters():
            parameter.data.mul_(1.1)
    return model


def clip(model: object, **choices: object) -> Tensor:
    chosen = {"steps": 2, "frames": 2, **choices}
    return animate(model, PICTURE, "a boat", **chosen).frames  # type: ignore[arg-type]


def test_one_model_twice_is_that_model(early: TorchModel) -> None:
    assert torch.equal(clip(switch(early, early)), clip(early))


def test_outside_its_steps_a_model_changes_nothing(early: TorchModel, late: TorchModel) -> None:
    """Steps are at 999 and 499."""
    alone = [clip(model) for model in (early, late)]
    assert torch.equal(clip(switch(early, late, 498)), alone[0])
    assert torch.equal(clip(switch(early, late, 999)), alone[1])
    both = clip(switch(early, late))
    assert not torch.equal(both, alone[0]) and not torch.equal(both, alone[1])


def test_each_frame_of_a_clip_of_16_attends_to_its_own_tokens(early: TorchModel, late: TorchModel) -> None:
    found = clip(switch(early, late, 999), frames=16, steps=1)
    assert torch.equal(found, clip(late, frames=16, steps=1))


def test_each_network_is_given_its_own_steps_and_tokens() -> None:
    seen: list[tuple[str, int, list[float]]] = []

    def network(name: str) -> object:
        def evaluate(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
            assert context.frames == (3,) and torch.equal(context.text, text)
            seen.append((name, int(timesteps[0]), context.image.flatten().tolist()))
            return x

        return evaluate

    text = torch.ones(1, 77, 1)
    tokens = ResamplerPair(lambda t: t, lambda t: t + 10, frames=2)(
        torch.tensor([0.0, 1, 2, 3]).view(1, 4, 1)
    )
    context = Context(text, tokens.view(1, 2, 4, 1), (3,))
    pair = NetworkPair(network("early"), network("late"), 500)  # type: ignore[arg-type]
    for timestep in (501, 500):
        pair(torch.zeros(1, 8, 1, 1, 1), torch.tensor([timestep]), context, torch.tensor([8]))
    assert seen == [("early", 501, [0, 1, 2, 3]), ("late", 500, [10, 11, 12, 13])]


def test_two_models_that_are_not_alike_are_refused(early: TorchModel) -> None:
    with pytest.raises(UsageError, match="timestep to switch at must be 0 to 999, but 1000 was given"):
        switch(early, early, 1000)
    with pytest.raises(UsageError, match="same networks, but they are small .* and tiny .*; load them alike"):
        switch(early, replace(early, variant=TINY))
    with pytest.raises(
        UsageError, match=r"same dtype, but they are .* in torch.float32 and .* in torch.float16; load"
    ):
        switch(early, replace(early, dtype=torch.float16))
    with pytest.raises(
        UsageError, match="one of the two models is itself switched .*; switch between single models"
    ):
        switch(early, switch(early, early))
    with pytest.raises(UsageError, match="only if both stay on the device; load both with memory high"):
        switch(early, load("tiny", device="cpu", memory="low"))


def test_techniques_that_need_one_network_are_refused(early: TorchModel, late: TorchModel) -> None:
    with pytest.raises(UsageError, match="must be a single one in PyTorch; use 0 for both, or one model"):
        clip(switch(early, late), stg_scale=1.0)
